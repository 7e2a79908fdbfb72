from .encoder import HookedBiosignalEncoder
from .isonet import IsoNet, IsoNetConfig
from .multimodal_mlp import MultimodalMLP, MultimodalMLPConfig
from .registry import Architecture, architecture, architecture_names, build_model, register_model

__all__ = [
    "Architecture",
    "HookedBiosignalEncoder",
    "IsoNet",
    "IsoNetConfig",
    "MultimodalMLP",
    "MultimodalMLPConfig",
    "architecture",
    "architecture_names",
    "build_model",
    "register_model",
]
