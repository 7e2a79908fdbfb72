"""The check that a sweep ran the given model: its baseline is compared with the model's own forward."""

from collections.abc import Callable

import torch
from torch import Tensor

from emg_lens.errors import EmgLensError

CHECKED_FRACTION = 0.015
"""Fraction of the sweep's forwards that are made again: about 3 % of its time where much is shared."""
FEW_TRIALS, MANY_TRIALS = 8, 64
"""Up to the first number all trials are compared; the second number is the largest sample."""


class BaselineError(EmgLensError, RuntimeError):
    """An executor whose baseline differs from the model's own output."""


class SampledBaseline:
    """Compare the baseline of micro-batches with `model(x)` on trials that are spread evenly over the sweep."""

    def __init__(
        self, model: str, forward: Callable[[Tensor], Tensor], x: Tensor, n_forwards: float, executor: str
    ) -> None:
        """Choose the sample; `model` is the name of the model in messages."""
        self.model, self.forward, self.executor, self.x, self.n_trials = model, forward, executor, x, len(x)
        n = len(x) if len(x) <= FEW_TRIALS else int(CHECKED_FRACTION * n_forwards * len(x))
        n = min(max(n, 1), MANY_TRIALS, len(x))
        self.trials = (torch.arange(n) * len(x) + len(x) // 2) // n

    @torch.no_grad()
    def check(self, start: int, x: Tensor, baseline: Tensor) -> None:
        """Compare the sampled trials of a micro-batch that starts at trial `start`."""
        here = self.trials[(self.trials >= start) & (self.trials < start + len(x))] - start
        if not len(here):
            return
        here = here.to(x.device)
        sample = x[here]
        if len(here) == len(x) < self.n_trials:  # with another trial in the batch, which must not matter
            other = (start + len(x)) % self.n_trials
            sample = torch.cat([sample, self.x[other : other + 1].to(x.device)])
        difference, allowed = compared(baseline[here], self.forward(sample)[: len(here)])
        if difference <= allowed:
            return
        difference, allowed = compared(baseline, self.forward(x))
        name, advice = self.model, "use executor='loop'"
        if self.executor == "loop":
            advice = "check whether its output is random (dropout in eval mode?) or depends on earlier calls"
        if not difference <= allowed:
            raise BaselineError(
                f"executor {self.executor!r} gives a baseline that differs from {name}'s own forward by"
                f" {difference:.3g}, where rounding allows {allowed:.3g} ({len(x)} trials compared); {advice}"
            )
        if len(x) < self.n_trials:
            raise BaselineError(
                f"the output of {name} for a trial depends on the other trials of its batch, and the sweep runs"
                f" {len(x)} of {self.n_trials} trials at a time; use batch_size={self.n_trials}"
            )


def compared(a: Tensor, b: Tensor, n_eps: float = float("inf")) -> tuple[float, float]:
    """Return the largest difference and what rounding allows: √eps or `n_eps` eps of the largest logit.

    Equal NaN and inf agree.
    """
    eps = torch.finfo(a.dtype).eps
    if torch.is_autocast_enabled(a.device.type):
        eps = max(eps, torch.finfo(torch.get_autocast_dtype(a.device.type)).eps)
    if a.is_cuda and torch.get_float32_matmul_precision() != "highest":
        eps = max(eps, 2**-10)  # TF32 keeps ten bits
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf"), 0.0
    largest = float(b[b.isfinite()].abs().amax()) if b.isfinite().any() else 0.0
    same = (a == b) | (a.isnan() & b.isnan())
    difference = (a - b).abs().masked_fill(same, 0.0).nan_to_num(nan=torch.inf).amax()
    return float(difference), min(eps**0.5, n_eps * eps) * largest
