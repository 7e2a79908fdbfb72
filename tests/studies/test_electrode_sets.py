"""Studies with chosen channels and random electrode sets, from YAML to tables."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console
from synthetic import by_factors, findings_of
from tiny import TINY, all_fits

from emg_lens.errors import EmgLensError
from emg_lens.studies.fits import fit_execution as fits
from emg_lens.studies.fits import fit_trials
from emg_lens.studies.fits.duplicates import electrode_warnings, first_alike
from emg_lens.studies.fits.fit_unit import read_together
from emg_lens.studies.report.views.drop_curve import DROP_CURVE, layout_drops
from emg_lens.studies.report.views.electrode_sets import layout_electrode_sets
from emg_lens.studies.report.views.grid import layout_grid
from emg_lens.studies.runs.fit_workers import run_stacked
from emg_lens.studies.runs.plan import prepare
from emg_lens.studies.spec.electrode_sets import are_all_sets, levels_of_sets
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.studies.study import Study
from emg_lens.sweeps.side_by_side import torch_threads

TWO_HEADS = {
    "emg+emg": {"cohort": {"modalities": ["emg"], "channels": {"emg_a": {"emg": "a"}, "emg_b": {"emg": "b"}}}},
    "emg+acc": {"cohort": {"channels": {"emg": "a", "acc": {"electrodes": [0], "axes": 2}}}},
}
DRAWN = {
    "name": "random-sets",
    "model": {"architecture": "multimodal-mlp", "d_hidden": 8},
    "factors": {"electrode_set": {"sets": 3, "of": 8, "into": {"a": 2, "b": 2}}, "sensors": TWO_HEADS},
    "conditions": {"layer_masks": None, "removals": None},
    "statistics": {"compare": [{"factor": "sensors", "to": "emg+emg"}]},
}


def random_study(**changes) -> Study:
    return Study.parse(yaml.safe_dump(yaml.safe_load(TINY) | DRAWN | changes, sort_keys=False))


def with_cohort(**changes) -> dict:
    return yaml.safe_load(TINY)["cohort"] | changes


# --- random sets ----------------------------------------------------------------------------------------------


def test_every_process_has_the_same_sets_and_more_sets_begin_with_fewer():
    given = {"sets": 5, "of": 12, "into": {"a": 6, "b": 6}, "seed": 3}
    here = levels_of_sets(given)
    code = f"from emg_lens.studies.spec.electrode_sets import levels_of_sets; print(levels_of_sets({given}))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == str(here) and list(here) == ["01", "02", "03", "04", "05"]
    more = levels_of_sets(given | {"sets": 40})
    assert list(more.items())[:5] == list(here.items())
    assert levels_of_sets(given | {"seed": 4}) != here


def test_parts_share_no_electrode_and_all_sets_differ():
    parts = [
        level["cohort"]["electrodes"]
        for level in levels_of_sets({"sets": 20, "of": 6, "into": {"a": 3, "b": 3}}).values()
    ]
    assert all(sorted(p["a"] + p["b"]) == list(range(6)) for p in parts)
    assert len({frozenset(p["a"]) for p in parts}) == 20 == len(parts)  # all there are


def test_without_parts_a_set_is_an_order_of_all_electrodes():
    orders = [level["cohort"]["electrodes"]["order"] for level in levels_of_sets({"sets": 6, "of": 3}).values()]
    assert len({tuple(order) for order in orders}) == 6 and all(sorted(order) == [0, 1, 2] for order in orders)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"electrode_set": {"sets": 21, "of": 6, "into": {"a": 3, "b": 3}}}, "only 20 different sets exist"),
        ({"electrode_set": {"sets": 3, "of": 4, "into": {"a": 3, "b": 3}}}, "the parts need 6 electrodes"),
        ({"electrode_set": {"sets": 3}}, "of is missing"),
        ({"electrode_set": {"sets": 3, "of": 4, "parts": {"a": 1}}}, "parts is not a known key"),
        ({"electrode_set": {"sets": 0, "of": 4}}, "greater than or equal to 1"),
        ({"electrode_set": {"sets": 3, "of": 4, "into": {"a": 1}}}, "uses none of the electrode sets a"),
        ({"electrode_set": {"sets": True, "of": 4}}, "expected a number"),
        ({"electrode_set": {"sets": 2.5, "of": 4}}, "expected the keys that it overrides"),
        ({"s": {"a": {"cohort": {"electrodes": {"x": [-1]}, "channels": {"emg": "x", "acc": "all"}}}}}, "electrodes"),
        ({"s": {"a": {"cohort": {"electrodes": {"x": [1, 1]}, "channels": {"emg": "x", "acc": "all"}}}}}, "different"),
        ({"s": {"a": {"cohort": {"electrodes": {"all": [1]}, "channels": {"emg": "all", "acc": "all"}}}}}, "'all'"),
        ({"which": {"sets": 3, "of": 4}}, "only the factor 'electrode_set' can"),
        ({"sensors": {"a": {"cohort": {"channels": {"emg": "left", "acc": "all"}}}}}, "unknown electrodes 'left'"),
    ],
)
def test_an_error_in_electrode_sets_is_one_line(factors, message):
    with pytest.raises(StudyError, match=message) as error:
        random_study(factors=factors, statistics={})
    assert "\n" not in str(error.value)


# --- channels in a study ----------------------------------------------------------------------------------------


def test_the_hash_changes_with_channels_and_electrode_sets():
    plain = random_study(factors={}, statistics={})
    some = random_study(factors={}, statistics={}, cohort=with_cohort(channels={"emg": [0, 1], "acc": "all"}))
    other = random_study(factors={}, statistics={}, cohort=with_cohort(channels={"emg": [0, 2], "acc": "all"}))
    assert len({plain.digest(), some.digest(), other.digest(), random_study().digest()}) == 4
    explicit = random_study(factors={}, statistics={}, cohort=with_cohort(channels=None, electrodes={}))
    assert explicit.digest() == plain.digest()
    assert StudySpec.parse(random_study().to_yaml()) == StudySpec.parse(random_study().to_yaml())
    assert StudySpec.parse(random_study().to_yaml()).digest() == random_study().digest()
    assert StudySpec.parse(random_study().to_yaml()).compared_factors == ("sensors",)


def test_groups_are_rectified_with_the_modality_that_they_are_made_of():
    cohort = with_cohort(modalities=["emg"], rectify=["emg"], channels={"one": {"emg": [0]}, "two": {"emg": [1]}})
    assert random_study(factors={}, statistics={}, cohort=cohort).cohort.rectified == ("one", "two")
    mixed = with_cohort(rectify=["emg"], channels={"one": {"emg": [0], "acc": [1]}})
    with pytest.raises(StudyError, match="a part of the channel group 'one'"):
        random_study(factors={}, statistics={}, cohort=mixed)


def test_unknown_channels_are_refused_before_the_first_fit(tmp_path):
    study = random_study(
        factors={"sensors": {"far": {"cohort": {"channels": {"emg": [99], "acc": "all"}}}}}, statistics={}
    )
    with pytest.raises(
        EmgLensError, match="at sensors=far: emg has no electrode 99; it has electrodes 0 to 7"
    ) as error:
        study.run(out=tmp_path, jobs=1)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_recordings_are_read_once_for_all_electrode_sets(tmp_path, monkeypatch):
    read = []
    load = fit_trials.load_trials
    monkeypatch.setattr(fit_trials, "load_trials", lambda *a, **k: read.append(k["subjects"]) or load(*a, **k))
    fit_trials._read.cache_clear()
    study = random_study(training={"epochs": 1})
    result = study.run(out=tmp_path, jobs=1)
    assert read == [("01",), ("02",), ("03",)] * 2  # checked, then fitted
    assert len(result.facts) == 3 * 2 * 3 and not (set(result.study.factors) - {"electrode_set", "sensors"})
    modalities = dict(zip(result.facts["sensors"], result.facts["modalities"], strict=True))
    assert modalities == {"emg+emg": {"emg_a": 2, "emg_b": 2}, "emg+acc": {"emg": 2, "acc": 2}}
    assert len(result.leakage) == 2 * 3  # of every cohort and fold once, for any electrode set


def test_electrode_sets_are_averaged_within_the_subject(tmp_path):
    result = random_study(training={"epochs": 2}).run(out=tmp_path, jobs=1)
    rows = result.scores[result.scores["condition"] == "baseline"]
    by_hand = rows.groupby(["sensors", "subject"])["accuracy"].mean().groupby("sensors").mean()
    (row,) = result.level_tests.to_dict("records")
    assert row["n_subjects"] == 3 and row["mean"] == pytest.approx(by_hand["emg+acc"])
    assert "Accuracy by electrode set" in result.tables() and "electrode-sets" in result.figures()
    assert "each subject is the mean over 3 electrode sets" in " ".join(
        result.tables()["Accuracy by sensors"].attrs["notes"]
    )


def test_fits_of_the_same_recordings_follow_each_other():
    ordered = read_together(all_fits(random_study()))
    assert [one.fold.name for one in ordered] == ["01"] * 6 + ["02"] * 6 + ["03"] * 6
    assert sorted(one.name for one in ordered) == sorted(one.name for one in all_fits(random_study()))


@pytest.mark.slow
def test_an_accelerator_fits_all_electrode_sets_at_once_with_the_numbers_of_the_processor(tmp_path, monkeypatch):
    at_once = []
    stacked = fits.run_fits_at_once
    monkeypatch.setattr(fits, "run_fits_at_once", lambda some, *rest: at_once.append(len(some)) or stacked(some, *rest))
    study = random_study(training={"epochs": 2})
    result = study.run(out=tmp_path / "runs", jobs=1)
    todo = all_fits(study)
    folders = {fit.folder_name: tmp_path / "stacked" / fit.folder_name for fit in todo}
    (tmp_path / "stacked").mkdir()
    run_stacked(read_together(todo), None, folders, "cpu")
    assert at_once == [9, 9]  # three sets of three subjects, for each of two networks
    for folder in result.folders:
        mine, theirs = (pd.read_csv(f / "scores.csv")["log_prob"] for f in (folders[folder.name], folder))
        assert np.abs(mine - theirs).max() < 1e-4


def test_fits_on_an_accelerator_use_one_thread_of_the_processor(tmp_path, monkeypatch):
    threads = []
    monkeypatch.setattr(fits, "run_fits_at_once", lambda *_: threads.append(torch.get_num_threads()))
    todo = all_fits(random_study(training={"epochs": 2}))
    with torch_threads(2):
        run_stacked(todo, None, {fit.folder_name: tmp_path / fit.folder_name for fit in todo}, "cpu")
        assert set(threads) == {1} and torch.get_num_threads() == 2


# --- tables -----------------------------------------------------------------------------------------------------


def test_the_spread_over_electrode_sets_is_that_of_means_over_subjects():
    values = {("a", "01"): [0.2, 0.4], ("a", "02"): [0.4, 0.6], ("b", "01"): [0.9, 0.9], ("b", "02"): [0.7, 0.9]}
    uses = {"cohort": {"channels": {"emg": "x", "acc": "all"}}}
    levels = {"01": {"cohort": {"electrodes": {"x": [0]}}}, "02": {"cohort": {"electrodes": {"x": [1]}}}}
    found = findings_of(
        by_factors(values, ["sensors", "electrode_set"]),
        factors={"sensors": {"a": uses, "b": uses}, "electrode_set": levels},
    )
    table = layout_electrode_sets(found)
    assert table.loc["a"].tolist() == ["0.400", "0.400", "0.350", "0.450", "0.300", "0.500"]
    assert layout_grid(found).loc["a"].iloc[0] == f"0.400 ± {np.std([0.3, 0.5], ddof=1):.3f}"


def test_the_level_from_which_a_cut_hurts_little():
    levels = {"2": [0.30, 0.20], "4": [0.10, 0.18], "16": [0.05, 0.05]}
    rows = []
    for level, drops in levels.items():
        for i in range(5):
            cuts = zip(("baseline", "one", "two"), (0, *drops), strict=True)
            rows += [
                {"electrodes": level, "subject": f"s{i}", "condition": name, "mode": "", "accuracy": 0.9 * (1 - drop)}
                for name, drop in cuts
            ]
    found = findings_of(pd.DataFrame(rows), factors={"electrodes": {level: {} for level in levels}})
    assert DROP_CURVE.shows(found)
    table = layout_drops(found)
    assert table["Drop %"].tolist() == ["30.0", "10.0", "5.0", "20.0", "18.0", "5.0"]
    notes = table.attrs["notes"]
    assert notes[:2] == [
        "one: the mean drop stays below 15 % from level 4 on.",
        "two: the mean drop stays below 15 % from level 16 on.",
    ]
    assert DROP_CURVE.figures(found)


# --- what is left out, or would be done twice ---------------------------------------------------------------------

BOTH_ORDERS = {"electrode_set": {"sets": 2, "of": 2}}
TWO_OF_EMG = with_cohort(channels={"emg": {"electrodes": "order", "first": 2}, "acc": "all"})


def test_a_run_warns_about_unused_electrodes_and_exhausted_sets(tmp_path):
    study = random_study(factors=BOTH_ORDERS, cohort=TWO_OF_EMG, statistics={})
    warnings = prepare(study, None, tmp_path, 1, Console(quiet=True)).warnings
    assert "no electrode set holds electrodes 2 to 7 of emg, which has 8" in " ".join(warnings)
    assert "these 2 electrode sets are all that exist" in " ".join(warnings)
    assert "01 and 02 have the same settings and channels; this is one fit that counts 2 times" in warnings
    whole = with_cohort(channels={"emg": "order", "acc": "all"})
    more = random_study(factors={"electrode_set": {"sets": 2, "of": 8}}, cohort=whole, statistics={})
    assert not [w for w in electrode_warnings(more, [{"emg": 8, "acc": 3}] * 2)]


def test_all_possible_sets_are_recognized():
    halves = {"sets": 20, "of": 6, "into": {"a": 3, "b": 3}}
    every = [level["cohort"]["electrodes"] for level in levels_of_sets(halves).values()]
    assert are_all_sets(every) and not are_all_sets(every[:19]) and not are_all_sets([{}]) and not are_all_sets([])


def test_sets_of_the_same_channels_are_fitted_once_with_the_numbers_of_two_fits(tmp_path, monkeypatch):
    made = []
    run_fit = fits.run_fit
    monkeypatch.setattr(fits, "run_fit", lambda fit, *rest: made.append(fit.folder_name) or run_fit(fit, *rest))
    study = random_study(factors=BOTH_ORDERS, cohort=TWO_OF_EMG, statistics={}, training={"epochs": 1})
    result = study.run(out=tmp_path / "runs", jobs=1)
    assert sorted(made) == ["01-01", "01-02", "01-03"] and len(result.facts) == 6
    assert result.facts["electrode_set"].tolist() == ["01"] * 3 + ["02"] * 3 and len(result.leakage) == 3
    twin = next(one for one in all_fits(study) if one.folder_name == "02-03")
    run_fit(twin, None, tmp_path / "twin", "cpu", lambda _: None)
    for name in ("scores.csv", "conditions.csv", "logits.safetensors", "model.safetensors", "fit.csv"):
        copied = next(folder for folder in result.folders if folder.name == "02-03")
        assert (copied / name).read_bytes() == (tmp_path / "twin" / name).read_bytes(), name
    facts = [json.loads((folder / "fit.json").read_text()) for folder in (copied, tmp_path / "twin")]
    assert facts[0]["levels"] == {"electrode_set": "02"} and facts[0] | {"seconds": 0} == facts[1] | {"seconds": 0}
    scores = result.scores
    made.clear()
    shutil.rmtree(copied)  # a run that was killed between the fit and its copy
    assert study.run(out=tmp_path / "runs", jobs=1).scores.equals(scores) and not made


def test_fits_that_differ_in_channels_or_trials_are_not_the_same():
    every = all_fits(random_study())
    assert all(first_alike(every)[one.folder_name] is one for one in every)
