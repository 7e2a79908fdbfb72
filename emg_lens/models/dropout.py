"""Dropout whose masks cost little on a CPU: one draw of 64 random bits decides about four values.

torch's own `F.dropout` draws a random number a value there, and takes longer than the layer around it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16
"""Chances of a mask are multiples of 1 / LEVELS: a value's share of a draw is 16 bits."""


def drop(x: Tensor, p: float) -> Tensor:
    """`x` with each value zero with probability `p`, the others scaled so that the expectation is kept."""
    if not p:
        return x
    return x * keep_mask(x.shape, p, x.dtype) if on_plain_cpu(x) else F.dropout(x, p)


def on_plain_cpu(x: Tensor) -> bool:
    """Whether `x` lies in CPU memory as it looks: inside `torch.func` transforms a tensor stands for many."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)  # pyright: ignore[reportAttributeAccessIssue]
    return x.device.type == "cpu" and not wrapped


def keep_mask(shape: tuple[int, ...], p: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A dropout mask for the CPU, drawn from torch's generator: 0 with probability `p`, else 1 / (1 - p).

    `p` is rounded to a multiple of 2^-16, and the kept values are scaled by what that leaves.
    """
    dropped = min(round(p * LEVELS), LEVELS - 1)
    mask = torch.empty(shape, dtype=dtype)
    bits = torch.empty(-(-mask.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    values = bits.view(torch.int16)[: mask.numel()].view(shape)
    torch.ge(values, dropped - LEVELS // 2, out=mask)
    return mask.mul_(LEVELS / (LEVELS - dropped))
