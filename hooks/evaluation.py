"""Evaluation mode, and forwards without torch.compile, inside a context."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from emg_lens.hooks.threads import LOCK


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


_uncompiled: list[ExitStack] = []
"""One entry for each open context of `without_compilation`; the last one to close restores torch's setting."""


@contextmanager
def without_compilation() -> Iterator[None]:
    """Run compiled models without their compiled code, which does not contain hooks that are added later."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled
        yield
        return
    with LOCK:
        setting = _uncompiled[0] if _uncompiled else ExitStack()
        if not _uncompiled:
            setting.enter_context(torch.compiler.set_stance("force_eager"))
        _uncompiled.append(setting)
    try:
        yield
    finally:
        with LOCK:
            _uncompiled.pop()
            if not _uncompiled:
                setting.close()
