"""The update of attention after a change of few rows, against the plain attention of the folded tree and the loop."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from emg_lens import Condition, build_model, sweep
from emg_lens.hooks import edges_from_mask
from emg_lens.sweeps.executors.folded_attention import OneByOne, SharedScores
from emg_lens.sweeps.executors.folded_block import folded_layers
from emg_lens.sweeps.executors.folded_update import StoredAttention, pays_to_update

N = 10
SIZES = {"n_samples": 8, "n_classes": 3, "d_model": 64, "n_heads": 2, "n_layers": 4, "d_mlp": 8}


def isonet(sharpness=1.0, **fields):
    """Make an encoder with biases and, on request, sharp attention."""
    torch.manual_seed(0)
    model = build_model("isonet", modalities={"emg": 5, "acc": 4}, **SIZES | fields).eval()
    for name, parameter in model.named_parameters():
        if "b_" in name.split(".")[-1]:
            torch.nn.init.normal_(parameter)
        if name.endswith("W_Q"):
            parameter.data *= sharpness
    return model


def single_cuts():
    """Cut one edge, or edges of two rows, in each layer."""
    rng, conditions = np.random.default_rng(0), []
    for layer in range(SIZES["n_layers"]):
        for i in range(12):
            mask = np.zeros((SIZES["n_layers"], 2, N, N), bool)
            mask[layer, slice(None) if i % 2 else 0, rng.integers(N), rng.integers(1, N)] = True
            mask[layer, :, rng.integers(N), rng.integers(1, N)] |= i % 3 == 0
            conditions.append(Condition(f"L{layer} {i}", edges_from_mask(mask)))
    return conditions


@pytest.fixture
def results(monkeypatch):
    """Whether each update was possible."""
    found, changed = [], StoredAttention.changed

    def noted(self, resid, rows):
        mid = changed(self, resid, rows)
        found.append(mid is not None)
        return mid

    monkeypatch.setattr(StoredAttention, "changed", noted)
    return found


@pytest.mark.parametrize(
    "fields",
    [{}, {"norm": "pre"}, {"readout": "mean"}, {"masked_edges": "flow('cls', 'acc')"}, {"sharpness": 60.0}],
    ids=str,
)
def test_single_cuts_give_the_logits_of_the_loop(fields, results):
    model = isonet(**fields)
    x, conditions = model.example_input(6), single_cuts()
    updated, loop = (sweep(model, x, conditions, executor=executor) for executor in ("tree", "loop"))
    assert updated.executor == "folded"
    assert len(results) >= 24
    assert all(results) == (fields != {"sharpness": 60.0})
    for name, logits in loop.logits.items():
        assert torch.allclose(updated.logits[name], logits, atol=1e-5), name
    assert max(float((loop.logits[one.name] - loop.logits["baseline"]).abs().max()) for one in conditions) > 1e-3


@given(
    rows=st.lists(st.integers(0, N - 1), min_size=1, max_size=4, unique=True),
    plain=st.sampled_from([OneByOne, SharedScores]),
    size=st.floats(0, 3),
    masked=st.booleans(),
)
def test_an_update_equals_attention_of_the_changed_input(rows, plain, size, masked):
    model = isonet(**{"masked_edges": "flow('cls', 'acc')"} if masked else {})
    layer = folded_layers(model)[1]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        resid, rows = model.residual_in(model.example_input(3)), torch.tensor(rows)
        stored, before = StoredAttention(layer, layer.pack(resid).clone()), resid.clone()
        resid[:, rows] += size * torch.randn(3, len(rows), 64, generator=generator)
        found = stored.changed(resid, rows)
        assume(found is not None)  # nearly all attention was on these rows: the plain path is used
        found = found.clone()
        assert torch.allclose(found, plain(layer, resid)(None), atol=1e-5)
        assert torch.allclose(stored.changed(before, rows), plain(layer, before)(None), atol=1e-5)  # it is used again


def test_an_update_that_would_lose_digits_is_refused():
    model = isonet()
    layer = folded_layers(model)[1]
    with torch.no_grad():
        resid, row = model.residual_in(model.example_input(3)), torch.tensor([4])
        query = layer.unpack(layer.pack(resid))[0][0, 0, 1]
        resid[:, 4] = 100 * layer.attn.W_K[0] @ query  # one destination reads nothing else
        stored = StoredAttention(layer, layer.pack(resid).clone())
        assert stored.pattern[..., 4].max() > 0.999
        resid[:, 4] = 0.0
        assert stored.changed(resid, row) is None
        resid[:, 4] = torch.nan
        assert stored.changed(resid, row) is None


def test_updates_are_for_wide_heads_and_few_rows_without_rotation():
    layer = folded_layers(isonet())[0]
    assert pays_to_update(layer, N, 2)
    assert not pays_to_update(layer, N, 3)
    assert not pays_to_update(layer, 800, 1)
    assert not pays_to_update(folded_layers(isonet(positions="rotary"))[0], N, 1)
    assert not pays_to_update(folded_layers(isonet(masked_edges="positions(dest=[4])"))[0], N, 1)
