"""The FLOP counter of the benchmark, against torch's own counter and a count by hand."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from emg_lens.hooks import cross_modal, unimodal
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps.conditions import head_masks, layer_masks, with_baseline
from emg_lens.sweeps.executors.folded_tree import FoldedTree
from emg_lens.sweeps.plan import plan_sweep
from emg_lens.sweeps.target import target_of

_spec = importlib.util.spec_from_file_location("flops", Path(__file__).parents[1] / "bench" / "flops.py")
assert _spec is not None and _spec.loader is not None
flops = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(flops)

EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}


@pytest.fixture(scope="module")
def model() -> IsoNet:
    torch.manual_seed(0)
    return IsoNet(
        IsoNetConfig({"emg": 4, "acc": 3}, 10, 6, d_model=32, n_heads=4, n_layers=5, d_mlp=16)
    ).requires_grad_(False)


def in_place(base, a, b, *, out_shape=None, **_) -> int:
    return 2 * a[0] * a[1] * b[1]


def fused(q, k, v, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(q, k, v)


def counted_by_torch(run) -> int:
    # torch counts addmm, not its in-place sister, and fused attention on a GPU, not on a CPU
    known = {torch.ops.aten.addmm_: in_place, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return counter.get_total_flops()


def test_a_forward_costs_what_torch_counts(model):
    planned = plan_sweep(target_of(model), with_baseline([]))
    x = model.example_input(3)
    explicit = [("blocks.0.attn.hook_pattern", lambda t, hook: t)]
    hooks = [(name.replace("0", str(i), 1), fn) for i in range(5) for name, fn in explicit]
    expected = counted_by_torch(lambda: model.run_with_hooks(x, fwd_hooks=hooks))
    assert 3 * flops.count(model.cfg, planned).loop == expected


@pytest.mark.parametrize("family", ["layers", "heads"])
def test_the_tree_does_the_operations_of_the_bound_and_no_more(model, family):
    conditions = layer_masks(EDGES, 5) if family == "layers" else head_masks(EDGES, 5, 4)
    planned = plan_sweep(target_of(model), with_baseline(conditions))
    x = model.example_input(3)
    tree, root = FoldedTree(model), planned.roots[0]
    done = counted_by_torch(lambda: tree.run(root, x, lambda n: None))
    assert done == 3 * flops.count(model.cfg, planned).bound


def test_table_3_at_the_papers_size_costs_a_fifth_of_the_loop():
    cfg = IsoNetConfig({"emg": 12, "acc": 36}, 100, 17)
    planned = plan_sweep(target_of(IsoNet(cfg)), with_baseline(layer_masks(EDGES, 5)))
    n, d, m, h = 49, 512, 128, 8
    parents, nodes = 1 + 3 + 7 + 13, 3 + 7 + 13 + 19
    shared, node = 6 * n * d * d + 2 * n * n * d, 2 * n * n * d + 2 * n * d * d + 4 * n * d * m
    last = 19 * (8 * d * d + 4 * h * n * d + 4 * d * m)
    found = flops.count(cfg, planned)
    assert found.bound == parents * shared + nodes * node + last + 2 * 48 * 100 * d + 19 * 2 * d * 17
    assert found.loop == 31 * (5 * (shared + node) + 2 * 48 * 100 * d + 2 * d * 17)
    assert 5.0 < found.loop / found.bound < 5.2
