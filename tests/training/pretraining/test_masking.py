"""Which tokens are hidden, and the loss, against the numbers of the published code."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from emg_lens.models import TinyMyo, build_model
from emg_lens.training.pretraining.masking import (
    draw_mask,
    masked_and_visible,
    n_patches,
    of_samples,
    of_tokens,
    token_errors,
)
from emg_lens.validation import ArgumentError

FIXTURES = Path(os.environ.get("EMG_LENS_FIXTURES", Path(__file__).parents[3] / "shared" / "fixtures")) / "tinymyo"
NUMBERS = FIXTURES / "small_masked_v1.safetensors"
published = pytest.mark.skipif(not NUMBERS.is_file(), reason=f"no numbers of the authors' code in {FIXTURES}")


@published
def test_losses_of_a_reconstruction_are_those_of_the_published_code():
    found = load_file(NUMBERS)
    errors = token_errors(found["recon_signal"], found["input"], 4, 1.0)
    masked, visible = masked_and_visible(errors, found["mask_tokens"], torch.ones(2, 24, dtype=torch.bool))
    for name, value in (("masked", masked), ("visible", visible), ("total", masked + 0.1 * visible)):
        assert value.mean().item() == pytest.approx(found[f"loss_{name}"].item(), abs=1e-6), name
    assert torch.equal(of_samples(found["mask_tokens"], 6, 80), found["mask"])


@published
def test_losses_and_gradients_of_the_model_itself_are_those_of_the_published_code():
    found = load_file(NUMBERS)
    weights = FIXTURES / "weights_pretrain_v1.safetensors"
    model = TinyMyo.from_published(weights, rope="none", modalities={"emg": 6}, n_samples=80)
    out = model(found["input"], masked=found["mask_tokens"])
    errors = token_errors(out, found["input"], n_patches(model), 1.0)
    masked, visible = masked_and_visible(errors, found["mask_tokens"], torch.ones(2, 24, dtype=torch.bool))
    loss = (masked + 0.1 * visible).mean()
    assert loss.item() == pytest.approx(found["loss_total"].item(), abs=1e-6)
    loss.backward()
    theirs = found["grad/mask_token"]
    ours = next(p.grad for name, p in model.named_parameters() if p.grad is not None and "mask" in name)
    assert torch.allclose(ours.flatten(), theirs.flatten(), atol=1e-6)


def test_exactly_the_share_is_masked_uniformly_and_the_same_for_the_same_seed():
    real = np.ones(801, bool)
    drawn = np.stack([draw_mask(real, 0.5, (0, i)) for i in range(400)])
    assert (drawn.sum(1) == 400).all()
    assert np.array_equal(drawn[7], draw_mask(real, 0.5, (0, 7))) and not np.array_equal(drawn[7], drawn[8])
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.12  # 4.8 standard errors


def test_padded_tokens_are_never_masked():
    real = of_tokens(np.array([[True, False, True]]), 4)[0]
    assert real.tolist() == [True] * 4 + [False] * 4 + [True] * 4
    for i in range(20):
        mask = draw_mask(real, 0.5, (i,))
        assert mask.sum() == 4 and not (mask & ~real).any()


@pytest.mark.parametrize("share", [0.01, 0.999])
def test_a_share_that_hides_nothing_is_refused(share):
    with pytest.raises(ArgumentError, match="some must be masked"):
        draw_mask(np.ones(10 if share < 0.5 else 1, bool), share, (0,))


def test_means_are_over_the_tokens_that_count_in_each_window():
    found, wanted = torch.randn(3, 2, 13), torch.randn(3, 2, 13)
    errors = token_errors(found, wanted, 4, 0.5)
    one = F.smooth_l1_loss(found[1, 1, 6:9], wanted[1, 1, 6:9], beta=0.5)
    assert errors.shape == (3, 8) and torch.allclose(errors[1, 6], one)
    masked = torch.zeros(3, 8, dtype=torch.bool)
    masked[:, [1, 2]] = True
    real = torch.ones(3, 8, dtype=torch.bool)
    real[:, 4:] = False
    one, other = masked_and_visible(errors, masked, real)
    assert torch.allclose(one, errors[:, 1:3].mean(1)) and torch.allclose(other, errors[:, [0, 3]].mean(1))
    assert of_samples(masked, 2, 13)[:, 0].sum(1).tolist() == [6, 6, 6] and not of_samples(masked, 2, 13)[..., 12].any()


def test_models_of_other_tokens_are_refused():
    model = build_model("isonet", modalities={"emg": 3}, n_samples=20, n_classes=2, d_model=8, n_heads=2)
    with pytest.raises(ArgumentError, match="tokens for 3 channels"):
        n_patches(model)
