"""Run torch's `multi_head_attention_forward` so that a function mode receives the calls inside it.

`nn.MultiheadAttention` calls this one function, and a function mode receives only this call. The code here runs torch's
own function body without its first check, so that the mode receives each call inside the body.
"""

import inspect
from collections.abc import Callable
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

    return _own_body(forward, has_torch_function=lambda _: False, softmax=softmax_of_heads)(*args, **kwargs)


def _own_body(function: Any, **names: Callable) -> Callable:
    """Return the function with other values for some of its global names."""
    body = FunctionType(function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__)
    body.__kwdefaults__ = function.__kwdefaults__
    return body
