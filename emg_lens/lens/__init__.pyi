from .config import EncoderConfig, SignalConfig
from .signals import SignalModel

__all__ = ["EncoderConfig", "SignalConfig", "SignalModel"]
