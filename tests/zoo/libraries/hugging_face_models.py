"""Architectures of Hugging Face transformers, used through `adapt`."""

from functools import partial
from typing import Any

import torch
from zoo.architectures import CAUSAL, FRAMES, SEQ2SEQ, SMALL, WORDS
from zoo.libraries.architecture import Architecture, image, normal, words

PATCH_TST = {
    "num_input_channels": 2,
    "context_length": 24,
    "patch_length": 4,
    "patch_stride": 4,
    "d_model": 16,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "num_hidden_layers": 2,
}
IMAGES = {**SMALL, "image_size": 32, "patch_size": 8}
BART_STACKS = {
    "encoder": r"encoder\.layers\.\d+\.self_attn",
    "decoder": r"decoder\.layers\.\d+\.self_attn",
    "cross": r"decoder\.layers\.\d+\.encoder_attn",
}
T5_STACKS = {
    "encoder": r"encoder\.block\.\d+\.layer\.0\.SelfAttention",
    "decoder": r"decoder\.block\.\d+\.layer\.0\.SelfAttention",
    "cross": r"decoder\.block\.\d+\.layer\.1\.EncDecAttention",
}
T5 = {
    "vocab_size": 20,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
STAGES = {"depths": [1, 1], "num_heads": [2, 4], "embed_dim": 16, "image_size": 32, "patch_size": 4, "window_size": 4}
PYRAMID = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
}
SERIES = {
    "prediction_length": 4,
    "context_length": 8,
    "input_size": 1,
    "d_model": 16,
    "lags_sequence": [1, 2],
    "num_time_features": 1,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}


def _model(kind: str, config: str, sizes: dict[str, Any]) -> Any:
    import transformers

    torch.manual_seed(0)
    cfg = getattr(transformers, config)(**sizes)
    cfg._attn_implementation = "eager"
    return getattr(transformers, kind)(cfg)


def _of(kind: str, sizes: dict[str, Any], inputs: Any, config: str = "", **stacks: str) -> Architecture:
    return Architecture(partial(_model, f"{kind}Model", f"{config or kind}Config", sizes), inputs, stacks)


DECODER_WORDS = {"decoder_input_ids": words(6)}
WAVES = lambda: {"input_values": normal(2, 120)()}
MELS = lambda: {"input_features": normal(2, 16, 24)(), "decoder_input_ids": words(6)()}


def _series() -> dict[str, Any]:
    make = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=make)
    return {
        "past_values": draw(2, 10),
        "past_time_features": draw(2, 10, 1),
        "past_observed_mask": torch.ones(2, 10),
        "future_values": draw(2, 4),
        "future_time_features": draw(2, 4, 1),
    }


def _pixels(size: int = 32) -> Any:
    return lambda: {"pixel_values": image(size)()}


def _video() -> dict[str, Any]:
    return {"pixel_values": normal(2, 4, 3, 16, 16)()}


