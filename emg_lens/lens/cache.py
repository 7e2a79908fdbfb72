"""TransformerLens's `ActivationCache` for our encoders: the same methods, with numbers that add up.

`ActivationCache` takes the gain of every LayerNorm to be folded into the weights behind it; ours keep it. It also takes
the residual stream to be the plain sum of what was written to it; for post-LN models see
`emg_lens.lens.post_norm_cache`.
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities.slice import Slice, SliceInput

from emg_lens.registry import UnknownNameError
from emg_lens.validation import ArgumentError

Stack = Float[Tensor, "component *batch_and_pos d_model"]
Selection = Slice | SliceInput
"""Which positions or trials: `None` = all, an index (drops the axis), a list, a (start, stop) pair, a `Slice`."""


class BiosignalCache(ActivationCache):
    """Activations of one run of a pre-LN encoder.

    All methods are TransformerLens's. What is different: where a method applies LayerNorm with the cached scale, it
    multiplies by the norm's gain too. So `cache.logit_attrs(parts, label)`, summed over the parts of
    `decompose_resid`, is that class's logit at each position less `b_U` and the part of `ln_final.b` (of which it is
    read: `pos_slice=0` for a CLS readout; the mean over the other positions for a mean readout).
    """

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
        """What each part contributes to the input of a sub-layer, or of the unembedding: centred, scaled, with gain.

        Arguments as in TransformerLens. The offset of the norm belongs to no part and is left out, except with
        `recompute_ln`, where every part is normalised as if it were the whole stream.

        Raises:
            ArgumentError: The run split the inputs of heads, so that there is no one scale a position.
        """
        if has_batch_dim:
            residual_stack = as_slice(batch_slice).apply(residual_stack, dim=1)
        name = self._norm_before(layer, mlp_input)
        norm = self.model.get_submodule(name)  # pyright: ignore
        if recompute_ln and name == "ln_final":
            return F.layer_norm(residual_stack, norm.w.shape, norm.w, norm.b, norm.eps)
        return self._apply_norm(residual_stack, name, pos_slice, batch_slice)

    def _norm_before(self, layer: int | None, mlp_input: bool) -> str:
        n_layers = self.model.cfg.n_layers
        if layer is None or layer in (-1, n_layers):
            return "ln_final"
        return f"blocks.{layer}.ln2" if mlp_input else f"blocks.{layer}.ln1"

    def _apply_norm(self, stack: Stack, name: str, pos_slice: Selection = None, batch_slice: Selection = None) -> Stack:
        """The linear part of a LayerNorm, with the scale of this run."""
        scale = self._scale(name)
        scale = as_slice(pos_slice).apply(scale, dim=-2)
        if self.has_batch_dim:
            scale = as_slice(batch_slice).apply(scale, dim=0)
        centred = stack - stack.mean(-1, keepdim=True)
        return centred / scale * self.model.get_submodule(name).w  # pyright: ignore

    def _scale(self, name: str) -> Float[Tensor, "*batch pos 1"]:
        key = f"{name}.hook_scale"
        if key not in self.cache_dict:
            raise UnknownNameError(f"this needs {key!r} in the cache: widen names_filter")
        scale = self.cache_dict[key]
        if scale.ndim != 2 + self.has_batch_dim:
            raise ArgumentError(
                f"{key!r} holds one scale a head: this run split the inputs of heads; run it with"
                " set_use_split_qkv_input(False) and set_use_attn_in(False)"
            )
        return scale

    def apply_slice_to_batch_dim(self, batch_slice: Selection) -> "BiosignalCache":
        """The cache of some of the trials."""
        sliced = super().apply_slice_to_batch_dim(batch_slice)
        return type(self)(sliced.cache_dict, self.model, has_batch_dim=sliced.has_batch_dim)

    def stack_neuron_results(
        self,
        layer: int,
        pos_slice: Selection = None,
        neuron_slice: Selection = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: Tensor | None = None,
        mlp_input: bool = False,
    ) -> Any:
        """As in TransformerLens; `mlp_input` needs its version 4."""
        later: dict[str, Any] = {"mlp_input": True} if mlp_input else {}
        stack, labels = super().stack_neuron_results(
            layer,
            pos_slice,
            neuron_slice,
            return_labels=True,
            incl_remainder=incl_remainder,
            apply_ln=apply_ln,
            project_output_onto=None if apply_ln else project_output_onto,
            **later,
        )
        if apply_ln and project_output_onto is not None:  # its shortcut knows no gain
            stack = stack @ project_output_onto
        return (stack, labels) if return_labels else stack

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Selection = None,
        return_labels: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Any:
        """As in TransformerLens: heads, neurons (or MLPs), embeddings, biases."""
        stack, labels = super().get_full_resid_decomposition(
            layer,
            mlp_input,
            expand_neurons,
            apply_ln,
            pos_slice,
            return_labels=True,
            project_output_onto=None if apply_ln else project_output_onto,
        )
        if apply_ln and project_output_onto is not None:
            stack = stack @ project_output_onto
        return (stack, labels) if return_labels else stack


def as_slice(selection: Selection) -> Slice:
    """TransformerLens's `Slice` of what it accepts for one."""
    return selection if isinstance(selection, Slice) else Slice(selection)
