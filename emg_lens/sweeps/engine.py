"""Run many conditions on one model and one batch of inputs, and audit what each condition could change."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from emg_lens.hooks import EdgeError, EdgeSet, none
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import class_name
from emg_lens.hooks.verification.probe import adapted_in
from emg_lens.layout import TokenLayout, where_modalities_meet
from emg_lens.lens.model_outputs import OutputFunction, output_tensor
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.conditions import Condition, with_baseline
from emg_lens.sweeps.executors.folded_tree import FoldedTree
from emg_lens.sweeps.executors.plain_tree import PlainTree
from emg_lens.sweeps.executors.verified_loop import VerifiedLoop, run_inside
from emg_lens.sweeps.finished import Checkpoint, Finished, sweep_identity
from emg_lens.sweeps.plan import SweepPlan, changed_input, plan_sweep
from emg_lens.sweeps.result import ClassLabels, SweepResult, class_indices, sweep_result
from emg_lens.sweeps.sampled_baseline import SampledBaseline, compared
from emg_lens.sweeps.settings import (
    Executor,
    Settings,
    SweepInputError,
    asked_settings,
    check_inputs,
    check_scratch,
    device_of,
    n_workers,
    settle,
)
from emg_lens.sweeps.side_by_side import run_side_by_side
from emg_lens.sweeps.target import Target, between_stages, target_of
from emg_lens.sweeps.trial_run import failure, try_model
from emg_lens.tables import WholeTable
from emg_lens.validation import checked

STORED_EPS = 256
"""Largest difference between a stored output and the same output recomputed, in eps of the largest one. Other thread
counts and batch sizes give up to 20 eps (measured on the registered models)."""


@checked
def sweep(
    model: nn.Module,
    x: Tensor,
    conditions: Sequence[Condition],
    *,
    layout: TokenLayout | None = None,
    output: OutputFunction | None = None,
    y: ClassLabels | None = None,
    reference: Tensor | None = None,
    executor: Executor = "auto",
    batch_size: PositiveInt | None = None,
    on_progress: Callable[[float], None] | None = None,
    checkpoint: str | Path | None = None,
    scratch: str | Path | None = None,
    gradients: bool = False,
) -> SweepResult:
    """Run the baseline and every condition, and return their outputs with an audit.

    The sweep plans edge cuts and changes of the input: what several conditions share is computed once. It runs any
    other condition in a verified forward of its own, and compares the baseline with `model(x)` on a sample of trials.

    Args:
        model: One of our models, or any TransformerLens model. It is run in eval mode and left as it was.
        x: Input `[trial, channel, time]`, standardised as in training; for other models their own kind of input.
        conditions: What to do. The baseline is added.
        layout: Meaning of the positions; default `model.layout`.
        output: Function of what the model returns that makes the tensor `[trial, ...]` to compare, such as
            `lambda o: o[0]` for a model that returns a tuple. Not needed for a model that returns a tensor, or an
            object with `logits` (as the classifiers of Hugging Face do).
        y: Class index of each trial `[trial]`. The result then prints accuracies, and tabulates and draws them.
        reference: Trials `[trial, channel, time]`, prepared like `x`, from which replacement values are computed
            (`Replace` by mean or resample): training trials.
        executor: `"auto"`; `"loop"`, one verified forward for each condition; or `"tree"`, which shares the layers that
            conditions have in common. The tree uses folded weights if the model's class and parts declare that this is
            exact, and otherwise the model's own blocks. All executors give the same logits; `SweepResult.executor`
            names the one that ran. The folded tree runs micro-batches in parallel, one CPU thread each, if there is
            enough work.
        batch_size: Trials in one forward; default from the free memory. The results do not depend on it: inputs are
            changed before they are split into batches, and an intervention that mixes trials gets all of them at once.
        on_progress: Called with the finished fraction.
        checkpoint: File in which finished logits are kept. It is saved every few seconds and when the sweep stops. The
            same call made again computes only what is missing (conditions that raised are tried again) and returns what
            an uninterrupted call returns, bit for bit on the same kind of machine with the same number of threads. It
            recomputes one stored trial of each kind of condition, and refuses a model that gives other outputs now. The
            executor and the batch size stay those of the first call. Delete the file when you are done.
        scratch: Folder for a temporary file that holds the logits instead of memory (4 bytes for each condition, trial
            and output), for many conditions on very many trials. The file is deleted with the result. With a
            `checkpoint`, all logits are in memory whenever it is saved.
        gradients: Whether outputs keep their autograd graph, back to `x`, to the parameters and to the gates of
            `EdgeGate`. All conditions then run in the loop, and the graphs of all of them stay in memory.

    Returns:
        Logits by condition name, the audit, and the executor that ran.

    Raises:
        BaselineError: The executor's baseline differs from the model's own output, or the output for a trial depends on
            other trials of its batch and the trials are split into batches.
        CheckpointError: The file is damaged, belongs to another sweep (the message says what differs), holds outputs
            that the model does not give now, or cannot be written. A file that does not fit is left as it is.
        EdgeError: Edges or tokens that do not fit the layout, edges of a model without attention, missing reference
            trials, or conditions that share a name.
        ArgumentError: `y` is not one class index per trial, or the outputs are not logits `[trial, class]` of these
            classes.
        OutputError: The model returns no tensor with one row per trial, and `output` does not make one.
        SweepInputError: No trials, trials that the model cannot run, values that are not finite, an unknown executor or
            one that cannot run this model, a `scratch` folder that cannot be written to, or `gradients` with an option
            that excludes it.
        SweepError: Some conditions raised while running; `.result` holds all others.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig, cross_modal, layer_masks, sweep
        >>> sizes = dict(d_model=16, n_heads=2, n_layers=2, d_mlp=8)
        >>> model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=5, **sizes))
        >>> x = model.example_input(32)
        >>> result = sweep(model, x, layer_masks({"cross_modal": cross_modal()}, n_layers=2, modes=["individual"]))
        >>> {name: tuple(logits.shape) for name, logits in result.logits.items()}
        {'baseline': (32, 5), 'cross_modal/individual/L1': (32, 5), 'cross_modal/individual/L2': (32, 5)}
        >>> result.audit.structural_null.tolist()  # only CLS is read: these edges of the last layer cannot matter
        [True, False, True]
    """
    check_inputs(x, reference)
    labels = None if y is None else class_indices(y, len(x))
    if gradients and (checkpoint is not None or scratch is not None or executor == "tree"):
        raise SweepInputError(
            "gradients=True keeps the graphs of all outputs in memory and runs in the loop; leave out checkpoint,"
            " scratch and executor='tree'"
        )
    if gradients and torch.is_inference_mode_enabled():
        raise SweepInputError("gradients=True gives no gradients inside torch.inference_mode(); call sweep outside it")
    folder = check_scratch(scratch)
    conditions = with_baseline(conditions)
    target = target_of(model, layout)
    planned = plan_sweep(target, conditions)
    _check_that_something_is_done(conditions, planned, target)
    try_model(model, x, target.layout, output, labels, attends=bool(planned.audit["edges_cut"].any()))
    with evaluating(model), torch.enable_grad() if gradients else torch.inference_mode():
        for root in planned.roots:  # refuse what does not fit before anything runs
            changed_input(x[:2], root.changes, target.layout, reference)
        file = None
        if checkpoint is not None:
            asked = asked_settings(model, x, executor, batch_size)
            file = Checkpoint(checkpoint, sweep_identity(model, x, conditions, target, reference) | asked)
        settings = (file and file.settings) or settle(model, x, "loop" if gradients else executor, batch_size)
        run = _Run(model, x, reference, conditions, planned, target, settings, output, on_progress, file, folder)
        logits, failed = run.outputs()
    return sweep_result(conditions, planned, logits, failed, settings.executor, labels)


@checked
def audit(model: nn.Module, edges: EdgeSet | Sequence[Condition], layout: TokenLayout | None = None) -> pd.DataFrame:
    """Tabulate what cutting `edges` could change, from the structure of the model alone; nothing is run.

    Args:
        model: The model. Its class and parts must declare their structure (docs/extending.md §1) and have no hooks.
            Otherwise every position counts as read out, so that no live edge is ever called dead.
        edges: One edge set, or conditions.
        layout: Meaning of the positions; default `model.layout`.

    Returns:
        One row for each condition: condition, edges_cut, live_edges_cut, rows_fully_cut, structural_null (the input is
        unchanged and no cut edge has a path to the readout), equivalent_to (the first condition with the same input
        that cuts the same live edges, often the condition itself).

    Raises:
        EdgeError: Edges that do not fit the layout, or a model without attention or layout.

    Example:
        >>> from emg_lens import IsoNet, IsoNetConfig, audit, unimodal
        >>> model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=5, d_model=16, n_layers=2))
        >>> print(audit(model, unimodal().at(layers=1)).T.to_string(header=False))
        condition        unimodal().at(layers=[1])
        edges_cut                              200
        live_edges_cut                           0
        rows_fully_cut                           0
        structural_null                       True
        equivalent_to    unimodal().at(layers=[1])
    """
    conditions = [Condition(str(edges), edges)] if isinstance(edges, EdgeSet) else list(edges)
    target, adapted = target_of(model, layout), adapted_in(model)
    n_positions = len(target.layout) if adapted is None or adapted.n_positions is None else adapted.n_positions
    if len(target.layout) != n_positions:
        raise EdgeError(
            f"the layout has {len(target.layout)} positions, but the attention of {class_name(model)} has {n_positions}"
            " with the inputs of adapt; give their layout, or call adapt with other inputs"
        )
    return WholeTable(plan_sweep(target, conditions).audit)


def _check_that_something_is_done(conditions: Sequence[Condition], planned: SweepPlan, target: Target) -> None:
    """Refuse conditions that cut no edge, or only edges that the model never had."""
    shape = (target.layout, target.n_layers, target.n_heads)
    without_edges, masked_already = [], []
    for condition, n_cut in zip(conditions, planned.audit["edges_cut"], strict=True):
        cuts = [one.cut_edges for one in condition.interventions if one.cut_edges != none()]
        if not cuts or (n_cut and len(cuts) == 1):
            continue
        masks, absent = [edges.mask(*shape) for edges in cuts], between_stages(*shape)
        if not all((mask if absent is None else mask & ~absent).any() for mask in masks):
            without_edges.append(condition.name)
        elif target.permanent_mask is not None and not all((mask & ~target.permanent_mask).any() for mask in masks):
            masked_already.append(condition.name)
    if without_edges:
        where = where_modalities_meet(target.layout)
        raise EdgeError(f"conditions {without_edges[:5]} cut no edge of this model{where}; write none() to cut nothing")
    if masked_already:
        raise EdgeError(
            f"conditions {masked_already[:5]} cut only edges that this {target.model} never had (it is causal, has"
            " masked_edges, or its relative positions do not reach so far); leave them out for this model"
        )


class _Run:
    """One sweep while it runs."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        reference: Tensor | None,
        conditions: Sequence[Condition],
        planned: SweepPlan,
        target: Target,
        settings: Settings,
        output: OutputFunction | None,
        on_progress: Callable[[float], None] | None,
        file: Checkpoint | None,
        scratch: str | Path | None,
    ) -> None:
        self.model, self.x, self.reference = model, x, reference
        self.conditions, self.planned, self.layout, self.settings = conditions, planned, target.layout, settings
        self.output, self.on_progress, self.file, self.device = output, on_progress, file, device_of(model)
        looped = settings.executor == "loop"
        self.rows = range(len(conditions)) if looped else planned.of
        """The row of each condition."""
        lengths = [len(part) for part in x.split(settings.batch_size)]
        self.starts = [i * settings.batch_size for i in range(len(lengths))]
        self.finished = Finished(max(self.rows) + 1, lengths, scratch)
        n_forwards = len(self.rows) if looped else sum(planned.n_nodes) / max(target.n_layers, 1)
        self.baseline = SampledBaseline(target.model, self._forward, x, n_forwards, settings.executor)

    def outputs(self) -> tuple[Mapping[str, Tensor], dict[str, Exception]]:
        """Run what is missing; return logits on the CPU and errors, both by condition name."""
        if self.file is not None:
            self.file.begin(self.settings, self.finished, self.device)
            if self.on_progress is not None and self.finished.done.any():
                self.on_progress(self.finished.fraction)
            self._check_stored(self.file)
        try:
            self._run_planned()
            self._run_unplanned()
        finally:
            if self.file is not None:
                self.file.save()
        rows = {condition.name: row for condition, row in zip(self.conditions, self.rows, strict=True)}
        errors = self.finished.errors
        return self.finished.by_name(rows), {name: errors[row] for name, row in rows.items() if row in errors}

    def _check_stored(self, file: Checkpoint) -> None:
        """Recompute a stored trial of each kind of condition: the identity in the file holds no code of the model."""
        first = {i: part for i, row in enumerate(self.rows) if (part := self.finished.first_part(row)) is not None}
        by_cut = sorted(first, key=self.planned.audit["live_edges_cut"].tolist().__getitem__)
        kinds = {tuple(map(type, self.conditions[i].interventions)): i for i in by_cut}  # the largest cut of each
        for i in {self.rows[i]: i for i in kinds.values()}.values():
            trials = self._trials(first[i])
            one = slice(trials.start, trials.start + 1)
            # A trial may depend on others of its batch, so the whole batch decides.
            change = self._change(i, trials) if self._change(i, one) else ""
            if change:
                raise file.other_outputs(self.conditions[i].name, change)

    def _change(self, i: int, trials: slice) -> str:
        """Recompute the output of a condition for some trials, and say how it differs from the stored one."""
        kept: dict[int, Tensor | Exception] = {}
        row, root = self.rows[i], next((root for root in self.planned.roots if i in root.members), None)
        if root is None:
            kept[row] = self._run_alone(i, [trials])[0]
        else:
            x = changed_input(self.x, root.changes, self.layout, self.reference)[trials].to(self.device)
            give = lambda outputs: kept.update(self._tensors(outputs, len(x)))  # noqa: E731
            self._executor().run(root, x, keep=give, done=frozenset(self.rows) - {row})
        now = kept[row]
        if isinstance(now, Exception):
            return f"raises {type(now).__name__}: {now}"
        difference, allowed = compared(now, self.finished.logits[row][trials], STORED_EPS)
        return "" if difference <= allowed else f"differs by {difference:.3g}, where rounding allows {allowed:.3g}"

    def _run_planned(self) -> None:
        run = self._executor().run
        # A part gets as many threads as in an uninterrupted sweep, however few parts are left: they decide last digits.
        workers = min(n_workers(self.model, self.x, self.settings.executor), len(self.starts))
        for root in self.planned.roots:
            todo = self._unfinished([self.rows[i] for i in root.members])
            if not todo:
                continue
            x = changed_input(self.x, root.changes, self.layout, self.reference)

            def run_part(part: int, give: Callable[[Mapping[int, Any]], None], root=root, x=x) -> None:
                own = x[self._trials(part)].to(self.device)
                keep = lambda outputs: give(self._tensors(outputs, len(own)))  # noqa: E731
                run(root, own, keep=keep, done=self.finished.rows_done(part))

            run_side_by_side(run_part, todo, self._keep, workers)

    def _run_unplanned(self) -> None:
        for i in self.planned.unplanned:
            if todo := self._unfinished([self.rows[i]]):
                for part, output in zip(todo, self._run_alone(i, list(map(self._trials, todo))), strict=True):
                    self._keep(part, {self.rows[i]: output})

    def _run_alone(self, i: int, parts: Sequence[slice]) -> Sequence[Tensor | Exception]:
        """Run a condition that is not planned; return its output for each part, or what was raised."""
        condition = self.conditions[i]
        reference = None if self.reference is None else self.reference.to(self.device)
        x = changed_input(self.x, condition.input_changes, self.layout, self.reference)
        whole = any(one.needs_all_trials for one in condition.in_the_model)
        xs = [x] if whole else [x[part] for part in parts]
        outputs = run_inside(self.model, [some.to(self.device) for some in xs], condition, self.layout, reference)
        if isinstance(outputs, Exception):
            return [outputs] * len(parts)
        outputs = [
            output_tensor(self.model, one, self.output, len(some)) for one, some in zip(outputs, xs, strict=True)
        ]
        return [outputs[0][part] for part in parts] if whole else outputs

    def _forward(self, x: Tensor) -> Tensor:
        return output_tensor(self.model, self.model(x), self.output, len(x))

    def _tensors(self, outputs: Mapping[int, Any], n_trials: int) -> dict[int, Tensor | Exception]:
        """Return the output tensor in what the model, or an executor in its place, returned for each row."""
        return {
            row: one if isinstance(one, Exception) else output_tensor(self.model, one, self.output, n_trials)
            for row, one in outputs.items()
        }

    def _executor(self) -> FoldedTree | PlainTree | VerifiedLoop:
        if self.settings.executor == "loop":
            return VerifiedLoop(self.model, self.conditions, self.layout)
        assert isinstance(self.model, HookedBiosignalEncoder)
        return FoldedTree(self.model) if self.settings.executor == "folded" else PlainTree(self.model)

    def _trials(self, part: int) -> slice:
        return slice(self.starts[part], self.starts[part] + self.finished.lengths[part])

    def _unfinished(self, rows: Sequence[int]) -> list[int]:
        """Return the micro-batches in which one of the rows is missing."""
        return np.flatnonzero(~self.finished.done[:, rows].all(axis=1)).tolist()

    def _keep(self, part: int, outputs: Mapping[int, Tensor | Exception]) -> None:
        baseline = outputs.get(self.rows[0])
        if isinstance(baseline, Exception):  # there is nothing to compare the other conditions with
            raise failure(self.model, self.x, baseline) from baseline
        if baseline is not None:
            self.baseline.check(self.starts[part], self.x[self._trials(part)].to(self.device), baseline)
        self.finished.keep(part, outputs)
        if self.file is not None and self.file.file.is_due():
            self.file.save()
        if self.on_progress is not None:
            self.on_progress(self.finished.fraction)
