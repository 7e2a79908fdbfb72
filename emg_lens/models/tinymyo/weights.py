"""The published name and axes of each of our tensors in TinyMyo; docs/tinymyo-model.md §9.3."""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

FREQUENCIES, CHANNEL_EMBED = "attn.rotary_emb.freqs", "channel_embed"
"""Names of tensors that show which positions a file was trained with."""

State = dict[str, Tensor]
Entry = tuple[str, tuple[str, ...], str]
"""The published name of a tensor, our names, and the rearrangement of its axes: `published -> ours`."""

TRUNK: tuple[Entry, ...] = (
    ("mask_token", ("embed.mask_token",), "1 1 d -> d"),
    ("patch_embedding.patch_embed.proj.weight", ("embed.W_E",), "d 1 1 sample -> 1 sample d"),
    ("patch_embedding.patch_embed.proj.bias", ("embed.b_E",), "d -> 1 d"),
    ("norm.weight", ("ln_final.w",), "d -> d"),
    ("norm.bias", ("ln_final.b",), "d -> d"),
)
BLOCK: tuple[Entry, ...] = (
    ("norm1.weight", ("ln1.w",), "d -> d"),
    ("norm1.bias", ("ln1.b",), "d -> d"),
    ("attn.qkv.weight", ("attn.W_Q", "attn.W_K", "attn.W_V"), "(part head e) d -> part head d e"),
    ("attn.qkv.bias", ("attn.b_Q", "attn.b_K", "attn.b_V"), "(part head e) -> part head e"),
    ("attn.proj.weight", ("attn.W_O",), "d (head e) -> head e d"),
    ("attn.proj.bias", ("attn.b_O",), "d -> d"),
    ("norm2.weight", ("ln2.w",), "d -> d"),
    ("norm2.bias", ("ln2.b",), "d -> d"),
    ("mlp.fc1.weight", ("mlp.W_in",), "hidden d -> d hidden"),
    ("mlp.fc1.bias", ("mlp.b_in",), "hidden -> hidden"),
    ("mlp.fc2.weight", ("mlp.W_out",), "d hidden -> hidden d"),
    ("mlp.fc2.bias", ("mlp.b_out",), "d -> d"),
)
HEAD: dict[str, tuple[Entry, ...]] = {
    "reconstruction": (
        ("decoder_pred.weight", ("W_U",), "sample d -> d sample"),
        ("decoder_pred.bias", ("b_U",), "sample -> sample"),
    ),
    "mean": (("classifier.weight", ("W_U",), "k d -> d k"), ("classifier.bias", ("b_U",), "k -> k")),
    "concat": (
        ("classifier.weight", ("W_U",), "k (channel d) -> channel d k"),
        ("classifier.bias", ("b_U",), "k -> k"),
    ),
    "regression": tuple(
        (f"regressor.{there}.{kind}", (f"{here}.{kind}",), axes)
        for there, here in ((0, "mix"), (3, "smooth"), (5, "read"))
        for kind, axes in (("weight", "out wide time -> out wide time"), ("bias", "out -> out"))
    ),
}


def block_entries(cfg: Any) -> list[Entry]:
    """Return the entries of the blocks and of the last norm, if there is one; they do not depend on the tokens."""
    rows = [entry for entry in TRUNK if entry[0].startswith("norm.")] if cfg.norm == "pre" else []
    for layer in range(cfg.n_layers):
        at = f"blocks.{layer}."
        rows += [(at + there, tuple(at + one for one in here), axes) for there, here, axes in BLOCK]
    return rows


def entries(cfg: Any) -> list[Entry]:
    """Return the entry of every tensor in a model with this `TinyMyoConfig`."""
    blocks = block_entries(cfg)
    rows = [*TRUNK, *(entry for entry in blocks if entry not in TRUNK)]
    kind = cfg.fusion if cfg.head == "classification" else cfg.head
    rows += [(f"model_head.{there}", tuple(f"unembed.{one}" for one in here), axes) for there, here, axes in HEAD[kind]]
    if cfg.channel_slots:
        rows.append((CHANNEL_EMBED, ("pos_embed.W_channel",), "1 slot d -> slot d"))
    return rows


def to_ours(state: Mapping[str, Tensor], cfg: Any) -> State:
    """Convert the published tensors that the model has to our names and axes."""
    converted: State = {}
    for there, here, axes in entries(cfg):
        if there in state:
            given = state[there]
            if there == CHANNEL_EMBED:
                given = given.reshape(1, -1, cfg.d_model)  # its axes are not published
            converted |= taken_from(given, here, axes, cfg)
    return converted


def taken_from(given: Tensor, here: tuple[str, ...], axes: str, cfg: Any) -> State:
    """Convert one published tensor to our names and axes."""
    moved = rearrange(given, axes, **_lengths(axes, cfg))
    return dict(zip(here, moved.unbind() if len(here) > 1 else [moved], strict=True))


def to_theirs(state: Mapping[str, Tensor], cfg: Any) -> State:
    """Convert our tensors to the published names and axes: the inverse of `to_ours`.

    With rotary positions over tokens, the frequencies of each block are included, as in such files.
    """
    converted: State = {}
    for there, here, axes in entries(cfg):
        parts = [state[one] for one in here]
        given = torch.stack(parts) if len(parts) > 1 else parts[0]
        back = " -> ".join(reversed(axes.split(" -> ")))
        converted[there] = rearrange(given.detach(), back, **_lengths(axes, cfg)).contiguous().clone()
    if cfg.rope == "token":
        for layer in range(cfg.n_layers):
            converted[f"blocks.{layer}.{FREQUENCIES}"] = frequencies(cfg)
    return converted


def frequencies(cfg: Any) -> Tensor:
    """Return the rotation frequency of each pair of values in a head (docs/tinymyo-model.md §9.1)."""
    return 1.0 / (cfg.rotary_base ** (torch.arange(0, cfg.d_head, 2).float() / cfg.d_head))


def _lengths(axes: str, cfg: Any) -> dict[str, int]:
    known = {"part": 3, "head": cfg.n_heads, "channel": cfg.n_channels}
    return {name: length for name, length in known.items() if name in axes}


def moves(axes: str) -> bool:
    """Whether a rearrangement of axes changes anything."""
    return len(set(axes.split(" -> "))) > 1
