"""Reasons why the attention of a model cannot be cut."""

from collections import Counter

from torch import nn

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.attention_axes import TOKEN_AXES
from emg_lens.hooks.attention_calls import AttentionCall, AttentionRecorder, LocatedAttention, RunningModule
from emg_lens.hooks.hook_points import DeadHookError


def check_attention(
    kind: str, recorder: AttentionRecorder, located: list[LocatedAttention], unlocated: list[AttentionCall]
) -> None:
    """Refuse a model with attention that would not be cut, or whose layers cannot be distinguished."""
    for one in unlocated:
        counts = {axes.count(e.stream) for e in one.running if e.stream for axes in TOKEN_AXES.get(len(e.stream), ())}
        *_, n_dest, n_src = one.scores.shape
        if one.scores.ndim > 3 and n_dest > 1 and n_src not in counts:
            raise DeadHookError(
                f"{_where(kind, one)}, so these edges cannot be cut. Adapt a part of the model without it"
            )
    if not located and unlocated:
        raise DeadHookError(
            f"{kind} has no attention that can be edited: {_where(kind, unlocated[0])}. Scores of [batch, head, dest,"
            " src] with a softmax over the last axis can be edited"
        )
    if not located:
        raise DeadHookError(
            f"{kind} has no attention that can be edited: no module calls torch's softmax over the last axis of its"
            " scores, or torch's fused attention"
        )
    for entry in recorder.named_attention:
        if any(is_within(one.path, entry.path) or is_within(entry.path, one.path) for one in located):
            continue
        inside = [one for one in unlocated if any(e.path == entry.path for e in one.running)]
        parts = [one for one in inside if one.scores.shape[-2] > 1 and _reads_all(one, entry)]
        alike = entry.stream is not None and {one.n_dest for one in located} & set(entry.stream[:2])
        if parts or (alike and inside):
            raise DeadHookError(f"{_where(kind, [*parts, *inside][0])}, so these edges cannot be cut")
        if alike:
            raise DeadHookError(
                f"{entry.path} ({type(entry.module).__name__}) of {kind} calls neither torch's softmax over the last"
                " axis of its scores nor torch's fused attention, so its edges cannot be cut"
            )
    for entry in located:
        if not entry.cross and entry.n_src < entry.n_dest:
            raise DeadHookError(
                f"{entry.path or kind} of {kind}: {entry.n_dest} positions read {entry.n_src} keys. These keys are not"
                " positions, but for example landmarks, pooled or reduced positions, so these edges cannot be cut."
                " Adapt a part of the model without it"
            )
    runs = Counter(entry.path for entry in located)
    path, times = runs.most_common(1)[0]
    if times > 1:
        raise EdgeError(
            f"the code of {path or kind} computes {times} attentions in one forward (of several layers, or of parts of"
            " the positions), so they cannot be distinguished; give each of them a module of its own"
        )
    for path in runs:
        if inner := next((other for other in runs if other != path and is_within(other, path)), None):
            raise EdgeError(
                f"{path or kind} attends and contains {inner}, which attends too, so their edges cannot be cut"
                " separately; give each attention a module of its own"
            )


def _reads_all(one: AttentionCall, entry: RunningModule) -> bool:
    """Return whether some queries read all positions of a module's input, as in sparse attention."""
    return entry.stream is not None and one.scores.shape[-1] == entry.stream[1]


def _where(kind: str, one: AttentionCall) -> str:
    """Say where scores are computed that do not belong to the positions of an input."""
    named = [entry for entry in one.running if entry.stream and not isinstance(entry.module, nn.Softmax)]
    where = next(iter(named), one.running[0])
    return (
        f"{where.path or kind} ({type(where.module).__name__}) of {kind} computes a softmax over scores of shape"
        f" {list(one.scores.shape)} from an input of shape {list(where.stream or ())}. These are not the positions of"
        " the input, but for example channels, windows, or reduced or selected positions"
    )


def is_within(path: str, other: str) -> bool:
    """Return whether a module is another one or a part of it."""
    return path == other or path.startswith(f"{other}." if other else "")


def ambiguity(calls: tuple[AttentionCall, ...], n_meanings: int) -> str:
    """Say why the axes of scores have no meaning, or several."""
    what = f"in scores of shape {list(calls[0].scores.shape)}"
    if calls[0].scores.ndim == 5:
        return f"rows of trials and heads cannot be distinguished {what}, for there are as many; change one number"
    if len(calls) == 1:
        return (
            f"trials and heads cannot be distinguished {what}; pass inputs=<a small batch> whose batch size differs"
            " from the number of heads"
        )
    if n_meanings:
        return f"trials and heads cannot be distinguished {what}, for all heads have equal scores; give them weights"
    return f"two copies of one trial have different scores, {what}; the attention must not use random numbers"
