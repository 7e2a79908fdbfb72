"""Pre-training in two processes: the losses of one process, exit code 0, and one line for each error."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import h5py
import numpy as np
import pandas as pd
import psutil
import pytest
import toy_pretraining
from toy_pretraining import LOSSES

from emg_lens.io.locking import exclusive_lock
from emg_lens.training import PretrainingSpec, run_pretraining

SPEC = """
name: toy
corpus: {folders: [shards]}
held_out: {by: subject, fraction: 0.3}
model: {architecture: tinymyo, d_model: 16, n_heads: 2, n_layers: 1, d_mlp: 16, patch_samples: 10, dropout: 0.0,
        hidden_dropout: 0.0, drop_path: 0.0}
recipe: {like: tinymyo-released, epochs: 2, batch_size: 8, micro_batch: 4, lr: 0.003, warmup_epochs: 1}
log_steps: 1
"""

pytestmark = pytest.mark.slow


def launch(*command, **options):
    """Start a command in two processes, as `torchrun` does."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*launcher, *map(str, command)], stdout=pipe, stderr=pipe, text=True, env=environment, **options
    )


def pretraining(tmp_path, epochs=2):
    """The arguments of a pre-training on four small shards."""
    (tmp_path / "toy.yaml").write_text(SPEC.replace("epochs: 2", f"epochs: {epochs}"))
    folder = tmp_path / "data" / "shards"
    if not folder.exists():
        folder.mkdir(parents=True)
        for i in range(4):
            with h5py.File(folder / f"{i}.h5", "w") as file:
                file["data"] = np.random.default_rng(i).normal(size=(10, 3, 40)).astype("f4")
                file.attrs.update(subject=f"toy/{i}", modalities=json.dumps({"emg": 3}), fs=200.0)
    folders = ("--data", tmp_path / "data", "--out", tmp_path / "runs")
    return ("-m", "emg_lens", "pretrain", tmp_path / "toy.yaml", *folders, "--device", "cpu")


def one_process(tmp_path):
    """The same pre-training in this process."""
    return run_pretraining(
        PretrainingSpec.load(tmp_path / "toy.yaml"), tmp_path / "data", tmp_path / "one", device="cpu"
    )


def own_lines(stderr):
    """The lines that the two processes print; the launcher prints a summary in addition."""
    assert "[rank" not in stderr, stderr[-3000:]  # so begins every line of a traceback
    return [line for line in stderr.splitlines() if line.startswith("error:")]


def test_two_processes_give_the_losses_of_one(tmp_path):
    _, expected = toy_pretraining.run()
    for path in ("none", tmp_path / "c.safetensors"):
        done = launch(toy_pretraining.__file__, path, tmp_path / "two.csv")
        printed, errors = done.communicate(timeout=300)
        assert done.returncode == 0 and "2 processes" in printed, errors[-2000:]
        result = pd.read_csv(tmp_path / "two.csv")
        assert np.abs(result[LOSSES] - expected[LOSSES]).max(axis=None) < 1e-4
    _, table = toy_pretraining.run(tmp_path / "c.safetensors")  # finished by two, read by one
    assert np.abs(table[LOSSES] - expected[LOSSES]).max(axis=None) < 1e-4


def test_the_command_ends_with_exit_code_0_and_the_same_run_as_one_process(tmp_path):
    done = launch(*pretraining(tmp_path))
    printed, errors = done.communicate(timeout=300)
    assert done.returncode == 0 and not own_lines(errors) and "masked loss after 6 steps" in printed
    expected = one_process(tmp_path)
    result = run_pretraining(
        PretrainingSpec.load(tmp_path / "toy.yaml"), tmp_path / "data", tmp_path / "runs", device="cpu"
    )
    assert np.abs(result.losses[LOSSES] - expected.losses[LOSSES]).max(axis=None) < 1e-4
    for one, other in zip(result.model.parameters(), expected.model.parameters(), strict=True):
        assert (one - other).abs().max() < 1e-4


def test_an_error_of_the_first_process_is_the_error_of_both(tmp_path):
    command = pretraining(tmp_path)
    folder = tmp_path / "runs" / "toy" / PretrainingSpec.load(tmp_path / "toy.yaml").digest()
    folder.mkdir(parents=True)
    with exclusive_lock(folder / ".lock"):
        done = launch(*command)
        lines = own_lines(done.communicate(timeout=300)[1])
    assert done.returncode and len(lines) == 2 and lines[0] == lines[1] and "is in use by" in lines[0]


def test_an_error_of_one_process_stops_the_other_with_one_line(tmp_path):
    command = pretraining(tmp_path)
    for path in (tmp_path / "data" / "shards").iterdir():
        with h5py.File(path, "r+") as file:
            file["data"][7, 0, 3] = np.nan  # read by one of the processes first
    done = launch(*command)
    lines = own_lines(done.communicate(timeout=300)[1])
    assert done.returncode and 1 <= len(lines) <= 2 and any("holds NaN" in line for line in lines)
    assert all("holds NaN" in line or "another process of this pre-training has ended" in line for line in lines)


@pytest.mark.parametrize("number", [0, 1])
def test_after_one_process_was_killed_the_other_stops_and_the_run_resumes(tmp_path, number):
    done = launch(*pretraining(tmp_path, epochs=60))
    while not any((tmp_path / "runs").rglob("losses.csv")):
        time.sleep(0.1)
        assert done.poll() is None
    ranks = [child for child in psutil.Process(done.pid).children() if "pretrain" in child.cmdline()]
    of_rank = {child.environ()["RANK"]: child for child in ranks}
    of_rank[str(number)].send_signal(signal.SIGKILL)
    errors = done.communicate(timeout=300)[1]
    assert done.returncode and len(of_rank) == 2
    assert all("another process of this pre-training has ended" in line for line in own_lines(errors))
    again = launch(*pretraining(tmp_path, epochs=60))
    printed, errors = again.communicate(timeout=300)
    assert again.returncode == 0 and "resuming" in errors and "masked loss after" in printed
