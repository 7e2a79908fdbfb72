"""Hooks that edit values instead of edges: replace the activations of tokens, or set their MLP output to zero."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError, index_tuple
from emg_lens.hooks.cuts import Hook
from emg_lens.hooks.edges import located
from emg_lens.hooks.hook_points import (
    PATTERN,
    SCORES,
    DeadHookError,
    Place,
    StageLayer,
    attached_hook,
    attention_paths,
    count_layers,
    hook_state,
    plain_evaluation,
    resolve_layout,
    unknown_point,
)
from emg_lens.hooks.model_inputs import Inputs, call, example_inputs, first_call
from emg_lens.hooks.replacement_options import FROM_REFERENCE, By, Seed
from emg_lens.hooks.verification.module_replay import output_of
from emg_lens.layout import CLS, NO_INDEX, Stage, TokenLayout
from emg_lens.registry import UnknownNameError
from emg_lens.validation import checked, short

OF_STAGES = "stages."
"""Beginning of the names of a stage's hook points."""
Tokens = str | int | Iterable[str | int]
Activation = Float[Tensor, "batch pos *rest"]


@checked
def replace(
    model: nn.Module,
    tokens: Tokens,
    by: By = "zero",
    at: str = "hook_embed",
    layout: TokenLayout | None = None,
    *,
    reference: Inputs | None = None,
    seed: Seed = 0,
    inputs: Inputs | None = None,
) -> list[Hook]:
    """Make hooks that replace the activations of some tokens.

    `"zero"` and `"mean"` give the model values that it may never have received in training. `"resample"` and
    `"permute"` keep the distribution of each token and only remove its relation to the trial (Zhang & Nanda, arXiv
    2309.16042; docs/isonet-protocol.md §4.8).

    Args:
        model: A TransformerLens model.
        tokens: Group names, token names or positions.
        by: `"zero"`; `"mean"` over the trials of `reference`; `"resample"`: the values of a random trial of
            `reference`, the same trial for all replaced tokens; `"permute"`: the values of another trial of the same
            batch.
        at: Hook point with activations `[batch, pos, ...]`.
        layout: The layout of the positions; default `model.layout`.
        reference: Model input for the values of `"mean"` and `"resample"`; the model runs on it once, here.
        seed: Random seed of `"resample"` and `"permute"`; with the same batch size, every forward uses the same trials.
        inputs: A small input to test the hook point, where none can be made from the model's configuration.

    Returns:
        Hooks for `model.run_with_hooks(x, fwd_hooks=hooks)`.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig, replace
        >>> model = IsoNet(IsoNetConfig(modalities={"emg": 2, "acc": 1}, n_samples=8, n_classes=3, n_layers=1))
        >>> hooks = replace(model, "acc", by="mean", reference=torch.randn(5, 3, 8))
        >>> model.run_with_hooks(torch.randn(2, 3, 8), fwd_hooks=hooks).shape
        torch.Size([2, 3])
    """
    layout = own_layout(resolve_layout(model, layout), at)
    where = find_tokens(layout, tokens)
    if (by in FROM_REFERENCE) != (reference is not None):
        verb = "needs" if reference is None else "does not use"
        raise EdgeError(f"replace(by={by!r}) {verb} reference=<model input>")
    if isinstance(reference, Tensor) and not (len(reference) and bool(reference.isfinite().all())):
        raise EdgeError(f"reference={short(reference)} has no trials, or NaN or infinity; give finite training trials")
    check_live(model, at, inputs if inputs is not None else example_inputs(model, len(layout)))
    source = None
    if reference is not None:
        values = activations(model, [at], reference)[at]
        check_shape(values, layout, at)
        source = values[:, where]
    return [(at, _writing(lambda x: replacement(by, x, source, seed), where, layout, at))]


def replacement(by: By, x: Tensor, source: Tensor | None, seed: int) -> Tensor:
    """Return the values that replace `x` [trial, ...], up to broadcasting; `source` has the values of other trials."""
    if by == "zero":
        return x.new_zeros(())
    generator = torch.Generator().manual_seed(seed)
    if by == "permute":
        if len(x) < 2:
            raise EdgeError("replace(by='permute') needs two or more trials in the batch, got 1")
        cycle = torch.randperm(len(x), generator=generator)  # every trial gets the trial before it in a random cycle
        return x[cycle.roll(1)[cycle.argsort()].to(x.device)]
    assert source is not None
    if by == "mean":
        return source.mean(0).to(x)
    return source[torch.randint(len(source), (len(x),), generator=generator)].to(x)


