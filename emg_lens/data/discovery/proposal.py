"""From a folder or file to a description, a first study, and what was seen and assumed."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from emg_lens.data import storage
from emg_lens.data.discovery.description_text import between, described_text
from emg_lens.data.discovery.folder_layout import find_layout
from emg_lens.data.discovery.known_layouts import known_data_set
from emg_lens.data.discovery.label_classes import Progress, name_classes
from emg_lens.data.discovery.recorded import RecordedData, read_recorded
from emg_lens.data.discovery.study_proposal import FirstStudy, first_study
from emg_lens.data.recording import DataError
from emg_lens.data.registry import load_trials
from emg_lens.data.sources.described import DESCRIBED
from emg_lens.data.sources.described_tables import MISSING
from emg_lens.data.sources.trial_file import TRIAL_FILE


@dataclass
class DataProposal:
    """What was found about a folder or file, and what to write.

    Attributes:
        root: The folder or file for `--data`.
        description: Text of `dataset.yaml`; "" if none is needed.
        study: The first study.
        seen: Sentences on what was found.
        assumed: Sentences on what was assumed.
        odd: Sentences on what looks wrong.
    """

    root: Path
    description: str = ""
    study: FirstStudy | None = None
    seen: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)


def recognised(place: Path) -> str:
    """The data set that a folder or file belongs to: `trials`, a published one, or `folder`."""
    if place.is_file():
        try:
            storage.subject_names(place)
            return TRIAL_FILE.name
        except DataError:
            return DESCRIBED.name
    return known_data_set(place) or DESCRIBED.name


def described_proposal(
    place: Path, fs: float | None, progress: Progress, ask_rate: Callable[[float], float] = lambda guess: guess
) -> DataProposal:
    """Describe a folder or file.

    Args:
        place: The folder or file.
        fs: Sampling rate of the EMG (Hz), if the user states it.
        progress: Shows how many files were read.
        ask_rate: Asks for the rate if the files do not say it; gets a guess.
    """
    layout = find_layout(place, fs)
    if layout.guessed_fs is not None and (answer := ask_rate(layout.guessed_fs)) != layout.guessed_fs:
        layout = find_layout(place, answer)
    name_classes(layout, progress)
    text = described_text(layout.description, layout.comments, layout.root)
    return DataProposal(layout.root, text, None, layout.seen, layout.assumed, layout.odd)


def existing_description(path: Path) -> DataProposal:
    """Use the description that stands in the folder already."""
    marked = re.findall(r"^ *(\w+):.*# (ASSUMED\b.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return DataProposal(
        path.parent,
        seen=[f"{path} exists and is used; delete it to describe the recordings anew"],
        assumed=[f"{'the sampling rate' if key == 'fs' else key}: {what} [{path.name}]" for key, what in marked],
    )


def rejected_description(path: Path, error: DataError) -> DataError:
    """The error of recordings that do not fit their description, with the way on."""
    if MISSING in str(error):
        return DataError(f"{error}; then run the command again without --fs: {path} is written")
    return DataError(f"{error}; {path} is written: correct it there, and run the command again without --fs")


def with_study(
    dataset: str,
    root: Path,
    name: str,
    options: Mapping[str, Any],
    progress: Progress,
    found: DataProposal | None = None,
) -> DataProposal:
    """Read all recordings of a data set once, and propose a study.

    Args:
        dataset: Name of the data set.
        root: Its folder or file.
        name: Name of the study.
        options: Options of the loader.
        progress: Shows how many recordings were read.
        found: What is known already.
    """
    proposal = DataProposal(root) if found is None else replace(found, root=root)
    finished = dataset == TRIAL_FILE.name
    data = _of_trials(root) if finished else read_recorded(dataset, root, options, progress)
    if not data.n_recordings:
        raise DataError(f"{root} has no recording; check the files")
    proposal.seen += _sizes(data, "trial" if finished else "recording")
    proposal.study = first_study(name, dataset, options, data, finished)
    proposal.assumed += proposal.study.assumed
    proposal.odd += [*data.odd, *proposal.study.odd]
    return proposal


def _sizes(data: RecordedData, what: str = "recording") -> list[str]:
    table = data.repetitions
    sensors = ", ".join(f"{name} {n} x {fs:.4g} Hz" for name, (n, fs, *_) in data.sensors.items())
    lines = [
        f"{_counted(data.n_recordings, what)} of {_counted(table['subject'].nunique(), 'subject')},"
        f" {data.seconds / 60:.1f} minutes",
        f"signals: {sensors}",
    ]
    if table["label"].nunique() > 1:
        lengths, numbers = table["seconds"], table.groupby(["subject", "label"])["repetition"].nunique()
        length = f"{between(lengths.min(), lengths.max())} s long"
        lines.append(
            f"{_counted(len(table), 'repetition' if what == 'recording' else what)} of {table['label'].nunique()}"
            f" gestures, {between(numbers.min(), numbers.max())} repetitions of each in a subject, {length}"
        )
    return lines


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _of_trials(root: Path) -> RecordedData:
    """What a file of finished trials holds."""
    trials = load_trials(TRIAL_FILE.name, root)
    seconds = trials.n_samples / trials.fs
    about = {"subject": trials.subject, "label": trials.y, "repetition": trials.repetition, "seconds": seconds}
    sensors = {m: (n, trials.fs, trials.fs, False) for m, n in trials.modalities.items()}
    return RecordedData(pd.DataFrame(about), sensors, [*trials.notes], len(trials), seconds * len(trials))
