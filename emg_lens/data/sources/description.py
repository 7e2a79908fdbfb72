"""What a `dataset.yaml` says: which files a folder holds, and what the columns and names in them mean."""

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

MOST_BYTES = 4_000_000
FIELDS = ("subject", "label", "repetition")
MS_A_UNIT = {"s": 1000.0, "ms": 1.0, "us": 0.001}


def _columns(given: Any) -> Any:
    """`"2-9"` and `3` are columns counted from 1."""
    parts = given if isinstance(given, list) else [given]
    found: list[str | int] = []
    for part in parts:
        span = re.fullmatch(r"(\d{1,5})-(\d{1,5})", part) if isinstance(part, str) else None
        found += range(int(span[1]), int(span[2]) + 1) if span else [part]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{given!r} names {'a column twice' if found else 'no column'}")
    return tuple(found)


def value_name(value: object) -> str:
    """What a value is compared by: whole numbers by what they are worth (`01` and `1` are one), others as text."""
    text = unicodedata.normalize("NFC", str(value).strip())  # as macOS writes names, and as others do
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
        columns: Of a table: names, or numbers from 1, `"1-8"` for a range. Of arrays: numbers; default all.
        key: Of a `.mat` or HDF5 file: the variable that holds `[time, channel]`.
        fs: Rows per second (Hz) of a variable of its own length; default the folder's, which one signal must have.
        units: Of the samples.
        native_fs: The sensor's own rate (Hz), if the publisher has changed it; default `fs`.
        ch_names: One a channel; default the columns' names, or the modality's and a number.
        placement: Where it sat.
    """

    columns: Columns | None = None
    key: str | None = None
    fs: Rate | None = None
    units: str = ""
    native_fs: Rate | None = None
    ch_names: tuple[str, ...] | None = None
    placement: str = ""


class RowNumbers(SpecModel):
    """Where a number a row comes from: the file's name, or a column (of arrays: a key).

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
            raise ValueError("say where it stands: one of field, column and key")
        return self


class LabelNumbers(RowNumbers):
    """Where the movement of each row comes from, and what its values mean.

    Attributes:
        rest: Values that mean rest.
        unlabelled: Values that mean nothing is known.
        classes: What a value stands for, in order of the labels 1, 2, ...; default: values are labels as they are.
    """

    rest: tuple[str | int, ...] = ()
    unlabelled: tuple[str | int, ...] = ()
    classes: dict[str | int, str] | None = None

    @model_validator(mode="after")
    def _each_means_one_thing(self) -> "LabelNumbers":
        every = [value_name(value) for value in (*self.rest, *self.unlabelled, *(self.classes or ()))]
        doubled = [name for name, times in Counter(every).items() if times > 1]
        if doubled:
            raise ValueError(f"the value {doubled[0]!r} is there twice: it can be rest, unlabelled or one class")
        names = list((self.classes or {}).values())
        if len(set(names)) < len(names):
            raise ValueError(f"two classes have one name: {', '.join(names)}")
        return self


class TimeColumn(SpecModel):
    """A column that tells when each row was taken; it must rise, and fit `fs`.

    Attributes:
        column: By name or number from 1.
        unit: Of its values.
    """

    column: Column
    unit: Literal["s", "ms", "us"] = "s"


class FolderDescription(SpecModel):
    r"""A folder of recordings (docs/data-sets.md §2.8).

    Attributes:
        files: Path of a file below the folder, with fields in braces: `"{subject}/{label}_{repetition}.csv"`. A field
            matches anything but `/`; `{subject}` is needed; others than subject, label and repetition tell files apart.
        fs: Rows per second (Hz).
        signals: By modality.
        label: The movement; default: each file is one, of label 1.
        repetition: Default: the how-manieth run of its label by that subject, in order of the files.
        separator: Of text, as it stands there: default found from the file. `"\t"` is a tab, `"\s+"` any blanks.
        decimal: Of text: the decimal point, or comma.
        header: Of text: whether the first line names the columns.
        skip_lines: Of text: before the header.
        time: Of text: where it has a column of times.
        notes: True of every recording.
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
        """Read a YAML file.

        Raises:
            DataError: It is missing, not YAML, or a key or value does not belong there.
        """
        try:
            text = read_bytes(path, MOST_BYTES, "a description has some lines").read().decode()
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
            raise ValueError("files needs a {subject}, to tell whose a file is")
        for name, part in (("label", self.label), ("repetition", self.repetition)):
            if part is not None and part.field is not None and part.field not in fields:
                raise ValueError(
                    f"{name}.field {part.field!r} is no field of files; it has {', '.join(sorted(fields))}"
                )
        return self

    @cached_property
    def pattern(self) -> PathPattern:
        """Of the path below the folder.

        Raises:
            ValueError: It is none.
        """
        return PathPattern.parse(unicodedata.normalize("NFC", self.files))

    def places(self, path: Path, root: Path) -> Mapping[str, str] | None:
        """The fields of a file's path; None for a file that is not meant.

        Raises:
            DataError: The path can be read in two ways.
        """
        readings = self.pattern.readings(unicodedata.normalize("NFC", path.relative_to(root).as_posix()))
        if len(readings) > 1:
            raise DataError(
                f"{path} fits files {self.files!r} in two ways, {readings[0]} and {readings[1]}; use other signs"
                " between fields than within them"
            )
        return readings[0] if readings else None
