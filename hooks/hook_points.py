"""The attention of a TransformerLens model: its hook points, its layers, and hooks that are removed completely."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from threading import RLock
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from emg_lens.errors import EmgLensError
from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.attention_kernel import EditedForward
from emg_lens.hooks.evaluation import evaluating, without_compilation
from emg_lens.hooks.threads import LOCK, bound_to_thread, is_of_another_thread, owned_by_thread
from emg_lens.hooks.vmap import inside_vmap
from emg_lens.layout import Stage, TokenLayout
from emg_lens.validation import short

SCORES, PATTERN = "hook_attn_scores", "hook_pattern"
StackName = Literal["encoder", "decoder", "cross"]
"""Attention of an encoder-decoder: in the encoder, in the decoder, or from the decoder to the encoder."""
STACKS: dict[str | None, str] = {
    None: r"blocks\.(\d+)\.(?:attn|self_attn)",
    "encoder": r"(?:encoder_blocks|encoder)\.(\d+)\.(?:attn|self_attn)",
    "decoder": r"(?:decoder_blocks|decoder)\.(\d+)\.(?:attn|self_attn)",
    "cross": r"(?:decoder_blocks|decoder)\.(\d+)\.cross_attn",
}
"""Patterns of attention paths: in models with a single stack, in bridges and in HookedEncoderDecoder."""


class StageLayer(NamedTuple):
    """A layer of a stage (`TokenLayout.stages`), counted from the first layer of the model."""

    layer: int
    stage: str

    def __str__(self) -> str:
        return f"{self.layer} (stage {self.stage!r})"


Place = int | StageLayer
"""A layer with attention, or such a layer of a stage."""


def layer_of(place: Place) -> int:
    """Return the layer of a place, counted from the first layer of the model."""
    return place.layer if isinstance(place, StageLayer) else place


_CHANGING = RLock()
"""Held while a hook and what is known about it change together: a forward in another thread sees both or none."""
probing = ContextVar("probing", default=False)
"""True while a model is probed; installed cuts are then inactive."""


def only_while_probing(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make a hook of torch that does nothing in a forward of another thread.

    Torch may call it there without the keyword arguments, if it is removed meanwhile.
    """

    def hook(*given: Any) -> Any:
        return fn(*given) if probing.get() else None

    return hook


class DeadHookError(EmgLensError, RuntimeError):
    """A hook has no effect on the model's computation, or an intervention did not happen."""


def class_name(model: nn.Module) -> str:
    """Return the class of a model; of an adapted model, that of the original."""
    return type(getattr(model, "original_model", model)).__name__


def unknown_point(names: Iterable[str], name: object) -> str:
    """Return the message about a hook point that a model lacks; `names` are those that it has."""
    names = list(names)
    if names and all(one.endswith((SCORES, PATTERN)) for one in names):
        return (
            f"unknown hook point {name!r}: an adapted model has only {SCORES} and {PATTERN} in each layer, such as"
            f" {names[-1]!r}; cut edges or replace the input, or use a hook of torch on a module of the model"
        )
    near = get_close_matches(str(name), names, n=3, cutoff=0.5)
    return f"unknown hook point {name!r}; similar names: {near or names[:5]}"


def check_hooks(hooks: object, what: str) -> None:
    """Check that hooks are a list of pairs: the name of a hook point, or a function of the name, and a function."""
    pairs = hooks if isinstance(hooks, list | tuple) else [None]
    if not all(
        isinstance(one, list | tuple)
        and len(one) == 2
        and (isinstance(one[0], str) or callable(one[0]))
        and callable(one[1])
        for one in pairs
    ):
        raise EdgeError(
            f"{what}={short(hooks)}; expected a list of (name of a hook point, function): cut(model, edges) makes one"
        )


def attention_paths(model: nn.Module, stack: StackName | None = None) -> dict[Place, str]:
    """Return the path of the attention in every layer, and in every layer of a stage: `{0: "blocks.0.attn", ...}`.

    `stack`: for an encoder-decoder, which attention; default: the encoder's.
    """
    names = getattr(model, "hook_dict", None)
    if names is None:
        raise EdgeError(f"{type(model).__name__} is not a TransformerLens model (no hook_dict); use adapt(model)")
    if stack not in STACKS:
        raise EdgeError(f"stack={stack!r}; expected one of {', '.join(map(repr, STACKS))}")
    if stack is None and (stages := _own_stages(model)):
        blocks = {
            StageLayer(layer, stage.name): f"stages.{stage.name}.blocks.{layer - stage.layers.start}"
            for stage in stages
            for layer in stage.layers
        }
        return {place: f"{path}.attn" for place, path in blocks.items() if hasattr(at_path(model, path), "attn")}
    paths_by_stack = {key: _paths(names, place) for key, place in STACKS.items()}
    if paths := paths_by_stack[stack] or (paths_by_stack["encoder"] if stack is None else {}):
        return _with_shared(model, paths)
    known = [key for key in STACKS if paths_by_stack[key]]
    if known:
        raise EdgeError(
            f"{class_name(model)} has no {stack or 'encoder'!r} stack with attention;"
            f" {'leave stack out: the model has a single stack' if None in known else f'expected stack in {known}'}"
        )
    if not any(name.endswith(PATTERN) for name in names):
        raise EdgeError(
            f"{class_name(model)} has no attention that can be cut: none of its hook points is named {PATTERN}"
        )
    raise EdgeError(
        f"{class_name(model)} has no hook point named blocks.<layer>.attn.{PATTERN}; its hook points start with"
        f" {sorted({name.split('.')[0] for name in names})}"
    )


