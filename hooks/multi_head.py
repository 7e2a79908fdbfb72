"""Run torch's `multi_head_attention_forward` so that a function mode receives the calls inside it.

A function mode receives only the call of this function. So torch's own function body runs without its first check.
"""

import inspect
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def multi_head_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """Run `torch.nn.functional.multi_head_attention_forward`, with the softmax over `[batch, head, dest, src]`."""
    forward = F.multi_head_attention_forward
    n_heads = inspect.signature(forward).bind(*args, **kwargs).arguments["num_heads"]

    def softmax_of_heads(scores: Tensor, dim: int) -> Tensor:
        return F.softmax(scores.unflatten(0, (-1, n_heads)), dim).flatten(0, 1)

    names = {**forward.__globals__, "has_torch_function": lambda _: False, "softmax": softmax_of_heads}
    body = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__)
    body.__kwdefaults__ = forward.__kwdefaults__
    return body(*args, **kwargs)
