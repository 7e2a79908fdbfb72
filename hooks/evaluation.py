"""Evaluation mode inside a context."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode inside the context; on exit, each of its parts has its own mode again."""
    roots = (model, getattr(model, "original_model", None))  # a bridge does not register all parts of its model
    training = [part for root in roots if isinstance(root, nn.Module) for part in root.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
