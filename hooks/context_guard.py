"""Limit a cut to its context.

Two operations would extend or lose a cut: a copy of the model that is made inside the context would stay cut, and
activation checkpointing runs the forward a second time, in the backward pass, without the cut if the context is over.
"""

import sys
from collections.abc import Callable
from typing import Any, Literal

import torch

from emg_lens.hooks.hook_points import DeadHookError, probing

CHECKPOINT = "torch.utils.checkpoint"
RECOMPUTING = {"backward", "unpack_hook", "recompute_fn"}
"""Functions of torch's checkpointing that run the forward again."""


class ContextGuard:
    """Counts the forwards of attention inside a context, and refuses to be copied while the context is open.

    It is a forward pre-hook of every attention module, so a copy of a module would copy it too.
    """

    def __init__(self, what: str, in_own_thread: Callable[[], bool]) -> None:
        self.what, self.in_own_thread = what, in_own_thread
        self.open = True
        # A checkpointed function that opens this context opens it again when it is recomputed.
        self.is_recomputed = checkpointed_run() is not None
        self.runs = self.checkpointed = self.recomputed = self.runs_elsewhere = 0

    def enter_attention(self, *_: object) -> None:
        """Count a run of an attention layer (a torch forward pre-hook)."""
        if probing.get():
            return
        if not self.in_own_thread():
            self.runs_elsewhere += 1
            return
        self.runs += 1
        run = checkpointed_run()
        self.checkpointed += run == "first"
        self.recomputed += run == "second"

    def verify(self) -> None:
        """Verify that the model ran, and that every checkpointed forward was recomputed inside the context."""
        if self.runs_elsewhere and not self.runs:
            raise DeadHookError(
                f"{self.what}: {self.runs_elsewhere} forwards of attention ran in other threads, where nothing is cut;"
                " call the model in the thread that entered the context"
            )
        if not self.runs:
            raise DeadHookError(f"the model was not run inside {self.what}, so nothing was cut; call it in the context")
        if self.checkpointed > self.recomputed and not self.is_recomputed:
            raise DeadHookError(
                f"{self.what}: {self.checkpointed} forwards of attention ran with activation checkpointing, and"
                f" {self.recomputed} were recomputed inside the context. A backward() after the context would recompute"
                " the others without the cut: call backward() inside the context, or switch checkpointing off"
            )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse copy, deepcopy and pickle while the context is open."""
        if self.open:
            raise DeadHookError(
                f"the model was copied or pickled inside {self.what}, so the copy would stay cut; copy it before or"
                " after the context"
            )
        return super().__reduce_ex__(protocol)


def checkpointed_run() -> Literal["first", "second"] | None:
    """Return whether this is the first or second run of a checkpointed forward; None without checkpointing."""
    frame, first = sys._getframe(1), False
    while frame is not None:
        if frame.f_globals.get("__name__") == CHECKPOINT:
            name = frame.f_code.co_name
            if name in RECOMPUTING:
                return "second"
            # With use_reentrant=True it runs without gradients, and is recomputed if its arguments need gradients.
            inputs = frame.f_locals.get("args", ()) if name == "forward" else ()
            first = first or torch.is_grad_enabled() or any(getattr(given, "requires_grad", False) for given in inputs)
        frame = frame.f_back
    return "first" if first else None
