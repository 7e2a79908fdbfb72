"""The content of a `dataset.yaml`: the files of a folder, and the meaning of their columns and names."""

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from emg_lens.data.recording import FASTEST, SLOWEST, DataError
from emg_lens.data.text import read_bytes
from emg_lens.io.yaml_text import read_yaml
from emg_lens.validation import ArgumentError, SpecModel

S_PER_UNIT = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
PART = "part"
"""The field of the pattern that differs between the files of one recording."""
FIELD_LETTERS = {"": "[^/]+", "text": r"[^/\d]+", "number": r"\d+"}
"""What a field matches, by its kind."""
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


class RowsOfSensor(SpecModel):
    """Which rows of a table belong to a sensor: those with `value` in `column` (a name, or a number from 1)."""

    column: Column
    value: str


def _axes(axes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(axes)) < len(axes) or "time" not in axes:
        raise ValueError(f"axes {list(axes)} must contain time, and each axis once, such as [channel, time]")
    return axes


Axes = Annotated[tuple[Literal["trial", "time", "channel"], ...], AfterValidator(_axes)]


class TimeColumn(SpecModel):
    """A column with the time of each row; it must rise and agree with `fs`.

    Attributes:
        column: Name, or number from 1.
        unit: Unit of its values.
    """

    column: Column
    unit: Literal["s", "ms", "us", "ns"] = "s"


class SignalColumns(SpecModel):
    """The channels of one sensor kind.

    Attributes:
        columns: For a table: names, or numbers from 1, `"1-8"` for a range. For arrays: numbers; default all.
        key: For a file of arrays: the variable; `rec.emg` is the field `emg` of the structure `rec`.
        axes: For arrays: what their axes are; default `[time, channel]`. With `trial`, each trial is a repetition.
        part: The file of this sensor, if each sensor has its own: the value of the field `{part}` in `files`.
        rows: For a table that mixes rows of several sensors: which rows belong to this one.
        time: The column of times, if it is not that of the folder. Sensors with their own rows or files are cut to
            their common time.
        fs: Sampling rate (Hz) of these samples; default the folder's, which at least one signal must have.
        units: Unit of the samples.
        native_fs: The sensor's own sampling rate (Hz), if the publisher changed it; default `fs`.
        ch_names: One name per channel; default the columns' names, or the modality and a number.
        placement: Position of the sensor.
    """

    columns: Columns | None = None
    key: str | None = None
    axes: Axes | None = None
    part: str | None = None
    rows: RowsOfSensor | None = None
    time: TimeColumn | None = None
    fs: Rate | None = None
    units: str = ""
    native_fs: Rate | None = None
    ch_names: tuple[str, ...] | None = None
    placement: str = ""


class RowNumbers(SpecModel):
    """Source of one number per row: the file's name, a column, or (for arrays) a key.

    Attributes:
        field: A field of the file pattern.
        column: A column of the table or array, by name or number from 1.
        key: A variable of a file of arrays: one value per row, per trial, or one for the file.
        part: The file, if it is not that of the first signal: the value of the field `{part}` in `files`.
    """

    field: str | None = None
    column: Column | None = None
    key: str | None = None
    part: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "RowNumbers":
        in_file = (self.column, self.key, self.part) != (None, None, None)
        if in_file == (self.field is not None):
            raise ValueError("give exactly one of field, column and key")
        return self


class SubjectNumbers(RowNumbers):
    """Source of the subject of each row or trial."""

    @model_validator(mode="after")
    def _inside(self) -> "SubjectNumbers":
        if self.field is not None:
            raise ValueError("call the field {subject} in files, in place of subject.field")
        return self


class LabelNumbers(RowNumbers):
    """Source of the gesture of each row, and the meaning of its values.

    Attributes:
        onset: For a table of events, as of BIDS: the column of their starts (s); `column` has their labels. Rows
            outside every event are rest.
        duration: The column of their durations (s).
        stop: The column of their ends (s), in place of `duration`.
        rest: Values that mean rest.
        unlabelled: Values that mean unknown.
        classes: Value -> name of the gesture, in order of the labels 1, 2, ...; default: values are the labels.
    """

    onset: Column | None = None
    duration: Column | None = None
    stop: Column | None = None
    rest: tuple[str | int, ...] = ()
    unlabelled: tuple[str | int, ...] = ()
    classes: dict[str | int, str] | None = None

    @model_validator(mode="after")
    def _each_means_one_thing(self) -> "LabelNumbers":
        if (self.onset is None) != (self.duration is None and self.stop is None) or (
            self.onset is not None and self.column is None
        ):
            raise ValueError("a table of events needs column, onset, and duration or stop")
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


