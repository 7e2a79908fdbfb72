"""Architectures of vit-pytorch."""

from functools import partial
from importlib import import_module
from typing import Any

import torch
from zoo.libraries.architecture import Architecture, image, normal

VIT = {"image_size": 32, "patch_size": 8, "num_classes": 3, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 64}
SERIES = {
    "seq_len": 32,
    "patch_size": 4,
    "num_classes": 3,
    "dim": 32,
    "depth": 2,
    "heads": 4,
    "mlp_dim": 64,
    "channels": 3,
}
VIDEO = {
    "image_size": 16,
    "image_patch_size": 8,
    "frames": 4,
    "frame_patch_size": 2,
    "num_classes": 3,
    "dim": 32,
    "depth": 2,
    "heads": 4,
    "mlp_dim": 64,
}


def _model(module: str, kind: str, **sizes: Any) -> Any:
    return getattr(import_module(f"vit_pytorch.{module}"), kind)(**sizes)


def _vit(module: str, kind: str = "ViT", **more: Any) -> Architecture:
    return Architecture(partial(_model, module, kind, **{**VIT, "dim_head": 8, **more}), image())


def _of(module: str, kind: str, size: int = 32, **sizes: Any) -> Architecture:
    return Architecture(partial(_model, module, kind, num_classes=3, **sizes), image(size))


def _video(module: str, kind: str = "ViT", **more: Any) -> Architecture:
    return Architecture(partial(_model, module, kind, **{**VIDEO, "dim_head": 8, **more}), normal(2, 3, 4, 16, 16))


def _without(sizes: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: size for name, size in sizes.items() if name not in names}


def _efficient() -> Any:
    from vit_pytorch.efficient import ViT
    from x_transformers import Encoder

    return ViT(image_size=32, patch_size=8, num_classes=3, dim=32, transformer=Encoder(dim=32, depth=2, heads=4))


VIVIT = {**_without(VIDEO, "depth"), "spatial_depth": 1, "temporal_depth": 1}
ND = {"ndim": 1, "input_shape": 32, **_without(VIT, "image_size"), "patch_size": 4}

