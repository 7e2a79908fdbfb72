"""What a run's folder records: where its data were, their fingerprint, its plan, and its study."""

import json
from pathlib import Path
from typing import Any

import yaml

from emg_lens.io.seals import DamagedFileError, check_seal
from emg_lens.io.yaml_text import YAMLTextError, read_mapping, text_of_file
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import FORMER, StudySpec

RECORD = "data.json"
"""Name of the file that records the data of a run: their folder and fingerprint, and the plan."""


def read_record(folder: Path) -> dict[str, Any]:
    """What a run's folder knows of its data.

    Raises:
        StudyError: It is missing or damaged.
    """
    try:
        check_seal(folder / RECORD)
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        kinds = {"folder": str | None, "fingerprint": str, "warnings": list, "n_train": dict, "subjects": list}
        if not all(isinstance(record[key], kind) for key, kind in kinds.items()):
            raise ValueError("a value of another kind")
        return {key: record[key] for key in kinds}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StudyError(f"{folder / RECORD} cannot be read ({error}); delete {folder} and run again") from None


def read_spec(folder: Path) -> StudySpec:
    """The study of a run's folder, whichever version wrote it: keys of former versions changed no fit.

    Raises:
        StudyError: Not a run's folder, or not a study.
    """
    path = folder / "spec.yaml"
    try:
        if not path.is_file():
            raise StudyError(f"{str(folder)!r} is not a run's folder: it holds no spec.yaml")
        if not check_seal(path) and (folder / RECORD).exists() and check_seal(folder / RECORD):
            raise DamagedFileError(f"{path} was changed after it was written: its checksum is gone")
    except OSError as error:
        raise StudyError(f"{str(folder)!r} is not a run's folder: {error.strerror or error}") from None
    except DamagedFileError as error:
        raise StudyError(f"{error}; run the changed study itself with emg-lens run") from None
    try:
        content = read_mapping(text_of_file(path, "study"), str(path), "name, cohort, model")
        for key in FORMER:
            content["statistics"].pop(key, None)
    except (YAMLTextError, TypeError, KeyError, AttributeError):
        return StudySpec.load(path)  # which says what is wrong with it
    return StudySpec.parse(yaml.safe_dump(content, sort_keys=False), str(path))
