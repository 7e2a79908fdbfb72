"""The data set `trials`: a file that `TrialSet.save` wrote, read unchanged."""

from collections.abc import Iterable
from pathlib import Path

from emg_lens.data import storage
from emg_lens.data.files import select_subjects
from emg_lens.data.registry import DataSet
from emg_lens.data.trials import TrialSet


def load(root: str | Path, *, subjects: Iterable[str | int] | None = None) -> TrialSet:
    """Read the file `root`."""
    trials = TrialSet.load(root)
    known = dict.fromkeys(trials.subject.tolist(), ())
    return trials if subjects is None else trials.select(subjects=select_subjects(known, subjects))


def find(root: str | Path) -> dict[str, list[Path]]:
    """Return the file for each subject in it, in order of appearance; only the names are read."""
    path = Path(root).expanduser()
    return {subject: [path] for subject in storage.subject_names(path)}


TRIAL_FILE = DataSet("trials", load, "your own trials: the .h5 file of TrialSet.save", find, finished=True)
