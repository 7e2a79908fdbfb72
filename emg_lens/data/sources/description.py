"""The content of a `dataset.yaml`: the files of a folder, and the meaning of their columns and names."""

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from emg_lens.data.recording import FASTEST, SLOWEST, DataError
from emg_lens.data.text import read_bytes
from emg_lens.io.yaml_text import read_yaml
from emg_lens.validation import ArgumentError, SpecModel

S_PER_UNIT = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
MOST_FIELDS = 10
"""Matching a long name to more fields could take minutes."""


def _columns(given: Any) -> Any:
    """Expand `"2-9"` and `3`: columns are numbered from 1."""
    parts = given if isinstance(given, list) else [given]
    columns: list[str | int] = []
    for part in parts:
        span = re.fullmatch(r"(\d{1,5})-(\d{1,5})", part) if isinstance(part, str) else None
        columns += range(int(span[1]), int(span[2]) + 1) if span else [part]
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"{given!r} lists {'a column twice' if columns else 'no column'}")
    return tuple(columns)


def value_name(value: object) -> str:
    """Text for comparing values: whole numbers by value (`01` equals `1`), others as text."""
    text = unicodedata.normalize("NFC", str(value).strip())  # macOS and other systems encode accents differently
    try:
        return str(int(text)) if "_" not in text else text
    except ValueError:
        return text


Rate = Annotated[float, Field(ge=SLOWEST, le=FASTEST)]
Column = str | Annotated[int, Field(ge=1, strict=True)]
Columns = Annotated[tuple[Column, ...], BeforeValidator(_columns)]


class SignalColumns(SpecModel):
    """The channels of one sensor kind.

    Attributes:
        columns: For a table: names, or numbers from 1, `"1-8"` for a range. For arrays: numbers; default all.
        key: For a `.mat` or HDF5 file: the variable with `[time, channel]`.
        fs: Sampling rate (Hz) of this variable; default the folder's, which at least one signal must have.
        units: Unit of the samples.
        native_fs: The sensor's own sampling rate (Hz), if the publisher changed it; default `fs`.
        ch_names: One name per channel; default the columns' names, or the modality and a number.
        placement: Position of the sensor.
    """

    columns: Columns | None = None
    key: str | None = None
    fs: Rate | None = None
    units: str = ""
    native_fs: Rate | None = None
    ch_names: tuple[str, ...] | None = None
    placement: str = ""


class RowNumbers(SpecModel):
    """Source of one number per row: the file's name, a column, or (for arrays) a key.

    Attributes:
        field: A field of the file pattern.
        column: A column of the table, by name or number from 1.
        key: A variable of a `.mat` or HDF5 file.
    """

    field: str | None = None
    column: Column | None = None
    key: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "RowNumbers":
        if sum(place is not None for place in (self.field, self.column, self.key)) != 1:
            raise ValueError("give exactly one of field, column and key")
        return self


class LabelNumbers(RowNumbers):
    """Source of the gesture of each row, and the meaning of its values.

    Attributes:
        rest: Values that mean rest.
        unlabelled: Values that mean unknown.
        classes: Value -> name of the gesture, in order of the labels 1, 2, ...; default: values are the labels.
    """

    rest: tuple[str | int, ...] = ()
    unlabelled: tuple[str | int, ...] = ()
    classes: dict[str | int, str] | None = None

    @model_validator(mode="after")
    def _each_means_one_thing(self) -> "LabelNumbers":
        every = [value_name(value) for value in (*self.rest, *self.unlabelled, *(self.classes or ()))]
        doubled = [name for name, times in Counter(every).items() if times > 1]
        if doubled:
            raise ValueError(
                f"the value {doubled[0]!r} is listed twice; list it once under rest, unlabelled or classes"
            )
        names = list((self.classes or {}).values())
        if len(set(names)) < len(names):
            raise ValueError(f"two classes have the same name: {', '.join(names)}; give each its own")
        return self


