"""Compiled encoders: their decision runs through the stated edges, and through no other."""

import itertools

import numpy as np
import pytest
import torch

from emg_lens import Condition, edges_from_mask, self_edges, sweep
from emg_lens.analysis import compiled_encoder
from emg_lens.sweeps.live_edges import reach
from emg_lens.validation import ArgumentError

VARIANTS = ("single", "xor", "distractor", "saturated", "backup", "renorm", "standby", "negative")
CASES = [(variant, seed, norm) for variant in VARIANTS for seed, norm in ((0, "post"), (1, "pre"))]


def shape_of(task):
    return task.layout, task.model.cfg.n_layers, task.model.cfg.n_heads


def margins(task, cuts):
    """The margin of every trial for each of several masks of cut edges; the unmasked model first."""
    conditions = [Condition(f"cut {i}", edges_from_mask(cut)) for i, cut in enumerate(cuts)]
    logits = sweep(task.model, task.x, conditions).logits
    own = [logits[name] for name in ("baseline", *(one.name for one in conditions))]
    return torch.stack([one.gather(1, task.y[:, None])[:, 0] - one.gather(1, 1 - task.y[:, None])[:, 0] for one in own])


def masks_of(task):
    """Masks of candidates (live edges but self-edges), of true and of negative edges."""
    shape = shape_of(task)
    candidates = np.ones((*shape[1:], len(task.layout), len(task.layout)), bool)
    live = reach(torch.zeros(candidates.shape, dtype=torch.bool), task.model.readout_positions).live_rows
    candidates &= live[:, None, :, None].numpy() & ~self_edges().mask(*shape).numpy()
    return candidates, task.truth.mask(*shape).numpy(), task.negative.mask(*shape).numpy()


@pytest.mark.parametrize(("variant", "seed", "norm"), CASES)
def test_the_task_is_solved_and_balanced(variant, seed, norm):
    task = compiled_encoder(variant, seed, norm)
    assert bool((task.model(task.x).argmax(1) == task.y).all())
    assert int(task.y.sum()) * 2 == len(task.y)
    candidates, true, negative = masks_of(task)
    assert not (true & ~candidates).any()
    assert not (negative & ~candidates).any()
    assert (variant == "negative") == negative.any()


@pytest.mark.parametrize(("variant", "seed", "norm"), CASES)
def test_only_the_circuit_matters_in_the_clean_tier(variant, seed, norm):
    task = compiled_encoder(variant, seed, norm, tier="clean")
    candidates, true, negative = masks_of(task)
    others = candidates & ~true & ~negative
    rng = np.random.default_rng(seed)
    some = []
    for edge in rng.permutation(np.argwhere(others))[:40]:
        some.append(np.zeros_like(others))
        some[-1][tuple(edge)] = True
    full, alone, *single = margins(task, [others, *some])
    assert float((full.mean() - alone.mean()).abs()) <= 1e-3
    assert float((full - alone).abs().max()) <= 1e-3
    assert max(float((one - full).abs().max()) for one in single) <= 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tier", ["clean", "leaky"])
def test_the_norm_does_not_matter(variant, tier):
    post, pre = (compiled_encoder(variant, 2, norm, tier=tier) for norm in ("post", "pre"))
    assert torch.equal(post.x, pre.x)
    with torch.no_grad():
        assert float((post.model(post.x) - pre.model(pre.x)).abs().max()) <= 1e-4


@pytest.mark.parametrize(("variant", "seed", "norm"), CASES)
def test_each_route_is_minimal_and_sufficient(variant, seed, norm):
    task = compiled_encoder(variant, seed, norm, tier="clean")
    candidates, true, _ = masks_of(task)
    routes = [route.mask(*shape_of(task)).numpy() for route in task.routes]
    assert len(routes) == (2 if variant in ("backup", "renorm", "standby") else 1)
    assert np.array_equal(np.logical_or.reduce(routes), true)
    parts = []
    for route in routes:
        for edge in np.argwhere(route):
            parts.append(route.copy())
            parts[-1][tuple(edge)] = False
    full, none, lost, *kept = margins(task, [candidates, true, *(candidates & ~one for one in [*routes, *parts])]).mean(
        1
    )
    assert float(none) == pytest.approx(0, abs=1e-3)
    assert float(lost) < 0.1 * float(full)
    for number, metric in enumerate(kept):
        assert (float(metric) >= 0.9 * float(full)) == (number < len(routes))


@pytest.mark.parametrize("seed", range(3))
def test_the_negative_edge_lowers_the_margin(seed):
    task = compiled_encoder("negative", seed, tier="clean")
    full, without = margins(task, [masks_of(task)[2]]).mean(1)
    assert float(without) > float(full) + 0.5


def test_the_circuit_has_ordinary_attention():
    task = compiled_encoder("single", 0)
    _, cache = task.model.run_with_cache(task.x[:1])
    pattern = torch.stack([cache["pattern", layer][0] for layer in range(3)])
    candidates, true, _ = masks_of(task)
    others = pattern[torch.from_numpy(candidates & ~true)]
    assert float(pattern[torch.from_numpy(true)].max()) < 0.3
    assert int((others > 0.3).sum()) > 20


@pytest.mark.parametrize(
    ("modalities", "n_layers"), [({"emg": 16, "acc": 3}, 3), ({"emg": 2, "acc": 1, "force": 1}, 4), ({"emg": 8}, 3)]
)
def test_other_sizes(modalities, n_layers):
    for variant, seed in itertools.product(("xor", "renorm"), (0, 1)):
        task = compiled_encoder(variant, seed, tier="clean", modalities=modalities, n_layers=n_layers)
        candidates, true, negative = masks_of(task)
        full, alone, lost = margins(task, [candidates & ~true & ~negative, true]).mean(1)
        assert float(full) == pytest.approx(2, abs=0.05)
        assert float(alone) == pytest.approx(float(full), abs=2e-3)
        assert float(lost) < 0.2


def test_seeds_differ_and_repeat():
    one, again, other = (compiled_encoder("xor", seed) for seed in (0, 0, 1))
    assert torch.equal(one.model(one.x), again.model(again.x))
    assert one.truth == again.truth
    assert one.truth != other.truth


def test_refusals():
    with pytest.raises(ArgumentError, match="variant"):
        compiled_encoder("or")
    with pytest.raises(ArgumentError, match="n_trials"):
        compiled_encoder("xor", n_trials=5)
    with pytest.raises(ArgumentError, match="4"):
        compiled_encoder("xor", modalities={"emg": 2, "acc": 1})
