"""Sequences: recordings of any length whose targets are a series in time (docs/sequences.md).

A sequence has events (a name and a time), a text, frames (a row of numbers every few milliseconds), or a twin: another
sequence of the same sentence. `SequenceSet.windows` cuts sequences into trials for models and studies.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from emg_lens.data import sequence_storage
from emg_lens.data.arrays import as_rate, channel_table, check_channels, check_names, checked_choice
from emg_lens.data.pulses import check_events, event_targets, labels_of
from emg_lens.data.recording import DataError, as_array
from emg_lens.data.trials import TrialSet
from emg_lens.data.windowing import OutputSteps, Windowing
from emg_lens.validation import check_argument, check_fields, checked, short

UNITS = {"subject": "subject", "session": "session", "sequence": "name"}
"""Units that a set can be split by, and the field that names them."""
LONGEST_S = 16_384
"""Longest sequence for event targets (s): float32 resolves times below it to 1 ms."""
MOST_LOST = 0.1
"""Largest fraction of the events that may have no target."""
TIME = "time (s)"
"""Name of the last column of event targets."""


@dataclass(frozen=True, eq=False)
class SignalSequence:
    """A recording with targets in time. Times are in seconds after its first sample.

    Attributes:
        name: Name, different from that of every other sequence of the set.
        subject: Who was recorded.
        session: The recording session, a name that is unique within the subject.
        x: Samples `[channel, time]`, float32.
        events: Name and time (s) of each event, in order of time; None = not labelled.
        text: What was said; None = not known, `""` = nothing.
        frames: Numbers `[frame, value]` at `frame_rate`, e.g. a mel spectrogram; None = there are none.
        frame_labels: Class index of each frame, e.g. the phoneme; None = not labelled.
        frame_rate: Frames per second (Hz); frame i starts at i / frame_rate.
        twin: Name of another sequence of the same sentence, e.g. the voiced utterance of a silent one.
    """

    name: str
    subject: str
    session: str
    x: Float[np.ndarray, "channel time"]
    events: tuple[tuple[str, float], ...] | None = None
    text: str | None = None
    frames: Float[np.ndarray, "frame value"] | None = None
    frame_labels: Int[np.ndarray, " frame"] | None = None
    frame_rate: float | None = None
    twin: str | None = None

    def __post_init__(self) -> None:
        check_names(sequence_names=[self.name], subjects=[self.subject], sessions=[self.session])
        x = self.x
        if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype != np.float32 or not x.size:
            raise DataError(f"sequence {self.name}: x must be float32 [channel, time] and not empty, got {_shape(x)}")
        if not np.isfinite(x).all():
            raise DataError(f"sequence {self.name}: x holds NaN or infinity; repair or cut out these samples")
        check_events(() if self.events is None else self.events, f"sequence {self.name}: ")
        check_fields(self)
        for what, axes, kind in (("frames", ("frame", "value"), "f"), ("frame_labels", ("frame",), "iu")):
            values = getattr(self, what)
            if values is not None and (values.ndim != len(axes) or values.dtype.kind not in kind or not len(values)):
                raise DataError(f"sequence {self.name}: {what} must be [{', '.join(axes)}], got {_shape(values)}")
        if (self.frames is not None or self.frame_labels is not None) and not (self.frame_rate or 0) > 0:
            raise DataError(f"sequence {self.name}: frames need a frame_rate in Hz, got {self.frame_rate!r}")
        if self.frames is not None and self.frame_labels is not None and len(self.frames) != len(self.frame_labels):
            raise DataError(
                f"sequence {self.name}: {len(self.frames)} frames and {len(self.frame_labels)} frame_labels;"
                " expected one label per frame"
            )


@dataclass(frozen=True, eq=False, repr=False)
class SequenceSet:
    """Sequences with the same channels and sampling rate.

    Attributes:
        sequences: The sequences; those of one session in order of time.
        channels: One row per channel, as in `TrialSet`.
        fs: Sampling rate (Hz).
        event_names: Names of the events, in the order of the model's outputs.
        frame_names: Names of the columns of the frames.
        label_names: Names of the frame labels, in order of class index.
        notes: Sentences on what was repaired, assumed or dropped.

    Example:
        >>> import numpy as np
        >>> from emg_lens.data import SequenceSet, SignalSequence
        >>> rng = np.random.default_rng(0)
        >>> make = lambda name, session: SignalSequence(
        ...     name, "A", session, rng.normal(size=(2, 4000)).astype("float32"), events=(("tap", 1.0), ("tap", 3.2)))
        >>> sequences = SequenceSet.of([make("a", "1"), make("b", "2")], channels={"emg": 2}, fs=1000)
        >>> sequences
        SequenceSet(2 sequences of 1 subjects, 8.0 s in all, 2 emg channels at 1000 Hz, events: tap)
        >>> train, test = sequences.split(by="session", test=["2"])
        >>> train.names, test.names
        (('a',), ('b',))
    """

    sequences: tuple[SignalSequence, ...]
    channels: pd.DataFrame
    fs: float
    event_names: tuple[str, ...] = ()
    frame_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sequences:
            raise DataError("a set of sequences needs at least one sequence")
        check_channels(self.channels, len(self.channels))
        names = [one.name for one in self.sequences]
        if len({*names}) < len(names):
            doubled = next(name for i, name in enumerate(names) if name in names[:i])
            raise DataError(f"two sequences are called {doubled!r}; give each its own name")
        check_names(event_names=self.event_names, frame_names=self.frame_names, label_names=self.label_names)
        for one in self.sequences:
            if len(one.x) != len(self.channels):
                raise DataError(f"sequence {one.name} has {len(one.x)} channels; expected {len(self.channels)}")
            unknown = {name for name, _ in one.events or ()} - {*self.event_names}
            if unknown:
                raise DataError(f"sequence {one.name} has the event {min(unknown)!r}, which is not in event_names")
            if one.frames is not None and one.frames.shape[1] != len(self.frame_names):
                raise DataError(
                    f"sequence {one.name} has {one.frames.shape[1]} values per frame; frame_names has"
                    f" {len(self.frame_names)} names"
                )
            if one.frame_labels is not None and not 0 <= one.frame_labels.min() <= one.frame_labels.max() < len(
                self.label_names
            ):
                raise DataError(f"sequence {one.name}: frame_labels must be 0 to {len(self.label_names) - 1}")

    @staticmethod
    @checked
    def of(
        sequences: Iterable[SignalSequence], channels: Any, fs: float, *, notes: Iterable[str] = (), **names: Any
    ) -> "SequenceSet":
        """Make a set.

        Args:
            sequences: The sequences.
            channels: Number of channels of each modality, in channel order, or the whole channel table.
            fs: Sampling rate (Hz).
            notes: Sentences that stay with the data.
            **names: `event_names` (default: the names that occur, sorted), `frame_names`, `label_names`.

        Raises:
            DataError: Sequences that do not fit together.
        """
        sequences = tuple(sequences)  # also of an array or a generator, whose items the decorator does not check
        check_argument("of: sequences", sequences, tuple[SignalSequence, ...])
        unknown = {*names} - {"event_names", "frame_names", "label_names"}
        if unknown:
            raise DataError(f"unknown argument {min(unknown)!r}; expected event_names, frame_names or label_names")
        if not sequences:
            raise DataError("a set of sequences needs at least one sequence")
        names = {"event_names": sorted({name for one in sequences for name, _ in one.events or ()})} | names
        table = channel_table(channels, as_rate(fs), sequences[0].x[None])
        return SequenceSet(
            sequences, table, as_rate(fs), notes=tuple(notes), **{name: tuple(some) for name, some in names.items()}
        )

    def __len__(self) -> int:
        return len(self.sequences)

    def __repr__(self) -> str:
        channels = " + ".join(f"{n} {m}" for m, n in self.modalities.items())
        targets = f", events: {', '.join(self.event_names)}" if self.event_names else ""
        return (
            f"SequenceSet({len(self)} sequences of {len({one.subject for one in self.sequences})} subjects,"
            f" {self.durations_s.sum():.1f} s in all, {channels} channels at {self.fs:g} Hz{targets})"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sequences."""
        return tuple(one.name for one in self.sequences)

    @property
    def modalities(self) -> dict[str, int]:
        """Number of channels of each modality, in channel order."""
        return {str(m): int(n) for m, n in self.channels["modality"].value_counts(sort=False).items()}

    @property
    def durations_s(self) -> Float[np.ndarray, " sequence"]:
        """Duration of each sequence (s)."""
        return np.array([one.x.shape[1] / self.fs for one in self.sequences])

    @property
    def session_numbers(self) -> Int[np.ndarray, " sequence"]:
        """Number of the session of each sequence within its subject: 1 for the first one in the set, and so on."""
        numbers: dict[str, dict[str, int]] = {}
        for one in self.sequences:
            of_subject = numbers.setdefault(one.subject, {})
            of_subject.setdefault(one.session, len(of_subject) + 1)
        return np.array([numbers[one.subject][one.session] for one in self.sequences])

    def __getitem__(self, name: str) -> SignalSequence:
        """Look up a sequence by name."""
        (chosen,) = checked_choice(np.array(self.names), [name], "sequence")
        return self.sequences[self.names.index(chosen)]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per sequence: name, subject, session, duration_s, n_events, text, n_frames, twin."""
        rows = [
            (
                *(one.name, one.subject, one.session, one.x.shape[1] / self.fs),
                *(None if one.events is None else len(one.events), one.text),
                *(None if one.frames is None else len(one.frames), one.twin),
            )
            for one in self.sequences
        ]
        columns = ["name", "subject", "session", "duration_s", "n_events", "text", "n_frames", "twin"]
        return pd.DataFrame(rows, columns=columns)

    def split(
        self, by: Literal["subject", "session", "sequence"], test: Iterable[str]
    ) -> tuple["SequenceSet", "SequenceSet"]:
        """Split into a training and a test set; a subject, session or sequence is in one of them.

        Args:
            by: What is kept together. Sessions of two subjects with the same name are different sessions: name them
                `subject/session`.
            test: The subjects, sessions or sequences of the test set.

        Raises:
            DataError: An unknown name, or nothing is left for training.
        """
        if not isinstance(by, str) or by not in UNITS:
            raise DataError(f"by={short(by)}; expected {', '.join(map(repr, UNITS))}")
        units = np.array([self._unit(one, by) for one in self.sequences])
        chosen = np.isin(units, checked_choice(units, test, by))
        if chosen.all():
            raise DataError(f"the test set holds every {by}; nothing is left for training")
        return self.choose(~chosen), self.choose(chosen)

    def _unit(self, one: SignalSequence, by: str) -> str:
        several = len({(s.subject, s.session) for s in self.sequences}) > len({s.session for s in self.sequences})
        return f"{one.subject}/{one.session}" if by == "session" and several else str(getattr(one, UNITS[by]))

    def choose(self, mask: Any) -> "SequenceSet":
        """Keep the sequences of a mask `[sequence]`."""
        chosen = as_array(mask, "mask")
        if chosen.shape != (len(self.sequences),) or chosen.dtype != bool:
            raise DataError(f"mask must be {len(self.sequences)} booleans, one per sequence, got {_shape(chosen)}")
        kept = tuple(one for one, is_kept in zip(self.sequences, chosen, strict=True) if is_kept)
        return replace(self, sequences=kept)

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file; a reader sees the old file or the complete new one, never a part."""
        sequence_storage.save_sequences(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> "SequenceSet":
        """Read a file that `save` wrote.

        Raises:
            DataError: The file is missing, damaged, not a set of sequences, or of a later version.
        """
        facts, sequences = sequence_storage.load_sequences(Path(path))
        try:
            return SequenceSet(tuple(SignalSequence(**one) for one in sequences), **facts)
        except (DataError, TypeError) as error:
            raise DataError(f"{path}: {error}") from None

    @checked
    def windows(self, windowing: Windowing, steps: OutputSteps | None = None) -> TrialSet:
        """Cut into trials of one length, with targets for events.

        All windows of a sequence have one `repetition_id`, so that metrics of events join them to one stream again. The
        `repetition` number is the number of the session within the subject, so that `{by: repetition}` splits sessions.

        Args:
            windowing: Length, hop and context of the windows.
            steps: Times of the model's outputs.

        Returns:
            Trials with `targets` `[trial, step, gesture + 1]` (`event_targets`): the seconds since the last event where
            the model should answer, and in the last column the time of the step, or -1 where another window counts.

        Raises:
            DataError: A sequence has no events.

        Example:
            >>> import numpy as np
            >>> from emg_lens.data import OutputSteps, SequenceSet, SignalSequence, Windowing
            >>> x = np.zeros((2, 4000), "float32")
            >>> one = SignalSequence("a", "A", "1", x, events=(("tap", 1.0),))
            >>> trials = SequenceSet.of([one], channels={"emg": 2}, fs=1000).windows(Windowing(length_s=2.0))
            >>> trials.targets.shape, trials.target_names
            ((2, 198, 2), ('tap', 'time (s)'))
        """
        steps = steps or OutputSteps()
        if not self.event_names:
            raise DataError("these sequences have no events; windows are for event targets")
        for one in self.sequences:
            if one.events is None:
                raise DataError(f"sequence {one.name} is not labelled with events; leave it out")
            if one.x.shape[1] / self.fs > LONGEST_S:
                raise DataError(
                    f"sequence {one.name} is {one.x.shape[1] / self.fs:.0f} s long; divide it into sequences of at most"
                    f" {LONGEST_S} s, because times of targets are stored as float32"
                )
        cut: dict[str, list[Any]] = {name: [] for name in ("x", "targets", "start_s")}
        numbers: dict[str, list[Any]] = {name: [] for name in ("subject", "repetition", "repetition_id")}
        padded, n_events, n_found = 0, 0, 0
        for i, (one, session) in enumerate(zip(self.sequences, self.session_numbers, strict=True)):
            windows = windowing.cut(one.x, self.fs)
            padded += windowing.n_samples(self.fs) > one.x.shape[1]
            times = windowing.step_times(one.x.shape[1], self.fs, steps)
            cut["x"].append(windows)
            cut["targets"].append(event_targets(one.events or (), times, self.event_names))
            n_events += len(one.events or ())
            n_found += len(labels_of(cut["targets"][-1], self.event_names))
            cut["start_s"].append(windowing.starts(one.x.shape[1], self.fs) / self.fs)
            for name, value in (("subject", one.subject), ("repetition", session), ("repetition_id", i)):
                numbers[name].append(np.full(len(windows), value))
        rows = {name: np.concatenate(parts) for name, parts in (cut | numbers).items()}
        lost = n_events - n_found
        if lost > MOST_LOST * n_events:
            raise DataError(
                f"{lost} of {n_events} events have no output step in the 40 ms of their target; give windows that"
                " overlap (hop_s below length_s), output steps at most 40 ms apart, and events inside the recording"
            )
        notes = (f"{padded} sequences are shorter than a window and end in zeros",) * bool(padded)
        notes += (
            f"{lost} of {n_events} events have no output step in the 40 ms of their target, and are lost: they are near"
            " an end of the recording, or between windows that touch",
        ) * bool(lost)
        return TrialSet(
            **rows,
            y=np.zeros(len(rows["x"]), np.int64),
            source=rows["repetition_id"],
            channels=self.channels,
            fs=self.fs,
            classes=("stream",),
            target_names=(*self.event_names, TIME),
            notes=(*self.notes, windowing.in_words(), *notes),
        )


@checked
def sequence_leakage(train: SequenceSet, test: SequenceSet) -> pd.DataFrame:
    """Report what test sequences have in common with training sequences, and whether duration gives the target away.

    Args:
        train: Training sequences.
        test: Test sequences.

    Returns:
        One row a fact: `fact`, `n` test sequences of which it holds, `n_test`, and `fraction`. Shared subjects,
        sessions, names, samples (the same samples under any name) and texts; and `text of the training sequence with
        the nearest duration`, where that is the test sequence's text.

    Example:
        >>> import numpy as np
        >>> from emg_lens.data import SequenceSet, SignalSequence, sequence_leakage
        >>> x = np.ones((1, 100), "float32")
        >>> make = lambda name, session, n: SignalSequence(name, "A", session, n * x, text="go")
        >>> train = SequenceSet.of([make("a", "1", 1)], {"emg": 1}, 100)
        >>> test = SequenceSet.of([make("b", "1", 2), make("c", "2", 1)], {"emg": 1}, 100)
        >>> sequence_leakage(train, test).set_index("fact")["n"].to_dict()
        {'subject': 2, 'session': 1, 'name': 0, 'samples': 1, 'text': 2,
         'text of the training sequence with the nearest duration': 2}
    """
    keys: dict[str, Any] = {
        "subject": lambda one: one.subject,
        "session": lambda one: (one.subject, one.session),
        "name": lambda one: one.name,
        "samples": lambda one: one.x.tobytes(),
        "text": lambda one: one.text,
    }
    rows = []
    for fact, key in keys.items():
        known = {key(one) for one in train.sequences} - {None}
        rows.append((fact, sum(key(one) in known for one in test.sequences)))
    durations = train.durations_s
    nearest = [train.sequences[int(np.abs(durations - s).argmin())] for s in test.durations_s]
    same = sum(
        one.text is not None and one.text == near.text for one, near in zip(test.sequences, nearest, strict=True)
    )
    rows.append(("text of the training sequence with the nearest duration", same))
    table = pd.DataFrame(rows, columns=["fact", "n"])
    return table.assign(n_test=len(test), fraction=table["n"] / len(test))


def _shape(values: Any) -> str:
    return f"{getattr(values, 'dtype', type(values).__name__)} {getattr(values, 'shape', '')}"
