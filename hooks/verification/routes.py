"""Find other routes between tokens inside a block, such as a state-space or convolution branch next to attention.

All edges from a source to other tokens are cut, the source is changed at the block's input, and the other tokens are
compared.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from emg_lens.hooks.hook_points import probing
from emg_lens.hooks.verification.influence import LayerCheck, LayerFacts, largest_change, rounding
from emg_lens.hooks.verification.module_replay import Replay, output_of


class BlockRoutes:
    """Search for routes between tokens, other than attention edges, in the block around one attention module.

    `candidates`: modules that contain the attention directly; the outermost one that runs is the block.
    """

    def __init__(self, model: nn.Module, attention: Replay) -> None:
        self.model, self.attention = model, attention
        whole = (model, getattr(model, "original_model", None))
        holders = [m for m in model.modules() if any(child is attention.module for child in m.children())]
        self.candidates = [
            Replay(holder, stream_only=True) for holder in holders if not any(holder is one for one in whole)
        ]

    @property
    def block(self) -> Replay | None:
        """The outermost candidate that has run."""
        return next((replay for replay in self.candidates if replay.output is not None), None)

    def find(self, check: LayerCheck, facts: LayerFacts) -> str | None:
        """Return the module through which a token influences others after its edges were cut; None if there is none."""
        block, source = self.block, check.source
        variants = [way for way, reason in facts.refusals.items() if reason is None and way[0] != "pattern"]
        if self.attention.cross or not check.last or not variants or block is None or block.n_dest != facts.n_dest:
            return None
        mask = torch.zeros_like(check.mask)
        mask[:, :, source] = True
        mask[:, source, source] = False
        with check.cut(*variants[0], mask, fuses=facts.fuses):
            still, kept = _run(block)
            changed, moved = _run(block, source)
        if still is None or changed is None or not _reaches(still, changed, source, 0.0):
            return None
        # A branch may be small compared with the residual stream, so the change of each part is compared with the size
        # of this part.
        reached = [part for part in moved if part in kept and _reaches(kept[part], moved[part], source)]
        if not reached and not _reaches(still, changed, source):
            return None
        path = next(path for path, module in self.model.named_modules() if module is block.module)
        return f"{path}.{reached[0]}" if reached else path


def _run(block: Replay, *moved: int) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Return the output of the block and of its parts, in the order in which they ran."""
    parts: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: Any, result: Any) -> None:  # noqa: ARG001
        rows = block.rows(output_of(result))
        if rows is not None and probing.get():
            parts.setdefault(name, rows)

    with ExitStack() as stack:
        for name, part in block.module.named_children():
            stack.callback(part.register_forward_hook(partial(keep, name)).remove)
        return block.run(moved), parts


def _reaches(before: Tensor, after: Tensor, source: int, noise: float | None = None) -> bool:
    """Return whether a token other than the source changes by more than rounding."""
    if before.shape != after.shape:
        return False
    change = largest_change(after, before)
    change[source] = 0
    return bool(change.max() > (rounding(before) if noise is None else noise))
