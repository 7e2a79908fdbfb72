"""The cut as transformers itself would do it: an attention function of our own, registered with the library.

Independent of TransformerLens and of the package: no bridge, no hook, no function mode.
"""

import torch

from emg_lens.hooks.compatibility import WRAPPED, Specimen, output, wrapped_model

MASKS: dict[int, torch.Tensor] = {}


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
    if id(module) in MASKS:
        kept = pattern * ~MASKS[id(module)]
        pattern = kept / kept.sum(-1, keepdim=True).clamp(min=1e-30)
    return (pattern @ value).transpose(1, 2), pattern


def reference_output(specimen: Specimen, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
    """Output of the wrapped model, built afresh without bridge, with `mask` cut; None if nothing is wrapped."""
    kind = specimen.name.split(" bridge")[0]
    if kind not in WRAPPED:
        return None
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register("reference", attention)
    AttentionMaskInterface.register("reference", eager_mask)
    architecture, config, sizes = WRAPPED[kind]
    model = wrapped_model(architecture, config, sizes, "reference")
    found = [module for name, module in model.named_modules() if is_self_attention(name, module)]
    assert len(found) == len(mask), [type(module).__name__ for module in found]
    MASKS.clear()
    MASKS.update({id(module): mask[layer] for layer, module in enumerate(found)})
    with torch.no_grad():
        if kind == "T5 encoder":  # the bridge lets the decoder read the input where no start token is configured
            assert getattr(model.config, "decoder_start_token_id", None) is None
            return model(x, decoder_input_ids=x).logits
        return output(model(x))


def is_self_attention(name: str, module: torch.nn.Module) -> bool:
    return "decoder" not in name and any(hasattr(module, q) for q in ("q_proj", "query", "q", "c_attn"))
