"""Small models and trials for the tests of attribution."""

from typing import Any

import torch

from emg_lens import build_model
from emg_lens.analysis.attribution.question import Question, make_question
from emg_lens.hooks import self_edges
from emg_lens.hooks.hook_points import attention_paths
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder

DATA = {"modalities": {"emg": 2, "acc": 2}, "n_samples": 8, "n_classes": 3}
SIZES = {"d_model": 16, "n_heads": 2, "d_mlp": 16}


def spread(model: Any) -> Any:
    """Make the attention of a model less even, so that edges differ."""
    with torch.no_grad():
        for path in attention_paths(model).values():
            attention = model.get_submodule(path)
            attention.W_Q *= 2
            attention.b_V.normal_()
    return model.eval()


def isonet(**settings: Any) -> Any:
    """IsoNet with two layers, post-LN."""
    torch.manual_seed(0)
    return spread(build_model("isonet", **DATA | SIZES | {"n_layers": 2} | settings))


def smooth(**settings: Any) -> Any:
    """A pre-LN encoder with GELU."""
    torch.manual_seed(1)
    return spread(
        HookedBiosignalEncoder(
            EncoderConfig(**DATA, **SIZES, **{"n_layers": 2, "norm": "pre", "act_fn": "gelu"} | settings)
        )
    )


def hierarchical() -> Any:
    """Two layers in each modality's stage, two in the fusion stage, two patches for each channel."""
    torch.manual_seed(0)
    settings = {"n_layers": 4, "n_fusion_layers": 2, "patch_samples": 4}
    return spread(build_model("hierarchical", **DATA, **SIZES, **settings))


def trials(model: Any, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, *model.example_input(1).shape[1:], generator=generator)
    return x, torch.arange(n) % 3


def question_of(model: Any, n: int = 6, by: Any = "head", **options: Any) -> Question:
    """The question of all edges but self-edges."""
    x, y = trials(model, n)
    return make_question(model, x, y, **{"by": by, "metric": "margin", "floor": self_edges(), "layout": None} | options)


def margin_of(model: Any, x: torch.Tensor, y: torch.Tensor, hooks: Any = ()) -> torch.Tensor:
    """The margin, written with a loop over classes."""
    logits = model.run_with_hooks(x, fwd_hooks=list(hooks))
    others = [max(row[c] for c in range(len(row)) if c != label) for row, label in zip(logits, y, strict=True)]
    return torch.stack([row[label] - other for row, label, other in zip(logits, y, others, strict=True)])
