"""Edge sets, and the hooks that cut them on any TransformerLens model."""

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.anatomy import DeadHookError
from emg_lens.hooks.cut import cut, cutting
from emg_lens.hooks.edges import (
    cross_modal,
    every,
    flow,
    lag,
    none,
    positions,
    same_channel,
    same_patch,
    self_edges,
    unimodal,
)
from emg_lens.hooks.parse import parse_edges
from emg_lens.hooks.report import CutReport
from emg_lens.hooks.values import cut_mlp, replace

__all__ = [
    "CutReport",
    "DeadHookError",
    "EdgeError",
    "EdgeSet",
    "cross_modal",
    "cut",
    "cut_mlp",
    "cutting",
    "every",
    "flow",
    "lag",
    "none",
    "parse_edges",
    "positions",
    "replace",
    "same_channel",
    "same_patch",
    "self_edges",
    "unimodal",
]
