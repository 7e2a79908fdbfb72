from .adapters import AdaptedModel, adapt
from .algebra import EdgeError, EdgeSet
from .carried_values import mean_edges, patch_edges, resample_edges
from .cut_report import CutReport
from .cuts import cut, cutting
from .dropped_edges import edge_dropout
from .edge_interventions import EdgeCut, EdgeGate, MeanEdges, ResampleEdges
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
from .hook_points import DeadHookError
from .intervention_base import Intervention
from .interventions import CutMLP, Replace, Shuffle
from .masks import edges_from_mask
from .parse import EdgeExpression, parse_edges
from .soft_edges import gate_edges
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
    "EdgeGate",
    "EdgeSet",
    "Intervention",
    "MeanEdges",
    "Replace",
    "ResampleEdges",
    "Shuffle",
    "adapt",
    "cls_edges",
    "cross_modal",
    "cut",
    "cut_mlp",
    "cutting",
    "edge_dropout",
    "edges_from_mask",
    "every",
    "flow",
    "gate_edges",
    "lag",
    "mean_edges",
    "none",
    "parse_edges",
    "patch_edges",
    "positions",
    "replace",
    "resample_edges",
    "same_channel",
    "same_patch",
    "self_edges",
    "shuffle",
    "unimodal",
]
