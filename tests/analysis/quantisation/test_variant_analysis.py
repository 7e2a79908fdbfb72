"""The analysis of quantised copies outside a study: weights of repetitions, and models of values without attention."""

import numpy as np
import pytest
import torch

from emg_lens import Condition, cross_modal
from emg_lens.analysis.fit_analysis import AnalysisError, run_analyses
from emg_lens.analysis.quantisation.variant_analysis import FLOAT, VARIANTS
from emg_lens.data.batch import Batch
from emg_lens.models.registry import build_model

CONDITIONS = [
    Condition("baseline"),
    Condition("cut", cross_modal()),
    Condition("drawn", cross_modal(), {"random_cut": 1}),
]


def built(name="isonet", **settings):
    torch.manual_seed(0)
    return build_model(name, modalities={"emg": 3, "acc": 2}, n_samples=40, n_classes=3, **settings).eval()


def table_of(model, targets, conditions=CONDITIONS, **parts):
    x = model.example_input(len(targets))
    batch = Batch(x, targets, reference=model.example_input(8, seed=1), **parts)
    return run_analyses(["quantisation"], model, batch, conditions)["quantisation"], x


def test_trials_of_one_repetition_weigh_as_one():
    model, y = built(d_model=16, n_heads=2, n_layers=1, d_mlp=8), torch.arange(6) % 3
    ids = torch.tensor([0, 0, 0, 0, 1, 2])
    table, x = table_of(model, y, repetition_id=ids)
    assert list(table["condition"].dropna().unique()) == ["baseline", "cut"], "random cuts are left out"
    with torch.no_grad():
        log_prob = model(x).log_softmax(1)[torch.arange(6), y].numpy()
    expected = np.average(log_prob, weights=[0.25] * 4 + [1, 1])
    (row,) = table[(table["variant"] == FLOAT) & (table["condition"] == "baseline")].to_dict("records")
    assert row["log_prob"] == pytest.approx(expected, abs=1e-6)
    assert row["first_half"] == pytest.approx(np.average(log_prob[::2], weights=[0.5, 0.5, 1]), abs=1e-6)
    assert set(table["variant"]) == set(VARIANTS)


def test_values_are_scored_by_r2_and_models_without_attention_have_rounded_weights_only():
    model = built("multimodal-mlp")
    table, _ = table_of(model, torch.randn(6, 3), CONDITIONS[:1])
    assert "accuracy" not in table and table["r2"].notna().all()
    assert list(table["variant"]) == [FLOAT, "8 bit", "4 bit", "4 bit per channel"]
    assert set(table["part"]) == {"score"}


def test_training_trials_are_needed():
    model = built(d_model=16, n_heads=2, n_layers=1, d_mlp=8)
    with pytest.raises(AnalysisError, match="quantisation needs targets and training trials"):
        run_analyses(["quantisation"], model, Batch(model.example_input(2), torch.tensor([0, 1])), CONDITIONS)
