"""The matrices of a model: parameters that multiply activations, and the axes over which they sum.

An own module states its matrices with an attribute: `weight_inputs = {"W": (0,)}` says that `W` sums over axis 0.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from emg_lens.analysis.quantisation.grids import round_to_grid
from emg_lens.models.attention import Attention, RelativeKeys
from emg_lens.models.components import MLP, ChannelEmbed, Unembed
from emg_lens.validation import ArgumentError, check_argument, short

Per = Literal["tensor", "channel"]
BYTES_OF_SCALE = BYTES_OF_OTHERS = 4
"""Bytes of a scale (float32), and of a value that is not in a matrix: biases are 32-bit whole numbers on a chip."""

_SUMMED = (
    (Attention, "W_[QKV]", slice(1, 2)),
    (Attention, "W_O", slice(0, 2)),
    (RelativeKeys, "W_rel", slice(2, 3)),
    (ChannelEmbed, "W_E", slice(1, 2)),
    (MLP, "W_in|W_out", slice(0, 1)),
    (Unembed, "W_U", slice(0, -1)),
    (nn.Linear, "weight", slice(1, None)),
    (nn.Bilinear, "weight", slice(1, None)),
    (nn.modules.conv._ConvNd, "weight", slice(1, None)),
    (nn.modules.conv._ConvTransposeNd, "weight", 1),
    (nn.Embedding, "weight", slice(1, None)),
    (nn.MultiheadAttention, "(in|q|k|v)_proj_weight", slice(1, None)),
    (nn.RNNBase, r"weight_\w+", slice(1, None)),
    (nn.RNNCellBase, r"weight_\w+", slice(1, None)),
)
"""Kind of module, names of its matrices, and the axes over which they sum, or the only axis over which they do not."""


@dataclass(frozen=True, eq=False)
class WeightMatrix:
    """A matrix of a model.

    Attributes:
        name: Name of the parameter.
        weight: The parameter.
        axes: Axes over which it sums; the others are its output channels.
        n_parts: Number of matrices that are stacked along its first axis.
        n_groups: Number of groups along its first axis that have output channels of their own.
    """

    name: str
    weight: nn.Parameter
    axes: tuple[int, ...]
    n_parts: int = 1
    n_groups: int = 1

    def n_scales(self, per: Per) -> int:
        """Count the scales: one per part, or one per output channel."""
        if per == "tensor":
            return self.n_parts
        n_summed = max(1, torch.Size(self.weight.shape[axis] for axis in self.axes).numel())
        return self.n_groups * self.weight.numel() // n_summed

    def rounded(self, bits: int, per: Per) -> Tensor:
        """Return the values rounded to a symmetric grid."""
        n_groups, axes = (self.n_groups, self.axes) if per == "channel" else (1, range(self.weight.ndim))
        parts = self.weight.detach().chunk(self.n_parts * n_groups)
        return torch.cat([round_to_grid(part, bits, axes)[0] for part in parts])


def find_matrices(model: nn.Module) -> tuple[list[WeightMatrix], list[str]]:
    """Find the matrices of a model, and the names of larger parameters that no known kind of module declares.

    Raises:
        ArgumentError: A matrix is parametrised or has no shape yet, its values are not finite float32 or float64, or
            a module declares `weight_inputs` that do not fit its parameters.
    """
    found: dict[int, WeightMatrix] = {}
    others: dict[int, str] = {}
    for path, part in model.named_modules():
        if lazy := [name for name, value in part.named_parameters(recurse=False) if nn.parameter.is_lazy(value)]:
            raise ArgumentError(
                f"{_joined(path, lazy[0])} of this {type(part).__name__} has no shape yet; run the model once"
            )
        matrices = _summed_axes(part)
        for name, value in part.named_parameters(recurse=False):
            if name in matrices and value.numel():
                full = _joined(path, name)
                _check_values(full, value)
                stacked = 3 if name == "in_proj_weight" else 1
                groups = part.groups if isinstance(part, nn.modules.conv._ConvTransposeNd) else 1
                found.setdefault(id(value), WeightMatrix(full, value, matrices[name], stacked, groups))
            elif value.ndim > 1 and not matrices:
                others.setdefault(id(value), _joined(path, name))
        if parametrised := sorted(set(matrices) - set(part._parameters)):
            raise ArgumentError(
                f"{_joined(path, parametrised[0])} of this {type(part).__name__} is computed by a parametrisation;"
                " remove it first: torch.nn.utils.parametrize.remove_parametrizations, or torch.nn.utils.prune.remove"
            )
    return [*found.values()], [name for key, name in others.items() if key not in found]


def weight_bytes(model: nn.Module, bits: int | None, per: Per) -> int:
    """Count the bytes of all weights with their scales; `bits=None` stores every value in four bytes."""
    total = sum(p.numel() for p in model.parameters())
    if bits is None:
        return BYTES_OF_OTHERS * total
    matrices, _ = find_matrices(model)
    sizes = [-(-m.weight.numel() * bits // 8) + BYTES_OF_SCALE * m.n_scales(per) for m in matrices]
    return sum(sizes) + BYTES_OF_OTHERS * (total - sum(m.weight.numel() for m in matrices))


def _summed_axes(part: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the matrices of a module by name, with the axes over which they sum."""
    if (own := getattr(part, "weight_inputs", None)) is not None:
        return _declared_axes(part, own)
    # Parametrisations of torch, new and old, move the parameter elsewhere and leave a computed tensor under its name.
    names = [
        *part._parameters,
        *getattr(part, "parametrizations", ()),
        *(n.removesuffix(end) for n in part._parameters for end in ("_v", "_orig") if n.endswith(end)),
    ]
    named = {name: value for name in names if isinstance(value := getattr(part, name, None), Tensor)}
    kinds = [(pattern, axes) for kind, pattern, axes in (*_SUMMED, *_of_transformers()) if isinstance(part, kind)]
    return {
        name: tuple(range(value.ndim))[axes] if isinstance(axes, slice) else _all_but(axes, value.ndim)
        for pattern, axes in kinds
        for name, value in named.items()
        if re.fullmatch(pattern, name)
    }


