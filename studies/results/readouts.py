"""Readout vectors of tested trials of finished fits: computed from the saved models when a view first asks.

They are kept in the run's folder, `readouts/<fit>.safetensors`: `vectors [trial, value]`, trials as in `trials.csv`.
Nothing is fitted again.
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
from emg_lens.studies.fits.fit_store import read_csv, read_facts, read_outputs
from emg_lens.studies.fits.fit_unit import Fit, fits_of
from emg_lens.studies.runs.manifest import read_record
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.conditions import BASELINE

TOLERANCE = 1e-3
"""Between the logits of a fit and those of its saved model on the recordings as they are now."""


def saved_readouts(study: StudySpec, folder: Path, names: Iterable[str]) -> dict[str, Float[np.ndarray, "trial value"]]:
    """Readout vectors of the tested trials of these fits, by their names; what is not there yet is computed and kept.

    Args:
        study: Of the run.
        folder: The run's folder.
        names: Of the fits' folders.

    Raises:
        StudyError: The recordings cannot be read where the run read them or are others now, the model does not say
            what its head is, or a file is damaged or cannot be written.
    """
    found = {}
    fits: dict[str, Fit] = {}
    for name in names:
        path = folder / "readouts" / f"{name}.safetensors"
        n_trials = len(read_csv(folder / "fits" / name / "trials.csv"))
        if path.exists():
            found[name] = _read(path, n_trials)
            continue
        record = read_record(folder)
        if not fits:
            fits = {one.folder_name: one for one in fits_of(study, record["subjects"])}
        data = None if record["folder"] is None else Path(record["folder"])
        try:
            found[name] = _compute(fits[name], data, folder / "fits" / name)
        except DataError as error:
            raise StudyError(
                f"readout vectors of {name} need the recordings, which the run read from {data}: {error}; put them"
                " back, or leave the view out"
            ) from None
        except EmgLensError as error:
            raise StudyError(f"readout vectors of {name}: {error}; leave the view out") from None
        try:
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, save({"vectors": found[name]}))
        except OSError as error:
            raise StudyError(f"cannot write to {str(path.parent)!r}: {error.strerror}") from None
    return found


def _compute(fit_unit: Fit, data: Path | None, folder: Path) -> Float[np.ndarray, "trial value"]:
    # A report that asks for no vectors needs no models.
    from emg_lens.analysis.readout import readout_vectors
    from emg_lens.studies.fits.fit_trials import load_fit
    from emg_lens.studies.fits.model_building import architecture_of

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
        raise StudyError("the recordings are not those of the run: its model gives other outputs for them")
    return readout_vectors(model, x)


def _read(path: Path, n_trials: int) -> Float[np.ndarray, "trial value"]:
    try:
        found = load_file(path)["vectors"]
        if found.ndim != 2 or len(found) != n_trials:
            raise ValueError(f"it holds {list(found.shape)}; expected {n_trials} trials")
        return found
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise StudyError(f"{path} cannot be read ({error}); delete it, it is made again") from None