@checked
def cut_mlp(
    model: nn.Module,
    tokens: Tokens,
    layers: int | Iterable[int] | None = None,
    layout: TokenLayout | None = None,
    *,
    inputs: Inputs | None = None,
) -> list[Hook]:
    """Make hooks that set the MLP output of some tokens to zero.

    The output, bias included, is set to zero before it is added to the residual stream.

    Args:
        model: A TransformerLens model.
        tokens: Group names, token names or positions.
        layers: 0-based; -1 is the last layer; default: all.
        layout: The layout of the positions; default `model.layout`.
        inputs: A small input to test the hook points, where none can be made from the model's configuration.

    Returns:
        Hooks for `model.run_with_hooks(x, fwd_hooks=hooks)`.

    Example:
        >>> from emg_lens import IsoNet, IsoNetConfig, cut_mlp
        >>> model = IsoNet(IsoNetConfig(modalities={"emg": 2, "acc": 1}, n_samples=8, n_classes=3, n_layers=2))
        >>> [name for name, _ in cut_mlp(model, "acc", layers=0)]
        ['blocks.0.hook_mlp_out']
    """
    layout = resolve_layout(model, layout)
    paths = attention_paths(model)
    rows = mlp_rows(layout, tokens, layers, count_layers(model, paths))
    example = inputs if inputs is not None else example_inputs(model, len(layout))
    hooks = []
    for name, own, here in _mlp_outputs(paths, rows, layout):
        check_live(model, name, example)
        hooks.append((name, _writing(lambda x: x.new_zeros(()), here, own, name)))
    return hooks


def mlp_rows(
    layout: TokenLayout, tokens: Tokens, layers: int | Iterable[int] | None, n_layers: int
) -> Bool[Tensor, "layer pos"]:
    """Return the outputs that `cut_mlp` sets to zero; in the layers of a stage, only tokens of the stage."""
    chosen = range(n_layers) if layers is None else index_tuple(layers, "layers", names=False)
    if not all(isinstance(layer, int) and -n_layers <= layer < n_layers for layer in chosen):
        raise EdgeError(f"layers={short(layers)}; expected layers from 0 to {n_layers - 1}")
    is_token = torch.zeros(len(layout), dtype=torch.bool)
    is_token[find_tokens(layout, tokens)] = True
    is_layer = torch.zeros(n_layers, dtype=torch.bool)
    is_layer[list(chosen)] = True  # pyright: ignore
    has_mlp = torch.zeros(n_layers, len(layout), dtype=torch.bool)
    for stage in layout.stages or (Stage("", range(n_layers), range(len(layout))),):
        own_layers, _, own_positions, _ = stage.edges
        has_mlp[own_layers, own_positions] = True
    rows = is_layer[:, None] & is_token & has_mlp
    if not rows.any():
        raise EdgeError(f"no stage has the tokens {short(tokens)} in the layers {short(layers)}, so no MLP can be cut")
    return rows


def _mlp_outputs(
    paths: Mapping[Place, str], rows: Bool[Tensor, "layer pos"], layout: TokenLayout
) -> Iterator[tuple[str, TokenLayout, Int[Tensor, " token"]]]:
    """Yield the hook points of the MLPs, each with the layout of its positions and the positions to edit."""
    if not layout.stages:
        stack = paths[max(paths)].split(".")[0]
        for layer in rows.any(1).nonzero().flatten().tolist():
            yield f"{stack}.{layer}.hook_mlp_out", layout, rows[layer].nonzero().flatten()
    for place, path in paths.items() if layout.stages else ():
        assert isinstance(place, StageLayer)
        own = layout.stage(place.stage).positions
        here = rows[place.layer, own.start : own.stop].nonzero().flatten()
        if len(here):
            yield f"{path.removesuffix('attn')}hook_mlp_out", layout.of_stage(place.stage), here


def _writing(
    values: Callable[[Activation], Tensor],
    where: Int[Tensor, " token"],
    layout: TokenLayout,
    name: str,
) -> Callable[..., Activation]:
    def write(x: Activation, hook: Any) -> Activation:  # noqa: ARG001
        check_shape(x, layout, name)
        x = x.clone()
        x[:, where] = values(x[:, where])
        return x

    return write


def own_layout(layout: TokenLayout, at: str) -> TokenLayout:
    """Return the layout of the positions at a hook point; in a stage, the layout of the stage."""
    if not (at.startswith(OF_STAGES) and layout.stages):
        return layout
    try:
        return layout.of_stage(at.split(".")[1])
    except UnknownNameError as error:
        raise EdgeError(error.args[0]) from None


def check_shape(x: Tensor, layout: TokenLayout, name: str) -> None:
    """Check that activations have the shape `[batch, pos, ...]`."""
    if x.ndim < 3 or x.shape[1] != len(layout):
        raise EdgeError(
            f"{name} has shape {list(x.shape)}; expected [batch, {len(layout)} positions, ...] as in the layout"
        )


