"""Handles represent signals inside their context only."""

import gc
import weakref

import pytest
import torch
from encoders import make
from hypothesis import given, settings
from hypothesis import strategies as st

from emg_lens.lens import handles as handles_module
from emg_lens.models.isonet import IsoNet, IsoNetConfig


def test_a_handle_gives_the_same_output_as_its_signals():
    model = make()
    x = model.example_input(4)
    with model.handles(x) as tokens:
        assert tokens.dtype == torch.int64 and tokens.shape == (4, 7) and tokens.is_contiguous()
        assert torch.equal(model(tokens), model(x))
        assert torch.equal(model(tokens[2:3]), model(x[2:3]))
        assert torch.equal(model(tokens, stop_at_layer=1), model(x, stop_at_layer=1))
        _, cache = model.run_with_cache(tokens)
        assert torch.equal(cache["embed"], model.embed(x))
        assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=[]), model(x))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_rows_of_open_contexts_can_be_mixed_in_any_order(rows):
    model = make()
    x, other = model.example_input(4, seed=1), model.example_input(3, seed=2)
    with model.handles(x, torch.arange(4)) as tokens, model.handles(other, torch.tensor([4, 0, 1])) as others:
        together = torch.cat([tokens, others])
        found, labels = handles_module.look_up(together[rows], 7)
    assert torch.equal(found, torch.cat([x, other])[rows])
    assert labels.tolist() == [[0, 1, 2, 3, 4, 0, 1][row] for row in rows]


def test_a_handle_that_outlives_its_context_raises():
    model = make()
    with model.handles(model.example_input(2)) as old:
        pass
    with pytest.raises(ValueError, match="inside `with model.handles"):
        model(old)
    with model.handles(model.example_input(2, seed=3)) as new:  # the numbers are not used again
        for stale in (old, torch.cat([new, old])):
            with pytest.raises(ValueError, match="are not handles of an open context"):
                model(stale)
        assert not set(old.flatten().tolist()) & set(new.flatten().tolist())


def test_integers_that_are_no_handles_raise():
    model = make()
    with model.handles(model.example_input(2)) as tokens:
        for wrong in (tokens[:, :3], tokens.flip(0).where(torch.arange(7) < 3, tokens), tokens + torch.arange(7)):
            with pytest.raises(ValueError, match=r"are not handles; expected complete rows \[batch, 7\]"):
                model(wrong)
        with pytest.raises(ValueError, match="are not handles of an open context"):
            model(torch.zeros(2, 7, dtype=torch.int64))
    with pytest.raises(ValueError, match="of floats"):
        model(torch.zeros(2, 6, 6, dtype=torch.int16))


def test_nothing_leaks_after_the_context_also_after_an_error():
    model = make()
    x = model.example_input(2)
    alive = weakref.ref(x)
    with pytest.raises(RuntimeError, match="stop"), model.handles(x) as tokens:
        model(tokens)
        raise RuntimeError("stop")
    assert handles_module._open == {}
    del x
    gc.collect()
    assert alive() is None


def test_contexts_may_close_in_any_order():
    model = make()
    first, second = model.handles(model.example_input(1, seed=1)), model.handles(model.example_input(1, seed=2))
    a, b = first.__enter__(), second.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(model(b), model(model.example_input(1, seed=2)))
    second.__exit__(None, None, None)
    with pytest.raises(ValueError, match="are not handles of an open context"):
        model(a)


def test_wrong_signals_and_labels_are_refused_when_handles_are_made():
    model = make()
    with pytest.raises(ValueError, match=r"shape \[2, 3, 6\].*expected \[batch, 6 channels, 6 samples\]"):
        model.handles(torch.zeros(2, 3, 6))
    with (
        pytest.raises(ValueError, match=r"labels have shape \[3\]; expected one per trial, \[2\]"),
        model.handles(model.example_input(2), torch.zeros(3)),
    ):
        pass


def test_to_tokens_says_what_to_do_instead():
    with pytest.raises(TypeError, match="use handles: `with model.handles"):
        make().to_tokens(torch.zeros(2, 6, 6))
    assert make().to_str_tokens() == ["cls", "emg.0", "emg.1", "emg.2", "emg.3", "acc.0", "acc.1"]


@pytest.mark.parametrize("build", [make, lambda: isonet()])
def test_the_loss_takes_labels_or_those_of_the_handles(build):
    model = build()
    x, y = model.example_input(4), torch.tensor([0, 3, 1, 1])
    expected = torch.nn.functional.cross_entropy(model(x), y)
    torch.testing.assert_close(model(x, return_type="loss", labels=y), expected)
    with model.handles(x, y) as tokens:
        torch.testing.assert_close(model(tokens, return_type="loss"), expected)
        part = model(tokens[[3, 0]], return_type="loss")
        torch.testing.assert_close(part, torch.nn.functional.cross_entropy(model(x[[3, 0]]), y[[3, 0]]))
        with model.handles(x) as unlabelled, pytest.raises(ValueError, match="needs labels"):
            model(torch.cat([tokens, unlabelled]), return_type="loss")
    with pytest.raises(ValueError, match="return_type='loss' needs labels"):
        model(x, return_type="loss")


def isonet():
    torch.manual_seed(0)
    settings = dict(d_model=16, n_heads=2, n_layers=2, d_mlp=8)
    return IsoNet(IsoNetConfig(modalities={"emg": 4, "acc": 2}, n_samples=6, n_classes=5, **settings)).eval()


def test_a_model_without_logits_has_no_loss():
    model = make(readout="none")
    with pytest.raises(ValueError, match="needs logits, and a model with readout=.none. has none"):
        model(model.example_input(1), return_type="loss", labels=torch.tensor([0]))
