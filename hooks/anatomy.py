"""Where attention lives in a TransformerLens model, and how to listen there without leaving a trace.

Knows HookedTransformer, HookedEncoder, TransformerBridge and any `HookedRootModule` that keeps their hook
names.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from emg_lens.errors import EmgLensError
from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.kernel import TappedForward
from emg_lens.hooks.mapped import inside_vmap
from emg_lens.layout import Stage, TokenLayout

SCORES, PATTERN = "hook_attn_scores", "hook_pattern"
StackName = Literal["encoder", "decoder", "cross"]
"""Which attention of an encoder-decoder: the encoder's, the decoder's own, or the decoder's over the encoder."""
STACKS: dict[str | None, str] = {
    None: r"blocks\.(\d+)\.(?:attn|self_attn)",
    "encoder": r"(?:encoder_blocks|encoder)\.(\d+)\.(?:attn|self_attn)",
    "decoder": r"(?:decoder_blocks|decoder)\.(\d+)\.(?:attn|self_attn)",
    "cross": r"(?:decoder_blocks|decoder)\.(\d+)\.cross_attn",
}
"""Where attention lies, by stack: in models with a single one, in bridges and in HookedEncoderDecoder."""


class StageLayer(NamedTuple):
    """A layer of a stage (`TokenLayout.stages`), counted from the model's first."""

    layer: int
    stage: str

    def __str__(self) -> str:
        return f"{self.layer} (stage {self.stage!r})"


Place = int | StageLayer
"""Where a model has attention: a layer, or a layer of one of its stages."""

probing = ContextVar("probing", default=False)
"""True while a model is probed: cuts that are in place let everything pass."""


class DeadHookError(EmgLensError, RuntimeError):
    """A hook that does not reach the model's computation, or an intervention that did not happen."""


def attention_paths(model: nn.Module, stack: StackName | None = None) -> dict[Place, str]:
    """Path of the attention of every layer that has one, such as `{0: "blocks.0.attn", ...}`; of stages, of theirs.

    Args:
        model: A model with TransformerLens's hook points.
        stack: Of an encoder-decoder; default: the encoder.

    Raises:
        EdgeError: The model has no attention hook points under TransformerLens names, or no such stack.
    """
    names = getattr(model, "hook_dict", None)
    if names is None:
        raise EdgeError(f"{type(model).__name__} is not a TransformerLens model: it has no hook_dict; see adapt(model)")
    if stack not in STACKS:
        raise EdgeError(f"stack={stack!r} is none of {', '.join(map(repr, STACKS))}")
    if stack is None and (stages := _own_stages(model)):
        blocks = {
            StageLayer(layer, stage.name): f"stages.{stage.name}.blocks.{layer - stage.layers.start}"
            for stage in stages
            for layer in stage.layers
        }
        return {place: f"{path}.attn" for place, path in blocks.items() if hasattr(at_path(model, path), "attn")}
    found = {key: _paths(names, place) for key, place in STACKS.items()}
    if paths := found[stack] or (found["encoder"] if stack is None else {}):
        return _with_shared(model, paths)
    known = [key for key in STACKS if found[key]]
    if known:
        raise EdgeError(
            f"{type(model).__name__} has no {stack or 'encoder'!r} stack with attention;"
            f" {'it has a single one, so leave stack out' if None in known else f'stack= takes {known}'}"
        )
    raise EdgeError(
        f"{type(model).__name__} has no hook point named blocks.<layer>.attn.{PATTERN}; hook points start with"
        f" {sorted({name.split('.')[0] for name in names})}"
    )


def _own_stages(model: nn.Module) -> tuple[Stage, ...]:
    layout = getattr(model, "layout", None)
    return layout.stages if isinstance(layout, TokenLayout) else ()


def _paths(names: Iterable[str], place: str) -> dict[int, str]:
    matches = filter(None, map(re.compile(rf"({place})\.{PATTERN}").fullmatch, names))
    return {int(match[2]): match[1] for match in sorted(matches, key=lambda match: int(match[2]))}


def _with_shared(model: nn.Module, paths: dict[int, str]) -> dict[Place, str]:
    """The paths, and those of layers that use another layer's attention: their hook points bear the other's name."""
    stack, _, part = next(iter(paths.values())).partition(".")
    part = part.partition(".")[2]
    modules = [at_path(model, path) for path in paths.values()]
    every = {layer: f"{stack}.{layer}.{part}" for layer in range(len(getattr(model, stack)))}
    shared = {
        layer: path
        for layer, path in every.items()
        if layer not in paths and any(getattr(getattr(model, stack)[layer], part, None) is one for one in modules)
    }
    return dict(sorted((paths | shared).items()))


def count_layers(model: nn.Module, paths: Mapping[Place, str]) -> int:
    """Layers of the stack that `paths` lies in, those without attention included; with stages, of the model."""
    if stages := _own_stages(model):
        return max(stage.layers.stop for stage in stages)
    stack = paths[max(paths)].split(".")[0]
    return len(getattr(model, stack))


