"""Read the record and the study of a run folder."""

from pathlib import Path
from typing import Any

from emg_lens.io.run_folder import RECORD, check_spec, read_facts_of_run
from emg_lens.studies.spec.study_spec import StudySpec


def read_record(folder: Path) -> dict[str, Any]:
    """Read the folder and fingerprint of the data, and the plan.

    Raises:
        RunFolderError: The record is missing or damaged.
    """
    kinds = {"folder": str | None, "fingerprint": str, "warnings": list, "n_train": dict, "subjects": list}
    return read_facts_of_run(folder, RECORD, kinds)


def read_spec(folder: Path) -> StudySpec:
    """Read the study of a run.

    Raises:
        RunFolderError: This is not a run's folder, or the study was changed after the run.
        StudyError: The file does not hold a study.
    """
    return StudySpec.load(check_spec(folder))
