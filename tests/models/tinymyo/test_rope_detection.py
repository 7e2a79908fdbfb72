"""Small models that are trained in each mode on signals with structure in time: is the mode found again?"""

import pytest
import torch
import torch.nn.functional as F

from emg_lens.models import RopeDetection, TinyMyo, build_model, detect_rope_mode

SIZES = dict(n_samples=80, patch_samples=10, n_classes=0, head="reconstruction", d_model=32, n_heads=2, n_layers=2)
QUIET = dict(d_mlp=64, dropout=0.0, hidden_dropout=0.0, drop_path=0.0)
POSITIONS = {"none": "none", "token": "rotary", "time": "rotary_time"}


def windows(n: int, seed: int) -> torch.Tensor:
    """Three channels of one signal and a little noise, scaled to -1 to 1.

    It is the sum of two waves. The first is rectangular, with a patch as its period, in one of four phases: a hidden
    token can be predicted from other tokens without any position. The second is slow: its prediction needs positions.
    """
    draw = torch.Generator().manual_seed(seed)
    time = torch.arange(80) / 80
    phase, slow_phase, rate = torch.rand(3, n, 1, 1, generator=draw)
    fast = torch.sign(torch.sin(2 * torch.pi * (8 * time + (4 * phase).floor() / 4 + 1e-3)))
    slow = torch.sin(2 * torch.pi * ((0.5 + 1.5 * rate) * time + slow_phase))
    x = (fast + 0.5 * slow).repeat(1, 3, 1) + 0.05 * torch.randn(n, 3, 80, generator=draw)
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    return (x - low) / (high - low) * 2 - 1


def train(mode: str, seed: int, steps: int = 320) -> TinyMyo:
    torch.manual_seed(seed)
    model = build_model("tinymyo", modalities={"emg": 3}, positions=POSITIONS[mode], **SIZES, **QUIET).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    x = windows(2048, seed)
    for _ in range(steps):
        batch = x[torch.randint(len(x), (32,))]
        hidden = torch.rand(32, 24) < 0.5
        samples = hidden.repeat_interleave(10, 1).view(32, 3, 80)
        loss = F.smooth_l1_loss(model(batch, masked=hidden)[samples], batch[samples])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("mode", POSITIONS)
def test_the_mode_of_training_is_found_again(mode, seed):
    model = train(mode, seed)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = detect_rope_mode(model, windows(250, 100 + seed))
    assert found.winner == mode, found
    assert found.is_clear or mode == "none", found  # what was learned without positions feels their turning little
    assert found.spread["none"] < 1e-5 and list(found.losses)[0] == mode
    assert model.cfg.rope == mode and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_an_untrained_model_gives_no_clear_winner():
    torch.manual_seed(0)
    model = build_model("tinymyo", modalities={"emg": 3}, **SIZES, **QUIET).eval()
    with torch.no_grad():
        model.unembed.W_U.zero_()  # whatever the positions, the same samples
    found = detect_rope_mode(model, windows(20, 0))
    assert not found.is_clear and "not clear" in repr(found) and isinstance(found, RopeDetection)


@pytest.mark.parametrize("seed", range(6))
def test_a_model_that_fills_in_nothing_gives_no_clear_winner(seed):
    torch.manual_seed(seed)
    model = build_model("tinymyo", modalities={"emg": 3}, positions="rotary", **SIZES, **QUIET).eval()
    found = detect_rope_mode(model, windows(200, seed))
    assert found.p < 1 and min(found.losses.values()) > found.fill_loss and not found.is_clear


def test_a_channel_that_is_silent_in_all_windows_is_no_window_left_out():
    torch.manual_seed(0)
    model = build_model("tinymyo", modalities={"emg": 3}, positions="rotary", **SIZES, **QUIET).eval()
    x = windows(9, 0)
    x[:, 2] = 0.0
    assert len(detect_rope_mode(model, x).windows) == 9


def test_the_filling_is_the_mean_of_what_is_visible():
    torch.manual_seed(0)
    model, x = build_model("tinymyo", modalities={"emg": 3}, **SIZES, **QUIET).eval(), windows(7, 0)
    hidden = torch.rand(7, 24, generator=torch.Generator().manual_seed(0)).argsort(1) < 12
    samples = hidden.repeat_interleave(10, 1).view(7, 3, 80)
    losses = []
    for window, away in zip(x, samples, strict=True):
        for signal, gone in zip(window, away, strict=True):
            mean = signal[~gone].mean() if not gone.all() else torch.zeros(())
            losses += F.smooth_l1_loss(mean.expand(int(gone.sum())), signal[gone], reduction="none").tolist()
    assert detect_rope_mode(model, x).fill_loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_losses_are_those_of_the_models_own_forward():
    torch.manual_seed(0)
    model = build_model("tinymyo", modalities={"emg": 3}, positions="rotary_time", **SIZES, **QUIET).eval()
    x = windows(5, 0)
    found = detect_rope_mode(model, x, batch_size=2)
    hidden = torch.rand(5, 24, generator=torch.Generator().manual_seed(0)).argsort(1) < 12
    samples = hidden.repeat_interleave(10, 1).view(5, 3, 80)
    with torch.no_grad():
        out = model(x, masked=hidden)
    expected = [F.smooth_l1_loss(out[k][samples[k]], x[k][samples[k]]).item() for k in range(5)]
    assert found.windows["time"].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "x", "options", "message"),
    [
        ({"head": "classification", "n_classes": 2}, windows(4, 0), {}, "needs a model with head='reconstruction'"),
        ({}, windows(2, 0), {}, "2 windows between"),
        ({}, 5 * windows(4, 0), {}, "each channel of each window scaled to -1 to 1"),
        ({}, -torch.ones(40, 3, 80), {}, "without constant windows"),
        ({}, 1e-3 * windows(4, 0), {}, "each channel of each window scaled to -1 to 1"),
        ({}, torch.cat([windows(4, 0), -torch.ones(4, 3, 80)]), {}, "without constant windows"),
        ({}, windows(4, 0).repeat(9, 1, 1), {}, "only 4 of 36 windows are different; give each window once"),
        ({}, windows(4, 0), {"modes": ["time"]}, "expected two or more of none, token, time"),
        ({}, windows(4, 0), {"hidden_fraction": 0.05}, "hides 1; expected two or more"),
        ({}, windows(4, 0)[:, :2], {}, "expected .batch, 3 channels, 80 samples"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, x, options, message):
    model = build_model("tinymyo", modalities={"emg": 3}, **{**SIZES, **QUIET, **changes})
    with pytest.raises(ValueError, match=message):
        detect_rope_mode(model, x, **options)
