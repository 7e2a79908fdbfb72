"""`quantised`: a copy of a model with rounded weights, activations and softmax, on which all hooks work."""

import copy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from emg_lens.analysis.quantisation.grids import ActivationGrid
from emg_lens.analysis.quantisation.integer_softmax import IntegerSoftmax
from emg_lens.analysis.quantisation.matrices import Per, find_matrices
from emg_lens.analysis.quantisation.quantised_parts import QUANTISED, QuantisedAttention
from emg_lens.hooks.evaluation import evaluating
from emg_lens.lens.points import Point
from emg_lens.memory import trials_not_finite
from emg_lens.models.attention import Attention
from emg_lens.models.components import MLP, LayerNorm
from emg_lens.validation import ArgumentError, checked

Bits = Annotated[int, Field(ge=2, le=16)]
CALIBRATION_BATCH = 256


@dataclass(frozen=True)
class Quantisation:
    """How a model was quantised; the attribute `quantisation` of a copy.

    Attributes:
        bits: Bits of a weight; None = weights are not rounded.
        per: One scale per `"tensor"` or per output `"channel"`.
        activations: Bits of an activation; None = activations are not rounded.
        softmax: The softmax in whole numbers; None = torch's.
        rounded: Names of the rounded parameters.
        kept: Names of parameters with several axes that belong to no known kind of matrix and were not rounded.
    """

    bits: int | None
    per: Per
    activations: int | None
    softmax: IntegerSoftmax | None
    rounded: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@checked
def quantised(
    model: nn.Module,
    bits: Bits | None = 8,
    *,
    per: Per = "tensor",
    activations: Bits | None = None,
    softmax: Literal["float", "integer"] | IntegerSoftmax = "float",
    calibration: Tensor | None = None,
) -> Any:
    """Copy a model and round its weights, activations and softmax, as on a microcontroller (docs/deployment.md §2).

    Values are stored in float32, so that hooks, `cut`, `cutting` and `sweep` work on the copy as on the model. State
    keys stay the same. With weights alone, the sweep runs as fast as on the model. The model does not change.

    Args:
        model: One of our models, an adapted model, or any torch module. Matrices of linear maps, convolutions,
            embeddings, recurrent layers and `nn.MultiheadAttention` are rounded; norms, biases and position vectors are
            not. A module of your own states its matrices with `weight_inputs = {"W": (0,)}`: `W` sums over axis 0.
        bits: Bits of a weight, from 2 to 16; the grid is symmetric (8 bits: -127 to 127). None keeps the weights.
        per: `"tensor"`: one scale for each matrix. `"channel"`: one scale for each output of a matrix.
        activations: Bits of an activation, for encoders with our blocks. Rounded are the outputs of LayerNorm, queries,
            keys and values (before and after rotation), z, and the MLP's hidden activations. A hook reads the rounded
            value, and what it returns is used as it is. None keeps them.
        softmax: `"float"`; `"integer"`, the softmax of GAP9 (`IntegerSoftmax()`); or an `IntegerSoftmax`.
        calibration: Training trials `[trial, channel, time]`, standardised as for the model. The scale of each
            activation is its largest absolute value over them. Needed for `activations`.

    Returns:
        The copy. Its attribute `quantisation` (`Quantisation`) names what was rounded. `save_pretrained` stores rounded
        weights, and refuses a copy with rounded activations or integer softmax, which no file would contain.

    Raises:
        ArgumentError: Nothing to round, weights that are not finite float32 or float64, a parametrised weight, a model
            that is quantised already, rounded activations or integer softmax without our blocks, or `calibration`
            missing, not finite, without use, or with activations that are not finite.

    Example:
        >>> from emg_lens import IsoNet, IsoNetConfig, cross_modal, layer_masks, sweep
        >>> from emg_lens.analysis import quantised
        >>> sizes = dict(d_model=16, n_heads=2, n_layers=2, d_mlp=8)
        >>> model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=5, **sizes))
        >>> x = model.example_input(32)
        >>> copy = quantised(model, bits=8, activations=8, softmax="integer", calibration=x)
        >>> conditions = layer_masks({"cross_modal": cross_modal()}, n_layers=2, modes=["individual"])
        >>> sorted(sweep(copy, x, conditions).logits) == sorted(sweep(model, x, conditions).logits)
        True
    """
    if bits is None and activations is None and softmax == "float":
        raise ArgumentError("bits=None, activations=None and softmax='float' round nothing; expected one of them")
    if isinstance(before := getattr(model, "quantisation", None), Quantisation) and (
        before.activations is not None or before.softmax is not None
    ):
        raise ArgumentError("this copy rounds activations or softmax already; call quantised on the original model")
    integer = IntegerSoftmax() if softmax == "integer" else None if softmax == "float" else softmax
    _check_calibration(activations, calibration)
    matrices, kept = find_matrices(model)
    if bits is not None and not matrices:
        raise ArgumentError(
            f"{type(model).__name__} has no matrix that can be rounded; expected linear maps, convolutions or blocks of"
            " ours, or a module with weight_inputs = {'<name>': (<axes that it sums over>,)}"
        )
    made: Any = copy.deepcopy(model)
    rounded = [matrix.name for matrix in matrices] if bits is not None else []
    with torch.no_grad():
        for name, matrix in zip(rounded, matrices, strict=False):
            made.get_parameter(name).copy_(matrix.rounded(bits or 0, per))
    grids = _round_parts(made, activations, integer)
    if grids:
        assert calibration is not None
        with evaluating(made), torch.no_grad():
            device = next(made.parameters()).device
            for some in calibration.split(CALIBRATION_BATCH):
                made(some.to(device))
        for grid in grids:
            grid.measures = False
    made.quantisation = Quantisation(bits, per, activations, integer, tuple(rounded), tuple(kept))
    lost = ["rounded activations"] * bool(grids) + ["integer softmax"] * (integer is not None)
    if lost and hasattr(made, "not_saved"):
        made.not_saved = " and ".join(lost)
    return made