class TimeColumn(SpecModel):
    """A column with the time of each row; it must rise and agree with `fs`.

    Attributes:
        column: Name, or number from 1.
        unit: Unit of its values.
    """

    column: Column
    unit: Literal["s", "ms", "us"] = "s"


class FolderDescription(SpecModel):
    r"""A folder of recordings (docs/data-sets.md §2.8).

    Attributes:
        files: Path of a file in the folder, with fields in braces: `"{subject}/{label}_{repetition}.csv"`. A field
            matches anything but `/`. `{subject}` is required; other fields may have any name.
        fs: Sampling rate (Hz).
        signals: Signals by modality.
        label: The gesture; default: each file is one repetition of label 1.
        repetition: The repetition number; default: runs of each label are numbered, in order of the files.
        separator: For text: text between columns. Default: determined from the file. `"\t"` is a tab, `"\s+"` white
            space.
        decimal: For text: decimal point or comma.
        header: For text: whether the first line has the names of the columns.
        skip_lines: For text: number of lines before the header.
        time: For text: the column of times, if there is one.
        notes: Sentences that apply to every recording.
    """

    files: str
    fs: Rate
    signals: dict[str, SignalColumns] = Field(min_length=1)
    label: LabelNumbers | None = None
    repetition: RowNumbers | None = None
    separator: str | None = Field(default=None, min_length=1, max_length=5)
    decimal: Literal[".", ","] = "."
    header: bool = True
    skip_lines: int = Field(default=0, ge=0, le=100_000)
    time: TimeColumn | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "FolderDescription":
        """Read a YAML file."""
        text = read_bytes(path).read()
        try:
            return cls.from_content(read_yaml(text.decode()))
        except ArgumentError as error:
            raise DataError(f"{path}: {error}") from None
        except ValueError as error:
            raise DataError(f"{path}: cannot be read as a description of a folder ({error})") from None

    @model_validator(mode="after")
    def _fits_together(self) -> "FolderDescription":
        between, fields = self._pieces
        doubled = [name for name, times in Counter(fields).items() if times > 1]
        if not fields or any("{" in piece or "}" in piece for piece in between):
            raise ValueError("files has no field in braces, or braces that do not match")
        if len(fields) > MOST_FIELDS or doubled:
            what = f"the field {doubled[0]!r} twice" if doubled else f"more than {MOST_FIELDS} fields"
            raise ValueError(f"files has {what}")
        if not all(between[1:-1]):
            touching = between.index("", 1)
            raise ValueError(f"files needs text between {fields[touching - 1]!r} and {fields[touching]!r}, such as _")
        if "subject" not in fields:
            raise ValueError("files needs the field {subject}, which names the subject of a file")
        for name, part in (("label", self.label), ("repetition", self.repetition)):
            if part is not None and part.field is not None and part.field not in fields:
                raise ValueError(
                    f"{name}.field {part.field!r} is not a field of files; known: {', '.join(sorted(fields))}"
                )
        return self

    @property
    def _pieces(self) -> tuple[list[str], list[str]]:
        """The pattern's text before, between and after the fields; and the names of the fields."""
        pieces = re.split(r"\{(\w+)\}", unicodedata.normalize("NFC", self.files))
        return pieces[::2], pieces[1::2]

    def places(self, path: Path, root: Path) -> dict[str, str] | None:
        """Return the values of the fields in a file's path; None if the path does not match."""
        between, fields = self._pieces
        name = unicodedata.normalize("NFC", path.relative_to(root).as_posix())
        longest, shortest = (
            re.fullmatch(field.join(map(re.escape, between)), name) for field in ("([^/]+)", "([^/]+?)")
        )
        if longest is None or shortest is None:
            return None
        readings = [dict(zip(fields, match.groups(), strict=True)) for match in (longest, shortest)]
        if readings[0] != readings[1]:
            raise DataError(
                f"{path} matches files {self.files!r} in two ways, {readings[0]} and {readings[1]}; put text between"
                " fields that does not occur inside them"
            )
        return readings[0]
