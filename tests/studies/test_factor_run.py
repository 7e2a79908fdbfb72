"""Studies with factors, seeds, other splits, objectives and models, from YAML to tables; killed and damaged."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score
from tiny import TINY

from emg_lens.data import TrialSet
from emg_lens.errors import EmgLensError
from emg_lens.io.checksums import write_checksums
from emg_lens.studies.result import StudyResult
from emg_lens.studies.study import Study


def changed(**changes) -> dict:
    content = yaml.safe_load(TINY)
    for path, value in changes.items():
        node = content
        *parents, key = path.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = value
    return content


FACTORS = changed(
    name="factors",
    factors={
        "architecture": {
            "isonet": {},
            "mlp": {
                "model": {"architecture": "multimodal-mlp"},
                "conditions": {"layer_masks": None, "extra": [{"name": "ACC zeroed", "replace": "acc", "by": "zero"}]},
            },
        },
        "seed": 2,
    },
    conditions={"layer_masks": None, "extra": [{"name": "ACC zeroed", "replace": "acc", "by": "zero"}]},
    statistics={"compare": [{"factor": "architecture", "to": "isonet"}]},
)


def parse(content: dict) -> Study:
    return Study.parse(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> StudyResult:
    return parse(FACTORS).run(out=tmp_path_factory.mktemp("runs"), jobs=2)


def test_one_fit_a_subject_and_combination_of_levels(done):
    assert len(done.facts) == 3 * 2 * 2
    assert set(done.facts["architecture"]) == {"isonet", "mlp"} and set(done.facts["seed"]) == {"0", "1"}
    rows = done.scores[done.scores["condition"] == "baseline"]
    assert rows.groupby(["architecture", "subject"]).size().eq(2).all()
    assert (done.facts.groupby("architecture")["n_parameters"].nunique() == 1).all()
    assert done.facts["seconds"].gt(0).all()


def test_seeds_are_averaged_within_the_subject_and_architectures_compared_subject_by_subject(done):
    rows = done.scores[done.scores["condition"] == "baseline"]
    by_hand = rows.groupby(["architecture", "subject"])["accuracy"].mean().unstack("architecture")
    (row,) = done.level_tests.to_dict("records")
    assert (row["level"], row["to"], row["n_subjects"]) == ("mlp", "isonet", 3)
    assert row["mean"] == pytest.approx(by_hand["mlp"].mean())
    assert row["difference"] == pytest.approx(100 * (by_hand["mlp"] - by_hand["isonet"]).mean())
    tables = done.tables()
    assert {"Accuracy by architecture", "Comparison of levels"} <= set(tables)
    assert tables["Accuracy by architecture"].loc["mlp"].iloc[0].startswith(f"{by_hand['mlp'].mean():.3f} ± ")


def test_each_level_has_its_own_comparison_with_its_own_baseline(done):
    tests = done.tests()
    assert set(tests["architecture"]) == {"isonet", "mlp"}
    for level, part in tests.groupby("architecture"):
        mine = done.scores[done.scores["architecture"] == level]
        base = mine[mine["condition"] == "baseline"].groupby("subject")["accuracy"].mean().mean()
        assert part["baseline_mean"].unique() == pytest.approx([base])


def test_the_expected_accuracy_ignores_sensors_that_the_model_does_not_receive(tmp_path):
    mute = {"name": "EMG permuted", "replace": "emg", "by": "permute", "sees": ["acc"]}
    content = changed(
        name="received",
        factors={"sensors": {"both": {}, "emg": {"cohort": {"modalities": ["emg"]}}}},
        conditions={"layer_masks": None, "removals": None, "extra": [mute]},
        training__epochs=1,
    )
    ran = parse(content).run(out=tmp_path, jobs=1)
    for folder in ran.folders:  # as if every model were perfect
        table = pd.read_csv(folder / "scores.csv")
        table.assign(accuracy=1.0).to_csv(folder / "scores.csv", index=False)
        write_checksums(folder)
    expected = StudyResult.load(ran.folder).tests().set_index("sensors")["expected"]
    assert expected.to_dict() == {"both": 0.5, "emg": 0.25}  # of four classes


def test_other_metrics_need_no_fit(done, tmp_path):
    folder = shutil.copytree(done.folder.parent.parent, tmp_path / "runs")
    fits = sorted((folder / "factors").glob("*/fits/*/model.safetensors"))
    before = {f: f.stat().st_mtime_ns for f in fits}
    study = parse(FACTORS | {"metrics": ["macro_f1", "accuracy"]})
    again = study.run(out=folder, jobs=1)
    assert {f: f.stat().st_mtime_ns for f in fits} == before and again.metric == "macro_f1"
    outputs = again.predictions("ACC zeroed")
    one = outputs[outputs["fit"] == again.facts["fit"].iloc[0]]
    predicted = one.filter(like="output_").to_numpy().argmax(1)
    row = again.scores[(again.scores["fit"] == one["fit"].iloc[0]) & (again.scores["condition"] == "ACC zeroed")]
    assert row["macro_f1"].iloc[0] == pytest.approx(f1_score(one["target"], predicted, average="macro"))


@pytest.mark.slow
def test_two_workers_give_the_numbers_of_one(done, tmp_path):
    alone = parse(FACTORS).run(out=tmp_path, jobs=1)
    pd.testing.assert_frame_equal(alone.scores, done.scores, check_exact=True)
    pd.testing.assert_frame_equal(alone.curves, done.curves, check_exact=True)


def bytes_of(folder) -> dict[str, bytes]:
    """The files of a run that must not depend on how often it was killed."""
    kept = ("scores.csv", "fit.csv", "logits.safetensors", "model.safetensors", "conditions.csv", "leakage.json")
    kept += ("quality.csv",)
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in kept}


@pytest.mark.slow
def test_a_run_killed_at_random_moments_and_resumed_gives_the_same_bytes(done, tmp_path):
    spec = tmp_path / "factors.yaml"
    spec.write_text(yaml.safe_dump(FACTORS, sort_keys=False))
    command = [sys.executable, "-m", "emg_lens", "run", str(spec), "--out", str(tmp_path / "runs"), "--jobs", "2"]
    moments, kills = random.Random(0), 0
    for _ in range(3):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(moments.uniform(4, 12))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(0.5)
    assert kills
    result = parse(FACTORS).run(out=tmp_path / "runs", jobs=1)
    assert bytes_of(result.folder) == bytes_of(done.folder)


def test_a_missing_row_of_scores_is_an_error_of_one_line(done, tmp_path):
    folder = shutil.copytree(done.folder, tmp_path / "run")
    path = next((folder / "fits").iterdir()) / "scores.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    write_checksums(path.parent)
    said = subprocess.run([sys.executable, "-m", "emg_lens", "report", str(folder)], capture_output=True, text=True)
    assert said.returncode == 2 and said.stderr.startswith("error: ")
    assert "scores.csv" in said.stderr and "expected" in said.stderr and "Traceback" not in said.stderr


@pytest.mark.parametrize("name", ["fit.json", "fit.csv", "conditions.csv", "scores.csv", "quality.csv"])
@pytest.mark.parametrize("how", ["gone", "empty", "torn"])
def test_the_error_of_a_damaged_file_is_one_line_with_its_name(done, tmp_path, name, how):
    folder = shutil.copytree(done.folder, tmp_path / "run")
    path = next((folder / "fits").iterdir()) / name
    content = path.read_bytes()
    path.unlink() if how == "gone" else path.write_bytes(b"" if how == "empty" else content[: len(content) // 2])
    try:
        StudyResult.load(folder).write()
    except EmgLensError as error:
        assert name in str(error) and "\n" not in str(error)
    else:
        assert (name, how) == ("fit.csv", "torn")  # half of a curve is a curve


def without(name: str):
    """The content of a JSON file without one key."""
    return lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != name})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("fit.json", lambda text: "[1]"),
        ("fit.json", without("levels")),
        ("fit.json", lambda text: text.replace('"architecture": "isonet"', '"architecture": "another"')),
        ("leakage.json", without("decodability")),
        ("conditions.csv", lambda text: "a,b\n1,2\n"),
        ("scores.csv", lambda text: re.sub(r"0\.\d+", "abc", text, count=1)),
        ("scores.csv", lambda text: text[: text.rindex(",", 0, text.rindex(",", 0, text.rindex(",")))] + "\n"),
        ("../../data.json", lambda text: "[1]"),
        ("../../data.json", without("subjects")),
    ],
)
def test_the_error_of_a_file_with_another_content_is_one_line_with_its_folder(done, tmp_path, name, change):
    folder = shutil.copytree(done.folder, tmp_path / "run")
    path = next(path.parent for path in sorted((folder / "fits").glob("*/leakage.json"))) / name
    path.write_text(change(path.read_text()))
    with pytest.raises(EmgLensError, match=re.escape(str(path.resolve().parent))) as error:
        StudyResult.load(folder).write()
    assert "\n" not in str(error.value)


def test_levels_that_cannot_be_compared_are_refused_before_the_first_fit(tmp_path):
    who = {"first": {"cohort": {"subjects": ["01", "02"]}}, "last": {"cohort": {"subjects": ["02", "03"]}}}
    compare = {"compare": [{"factor": "who", "to": "first"}]}
    with pytest.raises(EmgLensError, match="do not test the same subjects: 01, 03"):
        parse(changed(factors={"who": who}, statistics=compare)).run(out=tmp_path, jobs=1)
    with pytest.raises(EmgLensError, match="one class only"):
        parse(changed(cohort__labels=[1], conditions__extra=[])).run(out=tmp_path, jobs=1)
    with pytest.raises(EmgLensError, match="'accuracy' is listed twice"):
        parse(changed(metrics=["accuracy", "accuracy"]))
    assert not list(tmp_path.iterdir())


def test_leaving_each_subject_out_tests_it_on_models_of_the_others(tmp_path):
    study = parse(changed(name="loso", split={"by": "subject", "leave_out": 1}))
    result = study.run(out=tmp_path, jobs=2)
    assert result.facts["fold"].tolist() == ["01", "02", "03"]
    assert result.scores["subject"].unique().tolist() == ["01", "02", "03"]
    assert result.leakage and all(entry["shared"]["subject"] == 0 for entry in result.leakage)
    assert (result.facts["n_train"] == 2 * 4 * 8).all()


def test_one_held_out_fold_scores_every_tested_subject(tmp_path):
    study = parse(changed(name="held", split={"by": "subject", "train": ["01"], "test": ["02", "03"]}))
    result = study.run(out=tmp_path, jobs=1)
    assert len(result.facts) == 1
    assert result.scores.groupby("subject").size().to_dict() == {"02": 14, "03": 14}


def test_blocks_are_averaged_within_the_subject(tmp_path):
    study = parse(changed(name="blocks", split={"by": "block", "folds": 2}, conditions__layer_masks=None))
    result = study.run(out=tmp_path, jobs=2)
    assert len(result.facts) == 6 and result.tests()["n_subjects"].eq(3).all()
    assert result.scores["n_test"].sum() == 3 * 32 * 2


def test_a_regression_is_a_study_like_any_other(tmp_path):
    content = changed(
        name="posture", cohort__targets=["acc"], conditions={"layer_masks": {"edges": {"all": "every()"}}}
    )
    result = parse(content | {"objective": "regression"}).run(out=tmp_path, jobs=2)
    assert result.metrics == ("r2", "mae", "rmse", "pearson")
    rows = result.predictions()
    targets, outputs = rows.filter(like="target_").to_numpy(), rows.filter(like="output_").to_numpy()
    assert targets.shape[1] == outputs.shape[1] == 6
    one = rows["fit"] == "01"
    mae = result.scores.query("subject == '01' and condition == 'baseline'")["mae"].iloc[0]
    assert mae == pytest.approx(np.abs(targets[one] - outputs[one]).mean(), rel=1e-5)
    assert not [column for column in result.scores if column.endswith("_chance")]
    tables = result.tables()
    assert "R²" in tables["Layer by layer"].columns.get_level_values(1)
    pd.testing.assert_frame_equal(result.table(), tables["Verdicts"])
    tests = result.tests()
    removals = set(tests.loc[tests["mode"] == "removal", "condition"])
    cuts = set(result.table()["Ablation"]) - removals
    assert removals and len(result.table()) == len(removals | cuts) and len(cuts) == 3, "of each layer, and of both"
    assert set(result.table()["Verdict"]) == {"no interval"}
    assert (result.folders[0] / "target_statistics.safetensors").exists()


@pytest.mark.parametrize("names", [("NA", "None", "nan"), ("../up", "/abs", ".hidden"), ("a b", "a_b", "ä")])
def test_no_subject_is_lost_or_written_elsewhere_by_its_name(names, tmp_path):
    rng, n = np.random.default_rng(0), 24
    subject = np.repeat(names, n)
    y, repetition = np.tile(np.repeat([0, 1, 2], 8), 3), np.tile([1, 2], 12 * 3)
    x = rng.normal(size=(3 * n, 3, 8)) + y[:, None, None]
    TrialSet.from_arrays(x, y, subject, repetition, {"emg": 2, "acc": 1}, 100.0).save(tmp_path / "mine.h5")
    content = changed(cohort={"dataset": "trials"}, split={"by": "repetition", "test": [2]}, name="names")
    content["conditions"] = {
        "layer_masks": None,
        "removals": None,
        "extra": [{"name": "NA", "edges": "cross_modal()"}],
    }
    result = parse(content).run(tmp_path / "mine.h5", tmp_path / "runs", jobs=1)
    again = StudyResult.load(result.folder)
    assert sorted(again.scores["subject"].unique()) == sorted(names)
    assert again.tests()["n_subjects"].eq(3).all() and again.tests()["condition"].tolist() == ["NA"]
    outside = [p for p in tmp_path.rglob("scores.csv") if result.folder not in p.parents]
    assert not outside and len(list((result.folder / "fits").iterdir())) == 3


def test_without_dropout_stacked_fits_equal_single_fits(tmp_path):
    """The stacked fits run on the CPU; numbers agree up to rounding."""
    from tiny import all_fits

    from emg_lens.studies.fits.fit_execution import run_fits_at_once

    study = parse(changed(name="stacked", training__epochs=6))
    result = study.run(out=tmp_path / "runs", jobs=1)
    fits = all_fits(study)
    folders = [tmp_path / "stacked" / fit.folder_name for fit in fits]
    fractions = []
    run_fits_at_once(fits, None, folders, "cpu", fractions.append)
    assert fractions == sorted(fractions) and fractions[-1] == 1
    for mine, theirs in zip(folders, result.folders, strict=True):
        for name in ("scores.csv", "quality.csv"):
            a, b = (pd.read_csv(f / name)["log_prob"].to_numpy() for f in (mine, theirs))
            assert np.abs(a - b).max() < 1e-4
