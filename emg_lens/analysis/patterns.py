"""Read attention patterns from a cache and sum the attention between groups of tokens."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.data.recording import as_array
from emg_lens.layout import CLS, TokenLayout
from emg_lens.plotting.words import UNGROUPED
from emg_lens.tables import WholeTable
from emg_lens.transformer_lens_imports import ActivationCache
from emg_lens.validation import ArgumentError, check_argument, short

Patterns = ActivationCache | Mapping[str, Tensor] | Tensor | np.ndarray

SUMMARY = ("uni", "cross", "to_cls", "from_cls")

PATTERN_KEY = re.compile(r"blocks\.(\d+)\.attn\.hook_pattern")


def modality_mass(cache: Patterns, layout: TokenLayout, *, trial: int | None = None) -> pd.DataFrame:
    """Sum the attention between groups of tokens, per layer and head.

    Args:
        cache: Attention patterns, as in `attention_view`.
        layout: Layout of the tokens.
        trial: Element of the batch (0-based); default: the mean over the batch.

    Returns:
        One row per (layer, head, dest, src); dest and src are groups: modalities, "cls", and "(ungrouped)" for
        tokens outside every group. `mass` is the attention from a token of dest to all tokens of src, averaged over
        the tokens of dest; the masses of one dest sum to 1. All rows of a head repeat four summaries of this head:

        * `uni`, `cross`, `from_cls`: attention of modality tokens, as fractions from their own modality (including
          self-edges), from other modalities, and from CLS. `uni` and `cross` are the mass on the edges `unimodal()`
          and `cross_modal()` per token.
        * `to_cls`: attention of CLS, as the fraction from modalities.

        NaN if there is no such token.

    Raises:
        ArgumentError: As in `attention_view`.

    Example:
        >>> import torch
        >>> from emg_lens import TokenLayout, modality_mass
        >>> layout = TokenLayout.channels({"emg": 2, "acc": 1}, cls=False)
        >>> table = modality_mass(torch.full((1, 1, 3, 3), 1 / 3), layout).round(2)
        >>> table[["dest", "src", "mass", "uni", "cross"]].head(2).to_dict("records")
        [{'dest': 'emg', 'src': 'emg', 'mass': 0.67, 'uni': 0.56, 'cross': 0.44},
         {'dest': 'emg', 'src': 'acc', 'mass': 0.33, 'uni': 0.56, 'cross': 0.44}]
    """
    layers, pattern, _ = read_patterns(cache, layout, trial, "cache")
    return mass_table(pattern, layout, layers)


# --- groups -----------------------------------------------------------------------------------------------


def group_names(layout: TokenLayout) -> list[str]:
    """Names of the groups: CLS if there is one, the modalities, and "(ungrouped)" if a token has no group."""
    return [*(CLS,) * layout.has_cls, *layout.modalities, *(UNGROUPED,) * (None in layout.group)]


def group_index(layout: TokenLayout) -> list[int]:
    """Index of each token's group in `group_names`."""
    names = group_names(layout)
    return [names.index(UNGROUPED if group is None else group) for group in layout.group]


def group_mass(
    pattern: Float[np.ndarray, "layer head dest src"], layout: TokenLayout
) -> Float[np.ndarray, "layer head dest_group src_group"]:
    """Sum attention over each src group and average it over the tokens of each dest group."""
    member = np.eye(len(group_names(layout)))[group_index(layout)]
    return (member / member.sum(0)).T @ (pattern @ member)


def group_summary(
    pattern: Float[np.ndarray, "layer head dest src"], layout: TokenLayout
) -> Float[np.ndarray, "layer head summary"]:
    """The four summaries of `modality_mass`, in the order of `SUMMARY`; NaN if there is no such token."""
    names = group_names(layout)
    mass = group_mass(pattern, layout)
    size = np.bincount(group_index(layout), minlength=len(names))
    modal = np.array([name not in (CLS, UNGROUPED) for name in names])
    weight = size[modal] / max(size[modal].sum(), 1)  # every token has the same weight
    read_by_modal = np.einsum("d,lhds->lhs", weight, mass[:, :, modal])
    own = np.einsum("d,lhdd->lh", weight, mass[:, :, modal][..., modal])
    to_cls = from_cls = np.full(own.shape, np.nan)
    if layout.has_cls:
        to_cls, from_cls = mass[:, :, names.index(CLS)][..., modal].sum(-1), read_by_modal[..., names.index(CLS)]
    summary = np.stack([own, read_by_modal[..., modal].sum(-1) - own, to_cls, from_cls], axis=-1)
    return summary if modal.any() else np.full(summary.shape, np.nan)


def mass_table(
    pattern: Float[np.ndarray, "layer head dest src"], layout: TokenLayout, layers: tuple[int, ...]
) -> pd.DataFrame:
    """The table of `modality_mass` for patterns from `read_patterns`."""
    mass, summary = group_mass(pattern, layout), group_summary(pattern, layout)
    names = group_names(layout)
    levels = {"layer": layers, "head": range(mass.shape[1]), "dest": names, "src": names}
    axes = pd.MultiIndex.from_product(levels.values(), names=list(levels))
    table = WholeTable({"mass": mass.ravel()}, index=axes).reset_index()
    for i, column in enumerate(SUMMARY):
        table[column] = np.repeat(summary[..., i].ravel(), len(names) ** 2)
    return table