def _own_stages(model: nn.Module) -> tuple[Stage, ...]:
    layout = getattr(model, "layout", None)
    return layout.stages if isinstance(layout, TokenLayout) else ()


def _paths(names: Iterable[str], place: str) -> dict[int, str]:
    matches = filter(None, map(re.compile(rf"({place})\.{PATTERN}").fullmatch, names))
    return dict(sorted(((int(match[2]), match[1]) for match in matches), key=lambda found: found[0]))


def _with_shared(model: nn.Module, paths: dict[int, str]) -> dict[Place, str]:
    """Add layers that share the attention module of another layer; their hook points have the name of that layer."""
    stack, _, part = next(iter(paths.values())).partition(".")
    part = part.partition(".")[2]
    modules = [at_path(model, path) for path in paths.values()]
    shared = {
        layer: f"{stack}.{layer}.{part}"
        for layer, block in enumerate(getattr(model, stack))
        if layer not in paths and any(getattr(block, part, None) is one for one in modules)
    }
    return dict(sorted((paths | shared).items()))


def count_layers(model: nn.Module, paths: Mapping[Place, str]) -> int:
    """Count the layers of the stack of `paths`, or of the whole model if it has stages, with or without attention."""
    if stages := _own_stages(model):
        return max(stage.layers.stop for stage in stages)
    stack = paths[max(paths)].split(".")[0]
    return len(getattr(model, stack))


def at_path(model: nn.Module, path: str) -> Any:
    """Return the module at a dotted path; numbers are indices."""
    module: Any = model
    for part in path.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return module


def resolve_layout(model: nn.Module, layout: TokenLayout | None) -> TokenLayout:
    """Return the given layout, with the stages of the model added, or the model's own layout."""
    stages = _own_stages(model)
    if layout is not None and layout.stages and layout.stages != stages:
        own = [stage.name for stage in stages]
        raise EdgeError(
            f"the layout has the stages {[stage.name for stage in layout.stages]}, the model has {own or 'none'};"
            " leave layout out, or give a layout without stages"
        )
    if layout is not None and stages and not layout.stages:
        if len(layout) != stages[-1].positions.stop:
            raise EdgeError(f"the layout has {len(layout)} positions, the model has {stages[-1].positions.stop}")
        layout = replace(layout, stages=stages)
    layout = layout if layout is not None else getattr(model, "layout", None)
    if not isinstance(layout, TokenLayout):
        raise EdgeError(f"{class_name(model)} has no .layout; pass layout=TokenLayout.groups({{...}}, n_tokens=...)")
    return layout


def check_layers(model: nn.Module, paths: Mapping[Place, str], edits: Mapping[Place, Tensor]) -> None:
    """Check that every edited layer has attention, and that layers with a shared module are edited in the same way."""
    for layer in edits:
        if layer not in paths:
            raise EdgeError(f"layer {layer} has no attention; layers with attention: {', '.join(map(str, paths))}")
    modules = {layer: at_path(model, path) for layer, path in paths.items()}
    for layer, path in paths.items():
        for other in edits:
            shared = layer != other and modules[layer] is modules[other]
            if shared and not (layer in edits and edits[layer].equal(edits[other])):
                raise EdgeError(
                    f"layers {other} and {layer} share one attention module ({path}); cut the same edges in both"
                )


@contextmanager
def attached_hook(point: Any, fn: Callable, *, last: bool = False, fuses: bool = False) -> Iterator[None]:
    """Add `fn(tensor, hook)` to a hook point for this thread, and remove exactly this hook on exit.

    It is permanent in TransformerLens's sense, so that `reset_hooks()` does not remove it. `last`: run it after every
    other hook of the point, including hooks that are added later. `fuses`: see `needs_scores`.
    """
    with bound_to_thread() as in_own_thread, ExitStack() as stack:
        with LOCK, _CHANGING:
            point.add_hook(lambda tensor, hook: fn(tensor, hook=hook) if in_own_thread() else None, is_permanent=True)
            handle = point.fwd_hooks[-1]
            handles = [handle.hook]
            if last:

                def move_to_end(*_: object) -> None:
                    if in_own_thread():
                        point._forward_hooks.move_to_end(handle.hook.id)

                handles.append(point.register_forward_pre_hook(move_to_end))
            own = {one.id for one in handles}
            stack.enter_context(owned_by_thread(own))
            stack.callback(_remove, point, handle, handles)
            if fuses:
                point.fusing = getattr(point, "fusing", frozenset()) | own
        yield


