"""AdamW (Loshchilov and Hutter 2019) on vectors that hold many parameters."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adamw import adamw

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""State of AdamW for one vector, by torch's names."""

Key = TypeVar("Key")


class VectorAdamW(Generic[Key]):
    """State of AdamW for several vectors."""

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
        gradients: Sequence[Tensor],
        lrs: Sequence[float],
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        """Update some vectors. The other vectors and their state do not change."""
        moments_of = [self.moments[key] for key in keys]
        for lr in dict.fromkeys(lrs):
            chosen = [i for i, rate in enumerate(lrs) if rate == lr]
            moments = [[moments_of[i][kind] for i in chosen] for kind in MOMENTS]
            # The function and not the class: the first use of the class imports torch's compiler, one second a worker.
            with torch.no_grad():
                adamw(
                    [vectors[i] for i in chosen], [gradients[i] for i in chosen], moments[0], moments[1], [],
                    moments[2], fused=True, amsgrad=False, maximize=False, beta1=betas[0], beta2=betas[1], eps=1e-8,
                    lr=lr, weight_decay=weight_decay,
                )  # fmt: skip
