"""Streams: pieces of any length give the outputs of one window with all samples, with all of the past or a part."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emg_lens.errors import EmgLensError
from emg_lens.hooks import cutting, lag
from emg_lens.models import build_model
from emg_lens.models.attention import Attention

STEPS = {"n_classes": 4, "kernel_samples": 9, "stride": 5}
SMALL = {"d_model": 12, "n_heads": 2, "n_layers": 3, "d_mlp": 16}


def gestures(n_samples=200, **changes):
    torch.manual_seed(0)
    base = {"modalities": {"emg": 3}, **STEPS, **SMALL}
    model = build_model("tinymyo-gestures", n_samples=n_samples, **{**base, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def lstm(n_samples=200, **changes):
    torch.manual_seed(0)
    sizes = {"modalities": {"emg": 3}, **STEPS, "d_model": 12, "n_lstm_layers": 2}
    return build_model("lstm-gestures", n_samples=n_samples, **{**sizes, **changes}).eval()


def inputs(model, batch=2):
    return 20 * model.example_input(batch, seed=1)


def streamed(model, x, lengths, **options):
    """The outputs of all pieces, joined step by step: `[batch, step, modality, output]`."""
    stream, modalities = model.stream(**options), len(model.cfg.modalities) if model.cfg.n_layers else 1
    pieces = [stream.push(piece) for piece in x.split(lengths, dim=-1)]
    joined = torch.cat([piece.unflatten(1, (modalities, -1)) for piece in pieces], dim=2).flatten(1, 2)
    assert stream.n_steps * modalities == joined.shape[1]
    return joined


@st.composite
def piece_lengths(draw, total=200):
    cuts = sorted(draw(st.sets(st.integers(1, total - 1), max_size=12)))
    return [stop - start for start, stop in zip([0, *cuts], [*cuts, total], strict=True)]


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    lengths=piece_lengths(),
    positions=st.sampled_from(["rotary_time", "none", "rotary"]),
    norm=st.sampled_from(["pre", "post"]),
    adjacent=st.booleans(),
)
def test_pieces_of_any_length_give_the_outputs_of_one_window(lengths, positions, norm, adjacent):
    model = gestures(positions=positions, norm=norm, rotary_adjacent_pairs=adjacent)
    x = inputs(model)
    torch.testing.assert_close(streamed(model, x, lengths), model(x), rtol=0, atol=1e-5)


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(lengths=piece_lengths())
def test_a_recurrent_state_continues_where_it_stopped(lengths):
    model = lstm()
    x = inputs(model)
    torch.testing.assert_close(streamed(model, x, lengths), model(x), rtol=0, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    lengths=piece_lengths(), history=st.integers(1, 40), modalities=st.sampled_from([{"emg": 3}, {"emg": 2, "acc": 1}])
)
def test_a_limited_history_is_a_cut_of_the_past(lengths, history, modalities):
    model = gestures(modalities=modalities)
    x, n_steps = inputs(model), model.cfg.n_patches
    found = streamed(model, x, lengths, history=history)
    if history + 1 >= n_steps:
        torch.testing.assert_close(found, model(x), rtol=0, atol=1e-5)
        return
    masked = gestures(modalities=modalities, masked_edges=str(lag(history + 1, n_steps)))
    torch.testing.assert_close(found, masked(x), rtol=0, atol=1e-5)
    with cutting(model, lag(history + 1, n_steps)):
        torch.testing.assert_close(found, model(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_window_of_eight_seconds_of_the_published_size():
    torch.manual_seed(0)
    model = build_model("tinymyo-gestures", modalities={"emg": 16}, n_samples=16000, n_classes=9, n_layers=2).eval()
    x = 20 * model.example_input(1)
    torch.testing.assert_close(streamed(model, x, 1000), model(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_late_steps_are_computed_like_early_ones_in_memory_of_a_fixed_size():
    model = gestures()
    x = 20 * torch.randn(1, 3, 60_000, generator=torch.Generator().manual_seed(0))
    stream = model.stream(history=20)
    late = torch.cat([stream.push(piece) for piece in x.split(100, dim=-1)], dim=1)[:, -40:]
    alone = model.stream(history=20).push(x[..., 59_480:])[:, -40:]  # 103 steps: 3 layers read 3 * 20 steps back
    torch.testing.assert_close(late, alone, rtol=0, atol=1e-5)
    caches = stream.advance.__self__.caches
    assert stream.n_steps == 11_999 and all(cache.memory.shape[3] <= 2 * (20 + 2 * 20) for cache in caches)


def test_samples_wait_until_a_step_is_complete():
    stream = gestures().stream()
    shapes = [tuple(stream.push(torch.zeros(2, 3, n)).shape) for n in (8, 0, 1, 4, 1, 11)]
    assert shapes == [(2, 0, 4), (2, 0, 4), (2, 1, 4), (2, 0, 4), (2, 1, 4), (2, 2, 4)]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"attention_dir": "bidirectional"}, "attention_dir='bidirectional': TinyMyoGestures cannot compute"),
        ({"front_end": "residual"}, "front_end='residual'.*expected front_end='compressed'"),
        ({"readout": "mean"}, "readout='mean'.*expected readout='each'"),
        ({"masked_edges": "lag(3, 9)"}, r"masked_edges='lag\(3, 9\)'.*give history"),
        ({"positions": "learned"}, "positions='learned'.*expected positions='rotary_time' or 'none'"),
        ({"positions": "rotary", "modalities": {"emg": 2, "acc": 1}}, "positions='rotary'"),
    ],
)
def test_what_cannot_be_streamed_is_refused_in_one_line(changes, match):
    with pytest.raises(EmgLensError, match=match) as error:
        gestures(**changes).stream()
    assert "\n" not in str(error.value)


def test_a_changed_attention_hooks_and_training_mode_are_refused():
    class Other(Attention):
        def normalise(self, scores):
            return super().normalise(scores.clamp(max=1))

    model = gestures()
    x, stream = inputs(model), model.stream()
    with pytest.raises(EmgLensError, match="expected .2 recordings, 3 channels, time. .torch.float32."):
        stream.push(x.double())
    stream.push(x)
    with pytest.raises(EmgLensError, match="expected .2 recordings, 3 channels, time."):
        stream.push(x[:1])
    with pytest.raises(EmgLensError, match="training mode"):
        model.train(), stream.push(x)
    model.eval().add_hook("blocks.1.hook_attn_out", lambda value, hook: value)
    with pytest.raises(EmgLensError, match="hooks at .'blocks.1.hook_attn_out'., which a stream would ignore"):
        stream.push(x)
    model.reset_hooks()
    model.blocks[1].attn.__class__ = Other
    with pytest.raises(EmgLensError, match="Other overrides normalise and does not declare folds anew"):
        model.stream()
    with pytest.raises(EmgLensError, match="history"):
        gestures().stream(history=0)
    with pytest.raises(EmgLensError, match="readout='mean' has one output per trial"):
        lstm(readout="mean").stream()
