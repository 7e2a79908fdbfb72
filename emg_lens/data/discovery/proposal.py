"""From a folder or file to a description, a first study, and what was seen and assumed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emg_lens.data import storage
from emg_lens.data.discovery.description_text import described_text
from emg_lens.data.discovery.first_study import FirstStudy, first_study
from emg_lens.data.discovery.folder_layout import FolderLayout, find_layout
from emg_lens.data.discovery.known_layouts import known_data_set
from emg_lens.data.discovery.label_classes import Progress, name_classes
from emg_lens.data.discovery.recorded import RecordedData, read_recorded
from emg_lens.data.recording import DataError
from emg_lens.data.registry import load_trials
from emg_lens.data.registry import subjects as subjects_of
from emg_lens.data.sources.described import DESCRIBED
from emg_lens.data.sources.trial_file import TRIAL_FILE


@dataclass
class DataProposal:
    """What was found about a folder or file, and what to write.

    Attributes:
        dataset: Name of the data set that reads it.
        root: The folder or file for `--data`.
        description: Text of `dataset.yaml`; "" if none is needed.
        study: The first study.
        seen: Sentences on what was found.
        assumed: Sentences on what was assumed.
        odd: Sentences on what looks wrong.
    """

    dataset: str
    root: Path
    description: str = ""
    study: FirstStudy | None = None
    seen: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)


def recognised(place: Path) -> str:
    """The data set that a folder or file belongs to: `trials`, a published one, or `folder`."""
    if not place.exists():
        raise DataError(f"{place} does not exist; give the folder or file of your recordings")
    if place.is_file():
        try:
            storage.subject_names(place)
            return TRIAL_FILE.name
        except DataError:
            return DESCRIBED.name
    return known_data_set(place) or DESCRIBED.name


def described_proposal(place: Path, fs: float | None, progress: Progress) -> tuple[DataProposal, FolderLayout]:
    """Describe a folder or file; the study is proposed when the description is written (`with_study`)."""
    layout = find_layout(place, fs)
    name_classes(layout, progress)
    text = described_text(layout.description, layout.comments, layout.root)
    return DataProposal(DESCRIBED.name, layout.root, text, None, layout.seen, layout.assumed, layout.odd), layout


def with_study(proposal: DataProposal, name: str, options: Mapping[str, Any], n_files: int, progress: Progress) -> None:
    """Read all recordings once, and add the study to the proposal."""
    if proposal.dataset == TRIAL_FILE.name:
        _of_trials(proposal, name)
        return
    data = read_recorded(proposal.dataset, proposal.root, options, n_files, progress)
    if not data.n_recordings:
        raise DataError(f"{proposal.root} has no recording; check the files")
    proposal.seen += _sizes(data)
    proposal.odd += data.odd
    proposal.study = first_study(name, proposal.dataset, options, data)
    proposal.assumed += proposal.study.assumed


def n_recordings(dataset: str, root: Path, options: Mapping[str, Any]) -> int:
    """Number of subjects of a data set, for the progress bar, without reading signals."""
    return len(subjects_of(dataset, root, **options))


def _sizes(data: RecordedData) -> list[str]:
    table = data.repetitions
    sensors = ", ".join(f"{name} {n} x {fs:.4g} Hz" for name, (n, fs, *_) in data.sensors.items())
    lines = [
        f"{data.n_recordings} recordings of {table['subject'].nunique()} subjects, {data.seconds / 60:.1f} minutes",
        f"signals: {sensors}",
    ]
    if table["label"].nunique() > 1:
        lengths, numbers = table["seconds"], table.groupby(["subject", "label"])["repetition"].nunique()
        lines.append(
            f"{len(table)} repetitions of {table['label'].nunique()} gestures, {numbers.min()} to {numbers.max()} of each,"
            f" {lengths.min():.3g} to {lengths.max():.3g} s long"
        )
    return lines


def _of_trials(proposal: DataProposal, name: str) -> None:
    """A study of finished trials: without recipe and segment."""
    trials = load_trials(TRIAL_FILE.name, proposal.root)
    numbers = {int(n) for n in trials.repetition}
    proposal.seen.append(repr(trials))
    proposal.odd += trials.notes
    import pandas as pd

    table = pd.DataFrame({"subject": trials.subject, "label": trials.y, "repetition": trials.repetition, "seconds": trials.n_samples / trials.fs})
    sensors = {m: (n, trials.fs, trials.fs, False) for m, n in trials.modalities.items()}
    study = first_study(name, TRIAL_FILE.name, {}, RecordedData(table, sensors, n_recordings=len(numbers)))
    for key in ("recipe", "segment"):
        del study.content["cohort"][key]
    study.assumed = [text for text in study.assumed if not text.startswith("emg:")]
    proposal.study = study
    proposal.assumed += study.assumed
