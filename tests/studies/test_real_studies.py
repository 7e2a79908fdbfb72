"""The identities of Table 3 (docs/isonet-protocol.md §4.7) on real recordings, on every subject, in the naive loop."""

import os
from pathlib import Path

import pytest
import torch
from tiny import all_fits

from emg_lens.data import Batch
from emg_lens.studies.fits.fit_trials import load_fit
from emg_lens.studies.fits.model_building import build_fit_model, objective_of
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.engine import sweep
from emg_lens.training.fitting import fit

DATA = Path(os.environ.get("EMG_LENS_DATA", Path(__file__).parents[3] / "shared" / "data"))
FOLDERS = {"isonet-table3-db5": "ninapro_db5", "isonet-table3-psl": "psl_myo"}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_six_identities_hold_on_every_subject(name):
    folder = DATA / FOLDERS[name]
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; set EMG_LENS_DATA")
    study = StudySpec.load(name)
    torch.set_num_threads(1)
    for one in all_fits(study, folder):
        trials, subject = load_fit(one, folder), one.fold.name
        model = build_fit_model(one, trials.train)
        recipe = study.training.model_copy(update={"epochs": 2, "anneal_epochs": 1})
        some = slice(None, None, 4)  # the identities hold whatever the weights are; these have left their beginning
        fit(model, Batch(trials.x(trials.train), trials.y(trials.train, objective_of(one)))[some], recipe)
        conditions = study.conditions.build(model.cfg.n_layers, model.cfg.n_heads)
        result = sweep(model, trials.x(trials.test)[:16], conditions, executor="loop")
        for kind in study.conditions.layer_edges(model.cfg.n_layers, model.cfg.n_heads):
            same = {
                "individual/L5": "baseline",
                "from_beginning/L5": f"{kind}/from_beginning/L4",
                "from_end/L4": f"{kind}/individual/L4",
                "from_beginning/L1": f"{kind}/individual/L1",
                "from_end/L5": f"{kind}/individual/L5",
                "from_end/L1": f"{kind}/from_beginning/L5",
            }
            for left, right in same.items():
                difference = (result.logits[f"{kind}/{left}"] - result.logits[right]).abs().max()
                assert difference <= 1e-5, (subject, kind, left, right)
        assert (result.audit["equivalence_error"] <= 1e-5).all()
        assert result.audit["equivalent_to"].nunique() == 19 + len(study.conditions.extra)
