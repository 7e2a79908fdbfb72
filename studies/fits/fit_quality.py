"""How good a fit is: the simple reference on the test trials, and the trained model on its training trials."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from emg_lens.analysis.simple_reference import reference_outputs
from emg_lens.scoring.metrics import METRICS, measure
from emg_lens.studies.fits.fit_store import TRAIN
from emg_lens.studies.fits.model_building import objective_of
from emg_lens.studies.fits.prepared_fit import PreparedFit
from emg_lens.sweeps.conditions import BASELINE
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.settings import reproducible_executor


def quality_table(prepared: PreparedFit, scratch: Path | None) -> pd.DataFrame:
    """Score the reference on the test trials of each subject, and the model on all training trials.

    Args:
        prepared: The fit, with the fitted model and its training trials.
        scratch: As for `sweep`.

    Returns:
        One row a test subject and reference, and one row `train`, which has no subject. Columns: subject, model
        (`reference`, `reference_<modality>`, `train`), and every metric of this kind of output that is defined for it,
        so that a study may choose another metric later.
    """
    model, train, test, facts = prepared.model, prepared.train, prepared.test, prepared.facts
    kind, tested, trained = objective_of(prepared.fit_unit).kind, prepared.tested, prepared.trained
    assert train.targets is not None
    targets, samples = train.targets.numpy(), (train.x.numpy(), test.x.numpy())
    outputs = reference_outputs(samples[0], targets, samples[1], facts["modalities"], kind, len(facts["outputs"]))
    of_subject = [(name, tested.subject == name) for name in dict.fromkeys(tested.subject.tolist())]
    rows: list[dict[str, Any]] = []
    for name, values in outputs.items():
        mine = prepared.in_own_units(values)
        for subject, is_of in of_subject:
            some = mine[is_of], prepared.targets[is_of], tested.repetition_id[is_of]
            scores = _scores(facts["metrics"], kind, *some, facts["outputs"])
            rows.append({"subject": subject, "model": name, **scores})
    fitted = sweep(model, train.x, [], executor=reproducible_executor(model), scratch=scratch).logits[BASELINE].numpy()
    repetition = pd.MultiIndex.from_arrays([trained.subject, trained.repetition_id]).factorize()[0]
    own = prepared.in_own_units
    scores = _scores(facts["metrics"], kind, own(fitted), own(targets), repetition, facts["outputs"])
    return pd.DataFrame([*rows, {"subject": None, "model": TRAIN, **scores}])


def _scores(
    metrics: list[str],
    kind: str,
    outputs: Float[np.ndarray, "trial *output"],
    targets: Shaped[np.ndarray, "trial *target"],
    repetition_id: Shaped[np.ndarray, " trial"],
    names: list[str],
) -> Mapping[str, float]:
    """Compute the metrics of the study, and all others of this kind that are defined for these outputs."""
    values = measure(metrics, outputs, targets, repetition_id, names)
    for name in METRICS.names():
        try:
            if name not in values and METRICS[name].kind == kind:
                values |= measure([name], outputs, targets, repetition_id, names)
        except Exception:  # noqa: BLE001 - the study does not ask for this metric, so it need not be defined
            continue
    return values
