"""Edge sets, and the hooks that cut them on any TransformerLens model.

As in `emg_lens`, names are imported from where they live on first use: edge sets alone need no torch.
"""

from typing import TYPE_CHECKING

from emg_lens.lazy import make_lazy

if TYPE_CHECKING:  # what editors and type checkers see; tests hold it equal to `_HOMES`
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

_HOMES = {
    "emg_lens.hooks.algebra": ("EdgeError", "EdgeSet"),
    "emg_lens.hooks.anatomy": ("DeadHookError",),
    "emg_lens.hooks.cut": ("cut", "cutting"),
    "emg_lens.hooks.edges": (
        "cross_modal",
        "every",
        "flow",
        "lag",
        "none",
        "positions",
        "same_channel",
        "same_patch",
        "self_edges",
        "unimodal",
    ),
    "emg_lens.hooks.parse": ("parse_edges",),
    "emg_lens.hooks.report": ("CutReport",),
    "emg_lens.hooks.values": ("cut_mlp", "replace"),
}

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

make_lazy(__name__, _HOMES)
