"""Direct effects of heads and MLPs on the decision: along the residual stream, past all later heads and MLPs.

Two versions differ in what LayerNorm does. Frozen norms keep the scales of the run, so the path to the logits is linear
and the effects add up to the margin (direct logit attribution, Elhage et al. 2021). Recomputed norms show what happens
to the margin if the output of the component is missing on this path.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.analysis.attribution.trial_metrics import evaluated, margin
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import PATTERN, SCORES, recording
from emg_lens.lens.cache import Selection
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.settings import check_inputs, device_of
from emg_lens.tables import WholeTable
from emg_lens.validation import ArgumentError, checked, short

MOST_VALUES = 2**25
"""Largest number of values of all components, at the positions that are read, in one batch of trials."""
TOLERANCE = 1e-3
"""Allowed rounding of sums, relative to the largest logit."""

COLUMNS = (
    "layer",
    "component",
    "frozen",
    "frozen_standard_error",
    "recomputed",
    "recomputed_standard_error",
)
Parts = Float[Tensor, "component trial pos d_model"]


@checked
def direct_effects(model: HookedBiosignalEncoder, x: Tensor, y: Tensor) -> pd.DataFrame:
    """Compute the direct effect of each head and each MLP on the margin.

    The margin is the logit of the label minus the largest other logit of the unablated model. A direct effect passes
    only along the residual stream to the readout. It leaves out what later heads and MLPs make of the component's
    output, so a component without a direct effect may still matter. A positive effect supports the label.

    Args:
        model: An encoder with one stack of blocks and a linear readout of classes, pre-LN or post-LN. It is run in
            evaluation mode.
        x: Input `[trial, channel, time]`, standardized.
        y: Class index of each trial.

    Returns:
        One row for each component, with the columns

        * `layer` (0-based) and `component`: `"H0"`, `"H1"`, ... (without the bias of the output map) and `"mlp"` (with
          its bias). In layer -1: `"embed"` (embeddings and positions) and `"bias"` (biases of attention outputs, norms
          and readout);
        * `frozen`: mean over trials of the component's part of the margin, with LayerNorm scales as in the run. The
          column sums to the mean margin;
        * `recomputed`: mean over trials of the margin minus the margin without the component's output on the direct
          path. The outputs of all later components stay as they were, and the norms are computed anew. NaN for
          `"bias"`;
        * `frozen_standard_error`, `recomputed_standard_error`: over trials; NaN for a single trial. Trials of one
          repetition are not independent, so they are too small if a repetition has several trials.

    Raises:
        ArgumentError: A model with several stages, without class logits, or whose heads and MLPs do not add up to its
            logits.
        SweepInputError: No trials, or values that are not finite.

    Example:
        >>> import torch
        >>> from emg_lens import build_model
        >>> from emg_lens.analysis import direct_effects
        >>> model = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=2,
        ...                     d_model=8, n_heads=2, n_layers=2, d_mlp=8)
        >>> x, y = model.example_input(6), torch.tensor([0, 1, 0, 1, 0, 1])
        >>> table = direct_effects(model, x, y)
        >>> table["component"].tolist()
        ['H0', 'H1', 'mlp', 'H0', 'H1', 'mlp', 'embed', 'bias']
        >>> logits = model(x)[range(6), torch.stack([y, 1 - y])]
        >>> bool(abs(table["frozen"].sum() - float((logits[0] - logits[1]).mean())) < 1e-5)
        True
    """
    check_inputs(x, None)
    if model.layout.stages:
        raise ArgumentError(
            f"{type(model).__name__} has several stages; direct_effects needs one stack of blocks: ablate parts of this"
            " model with sweep instead"
        )
    if y.shape != x.shape[:1]:
        raise ArgumentError(f"y={short(y)}; expected one class index for each of {len(x)} trials")
    cfg = model.cfg
    size = (cfg.n_layers * (cfg.n_heads + 1) + 2) * (1 if model.reads_first_row_only else cfg.n_ctx) * cfg.d_model
    trials = max(1, MOST_VALUES // size)
    with evaluating(model), torch.no_grad():
        batches = [
            _of_batch(model, some.to(device_of(model)), labels)
            for some, labels in zip(x.split(trials), y.split(trials), strict=True)
        ]
    frozen, recomputed = (torch.cat(parts, dim=1).double().numpy() for parts in zip(*batches, strict=True))
    components = [*(f"H{head}" for head in range(cfg.n_heads)), "mlp"]
    table = WholeTable({"component": [*components * cfg.n_layers, "embed", "bias"]})
    table["layer"] = [*np.repeat(np.arange(cfg.n_layers), len(components)), -1, -1]
    for name, effects in (("frozen", frozen), ("recomputed", recomputed)):
        n = effects.shape[1]
        table[name] = effects.mean(1)
        table[f"{name}_standard_error"] = effects.std(1, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return table[[*COLUMNS]]


def _of_batch(model: HookedBiosignalEncoder, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return frozen and recomputed effects `[component, trial]`, with the bias last."""
    with recording(model, model.select_points(lambda name: not name.endswith((SCORES, PATTERN)))) as kept:
        logits = model(x)
    cache = model.cache_type(kept, model)
    y = y.to(logits.device)
    clean = evaluated(margin, logits, y)
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    difference = partial(_difference, y=y, rival=rival)
    where: Selection = (0, 1) if model.reads_first_row_only else None
    without, stream = _without_each(model, cache, slice(0, 1) if model.reads_first_row_only else slice(None))
    recomputed = clean - difference(_logits(model, without))
    frozen = _frozen(model, cache, where, difference)
    allowed = TOLERANCE * float(logits.abs().max())
    for total in (frozen.sum(0), difference(_logits(model, stream))[0]):
        if not torch.allclose(total, clean, atol=allowed):
            raise ArgumentError(
                f"the outputs of heads and MLPs do not add up to the logits of {type(model).__name__}; expected blocks"
                " around a residual stream, a linear readout, and no hooks on the model"
            )
    return frozen.cpu(), torch.cat([recomputed, torch.full_like(clean, torch.nan)[None]]).cpu()


