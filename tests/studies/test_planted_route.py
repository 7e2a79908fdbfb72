"""Only the planted route causes a drop, and the drop is the one that the simulation implies."""

import numpy as np
import pandas as pd
import torch
from synthetic import cell_of
from tiny import all_fits

from emg_lens.data import Batch
from emg_lens.data.sources.simulated.simulation import Simulation, expected_accuracy
from emg_lens.studies.fits.fit_trials import load_fit
from emg_lens.studies.fits.model_building import build_fit_model, objective_of
from emg_lens.studies.report.views.single import layout_identities, layout_measured
from emg_lens.studies.results.expectations import with_expectations
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.engine import sweep
from emg_lens.training.fitting import fit


def test_cutting_the_planted_route_gives_the_expected_drop_and_other_cuts_give_none():
    torch.set_num_threads(1)
    study = StudySpec.load("planted-route")
    one = all_fits(study)[1]
    trials = load_fit(one, None)
    recipe = study.training.model_copy(update={"epochs": 30, "anneal_epochs": 10})
    model = build_fit_model(one, trials.train)
    y = trials.y(trials.test, objective_of(one))
    fit(model, Batch(trials.x(trials.train), trials.y(trials.train, objective_of(one))), recipe)
    result = sweep(model, trials.x(trials.test), study.conditions.build(5, 8))
    accuracy = result.accuracy(y).set_index("condition")["accuracy"]
    audit = result.audit.set_index("condition")
    chance = expected_accuracy(["emg"], Simulation(**study.cohort.options["simulation"]))
    assert chance == 0.25
    assert accuracy["baseline"] > 0.85
    margin = 3.3 * np.sqrt(chance * (1 - chance) / len(y))
    for name in ("ACC -> EMG in L3", "EMG -> CLS in L4 and L5", "EMG -> CLS in every layer"):
        assert abs(accuracy[name] - 0.25) < margin, name
    for name in ("EMG -> CLS up to L3", "CLS -> CLS in every layer", "between EMG channels in L4"):
        assert accuracy[name] > accuracy["baseline"] - 0.06, name
    for name in ("EMG -> EMG in L5", "ACC -> ACC from L3 on"):
        assert audit.loc[name, "structural_null"] and audit.loc[name, "max_abs_delta_logit"] == 0


def test_the_report_separates_predictions_from_identities():
    """Predictions and identities have tables of their own."""
    study, n = StudySpec.load("planted-route"), 6
    names = ["baseline", *(c.name for c in study.conditions.extra)]
    null = ["EMG -> EMG in L5", "ACC -> ACC from L3 on"]
    lost = ["ACC -> EMG in L3", "EMG -> CLS in L4 and L5", "EMG -> CLS in every layer"]
    subjects = [f"S{k}" for k in range(1, n + 1)]
    reached = np.linspace(0.9, 1, n)
    parts = [
        pd.DataFrame({"subject": subjects, "condition": name, "accuracy": reached - 0.65 * (name in lost)})
        for name in names
    ]
    scores = pd.concat(parts, ignore_index=True)
    scores = scores.assign(structural_null=scores["condition"].isin(null), equivalent_to=scores["condition"])
    cell = cell_of(with_expectations(scores, study, ["emg", "acc"]))
    measured = layout_measured(cell).set_index("Condition")["Expected"]
    assert measured[lost].to_list() == ["0.250"] * 3
    unharmed = [name for name in names[1:] if name not in (*lost, *null)]
    assert len(unharmed) == 3 and measured[unharmed].to_list() == ["baseline"] * 3
    assert not set(null) & set(measured.index)
    same = layout_identities(cell)
    assert same["Condition"].to_list() == null and same["Equal to"].to_list() == ["baseline"] * 2
    assert same["Largest difference"].to_list() == ["0", "0"]
    assert "They say nothing about what it has learned" in same.attrs["notes"][0]
