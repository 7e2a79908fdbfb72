"""Check that training reaches every parameter."""

from collections.abc import Mapping

import torch
from torch import Tensor

from emg_lens.analysis.model_checks.check_report import Finding, judged, not_applicable
from emg_lens.analysis.model_checks.probed_model import ProbedModel

MOST_STEPS = 8
"""Training steps until every parameter must have changed: dropout can hide a part of the model in one step."""
LEARNING_RATE = 1e-3


def trained_parameters(probed: ProbedModel) -> Finding:
    """Does a training step change every parameter that is not frozen, and does the change last?"""
    model = probed.model
    named = dict(model.named_parameters())
    trained = {name: one for name, one in named.items() if one.requires_grad}
    frozen = [name for name in named if name not in trained]
    note = f"; {_described(frozen, named)} frozen (requires_grad=False)" if frozen else ""
    if not trained:
        return not_applicable(f"the model has no parameters to train{note}")
    with torch.enable_grad():
        torch.manual_seed(0)
        model.train()
        before = {name: one.detach().clone() for name, one in trained.items()}
        optimizer = torch.optim.Adam(trained.values(), lr=LEARNING_RATE)
        still, stepped, with_gradient = set(trained), set[str](), set[str]()
        for _ in range(MOST_STEPS):
            optimizer.zero_grad()
            loss = probed.training_loss()
            if not loss.requires_grad:
                break
            loss.backward()
            with_gradient |= {name for name in still if trained[name].grad is not None}
            optimizer.step()
            stepped |= {name for name in still if not torch.equal(trained[name], before[name])}
            with torch.no_grad():
                probed.training_loss()  # a forward that sets a parameter back
            still -= {name for name in still if not torch.equal(trained[name], before[name])}
            if not still:
                break
    if not still:
        return judged(True, 0, f"a training step changes each of {len(trained)} parameter tensors{note}")
    reasons = (
        ("without gradient", still - with_gradient),
        ("with a gradient of exactly zero", (still & with_gradient) - stepped),
        ("set back by the forward", still & stepped),
    )
    words = [f"{_described(sorted(names), named)} {reason}" for reason, names in reasons if names]
    return judged(False, len(still), f"training does not change {'; '.join(words)}{note}")


def _described(names: list[str], named: Mapping[str, Tensor], shown: int = 3) -> str:
    """Name some parameters, with the number of their values."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more} ({sum(named[name].numel() for name in names):,} values)"
