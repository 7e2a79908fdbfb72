from .adapters import AdaptedModel, adapt
from .algebra import EdgeError, EdgeSet
from .anatomy import DeadHookError
from .cuts import cut, cutting
from .edges import (
    cls_edges,
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
from .interventions import CutMLP, EdgeCut, Intervention, Replace, Shuffle
from .masks import edges_from_mask
from .parse import EdgeExpression, parse_edges
from .report import CutReport
from .token_order import shuffle
from .values import cut_mlp, replace

__all__ = [
    "AdaptedModel",
    "CutMLP",
    "CutReport",
    "DeadHookError",
    "EdgeCut",
    "EdgeError",
    "EdgeExpression",
    "EdgeSet",
    "Intervention",
    "Replace",
    "Shuffle",
    "adapt",
    "cls_edges",
    "cross_modal",
    "cut",
    "cut_mlp",
    "cutting",
    "every",
    "flow",
    "edges_from_mask",
    "lag",
    "none",
    "parse_edges",
    "positions",
    "replace",
    "same_channel",
    "same_patch",
    "self_edges",
    "shuffle",
    "unimodal",
]
