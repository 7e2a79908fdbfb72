"""Micro-batches in several threads: each runs once, is kept in the caller's thread, and errors stop all threads."""

import _thread
import signal
import threading
import time
from collections import Counter

import pytest
import torch

from emg_lens.hooks import cross_modal, unimodal
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps import engine
from emg_lens.sweeps import settings as sweep_settings
from emg_lens.sweeps.conditions import head_masks, layer_masks
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.side_by_side import run_side_by_side, torch_threads

EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}


@pytest.fixture(autouse=True)
def four_threads():
    with torch_threads(4):
        yield
        assert torch.get_num_threads() == 4, "torch's threads were not given back"


def two_outputs(item, keep):
    keep({0: item})
    time.sleep(0.002)
    keep({1: (threading.get_ident(), torch.get_num_threads(), torch.is_inference_mode_enabled())})


@pytest.mark.parametrize(("n_workers", "n_threads"), [(1, 4), (2, 2), (3, 1), (4, 1), (9, 1)])
def test_every_item_runs_once_and_is_kept_in_the_callers_thread(n_workers, n_threads):
    kept = []

    def keep(item, outputs):
        kept.append((item, *outputs.items(), threading.get_ident()))

    with torch.inference_mode():
        run_side_by_side(two_outputs, range(40), keep, n_workers)
    assert Counter(item for item, *_ in kept) == dict.fromkeys(range(40), 2)
    assert {where for *_, where in kept} == {threading.get_ident()}
    for item in range(40):
        (_, (row, same), _), (_, (_, (_, threads, inference)), _) = (h for h in kept if h[0] == item)
        assert (row, same, threads, inference) == (0, item, n_threads, True)
    assert (threading.get_ident() in {out[0] for _, (row, out), _ in kept if row == 1}) == (n_workers == 1)


def test_nothing_to_do_is_done():
    run_side_by_side(two_outputs, [], lambda *_: pytest.fail("there is nothing to hear"), 3)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_what_a_run_raises_comes_after_what_it_had_finished(n_workers):
    def run(item, keep):
        keep({0: item})
        if item == 5:
            raise MemoryError("no room")

    kept = []
    with pytest.raises(MemoryError, match="no room"):
        run_side_by_side(run, range(1000), lambda item, _: kept.append(item), n_workers)
    assert 5 in kept and len(set(kept)) == len(kept) < 1000


def endless(item, keep):
    for i in range(10_000):
        keep({i: item})
        time.sleep(0.001)
    pytest.fail("nobody stopped it")


def test_what_the_listener_raises_stops_all_threads():
    def keep(item, outputs):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run_side_by_side(endless, range(8), keep, 3)


def test_control_c_stops_all_threads(request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests may ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    n_before = threading.active_count()
    kept = []

    def keep(item, outputs):
        kept.append(item)
        if len(kept) == 20:
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(endless, range(8), keep, 3)
    assert threading.active_count() == n_before


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("tokens", [1, sweep_settings.SIDE_BY_SIDE_TOKENS])
def test_a_sweep_in_threads_gives_the_bits_of_one_thread(norm, tokens, monkeypatch):
    """Above and below the size from which on heads go one by one; the last micro-batch is shorter."""
    torch.manual_seed(0)
    config = IsoNetConfig({"emg": 6, "acc": 5}, 10, 4, d_model=32, n_heads=4, n_layers=3, d_mlp=16, norm=norm)
    model = IsoNet(config).eval()
    x = torch.randn(70 if tokens == 1 else 2100, 11, 10)
    conditions = [*layer_masks(EDGES, 3), *head_masks(EDGES, 3, 4)[::2]]
    monkeypatch.setattr(sweep_settings, "SIDE_BY_SIDE_TOKENS", tokens)
    used = []
    monkeypatch.setattr(
        engine, "run_side_by_side", lambda *args: (used.append((len(args[1]), args[-1])), run_side_by_side(*args))
    )
    size = 12 if tokens == 1 else 500
    threaded = sweep(model, x, conditions, executor="tree", batch_size=size)
    with torch_threads(1):
        alone = sweep(model, x, conditions, executor="tree", batch_size=size)
    assert used == [(-(-len(x) // size), 4), (-(-len(x) // size), 1)]
    for name, logits in alone.logits.items():
        assert torch.equal(threaded.logits[name], logits), name


@pytest.mark.parametrize(
    ("n_trials", "threads", "sizes"),
    [
        (10, 4, [10]),  # too few for threads
        (128, 4, [32] * 4),
        (100, 1, [25] * 4),  # even, not 32, 32, 32, 4
        (100, 2, [25] * 4),
        (300, 2, [30] * 10),
        (33, 2, [17, 16]),
    ],
)
def test_micro_batches_are_even_and_as_many_as_threads_can_share(n_trials, threads, sizes, monkeypatch):
    model = IsoNet(IsoNetConfig({"emg": 24, "acc": 24}, 4, 2, d_model=8, n_heads=2, n_layers=1, d_mlp=4)).eval()
    found = []

    def run(run, items, keep, n_workers):
        run_side_by_side(run, items, lambda item, out: (found.append(len(out[0])), keep(item, out)), n_workers)

    monkeypatch.setattr(engine, "run_side_by_side", run)
    with torch_threads(threads):
        sweep(model, torch.randn(n_trials, 48, 4), [], executor="tree")
    assert sorted(found, reverse=True) == sizes
