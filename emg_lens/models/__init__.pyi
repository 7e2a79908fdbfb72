from .encoder import HookedBiosignalEncoder
from .isonet import IsoNet, IsoNetConfig
from .registry import Architecture, architecture, architecture_names, build_model, register_model

__all__ = [
    "Architecture",
    "HookedBiosignalEncoder",
    "IsoNet",
    "IsoNetConfig",
    "architecture",
    "architecture_names",
    "build_model",
    "register_model",
]
