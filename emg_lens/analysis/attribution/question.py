"""The question of an attribution: the model, the trials, the metric, and which edges get scores."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from emg_lens.analysis.attribution.edge_groups import EdgeGroups, Granularity, group_edges
from emg_lens.analysis.attribution.exact_game import every_subset
from emg_lens.analysis.attribution.trial_metrics import TrialMetric, evaluated, trial_metric
from emg_lens.hooks import EdgeError, EdgeSet, edges_from_mask, none
from emg_lens.hooks.deletion import by_place
from emg_lens.hooks.hook_points import Place
from emg_lens.layout import TokenLayout
from emg_lens.lens.model_outputs import OutputFunction, output_tensor
from emg_lens.models.declarations import why_undeclared
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.live_edges import reach
from emg_lens.sweeps.settings import check_inputs, device_of
from emg_lens.sweeps.target import Target, target_of
from emg_lens.sweeps.trial_run import try_model
from emg_lens.validation import short

CONDITIONS_A_SWEEP = 256
ONE_AT_A_TIME = threading.RLock()
"""Threads wait for each other, because the hooks of one would act in the forward of another."""
MOST_VALUES = 2**24
"""Largest number of attention values of all layers in one forward with gradients."""

PerPlace = Mapping[Place, Float[Tensor, "trial head dest src"]]
"""A value for each edge, by layer (or by layer and stage)."""


@dataclass
class Passes:
    """Numbers of forward and backward passes, each over one trial."""

    forward: int = 0
    backward: int = 0


@dataclass(frozen=True, eq=False)
class Question:
    """What an attribution method receives.

    Attributes:
        model: The model, with TransformerLens hook points.
        x: Input `[trial, channel, time]`.
        y: Targets `[trial, ...]`.
        metric: The metric of single trials.
        target: Layout, layers, heads, readout positions and permanently masked edges of the model.
        floor: Edges that are never cut.
        candidates: Edges that get scores: all live edges outside the floor; with named groups, only their edges.
        groups: Groups of candidates; each group gets one score.
        passes: Counter of the passes that the methods make.
        on_progress: Called with the finished fraction of many cuts.
        closed: Edges that are cut in every run, in addition to what a method cuts; None if there are none.
        output: Function that makes the output tensor from what the model returns, as for `sweep`; None = not needed.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    metric: TrialMetric
    target: Target
    floor: Bool[np.ndarray, "layer head dest src"]
    candidates: Bool[np.ndarray, "layer head dest src"]
    groups: EdgeGroups
    passes: Passes = field(default_factory=Passes)
    on_progress: Callable[[float], None] | None = None
    closed: Bool[np.ndarray, "layer head dest src"] | None = None
    output: OutputFunction | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.y, Tensor) or not self.y.ndim or len(self.y) != len(self.x):
            n = len(self.y) if isinstance(self.y, Tensor) and self.y.ndim else short(self.y)
            raise EdgeError(f"y has {n} targets for {len(self.x)} trials; expected a tensor with one target per trial")

    def without(self, closed: Bool[np.ndarray, "layer head dest src"]) -> "Question":
        """Return the same question for the model with these edges cut; they get the score 0."""
        closed = closed if self.closed is None else closed | self.closed
        return replace(self, candidates=self.candidates & ~closed, closed=closed, passes=Passes())

    def on(self, x: Tensor, y: Tensor) -> "Question":
        """Return the same question for other trials."""
        return replace(self, x=x.to(device_of(self.model)), y=y, passes=Passes())

    @property
    def layout(self) -> TokenLayout:
        """The layout of the tokens."""
        return self.target.layout

    @property
    def readout(self) -> Int[Tensor, " position"]:
        """Positions that are read; all positions if the model does not declare them."""
        if isinstance(self.model, HookedBiosignalEncoder) and why_undeclared(self.model, "readout_positions") is None:
            return self.model.readout_positions
        return self.target.readout

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Yield inputs and targets of batches of trials, small enough to keep all attention patterns."""
        size = max(1, MOST_VALUES // self.candidates.size)
        return zip(self.x.split(size), self.y.split(size), strict=True)

    def outputs(self, x: Tensor) -> Tensor:
        """Run the model on some trials, and return its output tensor."""
        return output_tensor(self.model, self.model(x), self.output, len(x))

    def metric_of(self, outputs: Tensor, y: Tensor) -> Float[Tensor, " trial"]:
        """Compute the metric of each trial."""
        return evaluated(self.metric, outputs, y.to(outputs.device))

    def with_cuts(self, cuts: Sequence[Bool[np.ndarray, "layer head dest src"]]) -> Float[np.ndarray, "cut trial"]:
        """Run the model with each of several sets of edges cut, and return the metric of each trial."""
        return self._with_edges((self._edges(cut) for cut in cuts), len(cuts))

    def with_kept(self, kept: Sequence[Bool[np.ndarray, " group"]] | np.ndarray) -> Float[np.ndarray, "cut trial"]:
        """Run the model with only some groups of candidates kept, and return the metric of each trial."""
        return self._with_edges((self._edges(self.candidates & ~self.groups.mask(some)) for some in kept), len(kept))

    def fraction_kept(self, kept: Sequence[Bool[np.ndarray, " group"]] | np.ndarray) -> Float[np.ndarray, " cut"]:
        """Keep only some groups of candidates: the mean metric as a fraction of its range, 0 with all of them cut."""
        full, all_cut = self.bounds.mean(1)
        return (self.with_kept(kept).mean(1) - all_cut) / (full - all_cut)

    def _edges(self, cut: Bool[np.ndarray, "layer head dest src"]) -> EdgeSet:
        cut = cut if self.closed is None else cut | self.closed
        return edges_from_mask(cut) if cut.any() else none()

    @torch.no_grad()
    def _with_edges(self, cuts: Iterable[EdgeSet], n_cuts: int) -> Float[np.ndarray, "cut trial"]:
        """Run the cuts in several sweeps. Only the edge sets of one sweep are in memory."""
        cuts, values = iter(cuts), np.empty((n_cuts, len(self.x)))
        for first in range(0, n_cuts, CONDITIONS_A_SWEEP):
            conditions = [Condition(f"cut {i}", one) for i, one in enumerate(islice(cuts, CONDITIONS_A_SWEEP), first)]
            with ONE_AT_A_TIME:
                result = sweep(self.model, self.x, conditions, layout=self.layout, output=self.output)
            for i, one in enumerate(conditions, first):
                values[i] = self.metric_of(result.logits[one.name], self.y.cpu()).double().numpy()
            if self.on_progress is not None and n_cuts > 2:  # not for the bounds
                self.on_progress((first + len(conditions)) / n_cuts)
        self.passes.forward += n_cuts * len(self.x)
        return values

    @cached_property
    def with_every_set(self) -> Float[np.ndarray, "set trial"]:
        """The metric with each set of groups kept: set number b keeps group i if bit i of b is set (2ⁿ runs)."""
        return self.with_kept(every_subset(len(self.groups)))

    @cached_property
    def bounds(self) -> Float[np.ndarray, "2 trial"]:
        """The metric of the unmasked model, and with all candidates cut."""
        return self.with_cuts([np.zeros_like(self.candidates), self.candidates])

    # --- by place -------------------------------------------------------------------------------------------

    def split(self, values: np.ndarray) -> dict[Place, Tensor]:
        """Split values of edges `[layer, head, dest, src]` by layer (or by layer and stage)."""
        return by_place(torch.as_tensor(values), self.layout, lambda own: own.ndim > 0)

    @cached_property
    def index(self) -> dict[Place, Int[Tensor, "head dest src"]]:
        """The group of each edge; the number of groups for edges in no group."""
        index = np.where(self.groups.index < 0, len(self.groups), self.groups.index)
        return self.split(np.ascontiguousarray(index))

    def by_group(self, scores: PerPlace) -> Float[Tensor, "trial group"]:
        """Sum scores of single edges over the edges of each group."""
        n_trials = len(next(iter(scores.values())))
        sums = torch.zeros(n_trials, len(self.groups) + 1, dtype=torch.float64)
        for place, values in scores.items():
            index = self.index[place].expand(values.shape[1:]).flatten()
            sums.index_add_(1, index, values.detach().cpu().double().flatten(1))
        return sums[:, :-1]


def make_question(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    by: Granularity | Mapping[str, EdgeSet],
    metric: str | TrialMetric,
    floor: EdgeSet,
    layout: TokenLayout | None,
    output: OutputFunction | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Question:
    """Make the question, after a check of the arguments."""
    check_inputs(x, None)
    x = x.to(device_of(model))
    target = target_of(model, layout)
    try_model(model, x, target.layout, output)
    shape = (target.layout, target.n_layers, target.n_heads)
    no_cut = torch.zeros(target.n_layers, target.n_heads, len(target.layout), len(target.layout), dtype=torch.bool)
    live = reach(no_cut, target.readout, target.permanent_mask).live_rows[:, None, :, None].expand(no_cut.shape)
    floor_mask = floor.mask(*shape)
    candidates = live & ~floor_mask
    if target.permanent_mask is not None:
        candidates = candidates & ~target.permanent_mask
    if not candidates.any():
        raise EdgeError(f"no live attention edge of this model is outside floor={floor}; nothing can be scored")
    groups = group_edges(by, candidates.numpy(), target.layout)
    scored = groups.index >= 0
    of_trial, kept = trial_metric(metric), floor_mask.numpy()
    return Question(model, x, y, of_trial, target, kept, scored, groups, on_progress=on_progress, output=output)
