"""Edges given one by one: a boolean mask as an edge set, for what no rule describes (random edges, a found circuit)."""

import base64
import binascii
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from emg_lens.hooks.algebra import EdgeError, EdgeMask, EdgeSet
from emg_lens.layout import TokenLayout

MOST_EDGES = 10**9


@dataclass(frozen=True, repr=False)
class FromMask(EdgeSet):
    """See `edges_from_mask`; `bits` are the packed mask, compressed."""

    bits: bytes
    shape: tuple[int, int, int, int]

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        wanted = (n_layers, n_heads, len(layout), len(layout))
        over = [mine not in (1, theirs) for mine, theirs in zip(self.shape[:2], wanted[:2], strict=True)]
        if any(over) or self.shape[2:] != wanted[2:]:
            raise EdgeError(f"a mask {list(self.shape)} does not fit {list(wanted)}: [layer, head, dest, src]")
        n = int(np.prod(self.shape))
        flat = np.unpackbits(np.frombuffer(zlib.decompress(self.bits), np.uint8), count=n)
        return flat.view(bool).reshape(self.shape)

    def _text(self) -> str:
        return f"edges_from_mask('{'x'.join(map(str, self.shape))}:{base64.b64encode(self.bits).decode()}')"


def edges_from_mask(mask: "Bool[np.ndarray, '...'] | str") -> EdgeSet:
    """Edges given one by one.

    ```python
    edges_from_mask(attention.mean(0) < 0.01)  # [head, dest, src], with .at(layers=3): what a head hardly looks at
    ```

    Args:
        mask: Booleans (array or tensor) `[dest, src]`, `[head, dest, src]` or `[layer, head, dest, src]`, True = in the
            set; an axis of size 1, or one left out, holds for all layers or heads. Or the text that such a set prints.

    Raises:
        EdgeError: Something else, a mask that is not square, or a text that no mask wrote.
    """
    if isinstance(mask, str):
        return _read(mask)
    try:
        array = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)  # pyright: ignore
    except ValueError as error:
        raise EdgeError(f"edges_from_mask takes booleans, all rows of one length: {error}") from None
    if array.dtype != bool or not 2 <= array.ndim <= 4 or array.shape[-1] != array.shape[-2] or not array.size:
        raise EdgeError(
            f"edges_from_mask takes booleans [dest, src], [head, dest, src] or [layer, head, dest, src], got {array.dtype}"
            f" {list(array.shape)}"
        )
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    n_layers, n_heads, n_tokens, _ = array.shape
    return FromMask(zlib.compress(np.packbits(array).tobytes(), 9), (n_layers, n_heads, n_tokens, n_tokens))


def _read(text: str) -> EdgeSet:
    shape, _, packed = text.partition(":")
    try:
        n_layers, n_heads, n_dest, n_src = (int(size) for size in shape.split("x"))
        bits = base64.b64decode(packed, validate=True)
        size = n_layers * n_heads * n_dest * n_src
        if n_dest != n_src or not 0 < size <= MOST_EDGES or min(n_layers, n_heads, n_dest) < 1:
            raise ValueError("no such mask")
        # One byte more than there may be: whatever the text unpacks to, no more than that is held.
        packer = zlib.decompressobj()
        unpacked = packer.decompress(bits, -(-size // 8) + 1)
        if len(unpacked) != -(-size // 8) or not packer.eof or packer.unused_data:
            raise ValueError("another size")
    except (ValueError, binascii.Error, zlib.error):
        raise EdgeError(
            f"edges_from_mask('{text[:40]}…') is not what a mask prints; give booleans, or the text whole"
        ) from None
    return FromMask(bits, (n_layers, n_heads, n_dest, n_src))
