"""Random masks and losses of a reconstruction, compared with numbers of the published code."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from emg_lens.models import TinyMyo, build_model
from emg_lens.training.pretraining.masking import (
    masked_and_visible_errors,
    masked_samples,
    n_patches,
    random_mask,
    token_errors,
    tokens_of_channels,
)
from emg_lens.validation import ArgumentError

FIXTURES = Path(os.environ.get("EMG_LENS_FIXTURES", Path(__file__).parents[4] / "shared" / "fixtures")) / "tinymyo"
NUMBERS = FIXTURES / "small_masked_v1.safetensors"
needs_published = pytest.mark.skipif(not NUMBERS.is_file(), reason=f"no numbers of the authors' code in {FIXTURES}")


@needs_published
def test_losses_of_a_reconstruction_equal_those_of_the_published_code():
    published = load_file(NUMBERS)
    errors = token_errors(published["recon_signal"], published["input"], 4, 1.0)
    masked, visible = masked_and_visible_errors(errors, published["mask_tokens"], torch.ones(2, 24, dtype=torch.bool))
    for name, value in (("masked", masked), ("visible", visible), ("total", masked + 0.1 * visible)):
        assert value.mean().item() == pytest.approx(published[f"loss_{name}"].item(), abs=1e-6), name
    assert torch.equal(masked_samples(published["mask_tokens"], 6, 80), published["mask"])


@needs_published
def test_losses_and_gradients_of_our_model_equal_those_of_the_published_code():
    published = load_file(NUMBERS)
    weights = FIXTURES / "weights_pretrain_v1.safetensors"
    model = TinyMyo.from_published(weights, rope="none", modalities={"emg": 6}, n_samples=80)
    out = model(published["input"], masked=published["mask_tokens"])
    errors = token_errors(out, published["input"], n_patches(model), 1.0)
    masked, visible = masked_and_visible_errors(errors, published["mask_tokens"], torch.ones(2, 24, dtype=torch.bool))
    loss = (masked + 0.1 * visible).mean()
    assert loss.item() == pytest.approx(published["loss_total"].item(), abs=1e-6)
    loss.backward()
    expected = published["grad/mask_token"]
    ours = next(p.grad for name, p in model.named_parameters() if p.grad is not None and "mask" in name)
    assert torch.allclose(ours.flatten(), expected.flatten(), atol=1e-6)


def test_exactly_the_fraction_is_masked_uniformly_and_depends_only_on_the_seed():
    real = np.ones(801, bool)
    masks = np.stack([random_mask(real, 0.5, (0, i)) for i in range(400)])
    assert (masks.sum(1) == 400).all()
    assert np.array_equal(masks[7], random_mask(real, 0.5, (0, 7))) and not np.array_equal(masks[7], masks[8])
    assert np.abs(masks.mean(0) - 0.5).max() < 0.12  # 4.8 standard errors


def test_padded_tokens_are_never_masked():
    real = tokens_of_channels(np.array([[True, False, True]]), 4)[0]
    assert real.tolist() == [True] * 4 + [False] * 4 + [True] * 4
    for i in range(20):
        mask = random_mask(real, 0.5, (i,))
        assert mask.sum() == 4 and not (mask & ~real).any()


@pytest.mark.parametrize("fraction", [0.01, 0.999])
def test_a_fraction_that_masks_no_token_is_refused(fraction):
    with pytest.raises(ArgumentError, match="at least one must be masked"):
        random_mask(np.ones(10 if fraction < 0.5 else 1, bool), fraction, (0,))


def test_errors_are_averaged_over_real_tokens_within_each_window():
    output, signal = torch.randn(3, 2, 13), torch.randn(3, 2, 13)
    errors = token_errors(output, signal, 4, 0.5)
    one = F.smooth_l1_loss(output[1, 1, 6:9], signal[1, 1, 6:9], beta=0.5)
    assert errors.shape == (3, 8) and torch.allclose(errors[1, 6], one)
    masked = torch.zeros(3, 8, dtype=torch.bool)
    masked[:, [1, 2]] = True
    real = torch.ones(3, 8, dtype=torch.bool)
    real[:, 4:] = False
    one, other = masked_and_visible_errors(errors, masked, real)
    assert torch.allclose(one, errors[:, 1:3].mean(1)) and torch.allclose(other, errors[:, [0, 3]].mean(1))
    assert (
        masked_samples(masked, 2, 13)[:, 0].sum(1).tolist() == [6, 6, 6]
        and not masked_samples(masked, 2, 13)[..., 12].any()
    )


def test_models_with_other_tokens_are_refused():
    model = build_model("isonet", modalities={"emg": 3}, n_samples=20, n_classes=2, d_model=8, n_heads=2)
    with pytest.raises(ArgumentError, match="tokens for 3 channels"):
        n_patches(model)