def _round_parts(model: nn.Module, activations: int | None, integer: IntegerSoftmax | None) -> list[ActivationGrid]:
    """Make the parts of blocks round their activations; return all grids."""
    if activations is None and integer is None:
        return []
    kinds = (Attention, LayerNorm, MLP) if activations is not None else (Attention,)
    parts: dict[str, Any] = {path: part for path, part in model.named_modules() if isinstance(part, kinds)}
    asked = " and ".join([f"activations={activations}"] * (activations is not None) + ["softmax"] * bool(integer))
    if not any(isinstance(part, Attention) for part in parts.values()):
        raise ArgumentError(
            f"{asked}: {type(model).__name__} has no attention of our encoders; expected one of our encoders. Weights"
            " alone can be rounded in any model: activations=None, softmax='float'"
        )
    grids = []
    for path, part in parts.items():
        if type(part) not in QUANTISED:
            raise ArgumentError(
                f"{asked}: {type(part).__name__} is a subclass of our part whose arithmetic is not known; expected"
                f" {', '.join(kind.__name__ for kind in kinds)}. Round the weights alone"
            )
        part.__class__ = QUANTISED[type(part)]
        sites = [name for name in part.sites if isinstance(getattr(part, f"hook_{name}", None), Point)]
        part.grids = {}
        if activations is not None:
            part.grids = {name: ActivationGrid(activations, f"{path}.hook_{name}") for name in sites}
        grids += part.grids.values()
        if isinstance(part, QuantisedAttention):
            part.integer_softmax, part.computes_scores = integer, integer is not None
    return grids


def _check_calibration(activations: int | None, calibration: Tensor | None) -> None:
    if activations is None and calibration is not None:
        raise ArgumentError("calibration=... fixes the scales of activations; give activations=8, or leave it out")
    if activations is not None and (calibration is None or calibration.ndim < 2 or not len(calibration)):
        raise ArgumentError(
            f"activations={activations} needs calibration=<training trials [trial, channel, time]>, from which the"
            " scales of activations are taken"
        )
    if calibration is not None and (bad := trials_not_finite(calibration)):
        raise ArgumentError(f"calibration has NaN or infinite values in {len(bad)} trials, the first is trial {bad[0]}")
