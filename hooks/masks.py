"""Edge sets from a boolean mask, for edges that no rule describes (random edges, a circuit)."""

import base64
import binascii
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from emg_lens.hooks.algebra import EdgeError, EdgeMask, EdgeSet, edge_function
from emg_lens.layout import TokenLayout


@dataclass(frozen=True, repr=False)
class FromMask(EdgeSet):
    """See `edges_from_mask`; `bits` is the packed and compressed mask."""

    bits: bytes
    shape: tuple[int, int, int, int]

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        wanted = (n_layers, n_heads, len(layout), len(layout))
        differs = [size not in (1, expected) for size, expected in zip(self.shape[:2], wanted[:2], strict=True)]
        if any(differs) or self.shape[2:] != wanted[2:]:
            raise EdgeError(f"the mask has shape {list(self.shape)}; expected {list(wanted)} [layer, head, dest, src]")
        n = int(np.prod(self.shape))
        flat = np.unpackbits(np.frombuffer(zlib.decompress(self.bits), np.uint8), count=n)
        return flat.view(bool).reshape(self.shape)

    def __str__(self) -> str:
        return f"edges_from_mask('{'x'.join(map(str, self.shape))}:{base64.b64encode(self.bits).decode()}')"


@edge_function
def edges_from_mask(mask: "Bool[np.ndarray, '...'] | str") -> EdgeSet:
    """Make an edge set from a boolean mask.

    Args:
        mask: Booleans (array or tensor) `[dest, src]`, `[head, dest, src]` or `[layer, head, dest, src]`, True = in the
            set. A missing axis, or an axis of size 1, means all layers or heads. Or the text of such an edge
            set.

    Raises:
        EdgeError: Other values, a mask that is not square, or a text that does not describe a mask.

    Example:
        >>> import torch
        >>> from emg_lens import edges_from_mask
        >>> attention = torch.tensor([[0.9, 0.1], [0.5, 0.5]])  # [dest, src]
        >>> edges = edges_from_mask(attention < 0.2).at(layers=3)
        >>> edges == eval(str(edges))
        True
    """
    if isinstance(mask, str):
        return _read(mask)
    try:
        array = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)  # pyright: ignore
    except (ValueError, TypeError) as error:
        raise EdgeError(f"the mask is not an array ({error}); expected booleans in rows of equal length") from None
    if array.dtype != bool or not 2 <= array.ndim <= 4 or array.shape[-1] != array.shape[-2] or not array.size:
        raise EdgeError(
            f"the mask is {array.dtype} {list(array.shape)}; expected booleans [dest, src], [head, dest, src] or"
            " [layer, head, dest, src]"
        )
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    n_layers, n_heads, n_tokens, _ = array.shape
    return FromMask(_compressed(np.packbits(array).tobytes()), (n_layers, n_heads, n_tokens, n_tokens))


def _compressed(packed: bytes) -> bytes:
    """Compress in a short time: higher levels need seconds for random edges of 800 tokens, and gain little."""
    return zlib.compress(packed, 1)


def _read(text: str) -> EdgeSet:
    shape, _, packed = text.partition(":")
    try:
        n_layers, n_heads, n_dest, n_src = (int(size) for size in shape.split("x"))
        bits = zlib.decompress(base64.b64decode(packed, validate=True))
        n_bytes = -(-n_layers * n_heads * n_dest * n_src // 8)
        if n_dest != n_src or min(n_layers, n_heads, n_dest) < 1 or len(bits) != n_bytes:
            raise ValueError("no such mask")
    except (ValueError, binascii.Error, zlib.error):
        raise EdgeError(
            f"edges_from_mask('{text[:40]}…') is not the complete text of a mask; give booleans or the complete text"
        ) from None
    return FromMask(_compressed(bits), (n_layers, n_heads, n_dest, n_src))