@contextmanager
def attached_hooks(model: nn.Module, hooks: Iterable[tuple[str, Callable]]) -> Iterator[None]:
    """Add hooks `(name of the hook point, fn)` for this thread, and remove exactly these on exit.

    TransformerLens's own `model.hooks` acts in every thread, and on exit removes the hooks of other threads as well.
    """
    points: Any = model.hook_dict
    with ExitStack() as stack:
        for name, fn in hooks:
            stack.enter_context(attached_hook(points[name], fn))
        yield


@contextmanager
def recording(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that holds the activations (detached) of these hook points after every forward of this thread."""
    kept: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any, name: str) -> None:  # noqa: ARG001
        kept[name] = tensor.detach()

    with attached_hooks(model, [(name, partial(keep, name=name)) for name in names]):
        yield kept


def _remove(point: Any, handle: Any, handles: list[Any]) -> None:
    with LOCK, _CHANGING:
        for one in handles:
            one.remove()
        point.fwd_hooks = [kept for kept in point.fwd_hooks if kept is not handle]
        point.fusing = getattr(point, "fusing", frozenset()) - {one.id for one in handles}


def needs_scores(attention: nn.Module) -> bool:
    """Return whether a hook of an attention module needs its scores or its pattern as tensors, in this thread.

    The hooks of `cutting` do not: in evaluation mode it gives its mask to torch's fused attention instead.
    """
    for name in (SCORES, PATTERN):
        point: Any = getattr(attention, name)
        hooks = (point._forward_hooks, point._forward_pre_hooks, point._backward_hooks, point._backward_pre_hooks)
        if any(hooks):
            with _CHANGING:
                keys, fusing = [key for kind in hooks for key in kind], getattr(point, "fusing", ())
                keys = [key for key in keys if not is_of_another_thread(key)]
            if any(attention.training or key not in fusing for key in keys):
                return True
    return False


def check_unmapped(model: nn.Module) -> None:
    """Refuse to probe a model inside `torch.vmap`, where the values of tensors are not available."""
    if inside_vmap():
        raise DeadHookError(
            f"{type(model).__name__} cannot be probed inside torch.vmap; make the hooks, or enter cutting, before the"
            " mapped function is called"
        )


@contextmanager
def plain_evaluation(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode, without gradients and without temporary hooks; restore everything on exit.

    Permanent hooks stay, because bridges need them for some of their hook points.
    """
    check_unmapped(model)
    registry: Any = model.hook_dict
    points = {id(point): point for point in registry.values()}.values()
    saved = [(point, list(point._forward_hooks.items()), _temporary(point)) for point in points]
    saved = [entry for entry in saved if entry[2]]
    try:
        for point, _, temporary in saved:
            for key in temporary:
                del point._forward_hooks[key]
        with evaluating(model), torch.no_grad(), without_compilation():
            yield
    finally:
        for point, before, temporary in saved:
            hooks, now = point._forward_hooks, dict(point._forward_hooks)
            again = temporary & {kept.hook.id for kept in point.fwd_hooks}  # not what another thread has removed
            hooks.clear()
            hooks.update((key, fn) for key, fn in before if key in now or key in again)
            hooks.update(now)


def _temporary(point: Any) -> set[int]:
    return {kept.hook.id for kept in point.fwd_hooks if not kept.is_permanent} & set(point._forward_hooks)


def hook_state(model: nn.Module) -> tuple:
    """Return everything that can activate or deactivate a hook: settings of the model, and its code."""
    cfg = getattr(model, "cfg", None)
    flags = sorted((name, str(getattr(cfg, name))) for name in dir(cfg) if name.startswith("use_"))
    wrapped = getattr(getattr(model, "original_model", None), "config", None)
    return (
        getattr(model, "compatibility_mode", None),
        getattr(wrapped, "_attn_implementation", None),
        tuple(flags),
        len(model.hook_dict),  # pyright: ignore
        hash(tuple(_code_of(part) for part in model.modules())),
    )


SETTINGS = (bool, int, float, str)
"""Types of attributes that are settings of a module."""
TORCH_ATTRIBUTES = frozenset(vars(nn.Module()))
"""Attributes that torch sets on every module."""


def _code_of(part: nn.Module) -> tuple:
    """Return a module's class, its settings, and the methods that were replaced on the object (no `EditedForward`)."""
    kind, own = type(part), vars(part)
    replaced = [key for key in own.keys() - TORCH_ATTRIBUTES if callable(getattr(kind, key, None))]
    values = [(key, own[key].previous if isinstance(own[key], EditedForward) else own[key]) for key in sorted(replaced)]
    is_hook_point = "fwd_hooks" in own  # a run changes its attributes
    names = () if is_hook_point else own.keys() - TORCH_ATTRIBUTES
    settings = [(key, own[key]) for key in sorted(names) if isinstance(own[key], SETTINGS)]
    return (kind, *settings, *((key, id(value)) for key, value in values if value is not None))
