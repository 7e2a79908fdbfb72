"""How far a cut reaches: the context and nothing after it.

Two things carry attention modules beyond the context in which they are cut. A copy made inside takes the cut along
and is never given back. Activation checkpointing runs the forward a second time, in the backward pass; after the
context that second run would be an uncut one, and the gradients those of no model at all.
"""

import sys
from typing import Any, Literal

import torch

from emg_lens.hooks.hook_points import DeadHookError, probing

CHECKPOINT = "torch.utils.checkpoint"
RECOMPUTING = {"backward", "unpack_hook", "recompute_fn"}
"""Functions of torch's checkpointing under which a forward is a second one."""


class ContextGuard:
    """Counts the forwards of attention inside a context, and does not let itself be copied while it is open.

    It stands on every attention module as a forward pre-hook, so whatever copies a module meets it.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.open = True
        self.is_recomputed = checkpointed_run() is not None  # opened in a checkpointed function, which opens it again
        self.runs = self.checkpointed = self.recomputed = 0

    def enter_attention(self, *_: object) -> None:
        """Note that some attention layer of the model runs (a torch forward pre-hook)."""
        if probing.get():
            return
        self.runs += 1
        run = checkpointed_run()
        self.checkpointed += run == "first"
        self.recomputed += run == "second"

    def close(self) -> None:
        """The context is left: copies are harmless."""
        self.open = False

    def verify(self) -> None:
        """Confirm that everything that will run for this context has run.

        Raises:
            DeadHookError: A checkpointed forward has not been recomputed yet.
        """
        if self.checkpointed > self.recomputed and not self.is_recomputed:
            raise DeadHookError(
                f"{self.what}: {self.checkpointed} forwards of attention ran under activation checkpointing and"
                f" {self.recomputed} were recomputed inside the context; backward() after it would recompute them"
                " uncut: call backward() inside the context, or switch checkpointing off"
            )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What copy, deepcopy and pickle ask for."""
        if self.open:
            raise DeadHookError(
                f"the model was copied or pickled inside {self.what}: the copy would stay cut for ever; copy it before"
                " the context or after it"
            )
        return super().__reduce_ex__(protocol)


def checkpointed_run() -> Literal["first", "second"] | None:
    """Which run of a checkpointed forward that will be, or is being, differentiated this is; None: of none."""
    frame, first = sys._getframe(1), False
    while frame is not None:
        if frame.f_globals.get("__name__") == CHECKPOINT:
            name = frame.f_code.co_name
            if name in RECOMPUTING:
                return "second"
            # With use_reentrant=True it runs without gradients, and is recomputed if its arguments need theirs.
            inputs = frame.f_locals.get("args", ()) if name == "forward" else ()
            first = first or torch.is_grad_enabled() or any(getattr(given, "requires_grad", False) for given in inputs)
        frame = frame.f_back
    return "first" if first else None