def _difference(logits: Float[Tensor, "component trial class"], y: Tensor, rival: Tensor) -> Tensor:
    """Return the logit of the label minus the logit of the rival class `[component, trial]`."""
    trials = torch.arange(len(y), device=logits.device)
    return logits[:, trials, y] - logits[:, trials, rival]


def _logits(model: HookedBiosignalEncoder, streams: Parts) -> Float[Tensor, "component trial class"]:
    """Return the logits of residual streams after the last block."""
    return model.head(model.ln_final(streams).flatten(0, 1)).unflatten(0, streams.shape[:2])


def _frozen(
    model: Any, cache: Any, where: Selection, difference: Callable[[Tensor], Tensor]
) -> Float[Tensor, "component trial"]:
    """Return the part of each component in the margin, with the scales of the run; heads and MLP by layer."""
    parts, labels = cache.get_full_resid_decomposition(
        expand_neurons=False, apply_ln=True, pos_slice=where, return_labels=True
    )
    index = {label: k for k, label in enumerate(labels)}
    cfg = model.cfg
    order = [[*(f"L{at}H{head}" for head in range(cfg.n_heads)), f"{at}_mlp_out"] for at in range(cfg.n_layers)]
    embed = parts[[index[name] for name in ("embed", "pos_embed") if name in index]].sum(0)
    offset = torch.zeros_like(parts[0]) if cfg.norm == "post" else model.ln_final.b.expand_as(parts[0])
    parts = torch.stack([*(parts[index[name]] for layer in order for name in layer), embed, parts[index["bias"]]])
    rows = torch.cat([parts, offset[None], torch.zeros_like(offset)[None]])
    *effects, of_offset, nothing = difference(model.head(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]))
    effects = torch.stack(effects) - nothing  # a readout is linear with a bias
    effects[-1] += of_offset
    return effects


def _without_each(model: Any, cache: Any, at: slice) -> tuple[Parts, Parts]:
    """Return the last residual stream without each component on the direct path (embeddings last), and with all."""
    stream = cache["blocks.0.hook_resid_pre"][None, :, at]
    without = torch.zeros_like(stream)
    for layer, block in enumerate(model.blocks):
        attn_out, mlp_out = (cache[f"{name}_out", layer][None, :, at] for name in ("attn", "mlp"))
        heads = torch.einsum("bphe,hed->hbpd", cache["z", layer][:, at], block.attn.W_O)
        for whole, outputs, norm in ((attn_out, heads, block.ln1), (mlp_out, mlp_out, block.ln2)):
            without = torch.cat([without + whole, stream + whole - outputs])
            stream = stream + whole
            if model.cfg.norm == "post":
                without, stream = norm(without), norm(stream)
    return without.roll(-1, dims=0), stream
