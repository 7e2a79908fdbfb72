"""The ROC view: areas by hand and by scikit-learn, equal weight of repetitions, fits that are never pooled."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from tiny import NO_CONDITIONS, TINY

from emg_lens.studies.report.views.roc import (
    FALSE_RATES,
    MACRO,
    MICRO,
    ROC,
    figure_curves,
    mean_curves,
    receiver_curves,
)
from emg_lens.studies.study import Study


def predictions(logits, target, repetition_id=None):
    names = [f"output_{k}" for k in "abc"[: np.shape(logits)[1]]]
    about = {
        "subject": "s",
        "repetition_id": range(len(target)) if repetition_id is None else repetition_id,
        "target": target,
    }
    return pd.concat([pd.DataFrame(about), pd.DataFrame(logits, columns=names)], axis=1)


def test_an_area_is_the_chance_that_a_trial_of_the_class_ranks_above_another():
    rng = np.random.default_rng(0)
    target, logits = rng.integers(0, 3, 60), rng.normal(size=(60, 3))
    logits[np.arange(60), target] += 1
    curves = receiver_curves(predictions(logits, target), ["a", "b", "c"])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for k, name in enumerate("abc"):
        u = mannwhitneyu(p[target == k, k], p[target != k, k]).statistic
        assert curves[name].area == pytest.approx(u / ((target == k).sum() * (target != k).sum()))
        assert np.trapezoid(curves[name].true_rates, FALSE_RATES) == pytest.approx(curves[name].area, abs=0.01)
    assert curves[MACRO].area == pytest.approx(roc_auc_score(target, p, multi_class="ovr", average="macro"))
    assert curves[MICRO].area == pytest.approx(roc_auc_score(target, p, multi_class="ovr", average="micro"))
    assert curves[MACRO].n_repetitions == 60 and curves["a"].n_repetitions == (target == 0).sum()


def test_windows_of_a_repetition_count_once_and_classes_nobody_performs_are_left_out():
    logits = [[2.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0], [0.5, 0, 0]]
    curves = receiver_curves(predictions(logits, [0, 0, 1, 1], [0, 0, 1, 2]), ["a", "b", "c"])
    assert set(curves) == {"a", "b", MACRO, MICRO}
    # Repetition 0 has two windows: one ranks above both others, one ties with repetition 1 and is below repetition 2.
    assert curves["a"].area == pytest.approx(0.5 * 1 + 0.5 * 0.25)
    assert curves["a"].n_repetitions == pytest.approx(1)


def test_curves_of_fits_are_averaged_and_shown_where_they_are_asked_for(finished):
    (curves,) = mean_curves(finished).values()
    names, trials = finished.facts["outputs"].iloc[0], finished.predictions()
    areas = []
    for _, some in trials.groupby("fit"):
        logits = some[[f"output_{name}" for name in names]].to_numpy(float)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        weights = 1 / some.groupby("repetition_id")["target"].transform("size")
        areas.append(roc_auc_score(some["target"], p, multi_class="ovr", average="macro", sample_weight=weights))
    assert curves[MACRO].area == pytest.approx(np.mean(areas))
    (table,) = ROC.tables(finished).values()
    assert table["Class"].tolist() == [*names, MACRO, MICRO]
    assert float(table["AUC"].iloc[-2]) == pytest.approx(np.mean(areas), abs=6e-4)
    assert "ROC by class" in finished.report() and (finished.folder / "figures" / "roc.svg").exists()
    lines = figure_curves(curves).axes[0].lines
    assert len(lines) == 1 + len(curves)
    content = yaml.safe_load(TINY) | {"conditions": NO_CONDITIONS}
    assert not ROC.shows(replace(finished, study=Study.parse(yaml.safe_dump(content))))
