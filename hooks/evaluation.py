"""Evaluation mode, and forwards without torch.compile, inside a context."""

import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from emg_lens.hooks.threads import LOCK

_evaluated: "weakref.WeakKeyDictionary[nn.Module, int]" = weakref.WeakKeyDictionary()
"""Number of open contexts of `evaluating` for each part of a model, in all threads."""
_to_train: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Parts that are in training mode again after their last context."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode inside the context.

    When the last such context of any thread ends, each part of the model has its own mode again.
    """
    roots = (model, getattr(model, "original_model", None))  # a bridge does not register all parts of its model
    parts = {part for root in roots if isinstance(root, nn.Module) for part in root.modules()}
    with LOCK:
        for part in parts:
            _evaluated[part] = _evaluated.get(part, 0) + 1
            if part.training:
                _to_train.add(part)
        model.eval()
    try:
        yield
    finally:
        with LOCK:
            for part in parts:
                _evaluated[part] -= 1
                if not _evaluated[part]:
                    del _evaluated[part]
                    if part in _to_train:
                        _to_train.discard(part)
                        part.training = True


def has_active_dropout(model: nn.Module) -> bool:
    """Return whether a part of a model is in training mode and drops values at random.

    Rates are recognised by their names: attributes of a part, or of its `cfg`, with `drop` in the name, and `p` of a
    class with `Drop` in its name.
    """
    return any(
        isinstance(rate, float) and rate > 0
        for part in model.modules()
        if part.training
        for name, rate in [*vars(part).items(), *getattr(getattr(part, "cfg", None), "__dict__", {}).items()]
        if "drop" in name.lower() or (name == "p" and "drop" in type(part).__name__.lower())
    )


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
