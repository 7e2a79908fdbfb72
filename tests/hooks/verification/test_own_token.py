"""The cut of all edges between different tokens: values are read without a product, unless the pattern was changed."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from emg_lens.hooks.verification.installed_point import installed
from emg_lens.hooks.verification.own_token import OnlyOwnToken

HEADS, TOKENS, WIDTH = 2, 6, 8


class Eager(nn.Module):
    """Attention of two heads by matrix products; `change` may change the pattern."""

    def __init__(self, change=lambda pattern: pattern, merged=False):
        super().__init__()
        self.qkv, self.change, self.merged = nn.Linear(WIDTH, 3 * WIDTH), change, merged

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        pattern = nn.functional.dropout(self.change((q @ k.transpose(-1, -2)).softmax(-1)), 0.1, self.training)
        if self.merged:
            return (
                torch.bmm(pattern.flatten(0, 1), v.flatten(0, 1)).unflatten(0, (-1, HEADS)).transpose(1, 2).flatten(2)
            )
        return torch.matmul(pattern, v).transpose(1, 2).flatten(2)


def run(model, cross=False):
    """Return the output with the edges cut, the input, and the floating point operations of the attention alone."""
    x = torch.randn(3, TOKENS, WIDTH)
    edited = installed(model, "attention_mask", OnlyOwnToken(cross))
    with torch.no_grad(), edited, FlopCounterMode(display=False) as counter:
        out = model(x)
    return out, x, counter.get_total_flops() - 2 * 3 * TOKENS * WIDTH * 3 * WIDTH


ONE_PRODUCT = 2 * 3 * HEADS * TOKENS**2 * WIDTH // HEADS


def test_each_token_reads_its_own_value_without_a_product():
    model = Eager().eval()
    out, x, flops = run(model)
    torch.testing.assert_close(out, model.qkv(x)[..., 2 * WIDTH :], rtol=0, atol=0)
    assert flops == ONE_PRODUCT  # of the scores
    out, _, flops = run(model, cross=True)
    assert not out.any() and flops == ONE_PRODUCT


def test_a_pattern_in_another_shape_is_multiplied():
    model = Eager(merged=True).eval()
    out, x, flops = run(model)
    torch.testing.assert_close(out, model.qkv(x)[..., 2 * WIDTH :], rtol=0, atol=1e-6)
    assert flops == 2 * ONE_PRODUCT


def leak_in_place(pattern):
    pattern[..., 1, 0] += 0.5
    return pattern


def leak_in_a_copy(pattern):
    return pattern + 0.5 * torch.eye(TOKENS).roll(1, 0)


@pytest.mark.parametrize("leak", [leak_in_place, leak_in_a_copy])
def test_attention_that_the_module_adds_to_the_pattern_is_not_lost(leak):
    model = Eager(leak).eval()
    out, x, _ = run(model)
    value = model.qkv(x)[..., 2 * WIDTH :]
    torch.testing.assert_close(out[:, 1], value[:, 1] + 0.5 * value[:, 0])


def test_a_module_that_writes_into_its_output_does_not_change_its_values():
    class Writes(Eager):
        def forward(self, x):
            value = self.qkv(x)[..., 2 * WIDTH :].unflatten(-1, (HEADS, -1)).transpose(1, 2)
            out = (value @ value.transpose(-1, -2)).softmax(-1) @ value
            return out.mul_(2) + value

    model = Writes().eval()
    out, x, _ = run(model)
    torch.testing.assert_close(out.transpose(1, 2).flatten(2), 3 * model.qkv(x)[..., 2 * WIDTH :])
