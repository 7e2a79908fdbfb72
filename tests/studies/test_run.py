"""The runner: complete folders, resuming after SIGKILL, the same numbers for any number of workers."""

import errno
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from rich.console import Console
from tiny import TINY, all_fits

from emg_lens.data import TrialSet
from emg_lens.data.standardization import InputStatistics
from emg_lens.io.checksums import read_json, write_json
from emg_lens.io.files import HOST
from emg_lens.io.locking import BusyError, exclusive_lock
from emg_lens.io.run_folder import RunFolderError
from emg_lens.models.isonet import IsoNet
from emg_lens.studies import runner as run_module
from emg_lens.studies.fits.fit_execution import run_fit
from emg_lens.studies.fits.fit_trials import load_fit
from emg_lens.studies.result import StudyResult
from emg_lens.studies.runner import run_study
from emg_lens.studies.runs.plan import recorded_plan, run_folder
from emg_lens.studies.runs.schedule import SMALLEST_PART, start_order
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.study import Study


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.parse(TINY)


@pytest.fixture(scope="module")
def done(study, tmp_path_factory) -> StudyResult:
    return run_study(study, out=tmp_path_factory.mktemp("runs"), jobs=1)


def test_a_run_writes_all_its_files(study, done):
    names = {str(p.relative_to(done.folder)) for p in done.folder.rglob("*") if p.is_file()}
    promised = {
        "spec.yaml",
        "environment.json",
        "scores.csv",
        "table.csv",
        "table.md",
        "table.tex",
        "report.html",
    }
    promised |= {
        f"fits/{s}/{f}"
        for s in ("01", "02", "03")
        for f in (
            *("model.safetensors", "config.json", "fit.csv", "scores.csv", "logits.safetensors", "leakage.json"),
            *("input_statistics.safetensors", "fit.json", "conditions.csv", "trials.csv", "quality.csv"),
        )
    }
    assert promised <= names
    assert any(n.startswith("figures/") and n.endswith(".svg") for n in names)
    assert not [n for n in names if "partial" in n or "progress" in n]
    assert done.folder.name == study.digest()
    assert Study.load(done.folder / "spec.yaml") == study


def test_scores_have_one_row_a_subject_and_condition(study, done):
    assert len(done.scores) == 3 * (1 + 12 + 1)
    assert done.scores.groupby("subject")["condition"].nunique().eq(14).all()
    assert done.scores["accuracy"].between(0, 1).all()
    extra = done.scores[done.scores["condition"] == "ACC masked"]
    assert (extra["expected"] <= 0.5).all()


def test_a_saved_model_with_its_input_statistics_reproduces_its_own_baseline_from_raw_trials(study, done):
    import torch

    folder = done.folder / "fits" / "02"
    model = IsoNet.from_pretrained(folder)
    test = load_fit(all_fits(study)[1], None).test  # as recorded, not standardised
    x = InputStatistics.load(folder / "input_statistics.safetensors").apply(test.x)
    with torch.inference_mode():
        logits = model(torch.from_numpy(x)).numpy()
    found = done.predictions("baseline")
    found = found[found["fit"] == "02"]
    assert (found["target"].to_numpy() == test.y).all()
    assert abs(logits - found.filter(like="output_").to_numpy()).max() < 1e-5
    row = done.scores[(done.scores["subject"] == "02") & (done.scores["condition"] == "baseline")]
    assert (logits.argmax(1) == test.y).mean() == row["accuracy"].iloc[0]


def test_only_training_trials_decide_the_standardization(study):
    trials = load_fit(all_fits(study)[0], None)
    assert abs(trials.x(trials.train).mean((0, 2))).max() < 1e-4
    assert abs(trials.x(trials.test).mean((0, 2))).max() > 1e-3
    assert set(trials.train.repetition) == {1, 3} and set(trials.test.repetition) == {2, 4}


def test_two_workers_give_the_numbers_of_one(study, done, tmp_path):
    other = run_study(study, out=tmp_path, jobs=2)
    pd.testing.assert_frame_equal(other.scores, done.scores, check_exact=True)
    pd.testing.assert_frame_equal(other.curves, done.curves, check_exact=True)


