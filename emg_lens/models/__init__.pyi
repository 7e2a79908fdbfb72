from .encoder import HookedBiosignalEncoder
from .hierarchical import HierarchicalConfig, HierarchicalTransformer
from .isonet import IsoNet, IsoNetConfig
from .multimodal_mlp import MultimodalMLP, MultimodalMLPConfig
from .multimodal_transformer import MultimodalTransformer, MultimodalTransformerConfig
from .registry import Architecture, architecture, architecture_names, build_model, register_model
from .rope_detection import RopeDetection, detect_rope_mode
from .tinymyo import TinyMyo
from .tinymyo_config import TinyMyoConfig
from .tinymyo_sequence import (
    SequenceConfig,
    SequenceEncoder,
    TinyMyoGestures,
    TinyMyoGesturesConfig,
    TinyMyoSpeech,
    TinyMyoSpeechConfig,
)

__all__ = [
    "Architecture",
    "HierarchicalConfig",
    "HierarchicalTransformer",
    "HookedBiosignalEncoder",
    "IsoNet",
    "IsoNetConfig",
    "MultimodalMLP",
    "MultimodalMLPConfig",
    "MultimodalTransformer",
    "MultimodalTransformerConfig",
    "RopeDetection",
    "SequenceConfig",
    "SequenceEncoder",
    "TinyMyo",
    "TinyMyoConfig",
    "TinyMyoGestures",
    "TinyMyoGesturesConfig",
    "TinyMyoSpeech",
    "TinyMyoSpeechConfig",
    "architecture",
    "architecture_names",
    "build_model",
    "detect_rope_mode",
    "register_model",
]
