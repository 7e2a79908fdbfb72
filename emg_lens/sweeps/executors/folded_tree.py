"""Run the tree of a plan with the folded blocks of an encoder, for parts that declare `folds`.

The walk is depth-first, so layers in common are computed once. Siblings share queries, keys, values and scores.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.executors.folded_attention import ClsRow, OneByOne, SharedScores, pays_one_by_one
from emg_lens.sweeps.executors.folded_block import FoldedBlock, FoldedSideBySide, folded_layers
from emg_lens.sweeps.executors.folded_rows import Changed, FewRows
from emg_lens.sweeps.plan import Keep, Mask, Node, Root, Rows


class FoldedTree:
    """Depth-first walk over a root on one micro-batch. Memory grows with depth, not with the number of conditions.

    Several threads may `run` it at once, each on its own micro-batch.
    """

    def __init__(self, model: HookedBiosignalEncoder) -> None:
        self.model, self.blocks = model, folded_layers(model)
        self.only_cls = model.reads_first_row_only and isinstance(self.blocks[-1], FoldedBlock)

    def run(self, root: Root, x: Float[Tensor, "trial channel time"], keep: Keep, done: Rows = frozenset()) -> None:
        """Compute the outputs of every distinct condition of a root that is not done."""
        self._descend(root.tree, self.model.residual_in(x), 0, keep, done)

    def _descend(
        self, node: Node, resid: Tensor, depth: int, keep: Keep, done: Rows, changed: Changed | None = None
    ) -> None:
        """Run block `depth` for the children of `node`; `resid` is the output of `node`."""
        last = depth == len(self.blocks) - 1
        masks = [child.mask for child in node.children.values()]
        siblings = _siblings(self.blocks[depth], resid, masks, last and self.only_cls, self._following(depth), changed)
        for child in node.unfinished(done):
            after, changed = siblings(child.mask)
            if not last:
                self._descend(child, after, depth + 1, keep, done, changed)
            elif child.leaf is not None:
                keep({child.leaf: self.model.head(self.model.ln_final(after))})

    def _following(self, depth: int) -> FoldedBlock | None:
        """Return the next layer, if it projects every row."""
        following = self.blocks[depth + 1] if depth + 1 < len(self.blocks) - self.only_cls else None
        return following if isinstance(following, FoldedBlock) else None


def _siblings(
    layer: FoldedBlock | FoldedSideBySide,
    resid: Tensor,
    masks: list[Mask | None],
    only_cls: bool = False,
    following: FoldedBlock | None = None,
    changed: Changed | None = None,
) -> Callable[[Mask | None], tuple[Tensor, Changed | None]]:
    """Return a function from a mask to the residual stream after a layer with input `resid`, and its changed rows.

    `masks` are the masks of all siblings, including finished ones: they decide how attention is computed, so a resumed
    sweep gives the same last digits. `following` is the next layer, if it projects every row.
    """
    if isinstance(layer, FoldedSideBySide):
        stages = _StagesSideBySide(layer, resid, masks)
        return lambda mask: (stages(mask), None)
    if only_cls:
        cls = ClsRow(layer, resid)
        return lambda mask: (layer.after(cls(mask)), None)
    if changed is not None and masks == [None] and (mid := changed.mid(layer, resid)) is not None:
        return lambda mask: (layer.after(mid), None)  # noqa: ARG005 - the only one is None
    kind = OneByOne if pays_one_by_one(resid, masks) else SharedScores
    mix = kind(layer, resid, None if changed is None else changed.project(layer, resid))
    few = FewRows(mix, masks, following)

    def after(mask: Mask | None) -> tuple[Tensor, Changed | None]:
        if few.rows and (mask is None or mask in few.rows):
            return few.after(mask), few.changed(mask)
        return layer.after(mix(mask)), None

    return after


class _StagesSideBySide:
    """Siblings of a layer with several stages: each stage computes each different part of the masks once."""

    def __init__(self, layer: FoldedSideBySide, resid: Tensor, masks: list[Mask | None]) -> None:
        self.resid, self.spans = resid, [span for span, _ in layer.blocks]
        self.siblings = []
        for span, block in layer.blocks:
            own = resid[:, span.start : span.stop].contiguous()
            parts = list(dict.fromkeys(mask and mask.part(span) for mask in masks))
            self.siblings.append(lru_cache(None)(_siblings(block, own, parts)))

    def __call__(self, mask: Mask | None) -> Tensor:
        pieces, last = [], 0
        for span, siblings in zip(self.spans, self.siblings, strict=True):
            pieces += [self.resid[:, last : span.start], siblings(mask and mask.part(span))[0]]
            last = span.stop
        return torch.cat([*pieces, self.resid[:, last:]], dim=1)
