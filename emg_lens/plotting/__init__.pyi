from .boxes import plot_boxes
from .circuits import plot_circuit, plot_circuit_rings
from .curves import plot_curves
from .edge_maps import plot_edges, plot_flow, plot_token_map
from .layer_sweeps import plot_layer_sweep
from .matrices import plot_confusion, plot_heads, plot_patching
from .saving import save_figure
from .score_bars import plot_bars
from .style import modality_colours, plot_style

__all__ = [
    "modality_colours",
    "plot_bars",
    "plot_boxes",
    "plot_circuit",
    "plot_circuit_rings",
    "plot_confusion",
    "plot_curves",
    "plot_edges",
    "plot_flow",
    "plot_heads",
    "plot_layer_sweep",
    "plot_patching",
    "plot_style",
    "plot_token_map",
    "save_figure",
]
