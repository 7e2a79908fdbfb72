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
        lrs: Sequence[float],
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        """Move the vectors of these keys along their slopes; the others, and what is remembered of them, stay.

        Args:
            keys: Which vectors move.
            vectors: They themselves.
            slopes: Their gradients.
            lrs: Learning rate of each.
            weight_decay: Of all of them.
            betas: Of all of them.
        """
        own = [self.moments[key] for key in keys]
        for lr in dict.fromkeys(lrs):
            these = [i for i, rate in enumerate(lrs) if rate == lr]
            values, gradients = [vectors[i] for i in these], [slopes[i] for i in these]
            moments = [[own[i][kind] for i in these] for kind in MOMENTS]
            # The function, not the class, whose first use imports torch's compiler: a second in every worker.
            with torch.no_grad():
                adamw(
                    values, gradients, moments[0], moments[1], [], moments[2], fused=True, amsgrad=False,
                    maximize=False, beta1=betas[0], beta2=betas[1], eps=1e-8, lr=lr, weight_decay=weight_decay,
                )  # fmt: skip
