"""Hooks that replace the values that edges carry; the attention weights stay as they are.

A head gives each destination a weighted sum of value vectors, one for each source position. Over some edges the
destination now reads another value vector of the same source position: the mean over reference trials, the vector of a
random reference trial, or the vector of a given input. The edges keep their weights, so the rest of the row does not
change, unlike in a cut.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.cuts import Hook, edit_hook, masks_of
from emg_lens.hooks.hook_points import PATTERN, DeadHookError, attention_paths, resolve_layout
from emg_lens.hooks.model_inputs import Inputs, example_inputs
from emg_lens.hooks.replacement_options import Seed
from emg_lens.hooks.values import activations, check_live, replacement
from emg_lens.layout import TokenLayout
from emg_lens.validation import checked

POINTS = ("hook_v", PATTERN, "hook_z")
"""Hook points of an attention module that are needed: values, attention weights, and the sums that heads read."""
Values = Float[Tensor, "trial src kv_head d_head"]


@checked
def mean_edges(
    model: nn.Module,
    edges: EdgeSet,
    layout: TokenLayout | None = None,
    *,
    reference: Inputs,
    inputs: Inputs | None = None,
) -> list[Hook]:
    """Make hooks that replace the values read over some edges by their mean over reference trials.

    The attention weights stay as they are. Over these edges, a destination reads the source position's mean value
    vector instead of the trial's own.

    Args:
        model: A TransformerLens model with working `hook_v`, `hook_pattern` and `hook_z`.
        edges: The edges.
        layout: The layout of the positions; default `model.layout`.
        reference: Model input with the trials for the means; the model runs on it once, here.
        inputs: A small input for the verification, where none can be made from the model's configuration.

    Returns:
        Hooks for `model.run_with_hooks(x, fwd_hooks=hooks)`.
    """
    values = values_of_edges(model, edges, layout, reference)
    means = {path: own.mean(0, keepdim=True) for path, own in values.items()}
    return reading_hooks(model, edges, layout, lambda path, v: means[path], inputs)  # noqa: ARG005


@checked
def resample_edges(
    model: nn.Module,
    edges: EdgeSet,
    layout: TokenLayout | None = None,
    *,
    reference: Inputs,
    seed: Seed = 0,
    inputs: Inputs | None = None,
) -> list[Hook]:
    """Make hooks that replace the values read over some edges by those of a random reference trial.

    The attention weights stay as they are. For each trial one reference trial is chosen at random. Over these edges, in
    all layers, every destination reads the value vectors that the reference trial has at the source positions. Unlike a
    mean, these vectors are ones that the model really computes.

    Args:
        model: A TransformerLens model with working `hook_v`, `hook_pattern` and `hook_z`.
        edges: The edges.
        layout: The layout of the positions; default `model.layout`.
        reference: Model input with the trials to choose from; the model runs on it once, here, and the values of all
            these trials are kept.
        seed: Random seed of the choice; with the same batch size, every forward uses the same trials.
        inputs: A small input for the verification, where none can be made from the model's configuration.

    Returns:
        Hooks for `model.run_with_hooks(x, fwd_hooks=hooks)`.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig, cross_modal
        >>> from emg_lens.hooks import resample_edges
        >>> model = IsoNet(IsoNetConfig(modalities={"emg": 2, "acc": 1}, n_samples=8, n_classes=3, n_layers=1))
        >>> hooks = resample_edges(model, cross_modal(), reference=torch.randn(5, 3, 8))
        >>> model.run_with_hooks(torch.randn(2, 3, 8), fwd_hooks=hooks).shape
        torch.Size([2, 3])
    """
    values = values_of_edges(model, edges, layout, reference)
    return reading_hooks(model, edges, layout, lambda path, v: replacement("resample", v, values[path], seed), inputs)


@checked
def patch_edges(
    model: nn.Module,
    edges: EdgeSet,
    layout: TokenLayout | None = None,
    *,
    source: Inputs,
    inputs: Inputs | None = None,
) -> list[Hook]:
    """Make hooks that replace the values read over some edges by those of another input.

    The attention weights stay as they are. Over these edges, trial i reads the value vectors of trial i of `source`.

    Args:
        model: A TransformerLens model with working `hook_v`, `hook_pattern` and `hook_z`.
        edges: The edges.
        layout: The layout of the positions; default `model.layout`.
        source: Model input with as many trials as the inputs of the later runs, or with one trial, which all of them
            read. The model runs on it once, here.
        inputs: A small input for the verification, where none can be made from the model's configuration.

    Returns:
        Hooks for `model.run_with_hooks(x, fwd_hooks=hooks)`.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig, flow
        >>> from emg_lens.hooks import patch_edges
        >>> model = IsoNet(IsoNetConfig(modalities={"emg": 2, "acc": 1}, n_samples=8, n_classes=3, n_layers=1)).eval()
        >>> x = torch.randn(2, 3, 8)  # [trial, channel, time]
        >>> hooks = patch_edges(model, flow("acc", "cls"), source=x.flip(0))  # each reads the values of the other
        >>> model.run_with_hooks(x, fwd_hooks=hooks).shape
        torch.Size([2, 3])
    """
    values = values_of_edges(model, edges, layout, source)
    return reading_hooks(model, edges, layout, lambda path, v: values[path], inputs)  # noqa: ARG005


def values_of_edges(model: nn.Module, edges: EdgeSet, layout: TokenLayout | None, trials: Inputs) -> dict[str, Values]:
    """Run the model once, and return the values in the layers of some edges, by the path of the attention."""
    paths = attention_paths(model)
    own_paths = [paths[place] for place in masks_of(model, edges, layout)]
    values = activations(model, [f"{path}.hook_v" for path in own_paths], trials)
    for path in own_paths:
        if not values[f"{path}.hook_v"].isfinite().all():
            raise EdgeError(f"{path}: the reference trials give NaN or infinite values; repair them or leave them out")
    return {path: values[f"{path}.hook_v"] for path in own_paths}


def reading_hooks(
    model: nn.Module,
    edges: EdgeSet,
    layout: TokenLayout | None,
    others: Callable[[str, Values], Values],
    inputs: Inputs | None = None,
) -> list[Hook]:
    """Make hooks with which destinations read other values over some edges.

    `others`: from the path of an attention and its own values to the values that are read instead; one trial = all
    trials read the same.
    """
    layout, paths = resolve_layout(model, layout), attention_paths(model)
    masks = {paths[place]: mask for place, mask in masks_of(model, edges, layout).items()}
    example = inputs if inputs is not None else example_inputs(model, len(layout))
    small = activations(model, [f"{path}.{name}" for path in masks for name in POINTS], example)
    hooks: list[Hook] = []
    for path, mask in masks.items():
        v, pattern, z = (small[f"{path}.{name}"] for name in POINTS)
        if not z.isfinite().all():
            raise EdgeError(
                f"{path}: the values on the verifying input are NaN or infinite; give inputs=<finite trials>"
            )
        if not torch.allclose(_read(pattern, v), z, atol=1e-4 * float(z.abs().max())):
            raise DeadHookError(
                f"{path}: hook_z is not hook_pattern times hook_v, so the values of these edges cannot be replaced"
            )
        check_live(model, f"{path}.hook_z", example)
        edit = _OtherValues(mask, path, others)
        edits = (edit.values, edit.pattern, edit.output)
        hooks += [(f"{path}.{name}", edit_hook(fn)) for name, fn in zip(POINTS, edits, strict=True)]
    return hooks


def _read(pattern: Float[Tensor, "batch head dest src"], v: Values) -> Float[Tensor, "batch dest head d_head"]:
    """Return the weighted sum of values that each head reads; several query heads may share a value head."""
    v = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)
    return torch.einsum("bhds,bshe->bdhe", pattern, v)


class _OtherValues:
    """The edits of one layer: record values and pattern, then correct the output of the heads."""

    def __init__(
        self, mask: Bool[Tensor, "one_or_head dest src"], path: str, others: Callable[[str, Values], Values]
    ) -> None:
        self.mask, self.path, self.others = mask, path, others
        self.difference: Any = None
        self.read: Any = None

    def values(self, v: Tensor) -> Tensor:
        others = self.others(self.path, v).to(v)
        if others.shape[1:] != v.shape[1:] or len(others) not in (1, len(v)):
            raise EdgeError(
                f"{self.path}: the values to read are {list(others.shape)} [trial, pos, head, d_head], the model's own"
                f" are {list(v.shape)}; give inputs with the same numbers of trials and positions"
            )
        self.difference = others - v
        return v

    def pattern(self, pattern: Tensor) -> Tensor:
        self.read = pattern * self.mask.to(pattern.device)
        return pattern

    def output(self, z: Tensor) -> Tensor:
        corrected = z + _read(self.read, self.difference)
        self.difference = self.read = None
        return corrected
