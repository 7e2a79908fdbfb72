from .attention_views import AttentionView, attention_view
from .controls import larger_cuts, random_edges, with_detour_closed
from .patterns import modality_mass
from .shift import activation_shift

__all__ = [
    "AttentionView",
    "activation_shift",
    "attention_view",
    "larger_cuts",
    "modality_mass",
    "random_edges",
    "with_detour_closed",
]
