"""Logits that wait on the disk are those that wait in memory, and nothing of them is left."""

import pickle

import pytest
import torch

from emg_lens.hooks import CutMLP, Replace, cross_modal, unimodal
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps.conditions import Condition, layer_masks
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.finished import Finished
from emg_lens.sweeps.result import SweepError
from emg_lens.sweeps.settings import SweepInputError

CONDITIONS = [
    *layer_masks({"unimodal": unimodal(), "cross_modal": cross_modal()}, 2),
    Condition("without emg", Replace("emg", by="mean")),
]


@pytest.fixture(scope="module")
def model() -> IsoNet:
    torch.manual_seed(0)
    return IsoNet(IsoNetConfig({"emg": 3, "acc": 2}, 10, 6, d_model=16, n_heads=2, n_layers=2, d_mlp=8)).eval()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(11, 5, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("executor", ["loop", "tree"])
def test_the_bits_and_the_audit_are_those_of_memory(model, x, executor, tmp_path):
    settings = {"reference": x, "executor": executor, "batch_size": 4}
    expected, found = sweep(model, x, CONDITIONS, **settings), sweep(model, x, CONDITIONS, **settings, scratch=tmp_path)
    assert list(found.logits) == list(expected.logits)
    assert all(torch.equal(found.logits[name], logits) for name, logits in expected.logits.items())
    assert found.audit.equals(expected.audit) and found.executor == expected.executor
    y = torch.zeros(11, dtype=torch.long)
    assert found.accuracy(y).equals(expected.accuracy(y))
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_goes_on_from_its_checkpoint(model, x, tmp_path):
    def stop(done):
        if done > 0.5:
            raise KeyboardInterrupt

    settings = {"reference": x, "batch_size": 4, "checkpoint": tmp_path / "sweep.safetensors", "scratch": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        sweep(model, x, CONDITIONS, **settings, on_progress=stop)
    found, expected = sweep(model, x, CONDITIONS, **settings), sweep(model, x, CONDITIONS, reference=x, batch_size=4)
    assert all(torch.equal(found.logits[name], logits) for name, logits in expected.logits.items())


def test_a_condition_that_raises_leaves_the_others(model, x, tmp_path):
    with pytest.raises(SweepError, match="'nothing there'") as error:
        sweep(model, x, [Condition("nothing there", CutMLP("gyro")), CONDITIONS[0]], scratch=tmp_path)
    found = error.value.result
    assert list(found.logits) == ["baseline", CONDITIONS[0].name]
    one = CONDITIONS[0].name
    torch.testing.assert_close(found.logits[one], sweep(model, x, CONDITIONS[:1]).logits[one])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3)])
def test_rows_are_read_as_they_were_written(dtype, shape, tmp_path):
    held, values = Finished(3, [2, 3], tmp_path), torch.randn(shape).to(dtype)
    held.keep(0, {1: values[:2]})
    held.keep(1, {1: values[2:]})
    assert torch.equal(held.logits[1], values) and not held.logits[0].any() and not held.logits[2].any()
    assert held.logits[1].dtype == dtype and list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_is_refused_before_anything_runs(model, x, tmp_path):
    with pytest.raises(SweepInputError, match=r"cannot write to the folder scratch='.*nowhere': No such file"):
        sweep(model, x, CONDITIONS, reference=x, scratch=tmp_path / "nowhere")


@pytest.fixture
def full_disk():
    """What makes files larger than a kilobyte fail as on a disk without room."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("executor", ["loop", "tree"])
def test_a_full_disk_is_an_error_of_the_sweep_and_not_of_a_condition(model, x, tmp_path, full_disk, executor):
    full_disk()
    with pytest.raises(SweepInputError, match=r"cannot hold 0.0[0-9]* MB of logits \(File too large\); make room"):
        sweep(model, x, CONDITIONS, reference=x, executor=executor, scratch=tmp_path)


def test_a_result_can_be_pickled_with_what_it_holds(model, x, tmp_path):
    found = sweep(model, x, CONDITIONS, reference=x, scratch=tmp_path)
    again = pickle.loads(pickle.dumps(found))
    assert list(again.logits) == list(found.logits)
    assert all(torch.equal(again.logits[name], logits) for name, logits in found.logits.items())


def test_places_that_are_none_are_refused(model, x):
    with pytest.raises(SweepInputError, match="null byte"):
        sweep(model, x, CONDITIONS, reference=x, scratch="a\0b")