def _all_but(axis: int, ndim: int) -> tuple[int, ...]:
    return tuple(one for one in range(ndim) if one != axis)


def _declared_axes(part: nn.Module, own: Any) -> dict[str, tuple[int, ...]]:
    """Read the attribute `weight_inputs` of a module."""
    kind = type(part).__name__
    check_argument(f"weight_inputs of {kind}", own, Mapping[str, Sequence[int]])
    axes_of = {}
    for name, axes in own.items():
        n_axes = value.ndim if isinstance(value := getattr(part, name, None), Tensor) else 0
        if not axes or not all(-n_axes <= axis < n_axes for axis in axes):
            has = f"has {n_axes} axes" if n_axes else "is not one of its parameters"
            raise ArgumentError(
                f"weight_inputs of {kind} declares {name}: {short(axes)}, and {name} {has}; expected names of"
                " parameters and the axes over which they sum: {'W': (0,)}"
            )
        axes_of[name] = tuple(sorted({axis % n_axes for axis in axes}))
    return axes_of


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _of_transformers() -> tuple[tuple[type, str, slice], ...]:
    """Return the kind of linear map that transformers defines itself, if it is loaded; it stores `[in, out]`."""
    library = sys.modules.get("transformers.pytorch_utils")
    return () if library is None else ((library.Conv1D, "weight", slice(0, 1)),)


def _check_values(name: str, value: nn.Parameter) -> None:
    if value.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(f"{name} is {value.dtype}; expected torch.float32: call model.float() first")
    if not value.isfinite().all():
        raise ArgumentError(f"{name} has NaN or infinite values; expected finite weights: load or fit the model again")
