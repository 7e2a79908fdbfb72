"""Attention patterns out of a cache, and how much attention each group of tokens pays to each other.

The numbers behind `attention_view`, for tables and tests. Knows layouts and caches, not models.
"""

import operator
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from emg_lens.layout import CLS, TokenLayout
from emg_lens.validation import ArgumentError, check_argument

Patterns = ActivationCache | Mapping[str, Tensor] | Tensor | np.ndarray

UNGROUPED = "(ungrouped)"
"""Stands for the tokens outside every group; brackets keep it apart from any group's name."""
SUMMARY = ("uni", "cross", "to_cls", "from_cls")

PATTERN_KEY = re.compile(r"blocks\.(\d+)\.attn\.hook_pattern")


def modality_mass(cache: Patterns, layout: TokenLayout, *, trial: int | None = None) -> pd.DataFrame:
    """How much attention each group pays to each, per head; arguments and errors as in `attention_view`.

    Returns:
        One row a (layer, head, dest, src); dest and src are groups: modalities, "cls", and "(ungrouped)" for
        tokens outside every group. `mass` is the attention that a token of dest pays to all tokens of src,
        averaged over dest's tokens; the masses of one dest sum to 1. Four summaries of the head repeat in its
        rows:

        * `uni`, `cross`, `from_cls`: of what the tokens of modalities read, the share from their own modality
          (self-edges included), from other modalities, and from CLS. `uni` and `cross` are the mass on the
          edges `unimodal()` and `cross_modal()`, per token of a modality.
        * `to_cls`: of what CLS reads, the share from modalities.

        NaN where there is no such token.
    """
    layers, pattern, _ = read_patterns(cache, layout, trial, "cache")
    return mass_table(pattern, layout, layers)


# --- groups -----------------------------------------------------------------------------------------------


def group_names(layout: TokenLayout) -> list[str]:
    """CLS first if there is one, then the modalities, then "(ungrouped)" if some token is."""
    return [*(CLS,) * layout.has_cls, *layout.modalities, *(UNGROUPED,) * (None in layout.group)]


def group_index(layout: TokenLayout) -> list[int]:
    """Index into `group_names` of each token."""
    names = group_names(layout)
    return [names.index(UNGROUPED if group is None else group) for group in layout.group]


def group_mass(
    pattern: Float[np.ndarray, "layer head dest src"], layout: TokenLayout
) -> Float[np.ndarray, "layer head dest_group src_group"]:
    """Attention summed over each src group, averaged over the tokens of each dest group."""
    member = np.eye(len(group_names(layout)))[group_index(layout)]
    return (member / member.sum(0)).T @ (pattern @ member)


def group_summary(
    pattern: Float[np.ndarray, "layer head dest src"], layout: TokenLayout
) -> Float[np.ndarray, "layer head summary"]:
    """The four summaries of `modality_mass`, in the order of `SUMMARY`; NaN where no token qualifies."""
    names = group_names(layout)
    mass = group_mass(pattern, layout)
    size = np.bincount(group_index(layout), minlength=len(names))
    modal = np.array([name not in (CLS, UNGROUPED) for name in names])
    weight = size[modal] / max(size[modal].sum(), 1)  # a modality counts by its tokens
    read_by_modal = np.einsum("d,lhds->lhs", weight, mass[:, :, modal])
    own = np.einsum("d,lhdd->lh", weight, mass[:, :, modal][..., modal])
    nothing = np.full(own.shape, np.nan)
    to_cls = from_cls = nothing
    if layout.has_cls:
        to_cls = mass[:, :, names.index(CLS)][..., modal].sum(-1) if modal.any() else nothing
        from_cls = read_by_modal[..., names.index(CLS)]
    cross = read_by_modal[..., modal].sum(-1) - own
    if not modal.any():
        own = cross = from_cls = nothing
    return np.stack([own, cross, to_cls, from_cls], axis=-1)


def mass_table(
    pattern: Float[np.ndarray, "layer head dest src"], layout: TokenLayout, layers: tuple[int, ...]
) -> pd.DataFrame:
    """`modality_mass` of patterns that have been read already."""
    mass, summary = group_mass(pattern, layout), group_summary(pattern, layout)
    names = group_names(layout)
    axes = pd.MultiIndex.from_product(
        [layers, range(mass.shape[1]), names, names], names=["layer", "head", "dest", "src"]
    )
    table = pd.DataFrame({"mass": mass.ravel()}, index=axes).reset_index()
    for i, column in enumerate(SUMMARY):
        table[column] = np.repeat(summary[..., i].ravel(), len(names) ** 2)
    return table


# --- reading caches ---------------------------------------------------------------------------------------


