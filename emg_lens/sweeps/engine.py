"""Running many conditions on one model and one batch of inputs, with an audit of what each could have changed."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.HookedRootModule import HookedRootModule

from emg_lens.hooks import EdgeError, EdgeSet, none
from emg_lens.layout import TokenLayout
from emg_lens.models.components import is_heard
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.conditions import BASELINE, Condition, with_baseline
from emg_lens.sweeps.executors import Stacked, Tree, loop
from emg_lens.sweeps.finished import Checkpoint, Finished, Settings, identity
from emg_lens.sweeps.plan import SweepPlan, Target, plan_sweep
from emg_lens.sweeps.side_by_side import side_by_side

Executor = Literal["auto", "loop", "tree", "stacked"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)

LAUNCH_BOUND_TRIALS = 64
"""Beyond so many trials arithmetic outweighs launches on any accelerator we know; the probe is left out."""
LAUNCH_BOUND_TOKENS = 128
"""The same for a CPU, in tokens and without a probe, which would take as long as what it decides (`make bench`)."""
CPU_TOKENS = 1536
"""Tokens a forward on a CPU: more do not run faster, and their activations leave the caches."""
SIDE_BY_SIDE_TOKENS = 768
"""Tokens from which on a micro-batch is worth a thread of its own; with less work, threads wait for the interpreter."""


class SweepError(EmgLensError, RuntimeError):
    """Some conditions raised while running. `result` holds the others, `errors` what each one raised."""

    def __init__(self, errors: Mapping[str, Exception], result: "SweepResult") -> None:
        name, error = next(iter(errors.items()))
        super().__init__(
            f"{len(errors)} of {len(errors) + len(result.logits)} conditions failed, the first is {name!r}:"
            f" {type(error).__name__}: {error}; the others are in .result"
        )
        self.errors, self.result = dict(errors), result


@dataclass(frozen=True)
class SweepResult:
    """Logits and audit of a sweep.

    Attributes:
        conditions: The conditions in order, the baseline first.
        logits: Condition name -> `[trial, class]`, on the CPU.
        audit: One row a condition: edges cut, live edges cut, rows fully cut, largest change of a logit against the
            baseline, whether the condition is a structural null, the first condition that cuts the same live edges,
            and the largest difference between the two (rounding, unless something is wrong).
        executor: What ran: `"loop"`, `"tree"` or `"stacked"`.
    """

    conditions: tuple[Condition, ...]
    logits: dict[str, Float[Tensor, "trial class"]]
    audit: pd.DataFrame
    executor: str

    def accuracy(self, y: Int[Tensor, " trial"]) -> pd.DataFrame:
        """One row a condition: name, tags, accuracy in [0, 1], and the paper's Δ% = 100 (acc − base) / base (§2.3).

        Raises:
            ValueError: As many labels as trials are needed.
        """
        y = torch.as_tensor(y)
        logits = torch.stack([self.logits[c.name] for c in self.conditions])
        if y.shape != logits.shape[1:2]:
            raise ValueError(f"got {list(y.shape)} labels for {logits.shape[1]} trials")
        accuracy = (logits.argmax(-1) == y).double().mean(-1)
        table = pd.DataFrame([{"condition": c.name, **c.tags} for c in self.conditions])
        table["accuracy"] = accuracy.numpy()
        table["delta_percent"] = 100 * (table["accuracy"] - table["accuracy"].iloc[0]) / table["accuracy"].iloc[0]
        return table


def sweep(
    model: HookedRootModule,
    x: Tensor,
    conditions: Sequence[Condition],
    *,
    layout: TokenLayout | None = None,
    executor: Executor = "auto",
    batch_size: int | None = None,
    on_progress: Callable[[float], None] | None = None,
    checkpoint: str | Path | None = None,
) -> SweepResult:
    """Run the baseline and every condition.

    ```python
    sweep(model, x, conditions, checkpoint="heads.safetensors")  # stop it any time; the same line continues it
    ```

    Args:
        model: One of our encoders, or any TransformerLens model (which is run in a loop). It is run in eval mode and
            left as it was.
        x: Input: trials `[trial, channel, time]`, standardised as in training; for other models what they take.
        conditions: What to cut; the baseline is added.
        layout: What the positions stand for; default `model.layout`.
        executor: `"loop"`, `"tree"`, `"stacked"` (see `emg_lens.sweeps.executors`), or `"auto"`. All give the same
            logits; `SweepResult.executor` says which one ran. The tree runs micro-batches side by side, a CPU thread
            each, if there is work enough; torch's threads are divided among them until they are done.
        batch_size: Trials a forward; default from the memory that is free.
        on_progress: Called with the finished fraction.
        checkpoint: File in which finished logits are kept, saved every few seconds and on the way out. The same call
            made again does only what is missing (conditions that raised are tried again) and returns what an
            uninterrupted call returns: to the bit, given as many threads on the same kind of machine. The executor and
            the batch size are those of the first call. The file stays; delete it when you are done.

    Raises:
        CheckpointError: The file is damaged, of another sweep (it says what differs), or cannot be written. A file
            that does not fit is left as it is.
        EdgeError: Edges that do not fit the layout, or conditions that share a name.
        ValueError: No trials, or an executor that is unknown or cannot run this model.
        SweepError: Some conditions raised while running; `.result` holds all others.
    """
    if len(x) == 0:
        raise ValueError(f"no trials to run: x is {list(x.shape)}")
    conditions = with_baseline(conditions)
    target = target_of(model, layout)
    planned = plan_sweep(target, conditions)
    nothing = [
        c.name for c, n in zip(conditions, planned.audit["edges_cut"], strict=True) if n == 0 and c.edges != none()
    ]
    if nothing:
        raise EdgeError(f"conditions {nothing[:5]} cut no edge of this model; write none() to cut nothing")
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            file = None
            if checkpoint is not None:
                asked = _asked(x, executor, batch_size)
                file = Checkpoint(checkpoint, identity(model, x, conditions, target) | asked)
            begun = file and file.settings
            settings = begun or _settle(model, x, executor, batch_size, len(planned.distinct))
            outputs = _run(model, x, conditions, planned, target, settings, on_progress, file)
    finally:
        model.train(was_training)
    return _result(conditions, planned, outputs, settings.executor)


def target_of(model: HookedRootModule, layout: TokenLayout | None = None) -> Target:
    """What the planner must know of a model. Exact for our encoders; of others every position counts as read out."""
    if isinstance(model, HookedBiosignalEncoder):
        layout = layout or model.layout
        return Target(layout, model.cfg.n_layers, model.cfg.n_heads, model.readout_positions, model.severed_mask())
    layout = layout or getattr(model, "layout", None)
    if layout is None:
        raise EdgeError(f"{type(model).__name__} has no layout; pass layout=TokenLayout.groups(...)")
    cfg: Any = model.cfg
    return Target(layout, cfg.n_layers, cfg.n_heads, torch.arange(len(layout)))


def audit(
    model: HookedRootModule, edges: EdgeSet | Sequence[Condition], layout: TokenLayout | None = None
) -> pd.DataFrame:
    """What cutting `edges` could change, from the structure of the model alone; nothing is run.

    Args:
        model: The model. Of models other than our encoders every position counts as read out, so that no live edge is
            ever called dead.
        edges: One edge set, or conditions.
        layout: Default `model.layout`.

    Returns:
        One row a condition: condition, edges_cut, live_edges_cut, rows_fully_cut, structural_null (no cut edge has a
        path to the readout), equivalent_to (the first condition that cuts the same live edges, often itself).
    """
    conditions = [Condition(str(edges), edges)] if isinstance(edges, EdgeSet) else list(edges)
    return plan_sweep(target_of(model, layout), conditions).audit


def _choose(model: HookedRootModule, x: Tensor, executor: Executor, n_distinct: int) -> str:
    """The executor that will run."""
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor {executor!r}; known: {', '.join(EXECUTORS)}")
    ours = isinstance(model, HookedBiosignalEncoder)
    hooked = ours and any(is_heard(point) for point in model.hook_points())
    if executor in ("tree", "stacked") and (not ours or hooked):
        why = "it has hooks of its own" if hooked else "it is not one of our encoders"
        raise ValueError(f"executor {executor!r} cannot run this {type(model).__name__}: {why}; use 'loop'")
    if executor != "auto":
        return executor
    if not ours or hooked:
        return "loop"
    return "stacked" if n_distinct > 2 and _waits_for_launches(model, x) else "tree"


def _waits_for_launches(model: HookedBiosignalEncoder, x: Tensor) -> bool:
    """A short probe of an accelerator: whether four times the trials take less than twice as long."""
    device = _device(model)
    if device.type == "cpu":
        return len(x) * model.cfg.n_ctx <= LAUNCH_BOUND_TOKENS
    if len(x) > LAUNCH_BOUND_TRIALS:
        return False
    once, more = x.to(device), x.repeat(4, 1, 1).to(device)
    model(more)
    return min(_seconds(model, more) for _ in range(3)) < 2 * min(_seconds(model, once) for _ in range(3))


def _seconds(model: HookedRootModule, x: Tensor) -> float:
    start = time.perf_counter()
    model(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def room(model: HookedBiosignalEncoder, executor: str, n_workers: int) -> int:
    """Trials a worker whose activations fit into a quarter of the free memory (and stay near the caches of a CPU)."""
    cfg, n = model.cfg, model.cfg.n_ctx
    a_layer = n * (6 * cfg.d_model + 2 * cfg.d_mlp) + 2 * cfg.n_heads * n * n
    a_trial = 4 * a_layer * (cfg.n_layers + 1 if executor == "tree" else 2)
    device = _device(model)
    if device.type == "cuda":
        return max(1, int(torch.cuda.mem_get_info(device)[0] / 4 / a_trial))
    return max(1, min(int(psutil.virtual_memory().available / 4 / n_workers / a_trial), trials_near_the_caches(n)))


def trials_near_the_caches(n_ctx: int) -> int:
    """Trials a forward on a CPU, of `n_ctx` tokens each: `CPU_TOKENS`, and not fewer."""
    return CPU_TOKENS // n_ctx + 1


def _asked(x: Tensor, executor: Executor, batch_size: int | None) -> dict[str, str]:
    """The settings that the user chose, as a checkpoint writes them."""
    asked = {} if executor == "auto" else {"executor": executor}
    return asked | ({"batch_size": str(min(batch_size, len(x)))} if batch_size else {})


def _settle(
    model: HookedRootModule, x: Tensor, executor: Executor, batch_size: int | None, n_distinct: int
) -> Settings:
    """How the sweep will run."""
    chosen = _choose(model, x, executor, n_distinct)
    if not isinstance(model, HookedBiosignalEncoder):
        return Settings(chosen, min(batch_size or len(x), len(x)), 1)
    n_workers = _workers(model, x, chosen)
    fits = room(model, chosen, n_workers)
    n_rounds = math.ceil(len(x) / (fits * n_workers))
    size = min(batch_size or math.ceil(len(x) / (n_rounds * n_workers)), len(x))
    return Settings(chosen, size, max(1, fits // size))


def _workers(model: HookedRootModule, x: Tensor, executor: str) -> int:
    """Threads that run micro-batches side by side."""
    if executor != "tree" or _device(model).type != "cpu":
        return 1
    assert isinstance(model, HookedBiosignalEncoder)
    return max(1, min(torch.get_num_threads(), len(x) * model.cfg.n_ctx // SIDE_BY_SIDE_TOKENS))


def _run(
    model: HookedRootModule,
    x: Tensor,
    conditions: Sequence[Condition],
    planned: SweepPlan,
    target: Target,
    settings: Settings,
    on_progress: Callable[[float], None] | None,
    file: Checkpoint | None,
) -> dict[str, Tensor | Exception]:
    """Outputs by condition, on the CPU."""
    parts = x.split(settings.batch_size)
    rows = range(len(conditions)) if settings.executor == "loop" else planned.of  # of each condition, its row
    run = _executor(model, conditions, planned, target, settings)
    finished = Finished(max(rows) + 1, [len(part) for part in parts])
    if file is not None:
        file.begin(settings, finished, _device(model))
        if on_progress is not None and finished.done.any():
            on_progress(finished.fraction)

    def keep(part: int, found: Mapping[int, Tensor | Exception]) -> None:
        finished.keep(part, found)
        if file is not None:
            file.save_if_due()
        if on_progress is not None:
            on_progress(finished.fraction)

    def run_part(part: int, give: Callable[[Mapping[int, Tensor | Exception]], None]) -> None:
        run(parts[part].to(_device(model)), keep=give, done=finished.rows_done(part))

    todo = [part for part in range(len(parts)) if not finished.done[part].all()]
    # As many threads for a part as in an uninterrupted sweep, however few parts are left: they decide the last digits.
    n_workers = min(_workers(model, x, settings.executor), len(parts))
    try:
        side_by_side(run_part, todo, keep, n_workers)
    finally:
        if file is not None:
            file.save()
    outputs = finished.outputs()
    return {c.name: outputs[row] for c, row in zip(conditions, rows, strict=True)}


def _executor(
    model: HookedRootModule, conditions: Sequence[Condition], planned: SweepPlan, target: Target, settings: Settings
) -> Callable[..., None]:
    """A function that runs a micro-batch: `run(x, keep=..., done=...)`."""
    if settings.executor == "loop":
        return partial(loop, model, conditions=conditions, layout=target.layout)
    assert isinstance(model, HookedBiosignalEncoder)
    if settings.executor == "tree":
        return Tree(model, planned).run
    return Stacked(model, planned, settings.at_once).run


def _device(model: HookedRootModule) -> torch.device:
    return next(model.parameters()).device


def _result(
    conditions: Sequence[Condition], planned: SweepPlan, outputs: dict[str, Tensor | Exception], executor: str
) -> SweepResult:
    logits = {name: out for name, out in outputs.items() if isinstance(out, Tensor)}
    failed = {name: out for name, out in outputs.items() if isinstance(out, Exception)}
    audited = planned.audit.copy()
    names = audited["condition"]
    audited.insert(4, "max_abs_delta_logit", [_distance(logits, n, BASELINE) for n in names])
    audited["equivalence_error"] = [
        _distance(logits, n, e) for n, e in zip(names, audited["equivalent_to"], strict=True)
    ]
    result = SweepResult(tuple(c for c in conditions if c.name in logits), logits, audited, executor)
    if failed:
        raise SweepError(failed, result)
    return result


def _distance(logits: dict[str, Tensor], a: str, b: str) -> float:
    return float((logits[a] - logits[b]).abs().max()) if a in logits and b in logits else float("nan")
