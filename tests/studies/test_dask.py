"""A study on a dask cluster of worker processes: the numbers of one process, also after a worker was killed."""

import os
import signal
import threading
import time

import joblib
import pandas as pd
import pytest
from tiny import TINY, all_fits

from emg_lens.studies.runner import run_study
from emg_lens.studies.runs.fit_workers import run_part
from emg_lens.studies.spec.study_spec import StudySpec as Study

distributed = pytest.importorskip("distributed", reason="dask is not installed: pip install 'emg-lens[cluster]'")

LONG_ENOUGH_TO_BE_KILLED = TINY.replace("epochs: 4", "epochs: 60")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        local_directory=str(tmp_path_factory.mktemp("dask")),
    )  # fmt: skip
    with cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=120)
        yield client


@pytest.fixture(scope="module")
def study():
    return Study.parse(LONG_ENOUGH_TO_BE_KILLED)


@pytest.fixture(scope="module")
def alone(study, tmp_path_factory):
    return run_study(study, out=tmp_path_factory.mktemp("alone"), jobs=1)


def assert_same_numbers(result, alone):
    pd.testing.assert_frame_equal(result.scores, alone.scores, check_exact=True)
    pd.testing.assert_frame_equal(result.curves, alone.curves, check_exact=True)
    for folder in (alone.folder / "fits").iterdir():
        weights = (folder / "model.safetensors").read_bytes()
        assert (result.folder / "fits" / folder.name / "model.safetensors").read_bytes() == weights


def test_a_cluster_of_two_processes_gives_the_numbers_of_one(client, study, alone, tmp_path, monkeypatch):
    def not_here(*arguments):
        raise AssertionError("this process did the work")

    monkeypatch.setattr("emg_lens.studies.fits.fit_execution.run_fit", not_here)
    with joblib.parallel_config(backend="dask"):
        result = run_study(study, out=tmp_path, jobs=2)
    assert_same_numbers(result, alone)


def test_a_worker_killed_in_the_middle_loses_nothing(client, study, alone, tmp_path):
    fits = tmp_path / study.name / study.digest() / "fits"
    victims: list[int] = []

    def kill_a_busy_worker() -> None:
        pids = client.run(os.getpid)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            busy = [address for address, tasks in client.processing().items() if tasks]
            if busy and any(_is_under_way(file) for file in fits.glob(".*.progress")):
                victims.append(pids[busy[0]])
                os.kill(victims[0], signal.SIGKILL)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_a_busy_worker)
    killer.start()
    with joblib.parallel_config(backend="dask"):
        result = run_study(study, out=tmp_path, jobs=2)
    killer.join()
    assert victims and victims[0] not in client.run(os.getpid).values()
    assert_same_numbers(result, alone)
    assert not [p.name for p in fits.iterdir() if p.name.startswith(".")]


def _is_under_way(file) -> bool:
    try:
        return 0.1 < float(file.read_text()) < 0.9
    except (OSError, ValueError):  # gone, or being written
        return False


def test_threads_of_one_process_give_the_numbers_of_one(tmp_path):
    """The random state of torch belongs to the process, so that threads must run one fit at a time."""
    study = Study.parse(TINY.replace("d_mlp: 16", "d_mlp: 16, dropout: 0.1"))
    alone = run_study(study, out=tmp_path / "alone", jobs=1)
    with joblib.parallel_config(backend="threading"):
        result = run_study(study, out=tmp_path / "threads", jobs=3)
    assert_same_numbers(result, alone)


def test_a_finished_fit_that_is_asked_for_again_is_left_as_it_is(study, alone):
    """dask repeats a finished task if the only copy of its result was on a worker that died."""
    folder = alone.folder / "fits" / "01"
    before = (folder / "scores.csv").stat().st_mtime_ns
    run_part(all_fits(study)[0], None, folder, 1.0)
    assert (folder / "scores.csv").stat().st_mtime_ns == before
    assert not [p.name for p in folder.parent.iterdir() if p.name.startswith(".")]
