"""Running many conditions on one model and one batch of inputs, with an audit of what each could have changed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from emg_lens.hooks import EdgeError, EdgeSet, none
from emg_lens.layout import TokenLayout, where_modalities_meet
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.conditions import Condition, with_baseline
from emg_lens.sweeps.executors.folded_tree import FoldedTree
from emg_lens.sweeps.executors.plain_tree import PlainTree
from emg_lens.sweeps.executors.verified_loop import VerifiedLoop, run_inside
from emg_lens.sweeps.finished import Checkpoint, Finished, sweep_identity
from emg_lens.sweeps.plan import Rows, SweepPlan, changed_input, plan_sweep
from emg_lens.sweeps.result import SweepResult, sweep_result
from emg_lens.sweeps.sampled_baseline import SampledBaseline
from emg_lens.sweeps.settings import (
    Executor,
    Settings,
    asked_settings,
    check_inputs,
    check_scratch,
    device_of,
    n_workers,
    settle,
)
from emg_lens.sweeps.side_by_side import run_side_by_side
from emg_lens.sweeps.target import Target, between_stages, target_of
from emg_lens.validation import checked


@checked
def sweep(
    model: nn.Module,
    x: Tensor,
    conditions: Sequence[Condition],
    *,
    layout: TokenLayout | None = None,
    reference: Tensor | None = None,
    executor: Executor = "auto",
    batch_size: int | None = None,
    on_progress: Callable[[float], None] | None = None,
    checkpoint: str | Path | None = None,
    scratch: str | Path | None = None,
) -> SweepResult:
    """Run the baseline and every condition.

    ```python
    sweep(model, x, conditions, checkpoint="heads.safetensors")  # stop it any time; the same line continues it
    ```

    Edge cuts and changes of the input are planned: what conditions share is computed once. Whatever else a condition
    does runs in a verified forward of its own. The baseline is compared with `model(x)` on a sample of the trials.

    Args:
        model: One of our models, or any TransformerLens model. It is run in eval mode and left as it was.
        x: Input: trials `[trial, channel, time]`, standardised as in training; for other models what they take.
        conditions: What to do; the baseline is added.
        layout: What the positions stand for; default `model.layout`.
        reference: Trials `[trial, channel, time]`, treated as `x`, that replaced values come from (`Replace` by mean or
            resample): training trials.
        executor: `"auto"`; `"loop"`, one verified forward a condition; `"tree"`, which shares common prefixes, folded
            where the model's arithmetic is known exactly, else through its own blocks; `"stacked"`, folded and level by
            level. All give the same logits; `SweepResult.executor` says which one ran. The folded tree runs
            micro-batches side by side, a CPU thread each, if there is work enough; torch's threads are divided among
            them until they are done.
        batch_size: Trials a forward; default from the memory that is free. The results do not depend on it: inputs are
            changed before they are cut into batches, and what mixes trials inside the model gets all of them at once.
        on_progress: Called with the finished fraction.
        checkpoint: File in which finished logits are kept, saved every few seconds and on the way out. The same call
            made again does only what is missing (conditions that raised are tried again) and returns what an
            uninterrupted call returns: to the bit, given as many threads on the same kind of machine. The executor and
            the batch size are those of the first call. The file stays; delete it when you are done.
        scratch: Folder for a temporary file that holds the logits in place of memory (4 bytes for each condition, trial
            and output): for many conditions on very many trials. It goes when the result does. A `checkpoint` beside
            it holds all logits in memory again whenever it is saved.

    Raises:
        BaselineError: The executor's baseline is not what the model gives, or what it gives for a trial depends on the
            others of its batch and the trials are cut into batches.
        CheckpointError: The file is damaged, of another sweep (it says what differs), or cannot be written. A file
            that does not fit is left as it is.
        EdgeError: Edges or tokens that do not fit the layout, edges of a model without attention, reference trials that
            are missing, or conditions that share a name.
        SweepInputError: No trials, values that are not finite, an executor that is unknown or cannot run this model, or
            a `scratch` that is no folder to write to or full.
        SweepError: Some conditions raised while running; `.result` holds all others.
    """
    check_inputs(x, reference)
    folder = check_scratch(scratch)
    conditions = with_baseline(conditions)
    target = target_of(model, layout)
    planned = plan_sweep(target, conditions)
    _check_that_something_is_done(conditions, planned, target)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for root in planned.roots:  # what does not fit is known before anything runs
                changed_input(x[:2], root.changes, target.layout, reference)
            file = None
            if checkpoint is not None:
                asked = asked_settings(model, x, executor, batch_size)
                file = Checkpoint(checkpoint, sweep_identity(model, x, conditions, target, reference) | asked)
            begun = file and file.settings
            settings = begun or settle(model, x, executor, batch_size)
            one = _Run(model, x, reference, conditions, planned, target, settings, on_progress, file, folder)
            logits, failed = one.outputs()
    finally:
        model.train(was_training)
    return sweep_result(conditions, planned, logits, failed, settings.executor)


@checked
def audit(model: nn.Module, edges: EdgeSet | Sequence[Condition], layout: TokenLayout | None = None) -> pd.DataFrame:
    """What cutting `edges` could change, from the structure of the model alone; nothing is run.

    Args:
        model: The model. Where its arithmetic is not known exactly (another class, another part, a hook) every position
            counts as read out, so that no live edge is ever called dead.
        edges: One edge set, or conditions.
        layout: Default `model.layout`.

    Returns:
        One row a condition: condition, edges_cut, live_edges_cut, rows_fully_cut, structural_null (the input is as it
        was and nothing that is cut has a path to the readout), equivalent_to (the first condition with the same input
        that cuts the same live edges, often itself).
    """
    conditions = [Condition(str(edges), edges)] if isinstance(edges, EdgeSet) else list(edges)
    return plan_sweep(target_of(model, layout), conditions).audit


def _check_that_something_is_done(conditions: Sequence[Condition], planned: SweepPlan, target: Target) -> None:
    """Refuse a cut of nothing, whatever else its condition does; edges that the model never had are nothing."""
    shape = (target.layout, target.n_layers, target.n_heads)
    nothing, permanent_mask = [], []
    for condition, n_cut in zip(conditions, planned.audit["edges_cut"], strict=True):
        cuts = [one.cut_edges for one in condition.interventions if one.cut_edges != none()]
        if not cuts or (n_cut and len(cuts) == 1):
            continue
        masks, apart = [edges.mask(*shape) for edges in cuts], between_stages(*shape)
        if not all((mask if apart is None else mask & ~apart).any() for mask in masks):
            nothing.append(condition.name)
        elif target.permanent_mask is not None and not all((mask & ~target.permanent_mask).any() for mask in masks):
            permanent_mask.append(condition.name)
    if nothing:
        where = where_modalities_meet(target.layout)
        raise EdgeError(f"conditions {nothing[:5]} cut no edge of this model{where}; write none() to cut nothing")
    if permanent_mask:
        raise EdgeError(
            f"conditions {permanent_mask[:5]} cut edges that this {target.model} is without already (it is causal, or has"
            " masked_edges), so nothing is left to cut; leave them out for this model"
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
        on_progress: Callable[[float], None] | None,
        file: Checkpoint | None,
        scratch: str | Path | None,
    ) -> None:
        self.model, self.x, self.reference = model, x, reference
        self.conditions, self.planned, self.layout, self.settings = conditions, planned, target.layout, settings
        self.on_progress, self.file, self.device = on_progress, file, device_of(model)
        looped = settings.executor == "loop"
        self.rows = range(len(conditions)) if looped else planned.of
        """Of each condition, its row."""
        lengths = [len(part) for part in x.split(settings.batch_size)]
        self.starts = [i * settings.batch_size for i in range(len(lengths))]
        self.finished = Finished(max(self.rows) + 1, lengths, scratch)
        n_forwards = len(self.rows) if looped else sum(planned.n_nodes) / max(target.n_layers, 1)
        self.baseline = SampledBaseline(model, x, n_forwards, settings.executor)

    def outputs(self) -> tuple[Mapping[str, Tensor], dict[str, Exception]]:
        """Run what is missing; by condition name, logits on the CPU, and what the others raised."""
        if self.file is not None:
            self.file.begin(self.settings, self.finished, self.device)
            if self.on_progress is not None and self.finished.done.any():
                self.on_progress(self.finished.fraction)
        try:
            self._run_planned()
            self._run_unplanned()
        finally:
            if self.file is not None:
                self.file.save()
        rows = {condition.name: row for condition, row in zip(self.conditions, self.rows, strict=True)}
        errors = self.finished.errors
        return self.finished.by_name(rows), {name: errors[row] for name, row in rows.items() if row in errors}

    def _run_planned(self) -> None:
        run = self._executor().run
        # As many threads for a part as in an uninterrupted sweep, however few parts are left: they decide last digits.
        workers = min(n_workers(self.model, self.x, self.settings.executor), len(self.starts))
        for root in self.planned.roots:
            todo = self._unfinished([self.rows[i] for i in root.members])
            if not todo:
                continue
            x = changed_input(self.x, root.changes, self.layout, self.reference)

            def run_part(part: int, give: Callable[[Mapping[int, Any]], None], root=root, x=x) -> None:
                run(root, x[self._trials(part)].to(self.device), keep=give, done=self._done(part))

            run_side_by_side(run_part, todo, self._keep, workers)

    def _run_unplanned(self) -> None:
        reference = None if self.reference is None else self.reference.to(self.device)
        for i in self.planned.unplanned:
            condition, row = self.conditions[i], self.rows[i]
            todo = self._unfinished([row])
            if not todo:
                continue
            x = changed_input(self.x, condition.input_changes, self.layout, self.reference)
            whole = any(one.needs_all_trials for one in condition.in_the_model)
            xs = [x] if whole else [x[self._trials(part)] for part in todo]
            found = run_inside(self.model, [part.to(self.device) for part in xs], condition, self.layout, reference)
            for j, part in enumerate(todo):
                if isinstance(found, Exception):
                    self._keep(part, {row: found})
                else:
                    self._keep(part, {row: found[0][self._trials(part)] if whole else found[j]})

    def _executor(self) -> FoldedTree | PlainTree | VerifiedLoop:
        if self.settings.executor == "loop":
            return VerifiedLoop(self.model, self.conditions, self.layout)
        assert isinstance(self.model, HookedBiosignalEncoder)
        return FoldedTree(self.model) if self.settings.executor == "folded" else PlainTree(self.model)

    def _trials(self, part: int) -> slice:
        return slice(self.starts[part], self.starts[part] + self.finished.lengths[part])

    def _done(self, part: int) -> Rows:
        return self.finished.rows_done(part)

    def _unfinished(self, rows: Sequence[int]) -> list[int]:
        """Micro-batches in which one of the rows is missing."""
        return np.flatnonzero(~self.finished.done[:, rows].all(axis=1)).tolist()

    def _keep(self, part: int, found: Mapping[int, Tensor | Exception]) -> None:
        baseline = found.get(self.rows[0])
        if isinstance(baseline, Tensor):
            self.baseline.check(self.starts[part], self.x[self._trials(part)].to(self.device), baseline)
        self.finished.keep(part, found)
        if self.file is not None:
            self.file.save_if_due()
        if self.on_progress is not None:
            self.on_progress(self.finished.fraction)
