"""Architectures of timm."""

from functools import partial
from importlib import import_module
from typing import Any

from zoo.libraries.architecture import Architecture, image

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 3}
SWIN = {"img_size": 32, "patch_size": 4, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 2), "window_size": 4}
STAGES = {"embed_dims": (16, 32), "num_heads": (2, 4), "mlp_ratios": (2, 2), "depths": (1, 1), "sr_ratios": (2, 1)}


def _model(module: str, kind: str, **sizes: Any) -> Any:
    return getattr(import_module(f"timm.models.{module}"), kind)(**sizes)


def _named(name: str, **sizes: Any) -> Any:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=3, **sizes)


def _of(module: str, kind: str, size: int = 32, **sizes: Any) -> Architecture:
    return Architecture(partial(_model, module, kind, num_classes=3, **sizes), image(size))


def _vit(module: str, kind: str, **sizes: Any) -> Architecture:
    return Architecture(partial(_model, module, kind, **{**VIT, **sizes}), image())


def _mvit() -> Any:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    cfg = MultiScaleVitCfg(depths=(1, 1), embed_dim=16, num_heads=2)
    return MultiScaleVit(cfg, img_size=32, num_classes=3)


def _naflex() -> Any:
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

    cfg = NaFlexVitCfg(patch_size=8, embed_dim=32, depth=2, num_heads=4, pos_embed_grid_size=(4, 4))
    return NaFlexVit(cfg, num_classes=3)


