"""Find the attention modules of an unknown model by running it a few times."""

import functools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.attention_axes import TOKEN_AXES, ScoreAxes, TokenAxes, possible_score_axes
from emg_lens.hooks.attention_calls import AttentionCall, AttentionRecorder, LocatedAttention, RunningModule
from emg_lens.hooks.attention_kernel import KernelMode
from emg_lens.hooks.attention_refusals import ambiguity, check_attention, is_within
from emg_lens.hooks.data_flow import DataFlow, Sources, stream_and_others
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.fused_attention import allowed
from emg_lens.hooks.hook_points import only_while_probing, probing
from emg_lens.hooks.model_inputs import Inputs, call, first_call
from emg_lens.hooks.threads import LOCK

SIZES = (2, 3)
"""Two batch sizes of the same trial: the axes of trials are those that grow."""


def find_attention(model: nn.Module, inputs: Inputs) -> list[LocatedAttention]:
    """Return the attention modules of a model in the order in which they run."""
    token = probing.set(True)  # cuts that are installed already are inactive
    try:
        with LOCK, evaluating(model), torch.no_grad():
            recorders, inputs = _record(model, inputs)
            located, unlocated = _locate(model, recorders)
            located = _with_sources(model, inputs, located)
        tokens = _without_pooling(located)
        located = tokens if tokens or unlocated else located
        check_attention(type(model).__name__, recorders[0], located, unlocated)
        return located
    finally:
        probing.reset(token)


def _record(model: nn.Module, inputs: Inputs) -> tuple[list[AttentionRecorder], Inputs]:
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
        if len(small.calls) != len(large.calls):
            continue
        firsts = [(a.scores.shape[0], b.scores.shape[0]) for a, b in zip(small.calls, large.calls, strict=True)]
        grown = bool(firsts) and all(a * SIZES[1] == b * SIZES[0] for a, b in firsts)  # trials, but no attention
        if grown or any(map(_options, small.calls, large.calls)):
            return recorders, _resized(inputs, axis, SIZES[0])
    return [_recorded(model, inputs)], inputs


def _recorded(model: nn.Module, inputs: Inputs) -> AttentionRecorder:
    recorder = AttentionRecorder(model)
    with recorder.watching():
        first_call(model, inputs)
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


Option = tuple[RunningModule, TokenAxes, ScoreAxes]


def _options(*calls: AttentionCall) -> list[Option]:
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


def _locate(model: nn.Module, recorders: list[AttentionRecorder]) -> tuple[list[LocatedAttention], list[AttentionCall]]:
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
            raise EdgeError(f"{entry.path or kind} of {kind}: {ambiguity(calls, len(same))}")
        located.append(LocatedAttention(entry.path, same[0].n_heads or 1, n_dest, n_src, same[0], tokens))
    return located, unlocated


def _constant_over_trials(scores: Tensor) -> bool:
    """Return whether all copies of the trial have the same scores."""
    scores = scores.float().where(allowed(scores), 0.0).nan_to_num()
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
            hook = only_while_probing(functools.partial(read, entry))
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
        if outer := next((entry.path for entry in located if entry.path != gate and is_within(gate, entry.path)), None):
            raise EdgeError(
                f"{outer} attends and contains {gate}, another softmax of the same shape; give the attention a module"
                " of its own"
            )
    return [known[entry.path] for entry in located if entry.path not in gates]


def _without_pooling(located: list[LocatedAttention]) -> list[LocatedAttention]:
    """Leave out attention of one learned query, which reads the tokens and is not one of them."""
    pooling: set[str] = set()
    for entry in located:
        if entry.cross and entry.n_dest == 1 and entry.sources <= pooling:
            pooling.add(entry.path)
    return [entry for entry in located if entry.path not in pooling]
