"""AdamW on vectors of parameters (Loshchilov and Hutter 2019): its moments, and a step."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adamw import adamw

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW remembers of a vector, as torch names it."""

Key = TypeVar("Key")


class VectorAdamW(Generic[Key]):
    """AdamW's state of some vectors.

    Attributes:
        moments: Of each vector, by its key, then by the names of `MOMENTS`.
    """

    def __init__(self, vectors: Mapping[Key, Float[Tensor, " value"]]) -> None:
        self.moments = {
            key: {
                "exp_avg": torch.zeros_like(vector),
                "exp_avg_sq": torch.zeros_like(vector),
                "step": torch.zeros((), device=vector.device),
            }
            for key, vector in vectors.items()
        }

    def step(
        self,
        keys: Iterable[Key],
        vectors: Sequence[Tensor],
        slopes: Sequence[Tensor],
        lr: float,
        weight_decay: float,
    ) -> None:
        """Move the vectors of these keys along their slopes; the others, and what is remembered of them, stay."""
        own = [self.moments[key] for key in keys]
        moments = [[each[kind] for each in own] for kind in MOMENTS]
        # The function, not the class, whose first use imports torch's compiler: a second in every worker.
        with torch.no_grad():
            adamw(
                list(vectors), list(slopes), moments[0], moments[1], [], moments[2], fused=True, amsgrad=False,
                maximize=False, beta1=0.9, beta2=0.999, eps=1e-8, lr=lr, weight_decay=weight_decay,
            )  # fmt: skip
