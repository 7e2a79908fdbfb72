"""The attention that a cut removes: trials are kept while the model runs, and measured when the report is read."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emg_lens.hooks.deletion import Deletion
from emg_lens.hooks.fused_attention import FusedCall, allowed
from emg_lens.hooks.vmap import is_wrapped, of_all_mapped

MOST_BYTES = 128 * 2**20
"""Memory of all layers of a report for trials that are kept."""


@dataclass(frozen=True)
class GivenScores:
    """Scores that a module computed itself."""

    values: Float[Tensor, "batch head dest src"]
    version: int | None = None

    def __post_init__(self) -> None:
        if not is_wrapped(self.values) and not self.values.is_inference():
            object.__setattr__(self, "version", self.values._version)

    @property
    def bytes_of_trial(self) -> int:
        """Memory of one trial."""
        return self.values.nbytes // len(self.values)

    def of_trials(self, trials: Tensor) -> "GivenScores":
        """Return the scores of some trials; a copy, unless these are all trials."""
        whole = len(trials) == len(self.values) and self.version is not None
        return self if whole else GivenScores(self.values[trials])

    def scores(self) -> Float[Tensor, "batch head dest src"]:
        """Return the scores; NaN if the module has overwritten them since."""
        overwritten = self.version is not None and self.values._version != self.version
        return torch.full_like(self.values, math.nan) if overwritten else self.values


@dataclass(frozen=True)
class _Kept:
    """Trials that wait for the measurement, with their numbers in the order in which they ran."""

    numbers: Int[Tensor, " trial"]
    attention: FusedCall | GivenScores

    @property
    def nbytes(self) -> int:
        return len(self.numbers) * self.attention.bytes_of_trial


class RemovedAttention:
    """Measures the attention of cut edges in one layer, in an evenly spaced sample of the trials.

    Args:
        deletion: The cut.
        plain_softmax: Whether the attention is the softmax of the scores.
        most_bytes: Memory for trials that are kept. While they fit, all trials are measured.
    """

    def __init__(self, deletion: Deletion, plain_softmax: bool, most_bytes: int) -> None:
        self.deletion, self.plain_softmax, self.most_bytes = deletion, plain_softmax, most_bytes
        self.ran = self.measured = 0
        self.every = 1
        self._kept: list[_Kept] = []
        self._masses: list[Tensor] = []
        self._alive: Tensor | None = None
        self._emptied: Tensor | None = None

    @torch.no_grad()
    def add(self, attention: FusedCall | GivenScores, shape: tuple[int, ...]) -> None:
        """Keep the attention before the cut; inside `torch.func` transforms it is measured at once."""
        if isinstance(attention, GivenScores) and is_wrapped(attention.values):
            self.ran += self._measure(attention.scores())
            return
        numbers = torch.arange(self.ran, self.ran + shape[0])
        self.ran += shape[0]
        taken = numbers % self.every == 0
        while self._bytes + int(taken.sum()) * attention.bytes_of_trial > self.most_bytes and self.every < self.ran:
            self.every *= 2
            taken = numbers % self.every == 0
            self._kept = [thinned for kept in self._kept if (thinned := _thinned(kept, kept.numbers % self.every == 0))]
        if kept := _thinned(_Kept(numbers, attention), taken):
            self._kept.append(kept)

    @property
    def _bytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept)

    @torch.no_grad()
    def _measure(self, scores: Float[Tensor, "batch head dest src"]) -> int:
        """Measure some trials and return their number, inside `torch.vmap` that of all mapped trials."""
        cut = self.deletion.on(scores)
        possible = allowed(scores)[..., : cut.shape[-1] - self.deletion.n_sinks]
        cut_edges = cut[..., : possible.shape[-1]]  # without sinks
        emptied = (possible & cut_edges).any(-1) & ~(possible & ~cut_edges).any(-1)
        self._emptied = _either(self._emptied, of_all_mapped(emptied.any(0)).any(0))
        # Not torch's softmax: an outer cut may be editing calls of that function.
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        pattern = (wide - wide.logsumexp(-1, keepdim=True)).exp().nan_to_num()
        if self.plain_softmax:
            mass, alive = (pattern * cut).sum() / pattern[0, :, :, 0].numel(), ((pattern > 0) & cut).any(0)
        else:
            mass, alive = pattern.sum() * torch.nan, (possible & cut_edges).any(0)
        masses = of_all_mapped(mass)
        n = len(scores) * len(masses)
        self.measured += n
        self._masses.append(masses.sum())
        self._alive = _either(self._alive, of_all_mapped(alive).any(0))
        return n

    def _measure_kept(self) -> None:
        """Measure all kept trials, one at a time, so that memory is that of one trial."""
        while self._kept:
            kept = self._kept.pop()
            for trial in range(len(kept.numbers)):
                self._measure(kept.attention.of_trials(torch.tensor([trial])).scores())

    def fraction(self) -> float:
        """Return the attention of cut edges before the cut, a fraction of all attention."""
        self._measure_kept()
        return min(sum(map(float, self._masses)) / max(self.measured, 1), 1.0)  # rounding may give 1 + 1e-7

    def rows(self) -> int:
        """Return the number of rows (head, dest) without any remaining edge, in at least one trial."""
        self._measure_kept()
        return 0 if self._emptied is None else int(self._emptied.sum())

    def edges_with_attention(self, default: int) -> int:
        """Return the number of cut edges that had attention in some trial; `default` if no trial has run."""
        self._measure_kept()
        return default if self._alive is None else int(self._alive.sum())


def _thinned(kept: _Kept, wanted: Bool[Tensor, " trial"]) -> _Kept | None:
    """Return the wanted ones of some trials, or None."""
    if not wanted.any():
        return None
    return _Kept(kept.numbers[wanted], kept.attention.of_trials(wanted.nonzero()[:, 0]))


def _either(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else old.to(new.device) | new
