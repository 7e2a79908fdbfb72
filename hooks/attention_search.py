"""Find the attention modules of an unknown model by running it a few times."""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.attention_axes import TOKEN_AXES, ScoreAxes, TokenAxes, possible_score_axes
from emg_lens.hooks.attention_kernel import KernelMode
from emg_lens.hooks.data_flow import DataFlow, Sources, stream_and_others
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import DeadHookError, probing
from emg_lens.hooks.model_inputs import Inputs, call

SIZES = (2, 3)
"""Two batch sizes of the same trial: the axes of trials are those that grow."""


@dataclass(frozen=True)
class LocatedAttention:
    """One attention module that ran.

    Attributes:
        path: Its path in the model.
        n_heads: Number of heads.
        n_dest: Number of positions that it writes; it reads `n_src`.
        score_axes: The axes of its scores; `token_axes`: the axes of its input.
        sources: The attention modules (and inputs of the model) in whose residual stream it is.
        cross: Whether it reads the tokens of another stream.
    """

    path: str
    n_heads: int
    n_dest: int
    n_src: int
    score_axes: ScoreAxes
    token_axes: TokenAxes
    sources: Sources = Sources()
    cross: bool = False


@dataclass
class _Running:
    """A module that is running, its residual stream, if any, and the shapes of its other arguments with tokens."""

    path: str
    module: nn.Module
    stream: tuple[int, ...] | None
    others: list[tuple[int, ...]]


@dataclass
class _Call:
    """One computation of attention: its scores, and the modules that were running, the innermost one first."""

    scores: Tensor
    running: list[_Running]


