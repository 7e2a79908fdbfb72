from .ablations import compare_ablations
from .attention_views import AttentionView, attention_view
from .attribution.method import AttributionMethod, EdgeMethod
from .attribution.methods import METHODS
from .attribution.question import Question
from .attribution.result import Attribution
from .attribution.run import attribute
from .circuits.circuit import Circuit
from .circuits.search import find_circuit
from .component_effects import direct_effects
from .controls import random_edges, superset_ablations, with_cls_path_closed
from .cost import forward_flops, model_costs
from .deployment import profile
from .fit_analysis import FIT_ANALYSES, FitAnalysis
from .ground_truth.benchmark import benchmark_attribution
from .ground_truth.compiled import CompiledTask, compiled_encoder
from .ground_truth.trained import TrainedTask, trained_encoder
from .path_patching import patch_paths
from .patterns import modality_mass
from .readout import neighbour_fractions, readout_map, readout_vectors
from .reconstruction import gap_curve, masked_errors, reconstruct
from .reconstruction_figures import plot_gap_curve, plot_reconstruction
from .shift import activation_shift
from .quantisation.edge_audit import quantised_edges
from .quantisation.integer_softmax import IntegerSoftmax
from .quantisation.quantised_model import Quantisation, quantised

__all__ = [
    "FIT_ANALYSES",
    "METHODS",
    "Attribution",
    "AttributionMethod",
    "Circuit",
    "TrainedTask",
    "benchmark_attribution",
    "trained_encoder",
    "CompiledTask",
    "EdgeMethod",
    "Question",
    "attribute",
    "AttentionView",
    "FitAnalysis",
    "activation_shift",
    "attention_view",
    "compare_ablations",
    "direct_effects",
    "patch_paths",
    "compiled_encoder",
    "find_circuit",
    "forward_flops",
    "gap_curve",
    "superset_ablations",
    "masked_errors",
    "modality_mass",
    "IntegerSoftmax",
    "Quantisation",
    "model_costs",
    "neighbour_fractions",
    "plot_gap_curve",
    "plot_reconstruction",
    "random_edges",
    "readout_map",
    "readout_vectors",
    "reconstruct",
    "with_cls_path_closed",
]
    "profile",
    "quantised",
    "quantised_edges",
