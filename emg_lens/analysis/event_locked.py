"""Cuts that follow each event: which past does a detection read, and when is it decided? See docs/sequences.md §5.

The edges of an ordinary condition are the same in every window. Here they are chosen for every window from its events:
destinations near the event, sources before (or after) a time relative to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.analysis.fit_analysis import AnalysisError, FitAnalysis
from emg_lens.data.batch import Batch
from emg_lens.data.pulses import PULSE_S, labels_of
from emg_lens.decoding.event_metrics import stream_events
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import attached_hooks
from emg_lens.scoring.detection import by_gesture, event_table
from emg_lens.sweeps.conditions import BASELINE, Condition
from emg_lens.tables import WholeTable
from emg_lens.validation import ArgumentError, checked

WINDOWS_AT_ONCE = 32
PAST_S = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7, 1.0)
"""Times before the event: sources before them are cut."""
LATE_S = (-0.1, -0.05, 0.0, 0.03, 0.06)
"""Times after the event (negative: before): sources after them are cut."""
DEST_S = (-0.1, PULSE_S[1])
"""Destinations: from the start of the burst to the end of the pulse, so that no step between carries the past on."""


@dataclass(frozen=True)
class EventEdges:
    """Edges relative to an event at time 0. A step's time is that of the last sample that it reads.

    Attributes:
        dest_s: First and last time of the destinations (s), the last one excluded.
        src_s: First and last time of the sources (s), the last one excluded. A step never loses itself.
    """

    dest_s: tuple[float, float]
    src_s: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("dest_s", "src_s"):
            low, high = getattr(self, name)
            if not low < high:
                raise ArgumentError(f"{name}=({low:g}, {high:g}); expected a first time below the last one, in s")


@checked
def event_edges_mask(
    edges: EventEdges, times: np.ndarray, events: Sequence[tuple[str, float]]
) -> Bool[np.ndarray, "step step"]:
    """Choose the edges of one window; True = cut.

    Args:
        edges: The edges relative to an event.
        times: Time of each step of the window `[step]` (s).
        events: Name and time (s) of each event of the window. Edges of several events are joined.

    Example:
        >>> import numpy as np
        >>> from emg_lens.analysis import EventEdges, event_edges_mask
        >>> times = np.array([0.0, 0.1, 0.2, 0.3])
        >>> event_edges_mask(EventEdges((0.0, 0.15), (-9.0, -0.1)), times, [("tap", 0.2)]).astype(int)
        array([[0, 0, 0, 0],
               [0, 0, 0, 0],
               [1, 0, 0, 0],
               [1, 0, 0, 0]])
    """
    mask = np.zeros((len(times), len(times)), bool)
    for _, time in events:
        since = times - time + 5e-7
        dest, src = ((since >= low) & (since < high) for low, high in (edges.dest_s, edges.src_s))
        mask |= dest[:, None] & src
    return mask & ~np.eye(len(times), dtype=bool)


@checked
def event_locked_scores(
    model: Any,
    x: Float[Tensor, "window channel time"],
    targets: Float[Tensor, "window step column"],
    edges: Mapping[str, EventEdges],
    recording: np.ndarray | None = None,
) -> pd.DataFrame:
    """Cut edges relative to every event in all layers and heads, and score the detection of each gesture.

    Args:
        model: An encoder of this package with one token per time step and an output at every step.
        x: Windows, prepared as for the model.
        targets: Event targets of the windows (`SequenceSet.windows`).
        edges: The edges of each condition, by name.
        recording: Number of the recording of each window `[window]` (`TrialSet.repetition_id`), to join its windows.
            None = each window is a recording of its own; then a release whose press is in another window is lost.

    Returns:
        One row a condition (`baseline` first) and gesture: `condition`, `gesture`, `labels`, `detected` (under any
        name), `right` (under its name), `missed`, `false`, and `edges_cut`, the number of cut edges per window and
        layer.

    Raises:
        AnalysisError: The model has no such tokens, no edge of a condition exists in any window, a condition is named
            `baseline`, or `x` and `targets` are not of the same windows.
    """
    return _scores(model, x, targets, edges, recording, leave_out=False)


def _scores(
    model: Any,
    x: Float[Tensor, "window channel time"],
    targets: Float[Tensor, "window step column"],
    edges: Mapping[str, EventEdges],
    recording: np.ndarray | None,
    leave_out: bool,
) -> pd.DataFrame:
    """Do `event_locked_scores`; with `leave_out`, conditions without an edge have no rows."""
    hooks = _score_hooks(model)
    if BASELINE in edges:
        raise AnalysisError(f"edges has the name {BASELINE!r}, which is the model without cuts; expected another name")
    if x.ndim != 3 or targets.ndim != 3 or len(x) != len(targets) or not len(x):
        raise AnalysisError(
            f"x has shape {list(x.shape)} and targets {list(targets.shape)}; expected [window, channel, time] and"
            " [window, step, column] of the same windows, at least one"
        )
    names, n_steps = tuple(model.cfg.class_names), targets.shape[1]
    if len(model.layout) != n_steps or targets.shape[2] != len(names) + 1:
        raise AnalysisError(
            f"the model has {len(model.layout)} tokens and {len(names)} outputs, the targets {n_steps} steps of"
            f" {targets.shape[2] - 1} gestures; expected one token and one output per step"
        )
    known = targets.detach().cpu().numpy().astype(np.float64)
    of = np.arange(len(x)) if recording is None else recording
    if of.shape != (len(x),):
        raise AnalysisError(
            f"recording has the shape {list(of.shape)}; expected one number for each of {len(x)} windows"
        )
    events, times = [labels_of(one[None], names) for one in known], _all_times(known[..., -1])
    rows = []
    for condition, chosen in {BASELINE: None, **edges}.items():
        masks = np.zeros((len(x), n_steps, n_steps), bool)
        if chosen is not None:
            for mask, one, of_window in zip(masks, times, events, strict=True):
                mask[:] = event_edges_mask(chosen, one, of_window)
            masks &= ~_absent(model)
            if leave_out and not masks.any():
                continue
            if any(events) and not masks.any():
                raise AnalysisError(f"condition {condition!r} cuts no edge that the model has, in any window")
        outputs = _outputs(model, x, torch.from_numpy(masks), hooks)
        streams = [stream_events(outputs[of == one], known[of == one], names) for one in np.unique(of)]
        table = by_gesture(event_table({"all": streams}, gestures=names))
        table = table.loc[list(names), ["labels", "detected", "right", "missed", "false"]].reset_index()
        table.insert(0, "condition", condition)
        rows.append(table.assign(edges_cut=masks.sum() / len(x)))
    return WholeTable(pd.concat(rows, ignore_index=True))


def _all_times(times: Float[np.ndarray, "window step"]) -> Float[np.ndarray, "window step"]:
    """Time of every step, also of those that do not count: steps are equally far apart."""
    counted = times >= 0
    both = counted[:, 1:] & counted[:, :-1]
    if not both.any():
        raise AnalysisError("no window has two neighbouring steps that count; give longer windows or less context")
    step_s = float(np.diff(times)[both].mean())
    first = counted.argmax(axis=1)
    start = np.take_along_axis(times, first[:, None], 1) - step_s * first[:, None]
    start[~counted.any(axis=1)] = 0.0  # such a window has no events
    return start + step_s * np.arange(times.shape[1])


def _score_hooks(model: Any) -> list[str]:
    """Names of the hook points of the scores of all layers."""
    n_layers = getattr(getattr(model, "cfg", None), "n_layers", 0)
    names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(n_layers)]
    known = getattr(model, "hook_dict", {})
    if not names or not all(name in known for name in names):
        raise AnalysisError(
            f"{type(model).__name__} has no hook_attn_scores in its blocks; expected an encoder of this package with"
            " attention between time steps, such as tinymyo-gestures"
        )
    return names


def _absent(model: Any) -> Bool[np.ndarray, "step step"]:
    """Edges that the model does not have, such as those to later steps."""
    mask = model.cfg.permanent_mask.mask(model.layout, model.cfg.n_layers, model.cfg.n_heads)
    return mask.all(0).all(0).numpy()


def _outputs(model: Any, x: Tensor, masks: Bool[Tensor, "window step step"], hooks: list[str]) -> np.ndarray:
    """Outputs of all windows, with the edges of each window cut in every layer."""
    parts, device = [], next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for some, cut in zip(x.split(WINDOWS_AT_ONCE), masks.split(WINDOWS_AT_ONCE), strict=True):
            chosen = cut[:, None].to(device)

            def delete(scores: Tensor, hook: Any, chosen: Tensor = chosen) -> Tensor:  # noqa: ARG001
                return scores.masked_fill(chosen, -torch.inf)

            fwd_hooks = [(name, delete) for name in hooks] if cut.any() else []
            with attached_hooks(model, fwd_hooks):
                parts.append(model(some.to(device)).cpu())
    return torch.cat(parts).numpy()


class EventLockedAnalysis(FitAnalysis):
    """How much past a detection reads, and when it is decided, on test windows.

    Two families of cuts, in all layers: `past` cuts all sources earlier than a time before the event, `late` all
    sources later than a time relative to it. The table is that of `event_locked_scores` with the columns `family` and
    `relative_s`, the time relative to the event.
    """

    def run(self, model: Any, batch: Batch, conditions: Sequence[Condition]) -> pd.DataFrame:  # noqa: ARG002
        """Return the table."""
        assert batch.targets is not None
        families = {f"past {-s:g}": ("past", -s, EventEdges(DEST_S, (-np.inf, -s))) for s in PAST_S} | {
            f"late {s:g}": ("late", s, EventEdges((s, PULSE_S[1]), (s, np.inf))) for s in LATE_S
        }
        recording = None if batch.repetition_id is None else batch.repetition_id.cpu().numpy()
        edges = {name: one[2] for name, one in families.items()}
        table = _scores(model, batch.x, batch.targets, edges, recording, leave_out=True)
        about = {BASELINE: (BASELINE, np.nan)} | {name: one[:2] for name, one in families.items()}
        table["family"] = [about[name][0] for name in table["condition"]]
        table["relative_s"] = [about[name][1] for name in table["condition"]]
        return table


EVENT_LOCKED = EventLockedAnalysis()
