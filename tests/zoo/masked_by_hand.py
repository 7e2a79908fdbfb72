"""A second implementation of a cut, for comparison: a plain model whose attention mask contains the cut.

It uses no hook point, bridge or function mode. -inf is added to the mask of one layer's own eager attention, before the
model's own normalisation. Soft caps, sinks, position biases and sliding windows keep their place.
"""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from zoo.architectures import FAMILIES, WRAPPED
from zoo.tiny_models import plain_native, torch_encoder, wrapped_model

from emg_lens.hooks.hook_points import StackName
from emg_lens.hooks.model_inputs import Inputs, call

Masks = Mapping[int, Bool[Tensor, "head dest src"]]
"""The edges that are cut, by layer."""


class MaskedByHand:
    """A plain model of transformers or torch with masks added to its attention.

    Args:
        kind: A key of `WRAPPED` or `FAMILIES`, or a native model of TransformerLens (`"native, causal"`,
            `"native, bidirectional"`); None for torch's encoder.
        stack: Which attention of an encoder-decoder is cut.

    Attributes:
        model: The model.
        layers: Which of its layers have attention.
    """

    def __init__(self, kind: str | None, stack: StackName | None = None) -> None:
        self.kind = kind
        if kind is None:
            self.model: Any = torch_encoder()
            self.layers = tuple(range(len(self.model.layers)))
            return
        if kind.startswith("native, "):
            self.model = plain_native(kind.removeprefix("native, "))
            self.attention = {layer: block.attn for layer, block in enumerate(self.model.layers)}
            self.layers = tuple(self.attention)
            return
        architecture = {**WRAPPED, **FAMILIES}[kind]
        self.model = wrapped_model(architecture, _own_eager_attention())
        self.layers = architecture.layers
        path = architecture.stacks[stack] if stack else architecture.attention
        self.attention = {layer: self.model.get_submodule(path.format(layer)) for layer in self.layers}

    def __call__(self, inputs: Inputs, masks: Masks, **options: Any) -> Any:
        """Run the model on `inputs` with these edges cut; `options` are passed to the model.

        A row with every edge cut or forbidden gives a zero attention output. torch's encoder, BLOOM and OpenAI-GPT
        cannot do this, because their attention is one function: leave at least one edge in each row.
        """
        if self.kind is None:
            return self._through_torchs_layers(inputs, masks)
        with ExitStack() as stack:
            for layer, mask in masks.items():
                _cut_by_hand[id(self.attention[layer])] = mask
                stack.callback(_cut_by_hand.pop, id(self.attention[layer]))
                if not hasattr(_modeling(self.attention[layer]), "eager_attention_forward"):
                    join = _join_blocked if self.kind.startswith("native") else _join_mask
                    handle = self.attention[layer].register_forward_pre_hook(join, with_kwargs=True)
                    stack.callback(handle.remove)
            return call(self.model, {getattr(self.model, "main_input_name", "input_ids"): inputs, **options})

    def _through_torchs_layers(self, x: Any, masks: Masks) -> Tensor:
        for index, layer in enumerate(self.model.layers):
            mask = torch.zeros(layer.self_attn.num_heads, x.shape[1], x.shape[1], dtype=x.dtype)
            if index in masks:
                mask = mask.masked_fill(masks[index], -torch.inf)
            x = layer(x, src_mask=mask.repeat(len(x), 1, 1))
        return x


_cut_by_hand: dict[int, Tensor] = {}
"""The cut of each attention module, by the id of the module."""


def _own_eager_attention() -> str:
    """Register each model's own eager attention with the masks of `_cut_by_hand`; return the name."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register("masked_by_hand", _eager_with_mask)
    AttentionMaskInterface.register("masked_by_hand", eager_mask)
    return "masked_by_hand"


def _modeling(attention: nn.Module) -> Any:
    return sys.modules[type(attention).__module__]


def _eager_with_mask(
    attention: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Float[Tensor, "batch dest head d_head"], Tensor]:
    own = _modeling(attention).eager_attention_forward
    if id(attention) not in _cut_by_hand:
        return own(attention, query, key, value, attention_mask, **options)
    mask, empty = _with_cut(attention_mask, _cut_by_hand[id(attention)], query)
    out, pattern = own(attention, query, key, value, mask, **options)
    return out.masked_fill(empty.transpose(1, 2), 0.0), pattern


def _join_mask(attention: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Add the cut to the argument `attention_mask`, for attention that is one function."""
    hidden = args[0] if args else kwargs["hidden_states"]
    if "attention_mask" in kwargs:
        mask, _ = _with_cut(kwargs["attention_mask"], _cut_by_hand[id(attention)], hidden)
        return args, {**kwargs, "attention_mask": mask}
    mask, _ = _with_cut(args[1] if len(args) > 1 else None, _cut_by_hand[id(attention)], hidden)
    return (hidden, mask, *args[2:]), kwargs


def _join_blocked(attention: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Add the cut for the native model: True = blocked in its mask, allowed in its padding."""
    cut, padding = _cut_by_hand[id(attention)][None], kwargs.get("attention_mask")
    blocked = cut if padding is None else cut | ~padding.bool()[:, None, None, :]
    return args, {**kwargs, "attention_mask": blocked}


def _with_cut(mask: Tensor | None, cut: Bool[Tensor, "head dest src"], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mask with the cut at -inf, and the rows without any edge; those stay finite for the gradients."""
    mask = torch.zeros(1, 1, *cut.shape[-2:], dtype=like.dtype) if mask is None else mask
    forbidden = mask <= torch.finfo(mask.dtype).min / 2
    empty = (cut | forbidden).all(-1, keepdim=True) & cut.any(-1, keepdim=True)
    return mask.masked_fill(cut, -torch.inf).masked_fill(empty, 0.0), empty
