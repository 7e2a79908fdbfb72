"""torch's `multi_head_attention_forward`, run so that a function mode sees the steps inside it.

`nn.MultiheadAttention` hands everything to this one function. A mode that is asked about it sees projections, scores,
softmax and output as a single call, and nothing of what happens inside. Here torch's own body runs, without the
question at its head; its calls reach the mode one by one.
"""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def multi_head_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """As `torch.nn.functional.multi_head_attention_forward`; the softmax is taken over `[batch, head, dest, src]`."""
    forward = F.multi_head_attention_forward
    n_heads = inspect.signature(forward).bind(*args, **kwargs).arguments["num_heads"]

    def softmax_of_heads(scores: Tensor, dim: int) -> Tensor:
        return F.softmax(scores.unflatten(0, (-1, n_heads)), dim).flatten(0, 1)

    return _own_body(forward, has_torch_function=lambda _: False, softmax=softmax_of_heads)(*args, **kwargs)


def _own_body(function: Any, **names: Callable) -> Callable:
    """The function with other meanings for some of the global names that it uses."""
    body = FunctionType(function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__)
    body.__kwdefaults__ = function.__kwdefaults__
    return body
