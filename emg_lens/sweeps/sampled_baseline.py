"""The proof that a sweep ran the model it was given: its baseline beside the model's own forward."""

import torch
from torch import Tensor, nn

from emg_lens.errors import EmgLensError

CHECKED_SHARE = 0.015
"""Of the forwards that a sweep stands for, so many are made again: about 3 % of its time where much is shared."""
FEW_TRIALS, MANY_TRIALS = 8, 64
"""So few are all compared; more than so many tell nothing new."""


class BaselineError(EmgLensError, RuntimeError):
    """An executor whose baseline is not what the model itself gives."""


class SampledBaseline:
    """Compares the baseline of micro-batches with `model(x)` on trials that are spread evenly over the sweep."""

    def __init__(self, model: nn.Module, x: Tensor, n_forwards: float, executor: str) -> None:
        """The sample.

        Args:
            model: The model, run here without any hook of ours.
            x: All trials of the sweep.
            n_forwards: What the sweep costs, in forwards of all its trials.
            executor: What runs the sweep, for the message.
        """
        self.model, self.executor, self.x, self.n_trials = model, executor, x, len(x)
        n = len(x) if len(x) <= FEW_TRIALS else int(CHECKED_SHARE * n_forwards * len(x))
        n = min(max(n, 1), MANY_TRIALS, len(x))
        self.trials = (torch.arange(n) * len(x) + len(x) // 2) // n

    def check(self, start: int, x: Tensor, baseline: Tensor) -> None:
        """Compare what the sample has of a micro-batch that starts at trial `start`.

        Raises:
            BaselineError: They differ by more than rounding.
        """
        here = self.trials[(self.trials >= start) & (self.trials < start + len(x))] - start
        if not len(here):
            return
        here = here.to(x.device)
        sample = x[here]
        if len(here) == len(x) < self.n_trials:  # in other company, which must not matter
            other = (start + len(x)) % self.n_trials
            sample = torch.cat([sample, self.x[other : other + 1].to(x.device)])
        difference, allowed = _difference(baseline[here], self.model(sample)[: len(here)])
        if difference <= allowed:
            return
        difference, allowed = _difference(baseline, self.model(x))
        if not difference <= allowed:
            raise BaselineError(
                f"executor {self.executor!r} gives a baseline that differs from {type(self.model).__name__}'s own"
                f" forward by {difference:.3g}, where rounding allows {allowed:.3g} ({len(x)} trials compared);"
                f" {self._advice}"
            )
        if len(x) < self.n_trials:
            raise BaselineError(
                f"what {type(self.model).__name__} gives for a trial depends on the other trials of its batch, and the"
                f" sweep runs {len(x)} of {self.n_trials} trials at a time; use batch_size={self.n_trials}"
            )

    @property
    def _advice(self) -> str:
        if self.executor == "loop":
            return "does its output depend on chance (dropout in eval mode?), or on what ran before?"
        return "use executor='loop'"


def _difference(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The largest difference, NaN and infinities of both alike, and what rounding allows: √eps of the largest logit."""
    eps = torch.finfo(a.dtype).eps
    if a.is_cuda and torch.get_float32_matmul_precision() != "highest":
        eps = max(eps, 2**-10)  # TF32 keeps ten bits
    if a.shape != b.shape:
        return float("inf"), 0.0
    largest = float(b[b.isfinite()].abs().amax()) if b.isfinite().any() else 0.0
    same = (a == b) | (a.isnan() & b.isnan())
    return float((a - b).abs().masked_fill(same, 0.0).nan_to_num(nan=torch.inf).amax()), eps**0.5 * largest
