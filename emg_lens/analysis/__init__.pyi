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
from .event_locked import EventEdges, event_edges_mask, event_locked_scores
from .fit_analysis import FIT_ANALYSES, FitAnalysis
from .ground_truth.benchmark import benchmark_attribution
from .ground_truth.compiled import CompiledTask, compiled_encoder
from .ground_truth.trained import TrainedTask, trained_encoder
from .model_checks.augmentation import check_augmentation
from .model_checks.check_report import CheckReport
from .model_checks.checking import MODEL_CHECKS, ModelCheck, check_model
from .onnx_files import OnnxExport, export_onnx
from .path_patching import patch_paths
from .patterns import modality_mass
from .quantisation.edge_audit import quantised_edges
from .quantisation.integer_softmax import IntegerSoftmax
from .quantisation.quantised_model import Quantisation, quantised
from .readout import neighbour_fractions, readout_map, readout_vectors
from .reconstruction import gap_curve, masked_errors, reconstruct
from .reconstruction_figures import plot_gap_curve, plot_reconstruction
from .shift import activation_shift

__all__ = [
    "FIT_ANALYSES",
    "METHODS",
    "MODEL_CHECKS",
    "AttentionView",
    "Attribution",
    "AttributionMethod",
    "CheckReport",
    "Circuit",
    "CompiledTask",
    "EdgeMethod",
    "EventEdges",
    "FitAnalysis",
    "IntegerSoftmax",
    "ModelCheck",
    "OnnxExport",
    "Quantisation",
    "Question",
    "TrainedTask",
    "activation_shift",
    "attention_view",
    "attribute",
    "benchmark_attribution",
    "check_augmentation",
    "check_model",
    "compare_ablations",
    "compiled_encoder",
    "direct_effects",
    "event_edges_mask",
    "event_locked_scores",
    "export_onnx",
    "find_circuit",
    "forward_flops",
    "gap_curve",
    "masked_errors",
    "modality_mass",
    "model_costs",
    "neighbour_fractions",
    "patch_paths",
    "plot_gap_curve",
    "plot_reconstruction",
    "profile",
    "quantised",
    "quantised_edges",
    "random_edges",
    "readout_map",
    "readout_vectors",
    "reconstruct",
    "superset_ablations",
    "trained_encoder",
    "with_cls_path_closed",
]
