"""Independent computations of a cut and of the attention that it removes.

Models that TransformerLens wraps run in transformers with an attention function that is registered with the library,
without bridge, hook or function mode. For other models, the pattern is zeroed and renormalised inside the module.
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
    """Zeroes and renormalises the pattern, and records the fraction of attention that it removed."""

    held = 0.0

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def before(self, scores):
        return scores

    def after(self, pattern):
        kept = pattern * ~self.mask
        self.held = float((pattern * self.mask).sum() / pattern.sum())
        return (kept / kept.sum(-1, keepdim=True)).nan_to_num()


EDITS: dict[int, Renormalise] = {}


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
    if id(module) in EDITS:
        pattern = EDITS[id(module)].after(pattern)
    return (pattern @ value).transpose(1, 2), pattern


def reference(specimen: Specimen, model, x: torch.Tensor, edges: EdgeSet) -> tuple[torch.Tensor, dict[int, float]]:
    """Return the output and the fraction of attention that was removed in each cut layer."""
    intervention_point = find_intervention_point(model, specimen.layout)
    masks = cut_layers(edges, specimen.layout, intervention_point.n_layers, intervention_point.n_heads)
    edits = {layer: Renormalise(mask) for layer, mask in masks.items()}
    kind = specimen.name.split(" bridge")[0]
    with torch.no_grad(), ExitStack() as stack:
        if kind in WRAPPED:
            return _by_transformers(kind, x, edits), {layer: edit.held for layer, edit in edits.items()}
        for layer, edit in edits.items():
            stack.enter_context(editing_attention(at_path(model, intervention_point.paths[layer]), edit))
        return output_tensor(call(model, x)), {layer: edit.held for layer, edit in edits.items()}


def _by_transformers(kind: str, x: torch.Tensor, edits: dict[int, Renormalise]) -> torch.Tensor:
    model, modules = _unwrapped(kind)
    EDITS.clear()
    EDITS.update({id(modules[layer]): edit for layer, edit in edits.items()})
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