def find_tokens(layout: TokenLayout, tokens: Tokens) -> Int[Tensor, " token"]:
    """Return the positions of some tokens, in ascending order."""
    return torch.tensor(sorted(set(located(layout, index_tuple(tokens, "tokens")))))


def input_mask(
    layout: TokenLayout, tokens: str | int | tuple[str | int, ...], shape: tuple[int, ...]
) -> Bool[Tensor, "channel time"]:
    """Return the samples `[channel, time]` of the input from which these tokens are computed; or of these channels."""
    sizes = {name: layout.n_channels(name) for name in layout.modalities}
    first = dict(zip(sizes, [sum(list(sizes.values())[:i]) for i in range(len(sizes))], strict=True))
    if not layout.channels_in_token and set(layout.channel) == {NO_INDEX}:
        raise EdgeError(
            "the layout has no channels, so the samples of its tokens are unknown; change the input yourself, or give"
            " at=<hook point> on a model that has one for the residual stream"
        )
    if len(shape) != 2 or shape[0] != sum(sizes.values()):
        raise EdgeError(f"a trial has shape {list(shape)}; expected [{sum(sizes.values())} channels, time]")
    n_patches = max(layout.patch) + 1 if max(layout.patch) != NO_INDEX else 1
    mask = torch.zeros(shape[0], n_patches, dtype=torch.bool)
    channels: dict[int | str, int] = {f"{name}.{k}": first[name] + k for name in sizes for k in range(sizes[name])}
    given = index_tuple(tokens, "tokens")
    others = [token for token in given if token not in channels or token in layout.names]
    mask[[channels[token] for token in given if token not in others]] = True
    for position in find_tokens(layout, others).tolist() if others else ():
        group, channel = layout.group[position], layout.channel[position]
        if group is None or group == CLS or (channel == NO_INDEX and not layout.channels_in_token):
            raise EdgeError(f"token {layout.names[position]!r} has no samples in the input; give at='hook_embed'")
        own = slice(first[group], first[group] + sizes[group]) if channel == NO_INDEX else first[group] + channel
        mask[own, layout.patch[position] if n_patches > 1 else 0] = True
    return mask.repeat_interleave(-(-shape[1] // n_patches), dim=1)[:, : shape[1]]


def activations(model: nn.Module, names: Iterable[str], inputs: Inputs) -> dict[str, Tensor]:
    """Run the model once, without temporary hooks, and return the activations at some hook points."""
    values: dict[str, Tensor] = {}
    with plain_evaluation(model), ExitStack() as stack:
        for name in names:
            point = hook_point(model, name, of_edges=True)
            stack.enter_context(attached_hook(point, lambda x, hook, name=name: values.update({name: x.clone()})))  # noqa: ARG005
        first_call(model, inputs)
    silent = [name for name in names if name not in values]
    if silent:
        raise DeadHookError(f"{silent[0]} does not fire on {type(model).__name__}, so its values cannot be read")
    return values


def hook_point(model: nn.Module, name: str, of_edges: bool = False) -> Any:
    """Return the hook point with this name; `of_edges`: whether it may hold values of edges (scores, patterns)."""
    names: Mapping[str, Any] = model.hook_dict  # pyright: ignore
    if name not in names:
        raise EdgeError(unknown_point(names, name))
    if name.endswith((SCORES, PATTERN)) and not of_edges:
        raise EdgeError(
            f"{name} holds values of edges; expected a hook point that holds values of tokens; to edit edges, use"
            " cut or cutting"
        )
    return names[name]


_live: "weakref.WeakKeyDictionary[nn.Module, set[tuple]]" = weakref.WeakKeyDictionary()


def check_live(model: nn.Module, name: str, inputs: Inputs) -> None:
    """Verify by a small forward that an edit at a hook point changes the model's output; the result is cached."""
    point = hook_point(model, name)
    state = (name, *hook_state(model))
    if state in _live.setdefault(model, set()):
        return
    fired = False

    def disturb(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        nonlocal fired
        fired = True
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
        return x + noise * (1 + x.abs().max())

    with plain_evaluation(model):
        before = output_of(first_call(model, inputs))
        with attached_hook(point, disturb):
            after = output_of(call(model, inputs))
    assert before is not None and after is not None
    if not fired:
        raise DeadHookError(f"{name} does not fire on {type(model).__name__}, so an edit there has no effect")
    if torch.equal(before, after):
        raise DeadHookError(f"an edit at {name} does not change the output of {type(model).__name__}")
    _live[model].add(state)
