"""Cuts of few rows in the folded tree, against one forward with hooks for each condition."""

import numpy as np
import pytest
import torch

from emg_lens import Condition, build_model, sweep
from emg_lens.hooks import EdgeCut, Replace, cross_modal, edges_from_mask, positions
from emg_lens.sweeps.executors import folded_rows

SIZES = {"n_samples": 8, "n_classes": 3, "d_model": 16, "n_heads": 2, "n_layers": 3, "d_mlp": 8}
MODALITIES = {"emg": 5, "acc": 4}
N = 10


def isonet(**fields):
    torch.manual_seed(0)
    model = build_model("isonet", modalities=MODALITIES, **SIZES | fields).eval()
    for name, parameter in model.named_parameters():
        if "b_" in name.split(".")[-1]:
            torch.nn.init.normal_(parameter)
    return model


def single_cuts(n_layers=3, n=12):
    """One cut of one edge or of two rows in one layer, in one head or in all."""
    rng, conditions = np.random.default_rng(0), []
    for layer in range(n_layers):
        for i in range(n):
            mask = np.zeros((n_layers, 2, N, N), bool)
            heads = slice(None) if i % 2 else 0
            mask[layer, heads, rng.integers(N), rng.integers(1, N)] = True
            mask[layer, heads, rng.integers(N), rng.integers(1, N)] |= i % 3 == 0
            conditions.append(Condition(f"L{layer} {i}", edges_from_mask(mask)))
    return conditions


@pytest.mark.parametrize("fields", [{}, {"norm": "pre"}, {"readout": "mean"}, {"masked_edges": "flow('cls', 'acc')"}])
def test_single_cuts_give_the_logits_of_the_loop(fields, monkeypatch):
    model = isonet(**fields)
    x, conditions = model.example_input(6), single_cuts()
    conditions += [
        Condition("empty row", positions(dest=[4]).at(layers=0)),
        Condition("empty row in one head", positions(dest=[4]).at(layers=0, heads=1)),
        Condition("one row in two layers", positions(dest=[3], src=[5]).at(layers=[0, 1])),
        Condition("many rows", cross_modal().at(layers=1)),
        Condition("another input", (Replace("acc", by="zero"), EdgeCut(positions(dest=[2], src=[6]).at(layers=0)))),
        Condition("that input uncut", (Replace("acc", by="zero"),)),
    ]
    used = []
    after = folded_rows.FewRows.after
    monkeypatch.setattr(folded_rows.FewRows, "after", lambda self, mask: used.append(mask) or after(self, mask))
    shared, loop = (sweep(model, x, conditions, executor=executor) for executor in ("tree", "loop"))
    assert shared.executor == "folded"
    assert len([mask for mask in used if mask is not None]) > 12  # the rows were computed alone
    for name, logits in loop.logits.items():
        assert torch.allclose(shared.logits[name], logits, atol=1e-5), name
    assert max(float((loop.logits[one.name] - loop.logits["baseline"]).abs().max()) for one in conditions) > 1e-3


def test_rotary_positions_and_patches():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 3, "d_mlp": 8, "patch_samples": 4}
    model = build_model("tinymyo", modalities={"emg": 5}, n_samples=8, n_classes=3, positions="rotary", **sizes).eval()
    assert len(model.layout) == N
    conditions, x = single_cuts(), model.example_input(4)
    shared, loop = (sweep(model, x, conditions, executor=executor) for executor in ("tree", "loop"))
    assert shared.executor == "folded"
    assert max(float((shared.logits[one] - loop.logits[one]).abs().max()) for one in loop.logits) < 1e-5


def test_an_interrupted_sweep_gives_the_same_bits(tmp_path):
    model = isonet()
    conditions, x = single_cuts(), model.example_input(6)
    whole = sweep(model, x, conditions, batch_size=3)
    calls = []

    def stop(fraction):
        calls.append(fraction)
        if fraction > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(model, x, conditions, batch_size=3, checkpoint=tmp_path / "sweep", on_progress=stop)
    resumed = sweep(model, x, conditions, batch_size=3, checkpoint=tmp_path / "sweep")
    assert all(torch.equal(resumed.logits[name], logits) for name, logits in whole.logits.items())
