from .attention_views import AttentionView, attention_view
from .controls import larger_cuts, random_edges, with_detour_closed
from .patterns import modality_mass

__all__ = ["AttentionView", "attention_view", "larger_cuts", "modality_mass", "random_edges", "with_detour_closed"]