# --- reading caches ---------------------------------------------------------------------------------------


def read_patterns(
    cache: Patterns, layout: TokenLayout, trial: int | None, name: str
) -> tuple[tuple[int, ...], Float[np.ndarray, "layer head dest src"], str]:
    """Read the layer numbers, the patterns of one trial or the mean over trials, and a description of the trials.

    Arguments as in `attention_view`; `name` is the name of the cache in errors.
    """
    check_argument("layout", layout, TokenLayout)
    check_argument("trial", trial, int | None)
    if isinstance(cache, Tensor | np.ndarray):
        stacked = _as_tensor(cache, name)
        if stacked.ndim not in (4, 5):
            raise ArgumentError(
                f"{name} is a tensor of shape {tuple(stacked.shape)}; expected [layer, head, dest, src] or "
                "[layer, batch, head, dest, src]"
            )
        patterns = dict(enumerate(stacked))
    elif hasattr(cache, "keys"):
        keys = {key: PATTERN_KEY.fullmatch(str(key)) for key in cache.keys()}  # noqa: SIM118 (ActivationCache)
        patterns = {int(match[1]): cache[key] for key, match in keys.items() if match}
        patterns = dict(sorted(patterns.items()))
    else:
        raise ArgumentError(f"{name} must be an ActivationCache, a dict or a tensor, got {type(cache).__name__}")
    if not patterns:
        if hasattr(cache, "stage"):
            raise ArgumentError(f"{name} has hook points of stages; pass cache.stage(name) and layout.of_stage(name)")
        raise ArgumentError(
            f"{name} holds no attention pattern: expected 'blocks.{{layer}}.attn.hook_pattern'; make the cache "
            "with run_with_cache(x) and include this name in names_filter"
        )
    chosen = {layer: _one_layer(_as_tensor(p, name), layer, layout, trial, name) for layer, p in patterns.items()}
    heads = {layer: len(pattern) for layer, (pattern, _) in chosen.items()}
    if len(set(heads.values())) > 1:
        raise ArgumentError(f"{name} has layers with different numbers of heads: {heads}")
    trials = next(iter(chosen.values()))[1]
    return tuple(chosen), np.stack([pattern for pattern, _ in chosen.values()]), trials


def _as_tensor(values: Any, name: str) -> Tensor:
    """Convert numbers of any byte order and order in memory; floating-point numbers of at most 64 bits."""
    if isinstance(values, Tensor):
        return values.detach()
    array = as_array(values, name)
    if array.dtype.kind not in "iuf":
        raise ArgumentError(f"{name} holds {short(values)}; expected patterns of real numbers")
    return torch.from_numpy(np.array(array, np.float64, order="C"))


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
            raise ArgumentError(f"{where}: trial is {trial}, but the pattern has no batch axis; leave trial out")
        chosen, trials = pattern, "one trial"
    elif trial is None:
        chosen, trials = pattern.mean(0), f"mean over {shape[0]} trials" if shape[0] > 1 else "one trial"
    else:
        if not 0 <= trial < shape[0]:
            raise ArgumentError(f"{where}: trial {trial} does not exist; the batch has trials 0 to {shape[0] - 1}")
        chosen, trials = pattern[trial], f"trial {trial}"
    values = chosen.numpy()
    bad = ~np.isfinite(values).all(axis=(1, 2))
    if bad.any():
        raise ArgumentError(
            f"{where}: heads {np.flatnonzero(bad).tolist()} hold NaN or infinity; expected finite attention"
        )
    if values.min() < -1e-3 or values.max() > 1 + 1e-3:
        raise ArgumentError(
            f"{where}: values range from {values.min():.3g} to {values.max():.3g}, expected 0 to 1; "
            "pass hook_pattern, not hook_attn_scores"
        )
    return values, trials


def row_notes(pattern: Float[np.ndarray, "layer head dest src"], layers: tuple[int, ...]) -> tuple[str, ...]:
    """Remarks on unusual rows: fully cut rows, and rows that do not sum to 1."""
    sums = pattern.sum(-1)
    empty = sums < 1e-6
    notes = []
    if empty.any():
        where = ", ".join(f"L{layers[i] + 1}" for i in np.flatnonzero(empty.any(axis=(1, 2))))
        notes.append(f"Rows without attention (all edges cut): {empty.sum()} (in {where}).")
    if (odd := ~empty & (np.abs(sums - 1) > 0.02)).any():
        low, high = sums[odd].min(), sums[odd].max()
        notes.append(f"Rows that do not sum to 1 (dropout or an edit): {odd.sum()} (sums {low:.2f} to {high:.2f}).")
    return tuple(notes)