class FolderDescription(SpecModel):
    r"""A folder of recordings (docs/data-sets.md §2.8).

    Attributes:
        files: Path of a file in the folder, with fields in braces: `"{subject}/{label}_{repetition}.csv"`. A field
            matches anything but `/`; `{label:text}` has no digits, `{repetition:number}` has only digits, so that
            `{label:text}{repetition:number}` needs no text between. `{subject}` names the subject. `{part}` differs
            between the files of one recording, as in one file per sensor. Other fields may have any name.
        fs: Sampling rate (Hz).
        subject: If `files` has no field `{subject}`: the name of the subject; or the column or variable with the
            subject of each row or trial, `{column: person}`.
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
    subject: str | SubjectNumbers | None = None
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
        between, fields, kinds = self._pieces
        doubled = [name for name, times in Counter(fields).items() if times > 1]
        if any("{" in piece or "}" in piece for piece in between):
            raise ValueError(
                "files has no field in braces, or braces that do not match ({name}, {name:text}, {name:number})"
            )
        if len(fields) > MOST_FIELDS or doubled:
            what = f"the field {doubled[0]!r} twice" if doubled else f"more than {MOST_FIELDS} fields"
            raise ValueError(f"files has {what}")
        for left, right, text in zip(range(len(fields)), range(1, len(fields)), between[1:-1], strict=False):
            if not text and {kinds[left], kinds[right]} != {"text", "number"}:
                raise ValueError(f"files needs text between {fields[left]!r} and {fields[right]!r}, such as _")
        if ("subject" in fields) == (self.subject is not None):
            twice = "subject stands in files and in the description; remove one"
            none = "files needs the field {subject}, which names the subject of a file; or give subject: NAME"
            raise ValueError(none if self.subject is None else twice)
        for name, part in (("label", self.label), ("repetition", self.repetition)):
            if part is not None and part.field is not None and part.field not in fields:
                known = ", ".join(sorted(fields))
                raise ValueError(f"{name}.field {part.field!r} is not a field of files; known: {known}")
        inside = self.subject if isinstance(self.subject, SubjectNumbers) else None
        every = (*self.signals.values(), self.label, self.repetition, inside)
        named = [part for part in every if part is not None]
        if (PART in fields) != any(part.part is not None for part in named):
            raise ValueError("the field {part} in files needs a signal with part: VALUE, and the other way round")
        return self

    @property
    def _pieces(self) -> tuple[list[str], list[str], list[str]]:
        """The pattern's text before, between and after the fields; the names and the kinds of the fields."""
        pieces = re.split(r"\{(\w+)(?::(text|number))?\}", unicodedata.normalize("NFC", self.files))
        return pieces[::3], pieces[1::3], [kind or "" for kind in pieces[2::3]]

    def places(self, path: Path, root: Path) -> dict[str, str] | None:
        """Return the values of the fields in a file's path; None if the path does not match."""
        between, fields, kinds = self._pieces
        name = unicodedata.normalize("NFC", path.relative_to(root).as_posix())
        longest, shortest = (
            re.fullmatch(
                re.escape(between[0])
                + "".join(
                    f"({FIELD_LETTERS[kind]}{lazy}){re.escape(text)}"
                    for kind, text in zip(kinds, between[1:], strict=True)
                ),
                name,
            )
            for lazy in ("", "?")
        )
        if longest is None or shortest is None:
            return None
        readings = [dict(zip(fields, match.groups(), strict=True)) for match in (longest, shortest)]
        if readings[0] != readings[1]:
            raise DataError(
                f"{path} matches files {self.files!r} in two ways, {readings[0]} and {readings[1]}; put text between"
                " fields that does not occur inside them"
            )
        return readings[0] | ({"subject": self.subject} if isinstance(self.subject, str) else {})
