"""Readout vectors of the test trials, computed from the saved models when a view first needs them.

The run's folder keeps them as `readouts/<fit>.safetensors`: `vectors [trial, value]`, with the trials of `trials.csv`.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from emg_lens.data.recording import DataError
from emg_lens.data.standardization import InputStatistics
from emg_lens.errors import EmgLensError
from emg_lens.io.files import write_bytes
from emg_lens.io.os_errors import check_regular, remedy
from emg_lens.studies.fits.fit_memory import FitMemory
from emg_lens.studies.fits.fit_store import read_csv, read_facts, read_outputs
from emg_lens.studies.fits.fit_unit import Fit, fits_of
from emg_lens.studies.runs.run_files import read_record
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.conditions import BASELINE

TOLERANCE = 1e-3
"""Largest difference between the saved logits of a fit and the logits of its saved model on the same recordings."""


def saved_readouts(study: StudySpec, folder: Path, names: Iterable[str]) -> dict[str, Float[np.ndarray, "trial value"]]:
    """Read the readout vectors of the test trials of some fits; missing ones are computed and saved.

    Args:
        study: The study of the run.
        folder: The run's folder.
        names: Names of the fits' folders.

    Returns:
        The vectors of each fit, by its name.

    Raises:
        StudyError: The recordings cannot be read or differ from the recordings of the run, the model does not declare
            its head, or a file is damaged or cannot be written.
    """
    vectors = {}
    fits: dict[str, Fit] = {}
    for name in names:
        path = folder / "readouts" / f"{name}.safetensors"
        n_trials = len(read_csv(folder / "fits" / name / "trials.csv"))
        if path.exists():
            vectors[name] = _read(path, n_trials)
            continue
        record = read_record(folder)
        if not fits:
            fits = {one.folder_name: one for one in fits_of(study, record["subjects"])}
        data = None if record["folder"] is None else Path(record["folder"])
        try:
            vectors[name] = _compute(fits[name], data, folder / "fits" / name)
        except DataError as error:
            raise StudyError(
                f"readout vectors of {name} need the recordings of the run in {data} ({error}); put them back, or leave"
                " the view out"
            ) from None
        except EmgLensError as error:
            raise StudyError(f"readout vectors of {name}: {error}; leave the view out") from None
        try:
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, save({"vectors": vectors[name]}))
        except OSError as error:
            raise StudyError(f"cannot write to {str(path.parent)!r}: {error.strerror}") from None
    return vectors


def _compute(fit_unit: Fit, data: Path | None, folder: Path) -> Float[np.ndarray, "trial value"]:
    # Imported here, because most reports need no models.
    from emg_lens.analysis.readout import readout_vectors
    from emg_lens.studies.fits.fit_trials import load_fit
    from emg_lens.studies.fits.model_building import architecture_of

    with FitMemory(fit_unit.spec.cohort, data).large_step():
        test = load_fit(fit_unit, data).test
    model = architecture_of(fit_unit).model.from_pretrained(folder)
    x = torch.from_numpy(InputStatistics.load(folder / "input_statistics.safetensors").apply(test.x))
    outputs, _ = read_outputs(folder)
    saved = outputs[read_csv(folder / "conditions.csv")["condition"].tolist().index(BASELINE)]
    some = slice(0, 64)
    with torch.inference_mode():
        now = model.eval()(x[some]).numpy()
    n_test = read_facts(folder)["n_test"]
    if len(x) != n_test or not np.allclose(now, saved[some], atol=TOLERANCE, rtol=TOLERANCE):
        raise StudyError("the recordings differ from the recordings of the run: the saved model gives other outputs")
    return readout_vectors(model, x)


def _read(path: Path, n_trials: int) -> Float[np.ndarray, "trial value"]:
    try:
        check_regular(path)
        vectors = load_file(path)["vectors"]
        if vectors.ndim != 2 or len(vectors) != n_trials:
            raise ValueError(f"it holds an array {list(vectors.shape)}, expected {n_trials} trials")
        return vectors
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        advice = remedy(error, "delete it, it is then computed again")
        raise StudyError(f"{path} cannot be read ({error}); {advice}") from None
