"""TransformerLens's `ActivationCache` for our encoders: the same methods, with decompositions that add up.

`ActivationCache` assumes that the gain of every LayerNorm is folded into the next weights; ours is not. It also assumes
that the residual stream is a plain sum; for post-LN models see `emg_lens.lens.post_norm_cache`.
"""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emg_lens.hooks.algebra import is_whole
from emg_lens.registry import UnknownNameError
from emg_lens.transformer_lens_imports import ActivationCache, Slice, SliceInput
from emg_lens.validation import ArgumentError, short

Stack = Float[Tensor, "component *batch_and_pos d_model"]
Selection = Slice | SliceInput
"""Positions or trials: `None` = all, an index (drops the axis), a list, a (start, stop) pair, a `Slice`."""


def _decomposing(method: Callable) -> Callable:
    """Override a decomposition: check its layer, and project last, because a shortcut there ignores the gain of norms.

    TransformerLens takes every negative layer but -1 for layer 0.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        given["self"].depth(given.get("layer"), given.get("mlp_input", False))
        onto = given.pop("project_output_onto", None) if given.get("apply_ln") else None
        answer = method(**given)
        if onto is None:
            return answer
        return (answer[0] @ onto, answer[1]) if given.get("return_labels") else answer @ onto

    return call


class BiosignalCache(ActivationCache):
    """Activations of one run of a pre-LN encoder.

    All methods are TransformerLens's, with one difference: a method that applies LayerNorm with the cached scale also
    multiplies by the gain of the norm. So `cache.logit_attrs(parts, label)`, summed over the parts of
    `decompose_resid`, is the logit of this class at each position, without `b_U` and the contribution of `ln_final.b`.
    Use `pos_slice=0` for a CLS readout, and the mean over the other positions for a mean readout.
    """

    def __getitem__(self, key: Any) -> Tensor:
        """Return an activation by its name or TransformerLens's short name."""
        try:
            return super().__getitem__(key)
        except KeyError as error:
            raise UnknownNameError(
                f"{error.args[0]!r} is not in the cache; {self._where(str(error.args[0]))}"
            ) from None

    def _where(self, name: str) -> str:  # noqa: ARG002
        """Say how to get an activation that is not in the cache."""
        return "cache.keys() lists what is; names_filter decides what a run keeps"

    def apply_ln_to_stack(
        self,
        residual_stack: Stack,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Selection = None,
        batch_slice: Selection = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "component *chosen d_model"]:
        """Compute what each part adds to the input of a sub-layer or the unembedding (centred, scaled, with gain).

        Arguments are as in TransformerLens. The offset of the norm belongs to no part and is left out. With
        `recompute_ln`, every part is normalised as if it were the whole stream, with the offset.
        """
        if has_batch_dim:
            residual_stack = as_slice(batch_slice).apply(residual_stack, dim=1)
        name = self._norm_before(layer, mlp_input)
        norm = self.model.get_submodule(name)  # pyright: ignore
        if recompute_ln and name == "ln_final":
            return F.layer_norm(residual_stack, norm.w.shape, norm.w, norm.b, norm.eps)
        return self._apply_norm(residual_stack, name, pos_slice, batch_slice)

    def depth(self, layer: int | None, mlp_input: bool = False) -> int:
        """Return the number of layers before the input of `layer`; None and -1 stand for the readout.

        Raises:
            ArgumentError: The model has no such layer.
        """
        n_layers = self.model.cfg.n_layers
        depth = n_layers if layer is None or (is_whole(layer) and layer == -1) else layer
        if not (is_whole(depth) and 0 <= depth <= n_layers - mlp_input):
            last = f"{n_layers - 1} (with mlp_input)" if mlp_input else n_layers
            raise ArgumentError(
                f"layer={short(layer)}; expected the layer that reads the stream, 0 to {last} or -1 for the readout;"
                f" this model has {n_layers} layers"
            )
        return depth

    def _norm_before(self, layer: int | None, mlp_input: bool) -> str:
        n_layers = self.model.cfg.n_layers
        if layer is None or layer in (-1, n_layers):
            return "ln_final"
        return f"blocks.{layer}.ln2" if mlp_input else f"blocks.{layer}.ln1"

    def _apply_norm(self, stack: Stack, name: str, pos_slice: Selection = None, batch_slice: Selection = None) -> Stack:
        """Apply the linear part of a LayerNorm, with the scale of this run."""
        scale = as_slice(pos_slice).apply(self._scale(name), dim=-2)
        if self.has_batch_dim:
            scale = as_slice(batch_slice).apply(scale, dim=0)
        centred = stack - stack.mean(-1, keepdim=True)
        return centred / scale * self.model.get_submodule(name).w  # pyright: ignore

    def _scale(self, name: str) -> Float[Tensor, "*batch pos 1"]:
        key = f"{name}.hook_scale"
        scale = self._cached(key)
        if scale.ndim != 2 + self.has_batch_dim:
            raise ArgumentError(
                f"{key!r} has one scale per head, because this run split the inputs of heads; run it again with"
                " set_use_split_qkv_input(False) and set_use_attn_in(False)"
            )
        return scale

    def _cached(self, name: str) -> Tensor:
        if name not in self.cache_dict:
            raise UnknownNameError(f"{name!r} is not in the cache; include it in names_filter")
        return self.cache_dict[name]

    def apply_slice_to_batch_dim(self, batch_slice: Selection) -> "BiosignalCache":
        """Return the cache of some of the trials."""
        sliced, own = super().apply_slice_to_batch_dim(batch_slice), copy.copy(self)
        own.cache_dict, own.has_batch_dim = sliced.cache_dict, sliced.has_batch_dim
        return own

    accumulated_resid = _decomposing(ActivationCache.accumulated_resid)
    decompose_resid = _decomposing(ActivationCache.decompose_resid)
    stack_head_results = _decomposing(ActivationCache.stack_head_results)
    stack_neuron_results = _decomposing(ActivationCache.stack_neuron_results)
    get_full_resid_decomposition = _decomposing(ActivationCache.get_full_resid_decomposition)


def as_slice(selection: Selection) -> Slice:
    """Convert a selection to TransformerLens's `Slice`."""
    return selection if isinstance(selection, Slice) else Slice(selection)
