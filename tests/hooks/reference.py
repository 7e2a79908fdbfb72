"""Cuts computed by other means than the package's, with the attention that they remove.

For models that TransformerLens wraps: as transformers itself would do it, with an attention function of our own,
registered with the library; no bridge, no hook, no function mode. For the others: zeroing and renormalising at the
kernel, another place and another formula than the hooks'.
"""

from contextlib import ExitStack
from functools import cache

import torch
from zoo.architectures import WRAPPED
from zoo.tiny_models import Specimen, output_tensor, wrapped_model

from emg_lens.hooks.algebra import EdgeSet
from emg_lens.hooks.attention_kernel import editing_attention
from emg_lens.hooks.deletion import cut_layers
from emg_lens.hooks.hook_points import at_path
from emg_lens.hooks.model_inputs import call
from emg_lens.hooks.verification.probe import find_intervention_point


class Renormalise:
    """A tap that zeroes and renormalises, and keeps the share of attention that it took away."""

    held = 0.0

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def before(self, scores):
        return scores

    def after(self, pattern):
        kept = pattern * ~self.mask
        self.held = float((pattern * self.mask).sum() / pattern.sum())
        return (kept / kept.sum(-1, keepdim=True)).nan_to_num()


TAPS: dict[int, Renormalise] = {}


def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, position_bias=None, **_):
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(-1, -2) * scaling
    for term in (attention_mask, position_bias):
        if term is not None and term.dtype == torch.bool:
            scores = scores.masked_fill(~term, torch.finfo(scores.dtype).min)
        elif term is not None:
            scores = scores + term
    pattern = scores.softmax(-1)
    if id(module) in TAPS:
        pattern = TAPS[id(module)].after(pattern)
    return (pattern @ value).transpose(1, 2), pattern


def reference(specimen: Specimen, model, x: torch.Tensor, edges: EdgeSet) -> tuple[torch.Tensor, dict[int, float]]:
    """Output, and share of all attention that was taken from each cut layer."""
    intervention_point = find_intervention_point(model, specimen.layout)
    masks = cut_layers(edges, specimen.layout, intervention_point.n_layers, intervention_point.n_heads)
    taps = {layer: Renormalise(mask) for layer, mask in masks.items()}
    kind = specimen.name.split(" bridge")[0]
    with torch.no_grad(), ExitStack() as stack:
        if kind in WRAPPED:
            return _by_transformers(kind, x, taps), {layer: tap.held for layer, tap in taps.items()}
        for layer, tap in taps.items():
            stack.enter_context(editing_attention(at_path(model, intervention_point.paths[layer]), tap))
        return output_tensor(call(model, x)), {layer: tap.held for layer, tap in taps.items()}


def _by_transformers(kind: str, x: torch.Tensor, taps: dict[int, Renormalise]) -> torch.Tensor:
    model, modules = _unwrapped(kind)
    TAPS.clear()
    TAPS.update({id(modules[layer]): tap for layer, tap in taps.items()})
    if kind == "T5 encoder":  # the bridge lets the decoder read the input where no start token is configured
        assert getattr(model.config, "decoder_start_token_id", None) is None
        return model(x, decoder_input_ids=x).logits
    return output_tensor(model(x))


@cache
def _unwrapped(kind: str):
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register("reference", attention)
    AttentionMaskInterface.register("reference", eager_mask)
    model = wrapped_model(WRAPPED[kind], "reference")
    modules = [module for name, module in model.named_modules() if _is_self_attention(name, module)]
    assert len(modules) == 2, [type(module).__name__ for module in modules]
    return model, modules


def _is_self_attention(name: str, module: torch.nn.Module) -> bool:
    return "decoder" not in name and any(hasattr(module, q) for q in ("q_proj", "query", "q", "c_attn"))
