from .encoder import HookedBiosignalEncoder
from .hierarchical import HierarchicalConfig, HierarchicalTransformer
from .isonet import IsoNet, IsoNetConfig
from .multimodal_mlp import MultimodalMLP, MultimodalMLPConfig
from .multimodal_transformer import MultimodalTransformer, MultimodalTransformerConfig
from .recurrent import LSTMGestures, LSTMGesturesConfig
from .registry import Architecture, architecture, architecture_names, build_model
from .streaming import SignalStream
from .tinymyo.config import TinyMyoConfig
from .tinymyo.encoder import TinyMyo
from .tinymyo.rope_detection import RopeDetection, detect_rope_mode
from .tinymyo.sequence import (
    SequenceConfig,
    SequenceEncoder,
    TinyMyoGestures,
    TinyMyoGesturesConfig,
    TinyMyoSpeech,
    TinyMyoSpeechConfig,
)
from .torch_modules import TorchModel

__all__ = [
    "Architecture",
    "HierarchicalConfig",
    "HierarchicalTransformer",
    "HookedBiosignalEncoder",
    "IsoNet",
    "IsoNetConfig",
    "LSTMGestures",
    "LSTMGesturesConfig",
    "MultimodalMLP",
    "MultimodalMLPConfig",
    "MultimodalTransformer",
    "MultimodalTransformerConfig",
    "RopeDetection",
    "SequenceConfig",
    "SequenceEncoder",
    "SignalStream",
    "TinyMyo",
    "TinyMyoConfig",
    "TinyMyoGestures",
    "TinyMyoGesturesConfig",
    "TinyMyoSpeech",
    "TinyMyoSpeechConfig",
    "TorchModel",
    "architecture",
    "architecture_names",
    "build_model",
    "detect_rope_mode",
]
