"""torch's own transformer layers with the weights of our blocks: what forwards are compared with."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import nn


def torch_encoder(blocks: Sequence[Any], norm_first: bool = False) -> nn.TransformerEncoder:
    """torch's encoder, in the blocks' precision. In eval mode torch would take a path of its own past a mask."""
    d_model, n_heads, block = blocks[0].attn.b_O.numel(), blocks[0].attn.W_Q.shape[0], blocks[0]
    layer = nn.TransformerEncoderLayer(
        d_model, n_heads, block.mlp.b_in.numel(), 0.0, block.mlp.act_fn, block.ln1.eps, batch_first=True,
        norm_first=norm_first,
    )  # fmt: skip
    encoder = nn.TransformerEncoder(layer, len(blocks), enable_nested_tensor=False).to(block.attn.b_O.dtype)
    with torch.no_grad():
        for mine, theirs in zip(blocks, encoder.layers, strict=True):
            attn, mlp = mine.attn, mine.mlp
            maps = [rearrange(w, "head d e -> (head e) d") for w in (attn.W_Q, attn.W_K, attn.W_V)]
            theirs.self_attn.in_proj_weight.copy_(torch.cat(maps))
            theirs.self_attn.in_proj_bias.copy_(torch.cat([attn.b_Q, attn.b_K, attn.b_V]).flatten())
            theirs.self_attn.out_proj.weight.copy_(rearrange(attn.W_O, "head e d -> d (head e)"))
            theirs.self_attn.out_proj.bias.copy_(attn.b_O)
            for linear, weight, bias in ((theirs.linear1, mlp.W_in, mlp.b_in), (theirs.linear2, mlp.W_out, mlp.b_out)):
                linear.weight.copy_(weight.T)
                linear.bias.copy_(bias)
            for norm, own in ((theirs.norm1, mine.ln1), (theirs.norm2, mine.ln2)):
                norm.weight.copy_(own.w)
                norm.bias.copy_(own.b)
    return encoder.train()