def at_path(model: nn.Module, path: str) -> Any:
    """The module at a dotted path; numbers index."""
    module: Any = model
    for part in path.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return module


def resolve_layout(model: nn.Module, layout: TokenLayout | None) -> TokenLayout:
    """The given layout, with the stages of the model, or the model's own.

    Raises:
        EdgeError: Neither exists, or the given one has another number of positions than the model's stages, or others.
    """
    stages = _own_stages(model)
    if layout is not None and layout.stages and layout.stages != stages:
        own = [stage.name for stage in stages]
        raise EdgeError(
            f"the layout has the stages {[stage.name for stage in layout.stages]} of another model; this one has"
            f" {own or 'but one'}: leave layout out, or give one without stages"
        )
    if layout is not None and stages and not layout.stages:
        if len(layout) != stages[-1].positions.stop:
            raise EdgeError(f"the layout has {len(layout)} positions, the model has {stages[-1].positions.stop}")
        layout = replace(layout, stages=stages)
    layout = layout if layout is not None else getattr(model, "layout", None)
    if not isinstance(layout, TokenLayout):
        raise EdgeError(
            f"{type(model).__name__} has no .layout of its own: pass layout=TokenLayout.groups({{...}}, n_tokens=...)"
        )
    return layout


@contextmanager
def listening(point: Any, fn: Callable, *, last: bool = False) -> Iterator[None]:
    """Put `fn(tensor, hook)` on a hook point, and take exactly it away again, whatever happens.

    The hook is permanent in TransformerLens's sense, so that a `reset_hooks()` of somebody else leaves it
    alone.

    Args:
        point: A TransformerLens `HookPoint`.
        fn: Called with the tensor; a returned tensor replaces it.
        last: Run after every other hook of the point, also those that are added later.
    """
    point.add_hook(fn, is_permanent=True)
    handle = point.fwd_hooks[-1]
    order = None
    if last:
        order = point.register_forward_pre_hook(lambda *_: point._forward_hooks.move_to_end(handle.hook.id))
    try:
        yield
    finally:
        if order is not None:
            order.remove()
        handle.hook.remove()
        point.fwd_hooks = [kept for kept in point.fwd_hooks if kept is not handle]


def check_unmapped(model: nn.Module) -> None:
    """Refuse to find out about a model inside `torch.vmap`, where values cannot be looked at.

    Raises:
        DeadHookError: This is inside.
    """
    if inside_vmap():
        raise DeadHookError(
            f"{type(model).__name__} cannot be probed inside torch.vmap: make the hooks, or enter cutting, before"
            " the mapped function is called"
        )


@contextmanager
def quietly(model: nn.Module) -> Iterator[None]:
    """The model as it is: eval mode, no gradients, temporary hooks suspended; everything as before at the end.

    Permanent hooks stay: bridges relay some of their hook points through them.

    Raises:
        DeadHookError: Inside `torch.vmap`.
    """
    check_unmapped(model)
    roots = (model, getattr(model, "original_model", None))  # a bridge keeps parts of what it wraps to itself
    training = [part for root in roots if isinstance(root, nn.Module) for part in root.modules() if part.training]
    registry: Any = model.hook_dict
    points = {id(point): point for point in registry.values()}.values()
    heard = [(point._forward_hooks, list(point._forward_hooks.items()), _temporary(point)) for point in points]
    try:
        model.eval()
        for hooks, _, temporary in heard:
            for key in temporary:
                del hooks[key]
        with torch.no_grad():
            yield
    finally:
        for hooks, before, temporary in heard:
            now = dict(hooks)
            hooks.clear()
            hooks.update((key, fn) for key, fn in before if key in now or key in temporary)
            hooks.update(now)
        for part in training:
            part.training = True


def _temporary(point: Any) -> set[int]:
    return {kept.hook.id for kept in point.fwd_hooks if not kept.is_permanent} & set(point._forward_hooks)


def switches(model: nn.Module) -> tuple:
    """Everything about a model that can turn a hook on or off: switches, and which parts compute it."""
    cfg = getattr(model, "cfg", None)
    flags = sorted((name, str(getattr(cfg, name))) for name in dir(cfg) if name.startswith("use_"))
    wrapped = getattr(getattr(model, "original_model", None), "config", None)
    return (
        getattr(model, "compatibility_mode", None),
        getattr(wrapped, "_attn_implementation", None),
        tuple(flags),
        len(model.hook_dict),  # pyright: ignore
        hash(tuple(_what_computes(part) for part in model.modules())),
    )


EVERY_MODULES = frozenset(vars(nn.Module()))
"""What torch itself keeps on any module."""


def _what_computes(part: nn.Module) -> tuple:
    """A module's class, and what stands on the object in the place of the class's own methods, taps aside."""
    kind, own = type(part), vars(part)
    replaced = [key for key in own.keys() - EVERY_MODULES if callable(getattr(kind, key, None))]
    values = [(key, own[key].previous if isinstance(own[key], TappedForward) else own[key]) for key in sorted(replaced)]
    return (kind, *((key, id(value)) for key, value in values if value is not None))