MODELS = {
    "ViT": _vit("vit"),
    "ViT 1D": Architecture(partial(_model, "vit_1d", "ViT", **SERIES, dim_head=8), normal(2, 3, 32)),
    "ViT 3D": _video("vit_3d"),
    "ViT ND": Architecture(partial(_model, "vit_nd", "ViTND", **ND, channels=3, dim_head=8), normal(2, 3, 32)),
    "SimpleViT": _vit("simple_vit", "SimpleViT"),
    "SimpleViT 1D": Architecture(partial(_model, "simple_vit_1d", "SimpleViT", **SERIES, dim_head=8), normal(2, 3, 32)),
    "SimpleViT 3D": _video("simple_vit_3d", "SimpleViT"),
    "SimpleViT, fused attention": _vit("simple_flash_attn_vit", "SimpleViT", use_flash=True),
    "SimpleViT, query-key norm": _vit("simple_vit_with_qk_norm", "SimpleViT"),
    "SimpleViT, register tokens": _vit("simple_vit_with_register_tokens", "SimpleViT"),
    "SimpleViT, patch dropout": _vit("simple_vit_with_patch_dropout", "SimpleViT"),
    "SimpleViT, Fourier patches": _vit("simple_vit_with_fft", "SimpleViT", freq_patch_size=8),
    "SimpleViT, hyper-connections": _vit("simple_vit_with_hyper_connections", "SimpleViT", num_residual_streams=2),
    "SimpleViT, value residual": _vit("simple_vit_with_value_residual", "SimpleViT"),
    "SimpleViT, relative projections": _vit("simple_vit_with_relative_proj_pos_bias", "SimpleViT"),
    "SimpleViT, sparse gating": _vit("simple_vit_with_sparse_gating", "SimpleViTWithSparseGating"),
    "SimpleViT, specialised CLS": _vit("simple_vit_with_specialized_cls", "SimpleViT"),
    "SimpleViT, attention residual": _vit("simple_vit_attn_residual", "SimpleViTAttnResidual"),
    "SimpleViT, attention residual with DCA": _vit("attn_residual_with_dca_simple_vit", "SimpleViT"),
    "SimpleViT, orthogonal residual": _vit("simple_vit_orthog_residual_update", "SimpleViT"),
    "SimpleUViT": _vit("simple_uvit", "SimpleUViT"),
    "ViT, decorrelation": _vit("vit_with_decorr"),
    "ViT, Keel post-norm": _vit("vit_with_keel_post_ln"),
    "ViT, patch dropout": _vit("vit_with_patch_dropout"),
    "ViT, patch merger": _vit("vit_with_patch_merger", patch_merge_num_tokens=4),
    "ViT 5": _vit("vit_5"),
    "ViT, small data set": _vit("vit_for_small_dataset"),
    "ViT, learnable memory": _vit("learnable_memory_vit"),
    "ViT, parallel branches": _vit("parallel_vit"),
    "ViT, detection pooling": _vit("vit_detpool", "ViTDetPool"),
    "ViT, Jet": _vit("jet_vit", "JetViT"),
    "Adaptive token sampling": _vit("ats_vit", max_tokens_per_depth=(16, 8)),
    "DeepViT": _vit("deepvit", "DeepViT"),
    "CaiT": _vit("cait", "CaiT", cls_depth=1),
    "XCiT": _vit("xcit", "XCiT", cls_depth=1),
    "RvT": _vit("rvt", "RvT"),
    "Jumbo ViT": _vit("jumbo_vit", "JumboViT"),
    "nViT": _vit("normalized_vit", "nViT"),
    "PiT": _vit("pit", "PiT", depth=(1, 1)),
    "T2T-ViT": _of("t2t", "T2TViT", image_size=32, dim=32, depth=2, heads=4, mlp_dim=64, t2t_layers=((7, 4), (3, 2))),
    "Efficient ViT": Architecture(_efficient, image()),
    "CCT": Architecture(
        lambda: _model(
            "cct",
            "CCT",
            img_size=32,
            embedding_dim=32,
            n_conv_layers=2,
            kernel_size=7,
            stride=2,
            padding=3,
            pooling_kernel_size=3,
            pooling_stride=2,
            pooling_padding=1,
            num_layers=2,
            num_heads=4,
            mlp_ratio=2.0,
            num_classes=3,
            positional_embedding="learnable",
        ),
        image(),
    ),
    "CrossViT": _of(
        "cross_vit",
        "CrossViT",
        image_size=32,
        sm_dim=16,
        lg_dim=32,
        sm_patch_size=8,
        sm_enc_depth=1,
        sm_enc_heads=2,
        sm_enc_mlp_dim=32,
        sm_enc_dim_head=8,
        lg_patch_size=16,
        lg_enc_depth=1,
        lg_enc_heads=2,
        lg_enc_mlp_dim=32,
        lg_enc_dim_head=8,
        cross_attn_depth=1,
        cross_attn_heads=2,
        cross_attn_dim_head=8,
        depth=1,
    ),
    "CrossFormer": _of(
        "crossformer",
        "CrossFormer",
        size=64,
        dim=(32, 32, 32, 32),
        depth=(1, 1, 1, 1),
        global_window_size=(4, 2, 2, 1),
        local_window_size=(4, 4, 2, 2),
    ),
    "CvT": _of(
        "cvt",
        "CvT",
        s1_emb_dim=16,
        s2_emb_dim=16,
        s3_emb_dim=16,
        s1_depth=1,
        s2_depth=1,
        s3_depth=1,
        s1_heads=1,
        s2_heads=1,
        s3_heads=2,
    ),
    "LeViT": _of(
        "levit",
        "LeViT",
        size=64,
        image_size=64,
        dim=(16, 16, 16),
        depth=(1, 1, 1),
        heads=(2, 2, 2),
        mlp_mult=2,
        dim_key=8,
        dim_value=8,
    ),
    "MaxViT": _of("max_vit", "MaxViT", size=64, dim=16, depth=(1, 1), dim_head=8, dim_conv_stem=16, window_size=4),
    "MaxViT, registers": _of(
        "max_vit_with_registers", "MaxViT", size=64, dim=16, depth=(1, 1), dim_head=8, dim_conv_stem=16, window_size=4
    ),
    "MobileViT": _of(
        "mobile_vit",
        "MobileViT",
        size=64,
        image_size=(64, 64),
        dims=[16, 16, 16],
        channels=[8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 16],
    ),
    "NesT": _of("nest", "NesT", image_size=32, patch_size=4, dim=16, heads=2, num_hierarchies=2, block_repeats=(1, 1)),
    "RegionViT": _of("regionvit", "RegionViT", size=64, dim=(16, 16, 16, 16), depth=(1, 1, 1, 1), window_size=2),
    "ScalableViT": _of(
        "scalable_vit", "ScalableViT", dim=32, depth=(1, 1), heads=(2, 2), reduction_factor=(2, 1), window_size=(4, 2)
    ),
    "SepViT": _of("sep_vit", "SepViT", size=56, dim=16, depth=(1, 1), heads=(2, 2), dim_head=8),
    "TwinsSVT": _of(
        "twins_svt",
        "TwinsSVT",
        size=64,
        s1_emb_dim=16,
        s2_emb_dim=16,
        s3_emb_dim=16,
        s4_emb_dim=16,
        s1_local_patch_size=4,
        s2_local_patch_size=4,
        s3_local_patch_size=2,
        s4_local_patch_size=2,
        s1_global_k=4,
        s2_global_k=4,
        s3_global_k=2,
        s4_global_k=1,
        s1_depth=1,
        s2_depth=1,
        s3_depth=1,
        s4_depth=1,
    ),
    "LookViT": _of(
        "look_vit",
        "LookViT",
        dim=32,
        image_size=32,
        depth=2,
        patch_size=8,
        heads=4,
        dim_head=8,
        highres_patch_size=4,
        cross_attn_heads=4,
        cross_attn_dim_head=8,
    ),
    "Looped ViT": Architecture(
        lambda: _model(
            "looped_vit",
            "LoopedViT",
            num_classes=3,
            dim=32,
            image_size=32,
            patch_size=8,
            pre_loop_depth=1,
            num_looped_blocks=1,
            post_loop_depth=1,
            loop_depth=2,
            heads=4,
            dim_head=8,
            mlp_dim=64,
        ),
        image(),
    ),
    "ViViT, factorised encoder": Architecture(
        partial(_model, "vivit", "ViViT", **VIVIT, dim_head=8), normal(2, 3, 4, 16, 16)
    ),
    "ViViT, factorised attention": Architecture(
        partial(_model, "vivit", "ViViT", **VIVIT, dim_head=8, variant="factorized_self_attention"),
        normal(2, 3, 4, 16, 16),
    ),
    "NaViT": Architecture(
        lambda: _model("na_vit", "NaViT", **VIT, dim_head=8, token_dropout_prob=None),
        lambda: ([list(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))],),
    ),
    "World Wide Tokens": _of(
        "wwt", "WWT", image_size=32, patch_size=8, dim=32, depth=2, num_slots=4, heads=4, dim_head=8
    ),
    "Audio spectrogram transformer": Architecture(
        lambda: _model(
            "vaat",
            "AST",
            dim=32,
            depth=2,
            mlp_dim=64,
            num_classes=3,
            patch_size=8,
            dim_head=8,
            heads=4,
            accept_spec=True,
        ),
        normal(2, 16, 32),
    ),
}