def read_patterns(
    cache: Patterns, layout: TokenLayout, trial: int | None, name: str
) -> tuple[tuple[int, ...], Float[np.ndarray, "layer head dest src"], str]:
    """Layer numbers, patterns of one trial or the mean of all, and which of the two, in words.

    Args:
        cache: See `attention_view`.
        layout: What each token stands for.
        trial: Element of the batch, or None for the mean.
        name: What to call the cache in errors.

    Raises:
        ArgumentError: See `attention_view`.
    """
    check_argument("layout", layout, TokenLayout)
    check_argument("trial", trial, int | None)
    if isinstance(cache, Tensor | np.ndarray):
        stacked = torch.as_tensor(cache)
        if stacked.ndim not in (4, 5):
            raise ArgumentError(
                f"{name} is a tensor of shape {tuple(stacked.shape)}; expected [layer, head, dest, src] or "
                "[layer, batch, head, dest, src]"
            )
        found = dict(enumerate(stacked))
    elif hasattr(cache, "keys"):
        keys = {key: PATTERN_KEY.fullmatch(str(key)) for key in cache.keys()}  # noqa: SIM118 (ActivationCache)
        found = {int(match[1]): cache[key] for key, match in keys.items() if match}
        found = dict(sorted(found.items()))
    else:
        raise ArgumentError(f"{name} must be an ActivationCache, a dict or a tensor, got {type(cache).__name__}")
    if not found:
        if hasattr(cache, "stage"):
            raise ArgumentError(f"{name} holds hook points of stages: give cache.stage(name) and layout.of_stage(name)")
        raise ArgumentError(
            f"{name} holds no attention pattern: expected 'blocks.{{layer}}.attn.hook_pattern'; cache it "
            "with run_with_cache(x), or name it in names_filter"
        )
    chosen = {layer: _one_layer(torch.as_tensor(p), layer, layout, trial, name) for layer, p in found.items()}
    heads = {layer: len(pattern) for layer, (pattern, _) in chosen.items()}
    if len(set(heads.values())) > 1:
        raise ArgumentError(f"{name} has layers with different numbers of heads: {heads}")
    trials = next(iter(chosen.values()))[1]
    return tuple(chosen), np.stack([pattern for pattern, _ in chosen.values()]), trials


def _one_layer(
    pattern: Tensor, layer: int, layout: TokenLayout, trial: int | None, name: str
) -> tuple[Float[np.ndarray, "head dest src"], str]:
    where = f"{name}, layer {layer}"
    shape = tuple(pattern.shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise ArgumentError(f"{where}: pattern has shape {shape}; expected [batch, head, dest, src]")
    if shape[-2:] != (len(layout), len(layout)):
        raise ArgumentError(
            f"{where}: pattern is {shape[-2]} x {shape[-1]} tokens but the layout has {len(layout)}; "
            "pass the layout of the model that made the cache"
        )
    pattern = pattern.detach().float().cpu()
    if len(shape) == 3:
        if trial is not None:
            raise ArgumentError(f"{where}: trial={trial} was asked, but the pattern has no batch axis; leave trial out")
        chosen, trials = pattern, "one trial"
    elif trial is None:
        chosen, trials = pattern.mean(0), f"mean over {shape[0]} trials" if shape[0] > 1 else "one trial"
    else:
        index = operator.index(trial)
        if not 0 <= index < shape[0]:
            raise ArgumentError(f"{where}: trial {index} does not exist; the batch has trials 0 to {shape[0] - 1}")
        chosen, trials = pattern[index], f"trial {index}"
    values = chosen.numpy()
    bad = ~np.isfinite(values).all(axis=(1, 2))
    if bad.any():
        raise ArgumentError(f"{where}: heads {np.flatnonzero(bad).tolist()} hold NaN or infinity; attention is finite")
    if values.min() < -1e-3 or values.max() > 1 + 1e-3:
        raise ArgumentError(
            f"{where}: values go from {values.min():.3g} to {values.max():.3g}, attention from 0 to 1; "
            "pass hook_pattern, not hook_attn_scores"
        )
    return values, trials


def row_notes(pattern: Float[np.ndarray, "layer head dest src"], layers: tuple[int, ...]) -> tuple[str, ...]:
    """What is odd about the rows: fully cut ones, and ones that are no distribution."""
    sums = pattern.sum(-1)
    empty = sums < 1e-6
    notes = []
    if empty.any():
        where = ", ".join(f"L{layers[i] + 1}" for i in np.flatnonzero(empty.any(axis=(1, 2))))
        notes.append(f"Rows without attention, as if all their edges were cut: {empty.sum()} (in {where}).")
    if (odd := ~empty & (np.abs(sums - 1) > 0.02)).any():
        low, high = sums[odd].min(), sums[odd].max()
        spread = f"they sum to {low:.2f} at least and {high:.2f} at most"
        notes.append(f"Rows that do not sum to 1, by dropout or an edit: {odd.sum()} ({spread}).")
    return tuple(notes)
