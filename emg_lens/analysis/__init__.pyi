from .attention_views import AttentionView, attention_view
from .controls import larger_cuts, random_edges, with_detour_closed
from .cost import forward_flops, model_costs
from .patterns import modality_mass
from .readout import neighbour_shares, readout_map, readout_vectors
from .reconstruction import gap_curve, masked_errors, reconstruct
from .reconstruction_figures import plot_gap_curve, plot_reconstruction
from .shift import activation_shift

__all__ = [
    "AttentionView",
    "activation_shift",
    "attention_view",
    "forward_flops",
    "gap_curve",
    "larger_cuts",
    "masked_errors",
    "modality_mass",
    "model_costs",
    "neighbour_shares",
    "plot_gap_curve",
    "plot_reconstruction",
    "random_edges",
    "readout_map",
    "readout_vectors",
    "reconstruct",
    "with_detour_closed",
]
