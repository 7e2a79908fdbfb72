"""Tiny architectures of transformers, one for every kind of attention: classes, sizes, and paths of the attention."""

from dataclasses import dataclass, field
from typing import Any

from emg_lens.hooks.hook_points import StackName

SEQ2SEQ = {
    "vocab_size": 20,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = {"vocab_size": 20, "max_position_embeddings": 16}
CAUSAL = {**SMALL, **WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FRAMES = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 10,
}
SLIDING = {
    "num_key_value_heads": 1,
    "head_dim": 8,
    "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention"],
}


@dataclass(frozen=True)
class TinyArchitecture:
    """A model of transformers, tiny.

    Attributes:
        model: Name of the class.
        config: Name of the configuration's class.
        sizes: Arguments of the configuration.
        attention: Path of the attention of layer `{}`.
        layers: Layers with attention.
        adapted: Whether the model is used through `adapt`, because TransformerLens has no bridge for it.
        stacks: For an encoder-decoder, the path of each attention by the name of the stack.
    """

    model: str
    config: str
    sizes: dict[str, Any]
    attention: str
    layers: tuple[int, ...] = (0, 1)
    adapted: bool = False
    stacks: dict[StackName, str] = field(default_factory=dict)


WRAPPED: dict[str, TinyArchitecture] = {
    "BERT": TinyArchitecture(
        "BertForMaskedLM", "BertConfig", {**WORDS, **SMALL}, "bert.encoder.layer.{}.attention.self"
    ),
    "RoBERTa": TinyArchitecture(
        "RobertaForMaskedLM",
        "RobertaConfig",
        {**WORDS, "max_position_embeddings": 20, **SMALL},
        "roberta.encoder.layer.{}.attention.self",
    ),
    "ViT": TinyArchitecture(
        "ViTForImageClassification",
        "ViTConfig",
        {"image_size": (4, 20), "patch_size": 4, **SMALL},
        "vit.layers.{}.attention",
    ),
    "AST": TinyArchitecture(
        "ASTForAudioClassification",
        "ASTConfig",
        {"max_length": 32, "num_mel_bins": 32, **SMALL},
        "audio_spectrogram_transformer.layers.{}.attention",
    ),
    "Wav2Vec2": TinyArchitecture("Wav2Vec2Model", "Wav2Vec2Config", {**FRAMES, **SMALL}, "encoder.layers.{}.attention"),
    "HuBERT": TinyArchitecture("HubertModel", "HubertConfig", {**FRAMES, **SMALL}, "encoder.layers.{}.attention"),
    "T5 encoder": TinyArchitecture(
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
        "encoder.block.{}.layer.0.SelfAttention",
    ),
    "GPT-2": TinyArchitecture(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 20, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2},
        "transformer.h.{}.attn",
    ),
    "Llama": TinyArchitecture(
        "LlamaForCausalLM", "LlamaConfig", {**WORDS, "num_key_value_heads": 1, **SMALL}, "model.layers.{}.self_attn"
    ),
}
"""The kinds with which all properties of a cut are tested, by their names in the table."""

FAMILIES: dict[str, TinyArchitecture] = {
    "GPT-OSS (sinks)": TinyArchitecture(
        "GptOssForCausalLM",
        "GptOssConfig",
        {**CAUSAL, **SLIDING, "num_local_experts": 2, "num_experts_per_tok": 1},
        "model.layers.{}.self_attn",
    ),
    "DeepSeek-V3 (latent attention)": TinyArchitecture(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **CAUSAL,
            "num_key_value_heads": 2,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
            "n_shared_experts": 1,
        },
        "model.layers.{}.self_attn",
    ),
    "Gemma 2 (soft caps, sliding window)": TinyArchitecture(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {**CAUSAL, **SLIDING, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
        "model.layers.{}.self_attn",
    ),
    "Gemma 3 (sliding window)": TinyArchitecture(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {**CAUSAL, **SLIDING, "query_pre_attn_scalar": 8},
        "model.layers.{}.self_attn",
    ),
    "BLOOM (alibi)": TinyArchitecture(
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": 20, "hidden_size": 16, "n_layer": 2, "n_head": 2},
        "transformer.h.{}.self_attention",
    ),
    "OpenAI-GPT": TinyArchitecture(
        "OpenAIGPTLMHeadModel",
        "OpenAIGPTConfig",
        {"vocab_size": 20, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2},
        "transformer.h.{}.attn",
    ),
    "BART": TinyArchitecture(
        "BartForConditionalGeneration",
        "BartConfig",
        {**SEQ2SEQ, "max_position_embeddings": 16},
        "model.encoder.layers.{}.self_attn",
        stacks={
            "encoder": "model.encoder.layers.{}.self_attn",
            "decoder": "model.decoder.layers.{}.self_attn",
            "cross": "model.decoder.layers.{}.encoder_attn",
        },
    ),
    "Falcon-H1 (state space and attention)": TinyArchitecture(
        "FalconH1ForCausalLM",
        "FalconH1Config",
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
        "model.layers.{}.self_attn",
    ),
    "LFM2 (convolution, then attention)": TinyArchitecture(
        "Lfm2ForCausalLM",
        "Lfm2Config",
        {**CAUSAL, "num_key_value_heads": 1, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
        "model.layers.{}.self_attn",
        layers=(1,),
    ),
    "ModernBERT": TinyArchitecture(
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {**CAUSAL, "local_attention": 4, "cls_token_id": 1, "sep_token_id": 2},
        "model.layers.{}.attn",
        adapted=True,
    ),
    "plain ViT": TinyArchitecture(
        "ViTForImageClassification",
        "ViTConfig",
        {"image_size": (4, 20), "patch_size": 4, **SMALL},
        "vit.layers.{}.attention",
        adapted=True,
    ),
    "PatchTST (patches of every channel alone)": TinyArchitecture(
        "PatchTSTModel",
        "PatchTSTConfig",
        {
            "num_input_channels": 2,
            "context_length": 24,
            "patch_length": 4,
            "patch_stride": 4,
            "d_model": 16,
            "num_attention_heads": 2,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
        },
        "encoder.layers.{}.self_attn",
        adapted=True,
    ),
    "DistilBERT": TinyArchitecture(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {**WORDS, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
        "distilbert.transformer.layer.{}.attention",
        adapted=True,
    ),
}
"""Kinds with unusual attention."""

REFUSED: dict[str, TinyArchitecture] = {
    "Mamba": TinyArchitecture(
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        attention="",
    ),
    "ALBERT": TinyArchitecture(
        "AlbertModel",
        "AlbertConfig",
        {**CAUSAL, "embedding_size": 8},
        "encoder.albert_layer_groups.0.albert_layers.0.attention",
        adapted=True,
    ),
    "FNet": TinyArchitecture(
        "FNetModel",
        "FNetConfig",
        {**CAUSAL},
        attention="",
        adapted=True,
    ),
}
"""Kinds that cannot be cut: without edges, or with attention shared by all layers."""
