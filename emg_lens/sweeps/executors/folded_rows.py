"""Cuts of few rows in the folded tree: only these rows are computed again.

A cut changes the output of its layer at the dests of its edges alone. The other rows are those of the uncut sibling,
and so are their queries, keys and values in the next layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.sweeps.executors.folded_attention import OneByOne, SharedScores
from emg_lens.sweeps.executors.folded_block import FoldedBlock, Projections
from emg_lens.sweeps.executors.folded_update import USES, StoredAttention, pays_to_update
from emg_lens.sweeps.plan import Mask

FEW = 4
"""Rows are few if they are at most one of so many: gathering many rows takes longer than it saves."""


class Uncut:
    """The output of a layer without a cut, and its attention in the next layer; computed when first used."""

    def __init__(self, compute: Callable[[], Tensor], following: FoldedBlock | None, n_uses: int) -> None:
        self.compute, self.following, self.n_uses = compute, following, n_uses

    @cached_property
    def after(self) -> Float[Tensor, "trial pos d_model"]:
        """The output of the layer."""
        return self.compute()

    @cached_property
    def packed(self) -> Float[Tensor, "trial pos qkv"]:
        """Queries, keys and values in the next layer."""
        assert self.following is not None
        return self.following.pack(self.after).clone()

    @cached_property
    def attention(self) -> StoredAttention:
        """Attention in the next layer."""
        assert self.following is not None
        return StoredAttention(self.following, self.packed)


@dataclass(frozen=True)
class Changed:
    """A residual stream that differs from the one of the uncut sibling in few rows."""

    uncut: Uncut
    rows: Int[Tensor, " row"]

    def project(self, layer: FoldedBlock, resid: Float[Tensor, "trial pos d_model"]) -> Projections:
        """Compute the projections of the changed rows, and copy the others."""
        packed = layer.lasting("packed", *self.uncut.packed.shape).copy_(self.uncut.packed)
        return layer.unpack(packed.index_copy_(1, self.rows, layer.pack(resid[:, self.rows])))

    def mid(
        self, layer: FoldedBlock, resid: Float[Tensor, "trial pos d_model"]
    ) -> Float[Tensor, "trial pos d_model"] | None:
        """Compute the residual stream after the uncut attention by an update; None if that is not faster or exact."""
        enough = self.uncut.n_uses >= USES and pays_to_update(layer, resid.shape[1], len(self.rows))
        return self.uncut.attention.changed(resid, self.rows) if enough else None


class FewRows:
    """The siblings whose masks cut edges of few rows.

    Attributes:
        rows: The dests of the cut edges of each mask.
    """

    def __init__(
        self,
        mix: OneByOne | SharedScores,
        masks: Sequence[Mask | None],
        following: FoldedBlock | None,
    ) -> None:
        self.mix, most = mix, mix.resid.shape[1] // FEW
        rows = {mask: mask.tensor().any(0).any(-1).nonzero()[:, 0] for mask in masks if mask is not None}
        rows = {mask: some.to(mix.resid.device) for mask, some in rows.items() if len(some) <= most}
        self.rows = rows if None in masks or len(rows) > 1 else {}
        self.uncut = Uncut(lambda: mix.layer.after(mix(None)), following, len(self.rows))

    def after(self, mask: Mask | None) -> Float[Tensor, "trial pos d_model"]:
        """Return the residual stream after the layer, with these rows computed under the mask."""
        if mask is None:
            return self.uncut.after
        rows = self.rows[mask]
        return self.uncut.after.index_copy(1, rows, self.mix.layer.after(self.mix.of_rows(mask, rows)))

    def changed(self, mask: Mask | None) -> Changed | None:
        """Return what changes for the next layer; None if nothing is shared there."""
        return Changed(self.uncut, self.rows[mask]) if mask in self.rows and self.uncut.following else None
