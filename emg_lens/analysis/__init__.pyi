from .attention_views import AttentionView, attention_view
from .patterns import modality_mass

__all__ = ["AttentionView", "attention_view", "modality_mass"]