def test_a_finished_run_is_not_computed_again(study, done):
    files = list((done.folder / "fits").rglob("*"))
    before = {f: f.stat().st_mtime_ns for f in files}
    again = run_study(study, out=done.folder.parent.parent, jobs=1)
    assert {f: f.stat().st_mtime_ns for f in files} == before
    pd.testing.assert_frame_equal(again.scores, done.scores, check_exact=True)


@pytest.mark.slow
def test_a_killed_run_is_resumed_and_gives_the_same_numbers(study, done, tmp_path):
    spec = tmp_path / "tiny.yaml"
    spec.write_text(TINY)
    command = [
        sys.executable,
        "-m",
        "emg_lens",
        "run",
        str(spec),
        "--out",
        str(tmp_path / "runs"),
        "--jobs",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    fits = tmp_path / "runs" / "tiny" / study.digest() / "fits"
    deadline = time.monotonic() + 120
    while not (fits / "01").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = [p.name for p in fits.iterdir() if not p.name.startswith(".")]
    assert 1 <= len(left) < 3
    first = (fits / "01" / "scores.csv").stat().st_mtime_ns
    result = run_study(study, out=tmp_path / "runs", jobs=1)
    assert (fits / "01" / "scores.csv").stat().st_mtime_ns == first
    pd.testing.assert_frame_equal(result.scores, done.scores, check_exact=True)
    pd.testing.assert_frame_equal(result.curves, done.curves, check_exact=True)


def test_a_run_with_other_data_is_not_resumed(study, done, tmp_path):
    record = done.folder / "data.json"
    text = record.read_text()
    try:
        write_json(record, {**read_json(record), "fingerprint": "other"})
        with pytest.raises(StudyError, match="was made with other data"):
            run_study(study, out=done.folder.parent.parent, jobs=1)
    finally:
        record.write_text(text)


def test_a_file_saved_again_with_other_labels_of_the_same_size_is_other_data(tmp_path):
    rng, y = np.random.default_rng(0), np.tile([0, 1], 12)
    given = {"x": rng.normal(size=(24, 3, 8)), "subject": ["A"] * 12 + ["B"] * 12, "repetition": np.arange(24) // 2 % 6}
    given |= {"channels": {"emg": 2, "acc": 1}, "fs": 10.0}
    TrialSet.from_arrays(y=y, **given).save(tmp_path / "mine.h5")
    size = (tmp_path / "mine.h5").stat().st_size
    study = Study.parse(
        "{name: mine, title: t, cohort: {dataset: trials}, split: {by: repetition, test: [1, 4]},"
        " model: {d_model: 8, n_heads: 2, n_layers: 1, d_mlp: 8}, training: {epochs: 1}}"
    )
    run_study(study, tmp_path / "mine.h5", tmp_path / "runs", jobs=1)
    TrialSet.from_arrays(y=1 - y, **given).save(tmp_path / "mine.h5")
    assert (tmp_path / "mine.h5").stat().st_size == size
    with pytest.raises(StudyError, match=r"was made with other data .*; written since: mine.h5\)"):
        run_study(study, tmp_path / "mine.h5", tmp_path / "runs", jobs=1)


def test_a_run_notes_if_file_hashes_cannot_be_cached(done, study, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out, plan = io.StringIO(), recorded_plan(study, None, done.folder)
    plan = replace(plan, folder=run_folder(study, tmp_path / "runs"))
    monkeypatch.setattr(run_module, "prepare", lambda *_: plan)
    with pytest.raises(KeyError):  # the run stops after its notes
        monkeypatch.setattr(run_module, "_run_fits", lambda *_: {}["stop"])
        run_study(study, tmp_path, tmp_path / "runs", jobs=1, console=Console(file=out, width=10_000))
    assert "so all data files are read at every start; set XDG_CACHE_HOME to a folder" in out.getvalue()
    assert out.getvalue().count("note:") == 1 + len(plan.warnings)


def test_a_result_loads_from_its_folder(done):
    again = StudyResult.load(done.folder)
    pd.testing.assert_frame_equal(again.scores, done.scores, check_exact=True)
    assert again.table().equals(done.table())
    with pytest.raises(RunFolderError, match="is not a run's folder"):
        StudyResult.load(Path(done.folder).parent)
    with pytest.raises(RunFolderError, match="is not a run's folder: File name too long"):
        StudyResult.load(Path("x" * 300))


def test_a_changed_byte_in_any_file_of_a_run_is_refused_by_its_name(done, tmp_path):
    folder = tmp_path / done.folder.name
    shutil.copytree(done.folder, folder)
    fit = next((folder / "fits").iterdir())
    names = ["spec.yaml", "data.json", *(str(path.relative_to(folder)) for path in fit.rglob("*") if path.is_file())]
    names.remove(f"fits/{fit.name}/README.md")  # its card, which is written again with every report
    assert len(names) > 12 and f"fits/{fit.name}/analyses/shift.csv" in names
    for name in names:
        content = (folder / name).read_bytes()
        at = len(content) * 2 // 3
        (folder / name).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises((RunFolderError, StudyError), match=re.escape(name)):
            StudyResult.load(folder)
        (folder / name).write_bytes(content)
    StudyResult.load(folder)


def test_a_rewritten_study_file_without_its_checksum_is_refused(done, tmp_path):
    folder = tmp_path / done.folder.name
    shutil.copytree(done.folder, folder)
    spec = yaml.safe_load((folder / "spec.yaml").read_text())
    (folder / "spec.yaml").write_text(yaml.safe_dump({**spec, "title": "another"}))
    with pytest.raises(RunFolderError, match="spec.yaml was changed after it was written: its checksum is missing"):
        StudyResult.load(folder)


def test_fits_of_unknown_data_are_not_resumed(done, study, tmp_path):
    folder = tmp_path / "runs" / study.name / done.folder.name
    shutil.copytree(done.folder, folder)
    (folder / "data.json").unlink()
    with pytest.raises(StudyError, match="holds fits of unknown data: its data.json is missing"):
        run_study(study, out=tmp_path / "runs", jobs=1)


def test_a_class_missing_in_the_test_repetitions_is_found_before_anything_is_written(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    y, repetition = np.repeat([1, 2, 3], 4), np.tile([1, 2, 3, 4], 3)
    keep = ~((y == 3) & (repetition == 2))
    TrialSet.from_arrays(
        x=rng.normal(size=(keep.sum(), 3, 8)),
        y=y[keep],
        subject=np.full(keep.sum(), "A"),
        repetition=repetition[keep],
        channels={"emg": 2, "acc": 1},
        fs=100.0,
    ).save(tmp_path / "mine.h5")
    content = yaml.safe_load(TINY)
    content["cohort"] = {"dataset": "trials"}
    content["split"] = {"by": "repetition", "test": [2]}
    content["conditions"].pop("extra")
    study = Study.parse(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="3"):
        run_study(study, tmp_path / "mine.h5", tmp_path / "runs", jobs=1)
    assert not (tmp_path / "runs").exists()


def test_own_trials_run_like_any_data_set(tmp_path):
    import numpy as np

    from emg_lens.data import TrialSet

    rng = np.random.default_rng(0)
    n = 2 * 3 * 4
    y, repetition = np.tile(np.repeat([1, 2, 3], 4), 2), np.tile([1, 2, 3, 4], 6)
    x = rng.normal(size=(n, 3, 8)) + y[:, None, None]
    TrialSet.from_arrays(
        x=x,
        y=y,
        subject=np.repeat(["A", "B"], 12),
        repetition=repetition,
        channels={"emg": 2, "acc": 1},
        fs=100.0,
    ).save(tmp_path / "mine.h5")
    content = yaml.safe_load(TINY)
    content["cohort"] = {"dataset": "trials"}
    content["split"] = {"by": "repetition", "test": [2]}
    content["conditions"].pop("extra")
    result = run_study(Study.parse(yaml.safe_dump(content)), tmp_path / "mine.h5", tmp_path / "runs", jobs=1)
    assert result.scores["subject"].unique().tolist() == ["A", "B"]
    assert len(result.scores) == 2 * 13


def test_changed_trials_are_read_again(tmp_path):
    import numpy as np

    from emg_lens.data import TrialSet

    content = yaml.safe_load(TINY) | {"cohort": {"dataset": "trials"}, "split": {"by": "repetition", "test": [2]}}
    content["conditions"].pop("extra")
    study, read = Study.parse(yaml.safe_dump(content)), []
    for seed in (0, 1):
        x, y, repetition = np.random.default_rng(seed).normal(size=(4, 3, 8)), [0, 1, 0, 1], [1, 1, 2, 2]
        TrialSet.from_arrays(x, y, ["A"] * 4, repetition, {"emg": 2, "acc": 1}, 100.0).save(tmp_path / "mine.h5")
        one = all_fits(study, tmp_path / "mine.h5")[0]
        read.append(load_fit(one, tmp_path / "mine.h5").train.x)
        np.testing.assert_array_equal(read[-1], x[:2].astype(np.float32))


def _end(parts, costs, n_workers: int) -> float:
    """When the last worker is done, by simulation; the second part of a task waits for the first."""
    free, done, ended = [0.0] * n_workers, dict.fromkeys(range(len(costs)), 0.0), dict.fromkeys(range(len(costs)), 0.0)
    for task, share in parts:
        worker = free.index(min(free))
        ended[task] = free[worker] = max(free[worker], ended[task]) + costs[task] * (share - done[task])
        done[task] = share
    return max(free)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=30), st.integers(1, 8))
def test_the_schedule_is_nearly_as_short_as_possible(costs, n_workers):
    parts = start_order(costs, n_workers)
    for task in range(len(costs)):
        shares = [share for t, share in parts if t == task]
        assert shares == sorted(set(shares)) and shares[-1] == 1 and len(shares) <= 2
        assert all(SMALLEST_PART <= share <= 1 - SMALLEST_PART for share in shares[:-1])
    assert len(parts) <= len(costs) + n_workers - 1
    if costs:
        best = max(max(costs), sum(costs) / n_workers)
        assert _end(parts, costs, n_workers) <= best + 2 * SMALLEST_PART * max(costs)


def test_five_subjects_on_two_workers_and_ten_on_eight():
    costs = [524, 511, 668, 507, 586]
    parts = start_order(costs, 2)
    assert _end(parts, costs, 2) == pytest.approx(sum(costs) / 2)
    assert min(_end([(t, 1.0) for t in p], costs, 2) for p in itertools.permutations(range(5))) > 1.1 * sum(costs) / 2
    assert _end(start_order([1] * 10, 8), [1] * 10, 8) == 1.25


@pytest.mark.parametrize(("n", "n_workers"), [(1, 4), (3, 4), (4, 4), (8, 4), (5, 1)])
def test_no_fit_is_divided_if_that_gains_nothing(n, n_workers):
    assert sorted(start_order([3] * n, n_workers)) == [(t, 1.0) for t in range(n)]


def test_the_schedule_of_many_fits():
    costs = [1 + i % 7 for i in range(4000)]
    assert _end(start_order(costs, 16), costs, 16) <= sum(costs) / 16 + 1


def test_a_fit_in_two_parts_gives_the_numbers_of_one(study, done, tmp_path, monkeypatch):
    folder, fractions = tmp_path / "fits" / "02", []
    folder.parent.mkdir()
    with monkeypatch.context() as slow:
        clock = itertools.count(step=100.0)
        slow.setattr("emg_lens.training.fitting.time", SimpleNamespace(perf_counter=lambda: next(clock)))
        run_fit(all_fits(study)[1], None, folder, "cpu", fractions.append, until=0.5)
    assert not folder.exists() and max(fractions) < 0.5
    n_epochs = len(fractions)
    run_fit(all_fits(study)[1], None, folder, "cpu", fractions.append)
    assert fractions[n_epochs] > max(fractions[:n_epochs]) and fractions[-1] == 1
    epochs = study.training.epochs
    assert fractions[:epochs] == pytest.approx([fractions[0] * k for k in range(1, epochs + 1)]), "every epoch once"
    assert fractions == sorted(fractions) and n_epochs == epochs / 2
    assert [p.name for p in folder.parent.iterdir()] == ["02"]
    for name in ("scores.csv", "fit.csv", "model.safetensors"):
        assert (folder / name).read_bytes() == (done.folder / "fits" / "02" / name).read_bytes()
    seconds = json.loads((folder / "fit.json").read_text())["seconds"]
    assert 200 <= seconds < 300, "the time of the first part counts: two epochs of a hundred seconds"


def test_a_fit_that_another_process_has_finished_is_not_replaced(study, done, tmp_path):
    """A worker of a killed run and the new run may run the same fit: the second one keeps the folder of the first."""
    folder = tmp_path / "fits" / "02"
    folder.parent.mkdir()

    def on_progress(fraction: float) -> None:
        if not folder.exists():
            shutil.copytree(done.folder / "fits" / "02", folder)

    run_fit(all_fits(study)[1], None, folder, "cpu", on_progress)
    assert [p.name for p in folder.parent.iterdir()] == ["02"]
    before = done.folder / "fits" / "02" / "fit.json"
    assert (folder / "fit.json").read_bytes() == before.read_bytes()


def test_fits_of_other_versions_are_named_in_the_report_and_an_unfinished_one_starts_again(
    study, done, tmp_path, monkeypatch
):
    shutil.copytree(done.folder.parent.parent, tmp_path / "runs")
    folder, first = tmp_path / "runs" / "tiny" / study.digest(), read_json(done.folder / "environment.json")
    shutil.rmtree(folder / "fits" / "02")
    run_fit(all_fits(study)[1], None, folder / "fits" / "02", "cpu", lambda _: None, until=0.5)
    other, epochs = {**first, "torch": "9.9"}, []
    for module in ("io.run_folder", "studies.fits.fit_store", "studies.fits.fit_execution"):
        monkeypatch.setattr(f"emg_lens.{module}.environment", lambda: other)
    monkeypatch.setattr("emg_lens.studies.runs.fit_workers.progress_writer", lambda _: epochs.append)
    console = Console(file=io.StringIO(), width=1000)
    result = run_study(study, out=tmp_path / "runs", jobs=1, console=console)
    assert f"was started with other versions (torch {first['torch']}, now 9.9)" in console.file.getvalue()
    assert len(epochs) > study.training.epochs, "the first half was computed again"
    assert result.facts["environment"].tolist() == [first, other, first]
    assert f"{first['torch']} (2 of 3 fits), 9.9 (1 of 3 fits)" in result.report()
    assert "computed with different versions" in result.report() and "different versions" not in done.report()
    assert read_json(folder / "environment.json") == {**first, "later": [other]}


class Stop(Exception):
    pass


def test_an_interrupted_fit_is_resumed_from_its_last_epoch(study, done, tmp_path, monkeypatch):
    monkeypatch.setattr("emg_lens.io.checkpoint.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("emg_lens.io.checkpoint.SAVE_FRACTION", 1e6)
    folder, fractions = tmp_path / "fits" / "02", []
    folder.parent.mkdir()

    def stop(fraction: float) -> None:
        fractions.append(fraction)
        if len(fractions) == 3:
            raise Stop

    with pytest.raises(Stop):
        run_fit(all_fits(study)[1], None, folder, "cpu", stop)
    assert not folder.exists()
    run_fit(all_fits(study)[1], None, folder, "cpu", fractions.append)
    epochs = study.training.epochs
    assert fractions == sorted(set(fractions)) and fractions[-1] == 1
    assert fractions[:epochs] == pytest.approx([fractions[0] * k for k in range(1, epochs + 1)]), "every epoch once"
    assert [p.name for p in folder.parent.iterdir()] == ["02"]
    assert (folder / "scores.csv").read_bytes() == (done.folder / "fits" / "02" / "scores.csv").read_bytes()


def test_a_finished_run_is_shown_again_without_reading_its_recordings(study, done, monkeypatch):
    for module in ("prepared_fit", "dry_run"):
        monkeypatch.setattr(f"emg_lens.studies.fits.{module}.load_fit", lambda *_: pytest.fail("it reads"))
    again = run_study(study, out=done.folder.parent.parent, jobs=1)
    pd.testing.assert_frame_equal(again.scores, done.scores, check_exact=True)


def test_incomplete_files_of_killed_processes_are_removed_at_the_end(study, done):
    fits = done.folder / "fits"
    dead = f"{HOST}.4000000.0123abcd.partial"  # of a process that does not exist
    (fits / f"..02.fit.{dead}").write_bytes(b"half")
    (fits / ".02.progress").write_text("0.5")
    (fits / ".02.fit").write_bytes(b"of a fit that is finished")
    (fits / f".02.{dead}").mkdir()
    (fits / f".02.{dead}" / "fit.csv").write_text("epoch")
    (done.folder / f".scores.csv.{dead}").write_text("half")
    (done.folder / "figures" / f".layers.svg.{dead}").write_text("half")
    living = fits / f".02.{HOST}.{os.getppid()}.0123abcd.partial"
    living.mkdir()
    run_study(study, out=done.folder.parent.parent, jobs=1)
    assert sorted(p.name for p in fits.iterdir()) == [living.name, "01", "02", "03"]
    living.rmdir()
    assert not list(done.folder.rglob("*.partial"))


def test_a_folder_is_run_by_one_process_at_a_time_and_read_by_any(study, done, tmp_path):
    out = tmp_path / "runs"
    shutil.copytree(done.folder.parent.parent, out)
    folder = out / "tiny" / study.digest()
    with exclusive_lock(folder / ".lock"):
        with pytest.raises(BusyError, match=f"{folder} is in use by process {os.getpid()} on .*; wait .* --out"):
            run_study(study, out=out, jobs=1)
        StudyResult.load(folder).write()
    assert len(run_study(study, out=out, jobs=1).scores) == len(done.scores)


def test_a_run_continues_with_a_note_if_the_folder_cannot_be_locked(study, done, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    shutil.copytree(done.folder.parent.parent, tmp_path / "runs")
    monkeypatch.setattr("fcntl.flock", refused)
    console = Console(file=io.StringIO(), width=400)
    assert len(run_study(study, out=tmp_path / "runs", jobs=1, console=console).scores) == len(done.scores)
    assert "cannot be locked (No locks available); do not run this study twice at a time" in console.file.getvalue()


def test_a_record_that_another_process_wrote_before_the_lock_is_checked(study, tmp_path, monkeypatch):
    """Two processes start the same run with different data, and the other process gets the lock first."""

    @contextmanager
    def slow(path, **_):
        record = {"folder": None, "fingerprint": "other", "warnings": [], "n_train": {}, "subjects": [["01"]]}
        write_json(path.parent / "data.json", record)
        yield None

    monkeypatch.setattr("emg_lens.io.run_folder.exclusive_lock", slow)
    with pytest.raises(StudyError, match="was made with other data"):
        run_study(study, out=tmp_path, jobs=1)
    assert not list(tmp_path.rglob("scores.csv"))


def test_a_report_has_all_fits_of_a_run_that_finishes_meanwhile(done, tmp_path, monkeypatch):
    from emg_lens import cli

    folder = tmp_path / done.folder.name
    shutil.copytree(done.folder, folder)
    last, write = folder / "fits" / "03", StudyResult.write

    def slowly(result):
        write(result)
        if not last.exists():
            (tmp_path / "03").rename(last)

    last.rename(tmp_path / "03")
    monkeypatch.setattr(StudyResult, "write", slowly)
    cli.report(folder)
    assert pd.read_csv(folder / "scores.csv", dtype={"subject": str})["subject"].unique().tolist() == ["01", "02", "03"]


@pytest.mark.parametrize("room", [100, 4096])
def test_a_full_disk_is_an_error_of_one_line(study, tmp_path, room):
    """With 100 bytes the first text file does not fit, with 4096 bytes the weights do not."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    fit, folder, fractions = all_fits(study)[0], tmp_path / "fit", []

    def fill(done: float) -> None:
        fractions.append(done)
        if len(fractions) > fit.recipe.epochs:  # it is swept
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))

    try:
        with pytest.raises(RunFolderError, match=r"cannot write to .*fit': .*[Ff]ile too large.*; make room"):
            run_fit(fit, None, folder, "cpu", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not folder.exists()
    run_fit(fit, None, folder, "cpu", lambda done: None)
    assert (folder / "scores.csv").exists()