class _Recorder:
    """Records every softmax over scores and every fused attention, with the running modules."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.running: list[_Running] = []
        self.calls: list[_Call] = []
        self.named_attention: list[_Running] = []

    def before(self, scores: Tensor) -> Tensor:
        # The values are only needed where heads and trials share an axis.
        kept = scores.detach() if scores.ndim == 3 else scores.detach().to("meta")
        self.calls.append(_Call(kept, self.running[::-1]))
        return scores

    def after(self, pattern: Tensor) -> Tensor:
        return pattern

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what runs in the context."""
        with ExitStack() as stack:
            for path, module in self.model.named_modules():
                enter = functools.partial(self._enter, path)
                stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)
            stack.enter_context(KernelMode([self], axes=None))
            yield

    def _enter(self, path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not probing.get():  # a forward in another thread
            return
        stream, others = stream_and_others(args, kwargs)
        shape = None if stream is None else tuple(stream.shape)
        self.running.append(_Running(path, module, shape, [tuple(other.shape) for other in others]))
        if type(module).__name__.endswith("Attention"):
            self.named_attention.append(self.running[-1])

    def _leave(self, *_: object) -> None:
        if probing.get():
            self.running.pop()


def find_attention(model: nn.Module, inputs: Inputs) -> list[LocatedAttention]:
    """Return the attention modules of a model in the order in which they run."""
    token = probing.set(True)  # cuts that are installed already are inactive
    try:
        with evaluating(model), torch.no_grad():
            recorders, inputs = _record(model, inputs)
            located, unlocated = _locate(model, recorders)
            located = _with_sources(model, inputs, located)
        _check(type(model).__name__, recorders[0], located, unlocated)
        return located
    finally:
        probing.reset(token)


def _record(model: nn.Module, inputs: Inputs) -> tuple[list[_Recorder], Inputs]:
    """Run the model with two batch sizes. Return what ran, and the smaller input.

    If the batch of the input cannot be changed, the model runs once.
    """
    for axis in (0, 1):  # some models read [time, batch, channel]
        recorders = []
        try:
            for size in SIZES:
                recorders.append(_recorded(model, _resized(inputs, axis, size)))
        except Exception:  # noqa: BLE001, S112  # the model does not take this batch
            continue
        small, large = recorders
        if len(small.calls) == len(large.calls) and any(map(_options, small.calls, large.calls)):
            return recorders, _resized(inputs, axis, SIZES[0])
    return [_recorded(model, inputs)], inputs


def _recorded(model: nn.Module, inputs: Inputs) -> _Recorder:
    recorder = _Recorder(model)
    with recorder.watching():
        call(model, inputs)
    return recorder


def _resized(inputs: Inputs, axis: int, size: int) -> Inputs:
    """Repeat the first trial of every tensor that has as many trials as the first one."""
    tensors = [leaf for leaf in tree_leaves(_plain(inputs)) if isinstance(leaf, Tensor) and leaf.ndim > axis]
    n_trials = tensors[0].shape[axis] if tensors else 0

    @functools.cache  # a tensor that is given twice stays one tensor
    def repeat(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.ndim <= axis or leaf.shape[axis] != n_trials:
            return leaf
        return leaf.index_select(axis, torch.zeros(size, dtype=torch.long, device=leaf.device))

    return tree_map(repeat, _plain(inputs))


def _plain(inputs: Inputs) -> Inputs:
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


Option = tuple[_Running, TokenAxes, ScoreAxes]


def _options(*calls: _Call) -> list[Option]:
    """Return every meaning of the axes that fits all forwards, the most likely one first.

    Modules that receive whole trials come before those that receive windows, channels or heads as trials, and inner
    ones before outer ones.
    """
    options: list[tuple[tuple[bool, bool], Option]] = []
    for entries in zip(*(one.running for one in calls), strict=False):
        shapes = [entry.stream for entry in entries if entry.stream is not None]
        if len(shapes) < len(calls):
            continue
        for tokens in TOKEN_AXES.get(len(shapes[0]), ()):
            trials = [tokens.count_trials(shape) for shape in shapes]
            grows = len(calls) == 1 or trials[0] * SIZES[1] == trials[1] * SIZES[0]
            if not grows or [tokens.count(shape) for shape in shapes] != [one.scores.shape[-2] for one in calls]:
                continue
            rows = shapes[0][1] if len(tokens.trials) > 1 else 1
            for axes in possible_score_axes([one.scores.shape for one in calls], trials, rows):
                parts = len(calls) > 1 and trials[0] != SIZES[0]
                options.append(((tokens.positions == (2,), parts), (entries[0], tokens, axes)))
    return [option for _, option in sorted(options, key=lambda entry: entry[0])]


def _locate(model: nn.Module, recorders: list[_Recorder]) -> tuple[list[LocatedAttention], list[_Call]]:
    """Return the attention of every call, and the calls that are not attention between the tokens of a module."""
    kind, located, unlocated = type(model).__name__, [], []
    for calls in zip(*(recorder.calls for recorder in recorders), strict=True):
        options = _options(*calls)
        n_dest, n_src = calls[0].scores.shape[-2:]
        if options and calls[0].scores.ndim == 3 and n_src != n_dest:
            (entry, tokens, _), *_ = options  # a softmax over classes, unless the module reads so many tokens
            options = options if n_src in [tokens.count(shape) for shape in entry.others] else []
        if not options:
            unlocated.append(calls[0])
            continue
        entry, tokens, _ = options[0]
        same = [axes for one, where, axes in options if one is entry and where == tokens]
        if len(same) > 1 and len(recorders) > 1 and calls[-1].scores.ndim == 3:
            same = [axes for axes in same if _constant_over_trials(axes.to_canonical(calls[-1].scores))]
        if len(same) != 1:
            raise EdgeError(
                f"{entry.path or kind} of {kind}: trials and heads cannot be distinguished in scores of shape"
                f" {list(calls[0].scores.shape)}; pass inputs=<a small batch> whose batch size differs from the number"
                " of heads"
            )
        located.append(LocatedAttention(entry.path, same[0].n_heads or 1, n_dest, n_src, same[0], tokens))
    return located, unlocated


def _constant_over_trials(scores: Tensor) -> bool:
    """Return whether all copies of the trial have the same scores."""
    scores = scores.float().nan_to_num()
    trials = scores.unflatten(0, (SIZES[1], -1))
    return bool((trials - trials[:1]).abs().amax() <= 1e-3 * scores.abs().amax())


class _Scores(list[Tensor]):
    """The scores that a module computes."""

    def before(self, scores: Tensor) -> Tensor:
        self.append(scores)
        return scores

    def after(self, pattern: Tensor) -> Tensor:
        return pattern


def _is_gate(entry: LocatedAttention, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Return whether no token changes the scores of another one, as in a softmax over as many classes as tokens."""
    stream, _ = stream_and_others(args, kwargs)
    scores, generator = _Scores(), torch.Generator().manual_seed(0)

    def changed(value: Any) -> Any:
        if not isinstance(value, Tensor) or stream is None or value.shape != stream.shape:
            return value
        first = entry.token_axes.first(value)[:1]
        return entry.token_axes.replaced(value, [0], torch.randn(first.shape, generator=generator))

    with KernelMode([scores], entry.score_axes):
        module.forward(*args, **kwargs)
        n_calls = len(scores)
        module.forward(*map(changed, args), **{key: changed(value) for key, value in kwargs.items()})
    change = (scores[n_calls] - scores[0])[:, :, 1:].abs().nan_to_num()
    return bool(change.amax() <= 1e-4 * scores[0].abs().nan_to_num().amax())


def _with_sources(model: nn.Module, inputs: Inputs, located: list[LocatedAttention]) -> list[LocatedAttention]:
    """Run the model once more, and add in whose residual stream each attention is and whether it reads another one."""
    flow, known, gates = DataFlow(), {}, set[str]()

    def read(entry: LocatedAttention, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not probing.get():
            return
        if "h" not in entry.score_axes.canonical and _is_gate(entry, module, args, kwargs):
            gates.add(entry.path)
            return
        stream, others = stream_and_others(args, kwargs)
        assert stream is not None
        own, cross = flow.of(stream), False
        for other in others:
            if other.ndim == stream.ndim and tuple(other.shape[-2:]) != (entry.n_dest, entry.n_src):
                theirs, n_read = flow.of(other), entry.token_axes.count(other.shape)
                older = theirs < own and any(one.path in theirs for one in located)
                cross |= bool(theirs) and (older or not theirs <= own)
                cross |= n_read == entry.n_src != entry.n_dest
        known[entry.path] = replace(entry, sources=own, cross=cross)

    with ExitStack() as stack:
        for entry in {entry.path: entry for entry in located}.values():
            module = model.get_submodule(entry.path)
            hook = functools.partial(read, entry)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            stack.enter_context(flow.replacing_outputs(module, entry.path))
        given = inputs if isinstance(inputs, Mapping) else dict(enumerate(tree_leaves(inputs)))
        for name, leaf in given.items():
            if "mask" not in str(name):
                flow.set(leaf, Sources({f"input {name}"}))
        stack.enter_context(KernelMode([], axes=None))  # as above: no fused path
        stack.enter_context(flow)
        call(model, inputs)
    for gate in gates:
        if outer := next((entry.path for entry in located if entry.path != gate and _within(gate, entry.path)), None):
            raise EdgeError(
                f"{outer} attends and contains {gate}, another softmax of the same shape; give the attention a module"
                " of its own"
            )
    return [known[entry.path] for entry in located if entry.path not in gates]


def _check(kind: str, recorder: _Recorder, located: list[LocatedAttention], unlocated: list[_Call]) -> None:
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
        unrelated = not any(_within(one.path, entry.path) or _within(entry.path, one.path) for one in located)
        if unrelated and entry.stream is not None and {one.n_dest for one in located} & set(entry.stream[:2]):
            inside = next((one for one in unlocated if any(e.path == entry.path for e in one.running)), None)
            if inside is not None:
                raise DeadHookError(f"{_where(kind, inside)}, so these edges cannot be cut")
            raise DeadHookError(
                f"{entry.path} ({type(entry.module).__name__}) of {kind} calls neither torch's softmax over the last"
                " axis of its scores nor torch's fused attention, so its edges cannot be cut"
            )
    runs = Counter(entry.path for entry in located)
    path, times = runs.most_common(1)[0]
    if times > 1:
        raise EdgeError(
            f"the code of {path or kind} computes {times} attentions in one forward (of several layers, or of parts of"
            " the positions), so they cannot be distinguished; give each of them a module of its own"
        )
    for path in runs:
        if inner := next((other for other in runs if other != path and _within(other, path)), None):
            raise EdgeError(
                f"{path or kind} attends and contains {inner}, which attends too, so their edges cannot be cut"
                " separately; give each attention a module of its own"
            )


def _where(kind: str, one: _Call) -> str:
    """Say where scores are computed that do not belong to the positions of an input."""
    named = [entry for entry in one.running if entry.stream and not isinstance(entry.module, nn.Softmax)]
    where = next(iter(named), one.running[0])
    return (
        f"{where.path or kind} ({type(where.module).__name__}) of {kind} computes a softmax over scores of shape"
        f" {list(one.scores.shape)} from an input of shape {list(where.stream or ())}. These are not the positions of"
        " the input, but for example channels, windows or reduced positions"
    )


def _within(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}." if other else "")