MODELS = {
    "VisionTransformer": _vit("vision_transformer", "VisionTransformer"),
    "VisionTransformer, parallel blocks": Architecture(
        lambda: _model("vision_transformer", "VisionTransformer", **VIT, block_fn=_parallel("ParallelThingsBlock")),
        image(),
    ),
    "VisionTransformer, parallel scaling": Architecture(
        lambda: _model("vision_transformer", "VisionTransformer", **VIT, block_fn=_parallel("ParallelScalingBlock")),
        image(),
    ),
    "VisionTransformer, registers": _vit("vision_transformer", "VisionTransformer", reg_tokens=2),
    "VisionTransformer, pooling by attention": _vit(
        "vision_transformer", "VisionTransformer", global_pool="map", class_token=False
    ),
    "VisionTransformer, query-key norm": _vit("vision_transformer", "VisionTransformer", qk_norm=True, init_values=0.1),
    "DeiT, distilled": _vit("deit", "VisionTransformerDistilled"),
    "BEiT": _vit("beit", "Beit", use_rel_pos_bias=True, use_abs_pos_emb=False),
    "CaiT": _vit("cait", "Cait", depth_token_only=1),
    "XCiT": _vit("xcit", "Xcit", cls_attn_layers=1),
    "ConViT": _vit("convit", "ConVit", local_up_to_layer=1),
    "EVA": _vit("eva", "Eva"),
    "EVA-02": _vit("eva", "Eva", use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True, ref_feat_shape=(4, 4)),
    "ViT, relative positions": _vit("vision_transformer_relpos", "VisionTransformerRelPos"),
    "SAM": _vit("vision_transformer_sam", "VisionTransformerSAM", use_rel_pos=True),
    "SAM, windows": _vit(
        "vision_transformer_sam", "VisionTransformerSAM", use_rel_pos=True, window_size=2, global_attn_indexes=(1,)
    ),
    "TNT": Architecture(
        partial(
            _model,
            "tnt",
            "TNT",
            img_size=32,
            patch_size=8,
            embed_dim=32,
            inner_dim=8,
            depth=2,
            num_heads_inner=2,
            num_heads_outer=4,
            num_classes=3,
        ),
        image(),
    ),
    "DeepSeek ViT": _vit("deepseek_vit", "DeepseekVitClassifier"),
    "Qwen3 ViT": _vit("qwen3_vit", "Qwen3VitClassifier"),
    "Gemma 4 ViT": _vit("gemma4_vit", "Gemma4VitClassifier", head_dim=8, num_kv_heads=2, intermediate_size=64),
    "NaFlexViT": Architecture(_naflex, image()),
    "Swin": _of(
        "swin_transformer",
        "SwinTransformer",
        **SWIN,
    ),
    "Swin, one stage": _of(
        "swin_transformer",
        "SwinTransformer",
        **SWIN | {"depths": (2,), "num_heads": (2,)},
    ),
    "Swin V2": _of(
        "swin_transformer_v2",
        "SwinTransformerV2",
        **SWIN,
    ),
    "Swin V2 CR": _of(
        "swin_transformer_v2_cr",
        "SwinTransformerV2Cr",
        **SWIN,
    ),
    "PVT v2": _of(
        "pvt_v2",
        "PyramidVisionTransformerV2",
        depths=(1, 1),
        embed_dims=(16, 32),
        num_heads=(2, 4),
        sr_ratios=(2, 1),
        mlp_ratios=(2, 2),
    ),
    "PVT v2, linear": _of(
        "pvt_v2",
        "PyramidVisionTransformerV2",
        size=64,
        depths=(1, 1),
        embed_dims=(16, 32),
        num_heads=(2, 4),
        sr_ratios=(2, 1),
        mlp_ratios=(2, 2),
        linear=True,
    ),
    "Twins PCPVT": _of("twins", "Twins", img_size=32, patch_size=4, wss=None, **STAGES),
    "Twins SVT": _of("twins", "Twins", img_size=32, patch_size=4, wss=(4, 4), **{**STAGES, "depths": (2, 2)}),
    "NesT": _of(
        "nest", "Nest", img_size=32, patch_size=4, num_levels=2, embed_dims=(16, 32), num_heads=(2, 2), depths=(1, 1)
    ),
    "CrossViT": _of(
        "crossvit",
        "CrossVit",
        img_size=32,
        img_scale=(1.0, 1.0),
        patch_size=(8, 16),
        embed_dim=(16, 32),
        depth=((1, 1, 0),),
        num_heads=(2, 2),
        mlp_ratio=(2.0, 2.0, 1.0),
    ),
    "CoaT": _of(
        "coat",
        "CoaT",
        img_size=32,
        patch_size=4,
        embed_dims=(16, 16, 16, 16),
        serial_depths=(1, 1, 1, 1),
        parallel_depth=0,
        num_heads=8,
        mlp_ratios=(2, 2, 2, 2),
    ),
    "LeViT": _of(
        "levit",
        "Levit",
        size=64,
        img_size=64,
        embed_dim=(16, 32),
        key_dim=8,
        depth=(1, 1),
        num_heads=(2, 4),
        attn_ratio=2,
        mlp_ratio=2,
        stem_stride=16,
        stem_type="s16",
    ),
    "MViT v2": Architecture(_mvit, image()),
    "Hiera": _of(
        "hiera",
        "Hiera",
        size=64,
        img_size=(64, 64),
        embed_dim=16,
        num_heads=1,
        stages=(1, 1),
        q_pool=1,
        mask_unit_size=(4, 4),
        mask_unit_attn=(True, False),
    ),
    "HieraDet (SAM 2)": _of(
        "hieradet_sam2",
        "HieraDet",
        size=64,
        embed_dim=16,
        num_heads=1,
        stages=(1, 2, 1, 1),
        q_pool=3,
        global_pos_size=(4, 4),
        window_spec=(4, 4, 4, 2),
        global_att_blocks=(2,),
    ),
    "VOLO": _of(
        "volo",
        "VOLO",
        size=64,
        layers=(1, 1),
        img_size=64,
        embed_dims=(32, 32),
        num_heads=(2, 2),
        downsamples=(True, False),
        outlook_attention=(True, False),
        mlp_ratio=(2, 2),
        post_layers=("ca",),
        use_aux_head=False,
        use_mix_token=False,
    ),
    "Visformer": _of(
        "visformer",
        "Visformer",
        size=64,
        img_size=64,
        patch_size=16,
        init_channels=8,
        embed_dim=32,
        depth=(1, 1, 1),
        num_heads=2,
        group=2,
        attn_stage="011",
    ),
    "PiT": _of(
        "pit",
        "PoolingVisionTransformer",
        img_size=32,
        patch_size=8,
        stride=4,
        stem_type="overlap",
        base_dims=(8, 8),
        depth=(1, 1),
        heads=(2, 4),
        mlp_ratio=2,
    ),
    "GC ViT": _of(
        "gcvit",
        "GlobalContextVit",
        size=64,
        img_size=64,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 2),
        window_ratio=(16, 16),
    ),
    "DaViT": _of("davit", "DaVit", depths=(1, 1), embed_dims=(16, 32), num_heads=(2, 4), window_size=4),
    "TinyViT": _of(
        "tiny_vit", "TinyVit", size=64, embed_dims=(16, 32), depths=(1, 2), num_heads=(2, 2), window_sizes=(4, 4)
    ),
    "EfficientFormer": _of(
        "efficientformer",
        "EfficientFormer",
        size=56,
        depths=(1, 2),
        embed_dims=(16, 32),
        num_vit=1,
        downsamples=(False, True),
        img_size=56,
    ),
    "EfficientFormer v2": _of(
        "efficientformer_v2",
        "EfficientFormerV2",
        size=64,
        depths=(1, 1, 2),
        embed_dims=(16, 16, 32),
        mlp_ratios=(2, 2, 2),
        downsamples=(False, True, True),
        num_vit=1,
        img_size=64,
    ),
    "MaxViT": Architecture(partial(_named, "maxvit_rmlp_pico_rw_256", img_size=64), image(64)),
    "CoAtNet": Architecture(partial(_named, "coatnet_pico_rw_224", img_size=64), image(64)),
    "MobileViT": Architecture(partial(_named, "mobilevit_xxs"), image(64)),
    "MobileViT v2": Architecture(partial(_named, "mobilevitv2_050"), image(64)),
    "EdgeNeXt": Architecture(partial(_named, "edgenext_xx_small"), image(64)),
    "FastViT": Architecture(partial(_named, "fastvit_sa12"), image(64)),
    "RepViT": Architecture(partial(_named, "repvit_m0_9"), image(64)),
    "BoTNet (attention in a ResNet)": Architecture(partial(_named, "botnet26t_256", img_size=64), image(64)),
    "HaloNet": Architecture(partial(_named, "halonet26t"), image(256)),
    "LambdaNet": Architecture(partial(_named, "lambda_resnet26rpt_256", img_size=64), image(64)),
    "ViTamin": Architecture(partial(_named, "vitamin_small_224", img_size=64), image(64)),
    "EfficientViT (MIT)": _of(
        "efficientvit_mit", "EfficientVit", widths=(8, 16, 32), depths=(1, 1, 2), head_dim=8, head_widths=(32, 32)
    ),
    "EfficientViT (MSRA)": Architecture(partial(_named, "efficientvit_m0"), image(64)),
    "NextViT": Architecture(partial(_named, "nextvit_small"), image(64)),
    "iFormer": Architecture(partial(_named, "iformer_t"), image(64)),
    "SHViT": Architecture(partial(_named, "shvit_s1"), image(128)),
    "SwiftFormer": Architecture(partial(_named, "swiftformer_xs"), image(64)),
    "CSATv2": Architecture(partial(_named, "csatv2"), image(64)),
    "MLP-Mixer": _of("mlp_mixer", "MlpMixer", img_size=32, patch_size=8, num_blocks=2, embed_dim=32),
    "gMLP": Architecture(lambda: _mixer("SpatialGatingBlock", "GatedMlp"), image()),
    "PoolFormer": Architecture(partial(_named, "poolformer_s12"), image(64)),
    "CAFormer": Architecture(lambda: _caformer(), image()),
    "ConvNeXt": Architecture(partial(_named, "convnext_atto"), image(64)),
}


def _parallel(kind: str) -> Any:
    import timm.models.vision_transformer

    return getattr(timm.models.vision_transformer, kind)


def _mixer(block: str, mlp: str) -> Any:
    from timm.layers import GatedMlp
    from timm.models import mlp_mixer

    return mlp_mixer.MlpMixer(
        img_size=32,
        patch_size=8,
        num_blocks=2,
        embed_dim=32,
        num_classes=3,
        block_layer=mlp_mixer.SpatialGatingBlock,
        mlp_layer=GatedMlp,
        mlp_ratio=4,
    )


def _caformer() -> Any:
    from timm.models import metaformer

    return metaformer.MetaFormer(
        depths=(1, 1),
        dims=(32, 64),
        token_mixers=(metaformer.SepConv, metaformer.Attention),
        num_classes=3,
        norm_layers=(metaformer.LayerNorm2dNoBias, metaformer.LayerNormNoBias),
    )
