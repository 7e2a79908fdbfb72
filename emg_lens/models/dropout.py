"""Fast dropout on a CPU: 64 random bits decide about four values.

torch's own `F.dropout` uses one random number per value on a CPU, and takes longer than the layer around it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16
"""Probabilities of a mask are multiples of 1 / LEVELS, because each value uses 16 random bits."""


def drop(x: Tensor, p: float) -> Tensor:
    """Set each value to zero with probability `p`, and scale the others so that the expectation is kept."""
    if not p:
        return x
    return x * keep_mask(x.shape, p, x.dtype) if on_plain_cpu(x) else F.dropout(x, p)


def on_plain_cpu(x: Tensor) -> bool:
    """Whether `x` is a plain tensor in CPU memory, and not wrapped by a `torch.func` transform."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)  # pyright: ignore[reportAttributeAccessIssue]
    return x.device.type == "cpu" and not wrapped


def keep_mask(shape: tuple[int, ...], p: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Make a dropout mask on the CPU with torch's random generator: 0 with probability `p`, otherwise 1 / (1 - p).

    `p` is rounded to a multiple of 2^-16, also in the scale of the kept values.
    """
    dropped = min(round(p * LEVELS), LEVELS - 1)
    mask = torch.empty(shape, dtype=dtype)
    bits = torch.empty(-(-mask.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    values = bits.view(torch.int16)[: mask.numel()].view(shape)
    torch.ge(values, dropped - LEVELS // 2, out=mask)
    return mask.mul_(LEVELS / (LEVELS - dropped))
