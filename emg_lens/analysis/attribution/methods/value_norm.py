"""Norm of what each edge writes (Kobayashi et al. 2020)."""

import torch
from torch import Tensor

from emg_lens.analysis.attribution.differentiation import checked_paths, record
from emg_lens.analysis.attribution.method import METHODS, EdgeMethod
from emg_lens.analysis.attribution.question import PerPlace, Question
from emg_lens.hooks import DeadHookError
from emg_lens.hooks.hook_points import PATTERN, at_path

VALUES = "hook_v"


class ValueNorm(EdgeMethod):
    """Score each edge with the norm of the vector that it writes into the residual stream: ‖A V W_O‖."""

    quantity = "norm of the written vector"
    cannot_see = (
        "It cannot see whether anything reads what an edge writes: a large vector that no later layer reads gets a high"
        " score."
    )

    def edge_scores(self, question: Question, x: Tensor, y: Tensor) -> PerPlace:  # noqa: ARG002
        """Compute the norms for some trials."""
        model, paths = question.model, checked_paths(question)
        for path in paths.values():
            if f"{path}.{VALUES}" not in model.hook_dict or not hasattr(at_path(model, path), "W_O"):  # pyright: ignore
                raise DeadHookError(
                    f"{type(model).__name__} has no {path}.{VALUES} or no {path}.W_O, so the values of single edges are"
                    " unknown; use a method without them, for example first_order"
                )
        recorded, scores = record(question, x, [VALUES]), {}
        for place, path in paths.items():
            pattern, values = recorded[f"{path}.{PATTERN}"], recorded[f"{path}.{VALUES}"]
            values = values.repeat_interleave(pattern.shape[1] // values.shape[2], dim=2)
            written = torch.einsum("bjhe,hed->bhjd", values, at_path(model, path).W_O.detach())
            scores[place] = pattern * written.norm(dim=-1)[:, :, None]
        return scores


METHODS.add("value_norm", ValueNorm())
