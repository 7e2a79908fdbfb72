"""Architectures of x-transformers."""

from typing import Any

import torch
from zoo.libraries.architecture import Architecture, image, normal, words

SIZES = {"dim": 32, "depth": 2, "heads": 4, "attn_dim_head": 8}


def _layers(kind: str = "Encoder", **options: Any) -> Any:
    import x_transformers

    return getattr(x_transformers, kind)(**{**SIZES, **options})


def _words(kind: str = "Encoder", outer: dict[str, Any] | None = None, memory: int = 0, **options: Any) -> Architecture:
    def build() -> Any:
        from x_transformers import TransformerWrapper

        return TransformerWrapper(num_tokens=20, max_seq_len=16, attn_layers=_layers(kind, **options), **(outer or {}))

    return Architecture(build, words(), memory=memory)


def _signals(kind: str = "Encoder", **options: Any) -> Architecture:
    def build() -> Any:
        from x_transformers import ContinuousTransformerWrapper

        return ContinuousTransformerWrapper(dim_in=6, dim_out=3, max_seq_len=16, attn_layers=_layers(kind, **options))

    return Architecture(build, normal(2, 8, 6))


def _seq2seq() -> Any:
    from x_transformers import XTransformer

    both = {"num_tokens": 20, "depth": 2, "heads": 4, "max_seq_len": 16, "attn_dim_head": 8}
    return XTransformer(dim=32, **{f"{side}_{name}": n for side in ("enc", "dec") for name, n in both.items()})


def _two_wrappers() -> Any:
    class Captioner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            from x_transformers import ContinuousTransformerWrapper, TransformerWrapper

            self.signals = ContinuousTransformerWrapper(dim_in=6, max_seq_len=16, attn_layers=_layers("Encoder"))
            self.words = TransformerWrapper(
                num_tokens=20, max_seq_len=16, attn_layers=_layers("Decoder", cross_attend=True)
            )

        def forward(self, signals: Any, text: Any) -> Any:
            return self.words(text, context=self.signals(signals, return_embeddings=True))

    return Captioner()


def _vit() -> Any:
    from x_transformers import ViTransformerWrapper

    return ViTransformerWrapper(image_size=32, patch_size=8, num_classes=3, attn_layers=_layers("Encoder"))


SEQ2SEQ = {
    "encoder": r"encoder\.attn_layers\.layers\.(0|2)\.1",
    "decoder": r"decoder\.(net\.)?attn_layers\.layers\.(0|3)\.1",
    "cross": r"decoder\.(net\.)?attn_layers\.layers\.(1|4)\.1",
}

MODELS = {
    "Encoder": _words(),
    "Encoder, post-norm": _words(pre_norm=False),
    "Encoder, fused attention": _words(attn_flash=True),
    "Encoder, rotary positions": _words(rotary_pos_emb=True),
    "Encoder, relative position bias": _words(rel_pos_bias=True),
    "Encoder, dynamic position bias": _words(dynamic_pos_bias=True),
    "Encoder, alibi": _words(alibi_pos_bias=True),
    "Encoder, query-key norm": _words(attn_qk_norm=True),
    "Encoder, talking heads": _words(attn_pre_talking_heads=True),
    "Encoder, talking heads after": _words(attn_post_talking_heads=True),
    "Encoder, grouped queries": _words(attn_kv_heads=2),
    "Encoder, one key head": _words(attn_one_kv_head=True),
    "Encoder, memory keys": _words(attn_num_mem_kv=2, memory=2),
    "Encoder, memory tokens": _words(outer={"num_memory_tokens": 2}),
    "Encoder, residual attention": _words(residual_attn=True),
    "Encoder, gated values": _words(attn_gate_values=True),
    "Encoder, attention on attention": _words(attn_on_attn=True),
    "Encoder, sandwich": _words(sandwich_coef=1),
    "Encoder, macaron": _words(macaron=True),
    "Encoder, sparse top-k": _words(attn_sparse_topk=3),
    "Encoder, hard attention": _words(attn_hard=True),
    "Encoder, sigmoid attention": _words(attn_sigmoid=True),
    "Encoder, hyper-connections": _words(num_residual_streams=2),
    "Encoder, value residual": _words(add_value_residual=True),
    "Encoder, shared weights": _words(weight_tie_layers=True),
    "Encoder, shifted tokens": _words(shift_tokens=1),
    "Encoder, RMS norm and gated MLP": _words(use_rmsnorm=True, ff_glu=True),
    "Encoder, null key": _words(attn_add_zero_kv=True, memory=1),
    "Decoder": _words("Decoder"),
    "Decoder, fused attention": _words("Decoder", attn_flash=True),
    "Decoder, soft caps": _words("Decoder", attn_softclamp_logits=True),
    "Decoder, rotary": _words("Decoder", rotary_pos_emb=True),
    "Continuous encoder": _signals(),
    "Continuous decoder": _signals("Decoder"),
    "XTransformer": Architecture(_seq2seq, lambda: (words(8)(), words(6)()), SEQ2SEQ),
    "Encoder and decoder with cross attention": Architecture(
        _two_wrappers,
        lambda: (normal(2, 8, 6)(), words(6)()),
        {
            "encoder": r"signals\.attn_layers\.layers\.(0|2)\.1",
            "decoder": r"words\.attn_layers\.layers\.(0|3)\.1",
            "cross": r"words\.attn_layers\.layers\.(1|4)\.1",
        },
    ),
    "ViTransformerWrapper": Architecture(_vit, image()),
}
