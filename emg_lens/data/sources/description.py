"""The content of a `dataset.yaml`: the files of a folder, and the meaning of their columns and names."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from emg_lens.data.recording import FASTEST, SLOWEST, DataError
from emg_lens.data.sources.path_pattern import PathPattern
from emg_lens.data.text import read_bytes
from emg_lens.io.yaml_text import read_yaml
from emg_lens.validation import ArgumentError, SpecModel

MS_PER_UNIT = {"s": 1000.0, "ms": 1.0, "us": 0.001}


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
        try:
            text = read_bytes(path).read().decode()
            return cls.from_content(read_yaml(text))
        except ArgumentError as error:
            raise DataError(f"{path}: {error}") from None
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"{path}: cannot be read as a description of a folder ({error})") from None

    @model_validator(mode="after")
    def _fits_together(self) -> "FolderDescription":
        fields = self.pattern.fields
        if "subject" not in fields:
            raise ValueError("files needs the field {subject}, which names the subject of a file")
        for name, part in (("label", self.label), ("repetition", self.repetition)):
            if part is not None and part.field is not None and part.field not in fields:
                raise ValueError(
                    f"{name}.field {part.field!r} is not a field of files; known: {', '.join(sorted(fields))}"
                )
        return self

    @cached_property
    def pattern(self) -> PathPattern:
        """The parsed pattern of paths relative to the folder."""
        return PathPattern.parse(unicodedata.normalize("NFC", self.files))

    def places(self, path: Path, root: Path) -> Mapping[str, str] | None:
        """Return the values of the fields in a file's path; None if the path does not match."""
        readings = self.pattern.readings(unicodedata.normalize("NFC", path.relative_to(root).as_posix()))
        if len(readings) > 1:
            raise DataError(
                f"{path} matches files {self.files!r} in two ways, {readings[0]} and {readings[1]}; put text between"
                " fields that does not occur inside them"
            )
        return readings[0] if readings else None
