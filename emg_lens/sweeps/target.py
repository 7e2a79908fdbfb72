"""What the planner must know about a model."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from emg_lens.hooks import EdgeError
from emg_lens.hooks.hook_points import resolve_layout
from emg_lens.hooks.verification.probe import adapted_in
from emg_lens.layout import Stage, TokenLayout
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.structure import reason_not_to_plan
from emg_lens.validation import short


@dataclass(frozen=True)
class Target:
    """What the planner needs to know about a model.

    `readout` holds the positions of the last residual stream that may reach the outputs: all, if they are not known.
    `permanent_mask` holds the edges that the model never had, as far as known.
    """

    layout: TokenLayout
    n_layers: int
    n_heads: int
    readout: Int[Tensor, " position"]
    permanent_mask: Bool[Tensor, "layer head dest src"] | None = None
    model: str = "the model"


def target_of(model: nn.Module, layout: TokenLayout | None = None) -> Target:
    """Read readout and missing edges from a model that declares its structure; assume nothing about other models."""
    if not hasattr(model, "cfg"):
        raise EdgeError(f"{type(model).__name__} has no hook points of TransformerLens; use adapt(model, x[:2])")
    cfg: Any = model.cfg
    if (adapted := adapted_in(model)) is not None:
        adapted.check_layers()
    layout, name = resolve_layout(model, layout), type(model).__name__
    if isinstance(model, HookedBiosignalEncoder) and len(layout) != cfg.n_ctx:
        raise EdgeError(f"the layout has {len(layout)} positions, {name} has {cfg.n_ctx}")
    n_layers, n_heads = getattr(cfg, "n_layers", 0), getattr(cfg, "n_heads", 0)
    if isinstance(model, HookedBiosignalEncoder) and reason_not_to_plan(model) is None:
        return Target(layout, n_layers, n_heads, _readout_positions(model), _permanent_mask(model), name)
    return Target(layout, n_layers, n_heads, torch.arange(len(layout)), between_stages(layout, n_layers, n_heads), name)


def _readout_positions(model: HookedBiosignalEncoder) -> Int[Tensor, " position"]:
    """Return the positions that a model declares as read."""
    n, read = model.cfg.n_ctx, model.readout_positions
    if not isinstance(read, Tensor) or read.dtype != torch.int64 or read.ndim != 1 or not read.numel():
        problem = f"{short(read)}; expected a torch.int64 tensor [position], for example torch.tensor([0])"
    elif int(read.min()) < 0 or int(read.max()) >= n:
        problem = f"{read.tolist()}; expected positions from 0 to {n - 1}"
    else:
        return read
    raise EdgeError(f"{type(model).__name__}.readout_positions is {problem}")


def between_stages(layout: TokenLayout, n_layers: int, n_heads: int) -> Bool[Tensor, "layer head dest src"] | None:
    """Return the edges that belong to no stage; None if the model has no stages."""
    if not layout.stages:
        return None
    absent = torch.ones(n_layers, 1, len(layout), len(layout), dtype=torch.bool)
    for stage in layout.stages:
        absent[stage.edges] = False
    return absent.expand(-1, n_heads, -1, -1)


def _permanent_mask(model: HookedBiosignalEncoder) -> Bool[Tensor, "layer head dest src"] | None:
    """Return the edges that the blocks do not have, including those of no stage."""
    cfg, layout = model.cfg, model.layout
    stages = layout.stages or (Stage("", range(cfg.n_layers), range(cfg.n_ctx)),)
    masks = {
        (stage, layer): mask
        for stage in stages
        for layer in stage.layers
        if (mask := getattr(_block(model, stage, layer).attn, "permanent_mask", None)) is not None
    }
    if not masks and not layout.stages:
        return None
    permanent_mask = torch.ones(cfg.n_layers, cfg.n_heads if masks else 1, cfg.n_ctx, cfg.n_ctx, dtype=torch.bool)
    for stage in stages:
        permanent_mask[stage.edges] = False
    for (stage, layer), mask in masks.items():
        permanent_mask[stage.edges][layer - stage.layers.start] = mask.cpu()
    return permanent_mask.expand(-1, cfg.n_heads, -1, -1)


def _block(model: HookedBiosignalEncoder, stage: Stage, layer: int) -> Any:
    own: Any = model.stages[stage.name]["blocks"] if stage.name else model.blocks  # pyright: ignore
    return own[layer - stage.layers.start]