MODELS = {
    "BERT": _of("Bert", {**WORDS, **SMALL}, words()),
    "RoBERTa": _of("Roberta", {**WORDS, "max_position_embeddings": 20, **SMALL}, words()),
    "CamemBERT": _of("Camembert", {**WORDS, "max_position_embeddings": 20, **SMALL}, words()),
    "XLM-RoBERTa-XL": _of("XLMRobertaXL", {**WORDS, "max_position_embeddings": 20, **SMALL}, words()),
    "ELECTRA": _of("Electra", {**WORDS, **SMALL, "embedding_size": 16}, words()),
    "DistilBERT": _of("DistilBert", {**WORDS, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}, words()),
    "MobileBERT": _of(
        "MobileBert",
        {**WORDS, **SMALL, "intra_bottleneck_size": 16, "embedding_size": 16, "true_hidden_size": 16},
        words(),
    ),
    "MPNet": _of("MPNet", {**WORDS, **SMALL, "max_position_embeddings": 20}, words()),
    "RoFormer": _of("RoFormer", {**WORDS, **SMALL, "embedding_size": 16}, words()),
    "DeBERTa": _of("Deberta", {**WORDS, **SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, words()),
    "DeBERTa v2": _of(
        "DebertaV2", {**WORDS, **SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, words()
    ),
    "SqueezeBERT": _of(
        "SqueezeBert",
        {
            **WORDS,
            **SMALL,
            "embedding_size": 16,
            "q_groups": 1,
            "k_groups": 1,
            "v_groups": 1,
            "post_attention_groups": 1,
            "intermediate_groups": 1,
            "output_groups": 1,
        },
        words(),
    ),
    "ConvBERT": _of(
        "ConvBert",
        {**WORDS, **SMALL, "num_attention_heads": 4, "embedding_size": 16, "head_ratio": 2, "conv_kernel_size": 3},
        words(),
    ),
    "XLNet": _of("XLNet", {"vocab_size": 20, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}, words()),
    "XLM": _of(
        "XLM", {"vocab_size": 20, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 16}, words()
    ),
    "Funnel": _of(
        "FunnelBase",
        {
            "vocab_size": 20,
            "block_sizes": [1, 1],
            "d_model": 16,
            "n_head": 2,
            "d_head": 8,
            "d_inner": 32,
            "num_decoder_layers": 1,
        },
        words(),
        "Funnel",
    ),
    "Longformer": _of("Longformer", {**WORDS, **SMALL, "attention_window": 4, "max_position_embeddings": 20}, words()),
    "BigBird": _of("BigBird", {**WORDS, **SMALL, "attention_type": "original_full"}, words()),
    "Nyströmformer": _of("Nystromformer", {**WORDS, **SMALL, "num_landmarks": 2, "segment_means_seq_len": 8}, words()),
    "YOSO": _of("Yoso", {**WORDS, **SMALL, "use_expectation": True}, words()),
    "FNet": _of("FNet", {**CAUSAL}, words()),
    "CANINE": _of(
        "Canine",
        {
            **SMALL,
            "max_position_embeddings": 64,
            "num_hash_buckets": 16,
            "local_transformer_stride": 8,
            "downsampling_rate": 4,
        },
        words(16),
    ),
    "ESM": _of(
        "Esm", {**WORDS, **SMALL, "pad_token_id": 0, "mask_token_id": 4, "max_position_embeddings": 20}, words()
    ),
    "ModernBERT": _of("ModernBert", {**CAUSAL, "local_attention": 4, "cls_token_id": 1, "sep_token_id": 2}, words()),
    "ALBERT": _of("Albert", {**CAUSAL, "embedding_size": 8}, words()),
    "I-BERT": _of("IBert", {**WORDS, **SMALL, "max_position_embeddings": 20}, words()),
    "MRA": _of("Mra", {**WORDS, **SMALL}, words()),
    "GPT-2": _of("GPT2", {"vocab_size": 20, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}, words()),
    "GPT-Neo": _of(
        "GPTNeo",
        {
            **WORDS,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
        },
        words(),
    ),
    "GPT-NeoX": _of("GPTNeoX", {**CAUSAL}, words()),
    "GPT-J": _of(
        "GPTJ", {"vocab_size": 20, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4}, words()
    ),
    "CodeGen": _of(
        "CodeGen",
        {"vocab_size": 20, "n_positions": 16, "n_ctx": 16, "n_embd": 16, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
        words(),
    ),
    "GPT-BigCode": _of(
        "GPTBigCode", {"vocab_size": 20, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}, words()
    ),
    "OPT": _of("OPT", {**CAUSAL, "ffn_dim": 32, "word_embed_proj_dim": 16}, words()),
    "Llama": _of("Llama", {**CAUSAL, "num_key_value_heads": 1}, words()),
    "Mistral": _of("Mistral", {**CAUSAL, "num_key_value_heads": 1, "sliding_window": 4, "head_dim": 8}, words()),
    "Qwen2": _of("Qwen2", {**CAUSAL, "num_key_value_heads": 1}, words()),
    "Qwen3": _of("Qwen3", {**CAUSAL, "num_key_value_heads": 1, "head_dim": 8}, words()),
    "Phi": _of("Phi", {**CAUSAL}, words()),
    "Falcon": _of("Falcon", {**CAUSAL}, words()),
    "MPT": _of("Mpt", {"vocab_size": 20, "d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 16}, words()),
    "BLOOM": _of("Bloom", {"vocab_size": 20, "hidden_size": 16, "n_layer": 2, "n_head": 2}, words()),
    "CTRL": _of(
        "CTRL", {"vocab_size": 20, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "dff": 32}, words()
    ),
    "Mixtral": _of("Mixtral", {**CAUSAL, "num_key_value_heads": 1, "num_local_experts": 2, "head_dim": 8}, words()),
    "Falcon-H1": _of(
        "FalconH1",
        {
            **CAUSAL,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "mamba_d_ssm": 16,
            "mamba_n_heads": 2,
            "mamba_d_head": 8,
            "mamba_d_state": 4,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 4,
        },
        words(),
    ),
    "Jamba": _of(
        "Jamba",
        {
            **CAUSAL,
            "num_key_value_heads": 1,
            "num_experts": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        words(),
    ),
    "Mamba": _of("Mamba", {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}, words()),
    "RWKV": _of(
        "Rwkv", {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16}, words()
    ),
    "Reformer": _of(
        "Reformer",
        {
            "vocab_size": 20,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "attention_head_size": 8,
            "feed_forward_size": 32,
            "attn_layers": ["local", "local"],
            "local_attn_chunk_length": 4,
            "axial_pos_shape": [4, 4],
            "axial_pos_embds_dim": [8, 8],
            "max_position_embeddings": 16,
            "is_decoder": False,
            "pad_token_id": 0,
        },
        words(),
    ),
    "T5": _of("T5", T5, words(**DECODER_WORDS), **T5_STACKS),
    "MT5": _of("MT5", T5, words(**DECODER_WORDS), **T5_STACKS),
    "LongT5": _of("LongT5", {**T5, "local_radius": 2, "global_block_size": 2}, words(**DECODER_WORDS)),
    "Switch Transformers": _of(
        "SwitchTransformers",
        {**T5, "num_experts": 2, "num_sparse_encoder_layers": 0, "num_sparse_decoder_layers": 0},
        words(**DECODER_WORDS),
        **T5_STACKS,
    ),
    "BART": _of("Bart", {**SEQ2SEQ, "max_position_embeddings": 16}, words(**DECODER_WORDS), **BART_STACKS),
    "mBART": _of("MBart", {**SEQ2SEQ, "max_position_embeddings": 16}, words(**DECODER_WORDS), **BART_STACKS),
    "Pegasus": _of("Pegasus", {**SEQ2SEQ, "max_position_embeddings": 16}, words(**DECODER_WORDS), **BART_STACKS),
    "Marian": _of("Marian", {**SEQ2SEQ, "max_position_embeddings": 16}, words(**DECODER_WORDS), **BART_STACKS),
    "M2M-100": _of("M2M100", {**SEQ2SEQ, "max_position_embeddings": 16}, words(**DECODER_WORDS), **BART_STACKS),
    "ProphetNet": _of(
        "ProphetNet",
        {
            "vocab_size": 20,
            "hidden_size": 16,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 2,
            "num_decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": 16,
            "ngram": 2,
            "num_buckets": 4,
        },
        words(**DECODER_WORDS),
    ),
    "LED": _of(
        "LED",
        {
            **SEQ2SEQ,
            "attention_window": [4, 4],
            "max_encoder_position_embeddings": 16,
            "max_decoder_position_embeddings": 16,
        },
        words(batch=3, decoder_input_ids=words(6, batch=3)),
    ),
    "FSMT": _of(
        "FSMT",
        {
            **{k: v for k, v in SEQ2SEQ.items() if k not in ("vocab_size",)},
            "langs": ["a", "b"],
            "src_vocab_size": 20,
            "tgt_vocab_size": 20,
            "max_position_embeddings": 16,
        },
        words(**DECODER_WORDS),
        **BART_STACKS,
    ),
    "Whisper": _of(
        "Whisper",
        {**SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 12, "max_target_positions": 16},
        MELS,
        **BART_STACKS,
    ),
    "Moonshine": _of(
        "Moonshine",
        {
            "vocab_size": 20,
            "hidden_size": 16,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 2,
            "decoder_num_attention_heads": 2,
            "intermediate_size": 32,
            "pad_token_id": 0,
        },
        lambda: {"input_values": normal(2, 3000)(), "decoder_input_ids": words(6)()},
        **BART_STACKS,
    ),
    "Wav2Vec2": _of("Wav2Vec2", {**FRAMES, **SMALL}, WAVES),
    "Wav2Vec2-Conformer": _of("Wav2Vec2Conformer", {**FRAMES, **SMALL, "conv_depthwise_kernel_size": 3}, WAVES),
    "Wav2Vec2-BERT": _of(
        "Wav2Vec2Bert",
        {**SMALL, "feature_projection_input_dim": 16, "conv_depthwise_kernel_size": 3},
        lambda: {"input_features": normal(2, 8, 16)()},
    ),
    "HuBERT": _of("Hubert", {**FRAMES, **SMALL}, WAVES),
    "WavLM": _of("WavLM", {**FRAMES, **SMALL, "num_buckets": 8, "max_bucket_distance": 8}, WAVES),
    "Data2Vec audio": _of("Data2VecAudio", {**FRAMES, **SMALL}, WAVES),
    "SEW": _of("SEW", {**FRAMES, **SMALL, "squeeze_factor": 1}, WAVES),
    "UniSpeech-SAT": _of("UniSpeechSat", {**FRAMES, **SMALL}, WAVES),
    "AST": _of("AST", {"max_length": 32, "num_mel_bins": 32, **SMALL}, lambda: {"input_values": normal(2, 32, 32)()}),
    "Speech2Text": _of(
        "Speech2Text",
        {
            **SEQ2SEQ,
            "input_feat_per_channel": 16,
            "conv_channels": 16,
            "max_source_positions": 24,
            "max_target_positions": 16,
        },
        lambda: {"input_features": normal(2, 24, 16)(), "decoder_input_ids": words(6)()},
        **BART_STACKS,
    ),
    "ViT": _of("ViT", IMAGES, _pixels()),
    "DeiT": _of("DeiT", IMAGES, _pixels()),
    "BEiT": _of("Beit", {**IMAGES, "use_relative_position_bias": True}, _pixels()),
    "DINOv2": _of("Dinov2", {**IMAGES, "mlp_ratio": 2}, _pixels()),
    "DINOv3": _of("DINOv3ViT", {**IMAGES}, _pixels()),
    "ViT-MAE": _of(
        "ViTMAE", {**IMAGES, "mask_ratio": 0.0}, lambda: {**_pixels()(), "noise": torch.arange(16.0).expand(2, 16)}
    ),
    "ViT-MSN": _of("ViTMSN", IMAGES, _pixels()),
    "I-JEPA": _of("IJepa", IMAGES, _pixels()),
    "YOLOS": _of("Yolos", {**IMAGES, "image_size": [32, 32], "num_detection_tokens": 2}, _pixels()),
    "CLIP, vision": _of("CLIPVision", IMAGES, _pixels()),
    "SigLIP, vision": _of("SiglipVision", IMAGES, _pixels()),
    "CLIP, text": _of("CLIPText", {**CAUSAL}, words()),
    "Swin": _of("Swin", STAGES, _pixels()),
    "Swin v2": _of("Swinv2", STAGES, _pixels()),
    "CvT": _of("Cvt", {"embed_dim": [16, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}, _pixels(64)),
    "PVT": _of(
        "Pvt",
        {
            "image_size": 32,
            **{k: v for k, v in PYRAMID.items() if k not in ("sr_ratios", "patch_sizes", "strides")},
            "sequence_reduction_ratios": [2, 1],
            "patch_sizes": [4, 2],
            "strides": [4, 2],
        },
        _pixels(),
    ),
    "SegFormer": _of("Segformer", PYRAMID, _pixels()),
    "LeViT": _of(
        "Levit",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 32],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "patch_size": 16,
            "attention_ratio": [2, 2, 2],
            "mlp_ratio": [2, 2, 2],
        },
        _pixels(64),
    ),
    "TimeSformer": _of("Timesformer", {**SMALL, "image_size": 16, "patch_size": 8, "num_frames": 4}, _video),
    "VideoMAE": _of("VideoMAE", {**SMALL, "image_size": 16, "patch_size": 8, "num_frames": 4}, _video),
    "ViViT": _of("Vivit", {**SMALL, "image_size": 16, "num_frames": 4, "tubelet_size": [2, 8, 8]}, _video),
    "Perceiver": _of(
        "Perceiver",
        {
            "d_model": 16,
            "d_latents": 16,
            "num_latents": 8,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2,
            "qk_channels": 16,
            "v_channels": 16,
        },
        lambda: {"inputs": normal(2, 12, 16)()},
    ),
    "PatchTST": _of(
        "PatchTST",
        PATCH_TST,
        lambda: {"past_values": normal(2, 24, 2)()},
    ),
    "PatchTST, attention over channels": _of(
        "PatchTST",
        {**PATCH_TST, "channel_attention": True},
        lambda: {"past_values": normal(2, 24, 2)()},
    ),
    "PatchTSMixer": _of(
        "PatchTSMixer",
        {
            "num_input_channels": 2,
            "context_length": 24,
            "patch_length": 4,
            "patch_stride": 4,
            "d_model": 16,
            "num_layers": 2,
        },
        lambda: {"past_values": normal(2, 24, 2)()},
    ),
    "PatchTSMixer, self-attention": _of(
        "PatchTSMixer",
        {
            "num_input_channels": 2,
            "context_length": 24,
            "patch_length": 4,
            "patch_stride": 4,
            "d_model": 16,
            "num_layers": 2,
            "self_attn": True,
            "self_attn_heads": 2,
        },
        lambda: {"past_values": normal(2, 24, 2)()},
    ),
    "Time Series Transformer": _of("TimeSeriesTransformer", SERIES, _series, **BART_STACKS),
    "Informer": _of("Informer", {**SERIES, "sampling_factor": 2}, _series),
    "Autoformer": _of("Autoformer", {**SERIES, "moving_average": 3, "label_length": 4}, _series),
    "TimesFM": Architecture(
        partial(
            _model,
            "TimesFmModel",
            "TimesFmConfig",
            {**SMALL, "patch_length": 4, "context_length": 16, "horizon_length": 4, "head_dim": 8},
        ),
        lambda: {
            "past_values": normal(2, 16)(),
            "past_values_padding": torch.zeros(2, 16),
            "freq": torch.zeros(2, 1, dtype=torch.long),
        },
    ),
    "Decision Transformer": Architecture(
        partial(
            _model,
            "DecisionTransformerModel",
            "DecisionTransformerConfig",
            {"state_dim": 4, "act_dim": 2, "hidden_size": 16, "n_layer": 2, "n_head": 2, "max_ep_len": 8},
        ),
        lambda: {
            "states": normal(2, 3, 4)(),
            "actions": normal(2, 3, 2)(),
            "rewards": normal(2, 3, 1)(),
            "returns_to_go": normal(2, 3, 1)(),
            "timesteps": torch.arange(3).expand(2, 3),
            "attention_mask": torch.ones(2, 3, dtype=torch.long),
        },
    ),
}
