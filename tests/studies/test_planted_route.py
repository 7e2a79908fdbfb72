"""A route that training left open, and nothing else, is found; at the price the simulation says."""

import torch

from emg_lens.data.sources.simulated.simulation import Simulation, expected_accuracy
from emg_lens.studies.spec import Study
from emg_lens.studies.subject import build_model, load_subject, tidy_scores
from emg_lens.sweeps.engine import sweep
from emg_lens.training.fitting import fit


def test_cutting_the_planted_route_costs_what_the_simulation_says_and_other_cuts_nothing():
    torch.set_num_threads(1)
    study = Study.load("planted-route")
    trials = load_subject(study, None, "02")
    recipe = study.training.model_copy(update={"epochs": 30, "anneal_epochs": 10})
    torch.manual_seed(0)
    model = build_model(study, trials.train, seed=0)
    fit(model, torch.from_numpy(trials.train.x), torch.from_numpy(trials.train.y), recipe)
    result = sweep(model, torch.from_numpy(trials.test.x), study.conditions.build(5))
    scores = tidy_scores(study, "02", trials.test, result).set_index("condition")
    chance = expected_accuracy(Simulation(**study.cohort.options["simulation"]), ["emg"])
    assert chance == 0.25
    base = scores.loc["baseline", "accuracy"]
    assert base > 0.85
    margin = 3.3 * (chance * (1 - chance) / len(trials.test)) ** 0.5
    for name in ("ACC -> EMG in L3", "EMG -> CLS in L4 and L5", "EMG -> CLS in every layer"):
        assert scores.loc[name, "expected"] == 0.25
        assert abs(scores.loc[name, "accuracy"] - 0.25) < margin, name
    for name in ("EMG -> CLS up to L3", "CLS -> CLS in every layer", "between EMG channels in L4"):
        assert scores.loc[name, "accuracy"] > base - 0.06, name
    for name in ("EMG -> EMG in L5", "ACC -> ACC from L3 on"):
        assert scores.loc[name, "structural_null"] and scores.loc[name, "max_abs_delta_logit"] == 0
