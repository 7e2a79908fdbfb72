"""Checks of the attention edges that a model masks itself."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.analysis.model_checks.check_report import Finding, judged, not_applicable
from emg_lens.analysis.model_checks.probed_model import ProbedModel
from emg_lens.errors import EmgLensError
from emg_lens.hooks.adapters import adapt
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import SCORES, attached_hooks

MASKED = -1e8
"""Scores up to this value are masked: softmax gives them exactly zero next to any usual score."""


@dataclass
class LayerEdges:
    """Edges of one attention module that are masked in every trial, and the number of rows that are masked as a whole.

    `expected` holds the edges that the model declares as masked, or that are masked on purpose.
    """

    masked: Bool[Tensor, "head dest src"]
    empty_rows: int
    n_rows: int
    expected: Bool[Tensor, "#head dest src"]

    @property
    def undeclared(self) -> Bool[Tensor, "head dest src"]:
        """Masked edges that nothing explains."""
        return self.masked & ~self.expected


def masked_edges(probed: ProbedModel) -> Finding:
    """Which edges have a score of −1e8 or less in every trial, and does the model declare them?"""
    layers = _layers(probed)
    if isinstance(layers, str):
        return not_applicable(layers)
    fraction = float(torch.cat([one.masked.flatten() for one in layers.values()]).float().mean())
    shapes = {tuple(one.masked.shape) for one in layers.values()}
    if probed.masked is not None and probed.masked.shape[-2:] not in {shape[-2:] for shape in shapes}:
        expected = " or ".join(str(list(shape)) for shape in sorted(shapes))
        return judged(False, fraction, f"masked has shape {list(probed.masked.shape)}; expected {expected}")
    by_layer = {name: float(one.masked.float().mean()) for name, one in layers.items()}
    undeclared = {name: one for name, one in layers.items() if one.undeclared.any()}
    if not fraction:
        return judged(True, 0.0, f"no edge of {_count(layers)} is masked in every trial")
    if not undeclared:
        return judged(True, fraction, f"masked in every trial, as declared or causal: {_fractions(by_layer)}")
    first, edges = next(iter(undeclared.items()))
    n = sum(int(one.undeclared.sum()) for one in undeclared.values())
    return judged(
        False,
        fraction,
        f"masked in every trial: {_fractions(by_layer)}; {n:,} of these edges are not declared (in {first}"
        f" {_which(edges)}), and cutting them has no effect; give masked= if this is intended",
    )


def empty_rows(probed: ProbedModel) -> Finding:
    """Is there a token whose edges are all masked in some trial? Softmax then gives NaN, or equal attention to all."""
    layers = _layers(probed)
    if isinstance(layers, str):
        return not_applicable(layers)
    number, n_rows = sum(one.empty_rows for one in layers.values()), sum(one.n_rows for one in layers.values())
    where = ", ".join(f"{name}: {one.empty_rows}" for name, one in layers.items() if one.empty_rows)
    return judged(
        not number, number, f"{number} of {n_rows:,} rows have all edges masked" + f" ({where})" * bool(where)
    )


def _layers(probed: ProbedModel) -> dict[str, LayerEdges] | str:
    """Record the masked edges of every attention module; a text says why this is not possible."""
    kept = vars(probed)
    if "masked_layers" not in kept:
        try:
            kept["masked_layers"] = _recorded(probed)
        except EmgLensError as error:
            kept["masked_layers"] = str(error)
    return kept["masked_layers"]


def _recorded(probed: ProbedModel) -> dict[str, LayerEdges] | str:
    model: Any = probed.model
    if not any(name.endswith(SCORES) for name in probed.hook_points):
        if probed.hook_points:
            return f"the model has no hook point {SCORES}"
        model = adapt(copy.deepcopy(model), probed.fresh_x[:2])  # `adapt` adds hook points
    layers: dict[str, LayerEdges] = {}

    def record(scores: Float[Tensor, "batch head dest src"], hook: Any) -> Float[Tensor, "batch head dest src"]:
        name, least = hook.name.removesuffix(f".{SCORES}"), torch.finfo(scores.dtype).min
        low = (scores <= max(MASKED, least)).cpu()
        masked, empty = low.all(0), low.all(-1)
        layers[name] = LayerEdges(masked, int(empty.sum()), empty.numel(), _expected(probed, name, masked))
        return scores

    names = [name for name in model.hook_dict if name.endswith(SCORES)]
    with evaluating(model), torch.no_grad(), attached_hooks(model, [(name, record) for name in names]):
        model(probed.fresh_x)
    return layers or f"{SCORES} does not run in a forward"


def _expected(probed: ProbedModel, name: str, low: Bool[Tensor, "head dest src"]) -> Bool[Tensor, "#head dest src"]:
    """Return the edges of a module that are masked by declaration, by causality, or on purpose."""
    declared = getattr(dict(probed.model.named_modules()).get(name), "permanent_mask", None)
    expected = torch.zeros_like(low) if declared is None else declared.cpu()
    later = torch.ones_like(low).triu(1)
    if low[later].all():  # every later token of every row: a causal mask
        expected = expected | later
    if probed.masked is not None and probed.masked.shape[-2:] == low.shape[-2:]:
        mask = probed.masked.cpu()
        expected = expected | (mask if mask.ndim < 4 else mask[_layer_of(name) or 0])
    return expected


def _layer_of(name: str) -> int | None:
    """Return the first number in a path: `blocks.3.attn` is layer 3."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _which(layer: LayerEdges) -> str:
    """Describe undeclared edges: from which distance on, if this describes them all; otherwise name one of them."""
    edges = layer.undeclared
    n_dest, n_src = edges.shape[-2:]
    distance = (torch.arange(n_dest)[:, None] - torch.arange(n_src)).abs()
    least = int(distance[edges.any(0)].min())
    if torch.equal(edges, (distance >= least) & ~layer.expected):
        return f"those with |dest - src| ≥ {least}"
    head, dest, src = edges.nonzero()[0].tolist()
    return f"head {head}, dest {dest}, src {src}, for example"


def _fractions(by_layer: dict[str, float]) -> str:
    """Give the fraction of each layer, once if they are equal."""
    if len(set(by_layer.values())) == 1:
        return f"{next(iter(by_layer.values())):.1%} of the edges of each of {_count(by_layer)}"
    return ", ".join(f"{fraction:.1%} of the edges of {name}" for name, fraction in by_layer.items())


def _count(layers: dict[str, Any]) -> str:
    return f"{len(layers)} attention module{'s' * (len(layers) != 1)}"
