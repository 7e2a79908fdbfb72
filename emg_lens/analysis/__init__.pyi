from .attention_views import AttentionView, attention_view
from .controls import larger_cuts, random_edges, with_detour_closed
from .patterns import modality_mass
from .reconstruction import gap_curve, masked_errors, reconstruct
from .reconstruction_figures import plot_gap_curve, plot_reconstruction
from .shift import activation_shift

__all__ = [
    "AttentionView",
    "activation_shift",
    "attention_view",
    "gap_curve",
    "larger_cuts",
    "masked_errors",
    "modality_mass",
    "plot_gap_curve",
    "plot_reconstruction",
    "random_edges",
    "reconstruct",
    "with_detour_closed",
]
