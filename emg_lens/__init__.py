"""Attention-edge ablation and circuit inspection for multimodal biosignal encoders, as a TransformerLens plugin.

Everything a user needs by name is here, imported from where it lives on first use, so that `import emg_lens` costs
nothing and reading data never loads TransformerLens.
"""

from typing import TYPE_CHECKING

from emg_lens.lazy import make_lazy

if TYPE_CHECKING:  # what editors and type checkers see; tests hold it equal to `_HOMES`
    from emg_lens import analysis, data, hooks, models, studies, training
    from emg_lens.analysis.attention_view import AttentionView, attention_view
    from emg_lens.analysis.patterns import modality_mass
    from emg_lens.analysis.reach import reach
    from emg_lens.config import EncoderConfig
    from emg_lens.data import Recording, TrialSet, load_dataset, load_trials, preprocess
    from emg_lens.encoder import HookedBiosignalEncoder
    from emg_lens.hooks import (
        EdgeSet,
        cross_modal,
        cut,
        cut_mlp,
        cutting,
        every,
        flow,
        lag,
        none,
        parse_edges,
        positions,
        replace,
        same_channel,
        same_patch,
        self_edges,
        unimodal,
    )
    from emg_lens.layout import TokenLayout
    from emg_lens.models.isonet import IsoNet, IsoNetConfig
    from emg_lens.studies.conditions import Condition, head_masks, layer_masks
    from emg_lens.studies.spec import Study
    from emg_lens.studies.sweep import SweepResult, audit, sweep
    from emg_lens.training.fitting import fit
    from emg_lens.training.recipe import TrainingRecipe

_PACKAGES = ("analysis", "data", "hooks", "models", "studies", "training")
_HOMES = {
    "emg_lens.analysis.attention_view": ("AttentionView", "attention_view"),
    "emg_lens.analysis.patterns": ("modality_mass",),
    "emg_lens.analysis.reach": ("reach",),
    "emg_lens.config": ("EncoderConfig",),
    "emg_lens.data": ("Recording", "TrialSet", "load_dataset", "load_trials", "preprocess"),
    "emg_lens.encoder": ("HookedBiosignalEncoder",),
    "emg_lens.hooks": (
        "EdgeSet",
        "cross_modal",
        "cut",
        "cut_mlp",
        "cutting",
        "every",
        "flow",
        "lag",
        "none",
        "parse_edges",
        "positions",
        "replace",
        "same_channel",
        "same_patch",
        "self_edges",
        "unimodal",
    ),
    "emg_lens.layout": ("TokenLayout",),
    "emg_lens.models.isonet": ("IsoNet", "IsoNetConfig"),
    "emg_lens.studies.conditions": ("Condition", "head_masks", "layer_masks"),
    "emg_lens.studies.spec": ("Study",),
    "emg_lens.studies.sweep": ("SweepResult", "audit", "sweep"),
    "emg_lens.training.fitting": ("fit",),
    "emg_lens.training.recipe": ("TrainingRecipe",),
}

__all__ = [
    "AttentionView",
    "Condition",
    "EdgeSet",
    "EncoderConfig",
    "HookedBiosignalEncoder",
    "IsoNet",
    "IsoNetConfig",
    "Recording",
    "Study",
    "SweepResult",
    "TokenLayout",
    "TrainingRecipe",
    "TrialSet",
    "analysis",
    "attention_view",
    "audit",
    "cross_modal",
    "cut",
    "cut_mlp",
    "cutting",
    "data",
    "every",
    "fit",
    "flow",
    "head_masks",
    "hooks",
    "lag",
    "layer_masks",
    "load_dataset",
    "load_trials",
    "modality_mass",
    "models",
    "none",
    "parse_edges",
    "positions",
    "preprocess",
    "reach",
    "replace",
    "same_channel",
    "same_patch",
    "self_edges",
    "studies",
    "sweep",
    "training",
    "unimodal",
]

make_lazy(__name__, _HOMES, _PACKAGES)
