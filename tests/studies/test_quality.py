"""Models are judged before they are interpreted: the rules on made-up cohorts, and the numbers of a real run."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from synthetic import cell_of, tidy
from tiny import TINY, all_fits

from emg_lens.models.isonet import IsoNet
from emg_lens.studies.fits.fit_trials import load_fit
from emg_lens.studies.report.quality_sentences import quality_line, quality_warning
from emg_lens.studies.result import StudyResult
from emg_lens.studies.results.quality import quality_of
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.study import Study


def judged(test, reference=None, train=0.9, chance=0.25, metric="accuracy", **modalities):
    """The cell of a cohort with these scores of each subject."""
    scores = tidy(metric, baseline=test)
    columns = {"fit": scores["subject"], f"{metric}_chance": chance, "train": train}
    columns |= {f"reference_{name}": values for name, values in modalities.items()}
    return cell_of(scores.assign(**columns, **({} if reference is None else {"reference": reference})), metric=metric)


def below(*arguments, **keywords) -> bool:
    return quality_of(judged(*arguments, **keywords)).below_reference


# --- rules ------------------------------------------------------------------------------------------------


def test_with_five_subjects_the_paired_interval_decides():
    reference = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert below(reference - [0.01, 0.02, 0.03, 0.02, 0.01], reference)  # small, but the same sign in all
    assert not below(reference - [0.30, 0.01, 0.0, 0.0, 0.0], reference)  # a larger mean, of one subject
    assert not below(reference + [0.01, 0.02, 0.03, 0.02, 0.01], reference)
    quality = quality_of(judged(reference - [0.01, 0.02, 0.03, 0.02, 0.01], reference))
    assert quality.difference == pytest.approx(-1.8) and (quality.n_below, quality.n_subjects) == (5, 5)
    assert (quality.low, quality.high) == pytest.approx((-2.83885, -0.76115), abs=1e-4)  # t(4) = 2.7764


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.05, 0.05, 0.05, 0.05], True),  # at the boundary
        ([0.05, 0.05, 0.05, 0.049], False),
        ([0.5, 0.5, 0.5, 0.0], False),
        ([0.3], True),
        ([0.06] * 6, True),  # all alike: no interval either
        ([0.04] * 6, False),
    ],
)
def test_without_an_interval_every_subject_must_be_five_points_worse(losses, expected):
    reference = np.linspace(0.9, 0.8, len(losses))
    assert below(reference - losses, reference) is expected
    quality = quality_of(judged(reference - losses, reference))
    assert np.isnan(quality.low) and np.isnan(quality.high)


def test_of_other_metrics_every_subject_must_be_worse_and_errors_are_worse_if_higher():
    r2 = np.array([0.5, 0.6, 0.7])
    assert below(r2 - 0.001, r2, metric="r2") and not below(r2 - [0.1, 0.1, 0.0], r2, metric="r2")
    error = np.array([5.0, 6.0, 7.0])
    assert below(error + 0.1, error, metric="mae") and not below(error - 0.1, error, metric="mae")
    many, jitter = np.linspace(5, 7, 6), np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    assert below(many + jitter, many, metric="mae") and not below(many - jitter, many, metric="mae")
    assert quality_of(judged(many + jitter, many, metric="mae")).difference == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("train", "test", "chance", "expected"),
    [
        (1.0, 0.62, 0.25, True),  # more than half of .75 is lost
        (1.0, 0.63, 0.25, False),
        (0.95, 0.3, 0.25, True),
        (0.94, 0.3, 0.25, False),  # not near 1
        (1.0, 0.3, np.nan, False),  # "far below" needs a chance level
    ],
)
def test_a_model_is_overfitted_if_it_loses_half_of_its_training_score_above_chance(train, test, chance, expected):
    quality = quality_of(judged([test] * 3, [test - 0.1] * 3, train=train, chance=chance))
    assert quality.overfitted is expected and not quality.below_reference


def test_only_fractions_can_be_overfitted():
    assert not quality_of(judged([0.1] * 3, [0.0] * 3, train=1.0, chance=0.0, metric="r2")).overfitted


def test_without_a_reference_nothing_is_below_it():
    quality = quality_of(judged([0.5] * 6))
    assert np.isnan(quality.reference) and np.isnan(quality.difference) and not quality.below_reference
    assert quality_of(cell_of(tidy(baseline=[0.5, 0.6]))) is None


def test_fits_of_a_subject_are_averaged_first():
    scores = pd.concat([tidy(baseline=[0.9, 0.5]), tidy(baseline=[0.7])], ignore_index=True)
    scores = scores.assign(fit=["a", "b", "c"], reference=[0.9, 0.6, 0.9], train=1.0, accuracy_chance=0.5)
    quality = quality_of(cell_of(scores))
    assert (quality.test, quality.reference) == pytest.approx((0.65, 0.75)) and quality.n_subjects == 2


# --- sentences --------------------------------------------------------------------------------------------


def test_the_line_names_test_chance_training_and_references():
    cell = judged([0.9, 0.93], [0.96, 0.98], train=1.0, chance=1 / 12, emg=[0.95, 0.95], acc=[0.6, 0.62])
    assert quality_line(cell) == (
        "Model accuracy 0.915 on test trials (chance 0.083, training 1.000). A simple reference (linear discriminant"
        " analysis on mean and log-variance) reaches 0.970 (0.950 with EMG alone, 0.610 with ACC alone)."
    )
    assert quality_line(judged([0.9], [0.8], emg=[0.8])).endswith("reaches 0.800.")  # one modality is all of them
    assert "(training 0.900). A simple reference (ridge regression" in quality_line(
        judged([0.5], [0.4], chance=np.nan, metric="r2")
    )
    assert quality_line(judged([0.5])).endswith("No simple reference exists for these outputs.")
    assert quality_line(cell_of(tidy(baseline=[0.5]))) == ""


@pytest.mark.parametrize(
    ("model", "reference", "metric", "text"),
    [
        (
            [0.9, 0.97, 0.95, 0.99, 0.9],
            [0.96, 0.96, 0.98, 0.99, 0.96],
            "accuracy",
            "the difference in accuracy (model minus reference) is −2.8 pp (95 % CI [−",
        ),
        (
            [0.9, 0.97, 0.95, 0.99, 0.9],
            [0.86, 0.97, 0.97, 0.97, 0.9],
            "accuracy",
            "the difference in accuracy (model minus reference) is +0.8 pp (95 % CI [−",
        ),
        (
            [1.2, 0.9, 1.1, 1.0, 1.3],
            [1.0, 1.0, 1.0, 1.0, 1.0],
            "mae",
            "the difference in MAE (model minus reference) is +0.100 (95 % CI",
        ),
        ([0.9, 0.8], [0.8, 0.9], "accuracy", "accuracy is equal on average; 1 of 2 subjects are worse."),
        ([0.9] * 6, [0.6, 0.7, 0.7, 0.8, 0.8, 0.8], "accuracy", ""),
        ([0.9, 0.9], [0.8, 0.7], "accuracy", ""),
        ([0.4] * 6, [0.6, 0.7, 0.7, 0.8, 0.8, 0.8], "accuracy", ""),
    ],
    ids=["lower", "higher", "error", "equal", "clearly better", "better without an interval", "clearly worse"],
)
def test_a_model_that_is_neither_better_nor_worse_than_the_reference_is_named(model, reference, metric, text):
    cell = judged(model, reference, metric=metric)
    _, _, after = quality_line(cell).partition(" The model is not shown to be better: ")
    assert after.startswith(text) and bool(after) == bool(text)
    assert quality_of(cell).not_above_reference == bool(text)


def test_the_warning_says_what_is_wrong_and_what_to_try():
    assert quality_warning(judged([0.9] * 3, [0.8] * 3)) is None
    assert quality_warning(cell_of(tidy(baseline=[0.5]))) is None
    both = quality_warning(judged([0.3, 0.4], [0.8, 0.9], train=1.0))
    assert both.startswith(
        "The model is worse than the simple reference: the difference in accuracy (model minus reference) is −50.0"
        " pp; 2 of 2 subjects are worse. Training trials reach 1.000, test trials only 0.350: the model is overfitted."
        " Improve the model before its attention is interpreted. Try envelopes"
    )
    assert "epochs" not in both
    assert "more epochs" in quality_warning(judged([0.3, 0.4], [0.8, 0.9], train=0.5))
    reference = np.linspace(0.5, 0.9, 6)
    of_six = quality_warning(judged(reference - [0.1, 0.2, 0.1, 0.2, 0.1, 0.2], reference))
    assert "(model minus reference) is −15.0 pp (95 % CI [−20.7, −9.3]); 6 of 6 subjects" in of_six
    assert "R² (model minus reference) is −0.200;" in quality_warning(judged([0.3], [0.5], metric="r2"))


# --- a run ------------------------------------------------------------------------------------------------


def lda_accuracy(trials, channels=slice(None)) -> float:
    def features(part):
        x = trials.x(part).numpy().astype(float)[:, channels]
        return np.hstack([x.mean(axis=2), np.log(x.var(axis=2))])

    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return lda.fit(features(trials.train), trials.train.y).score(features(trials.test), trials.test.y)


def test_quality_holds_the_scores_of_the_same_split_and_trials(finished):
    rows = finished.quality_table.set_index("fit")
    for one in all_fits(finished.study)[:2]:
        trials, row = load_fit(one, None), rows.loc[one.folder_name]
        model = IsoNet.from_pretrained(finished.folder / "fits" / one.folder_name)
        with torch.inference_mode():
            predicted = model(trials.x(trials.train)).argmax(1).numpy()
        assert row["train"] == pytest.approx((predicted == trials.train.y).mean())
        for name, modality in (("reference", None), ("reference_emg", "emg"), ("reference_acc", "acc")):
            of = trials.train.channels["modality"]
            assert row[name] == pytest.approx(
                lda_accuracy(trials, (of == modality).to_numpy() if modality else slice(None))
            )
        assert row["chance"] == 0.25


def test_the_method_returns_each_fit_and_their_mean(finished):
    table = finished.quality()
    numbers = {"chance", "reference", "reference_emg", "reference_acc", "test", "train"}
    assert table.columns[:2].tolist() == ["fit", "seed"] and set(table.columns[2:]) == numbers
    assert table["fit"].tolist() == [*finished.facts["fit"], "mean"]
    np.testing.assert_allclose(table.iloc[-1, 2:].astype(float), table.iloc[:-1, 2:].mean())
    scores = pd.read_csv(finished.folder / "scores.csv")
    for name in ("reference", "reference_emg", "reference_acc", "train"):
        np.testing.assert_allclose(scores[name], scores["fit"].map(table.set_index("fit")[name]))  # on every row
    assert len(finished.cells[0].quality) == 6 and quality_of(finished.cells[0]).n_subjects == 3


def test_another_metric_has_its_quality_without_a_new_fit(finished, tmp_path):
    folder = shutil.copytree(finished.folder.parent.parent, tmp_path / "runs")
    content = yaml.safe_load(finished.study.to_yaml()) | {"metrics": ["log_prob", "accuracy"]}
    again = Study.parse(yaml.safe_dump(content, sort_keys=False)).run(out=folder, jobs=1)
    table = again.quality()
    assert again.metric == "log_prob" and (table[["reference", "test", "train"]] < 0).all(axis=None)
    assert table["chance"].isna().all()


def test_a_damaged_quality_file_is_one_line_with_its_name(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    path = next((folder / "fits").iterdir()) / "quality.csv"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    with pytest.raises(StudyError, match="quality.csv"):
        StudyResult.load(folder)


def test_cells_have_a_mean_each_and_a_regression_has_its_own_units(tmp_path):
    content = yaml.safe_load(TINY) | {"objective": "regression", "conditions": {"layer_masks": None}}
    content["cohort"]["targets"] = ["acc"]
    content["factors"] = {"rate": {"low": {}, "same": {}, "high": {"training": {"lr": 0.03}}}}
    content["metrics"] = ["mae"]
    result = Study.parse(yaml.safe_dump(content, sort_keys=False)).run(out=tmp_path, jobs=1)
    table = result.quality()
    assert table[table["fit"] == "mean"]["rate"].tolist() == ["low", "same", "high"]
    values = table.set_index(["rate", "fit"])[["reference", "reference_emg", "test", "train"]]
    pd.testing.assert_frame_equal(values.loc["low"].reset_index(drop=True), values.loc["same"].reset_index(drop=True))
    predicted = result.predictions()
    targets = predicted[[c for c in predicted if c.startswith("target_")]].to_numpy()
    spread = np.abs(targets - targets.mean(0)).mean()
    assert (values < 3 * spread).all(axis=None) and (values > spread / 100).all(axis=None)
    np.testing.assert_allclose(values["reference"], values["reference_emg"])  # the only input
    assert "ridge" in quality_line(result.cells[0])
