"""Ways from token to token that lead past attention, inside a block: a state-space or convolution branch beside it.

An edge that is cut there is cut in attention only. Such a branch is no edge and cannot be cut; it can be found and
named: with every edge of a source to other tokens cut, it is changed at the block's input, and the others are watched.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from emg_lens.hooks.deletion import Deletion
from emg_lens.hooks.verification.influence import LayerCheck, LayerFacts, largest_change, rounding
from emg_lens.hooks.verification.installed_point import ObservedAttention, installed
from emg_lens.hooks.verification.module_replay import Replay, output_of


class BlockRoutes:
    """The block around one attention module.

    Attributes:
        candidates: Modules that hold the attention directly; the outermost one that runs is the block.
    """

    def __init__(self, model: nn.Module, attention: Replay) -> None:
        self.model, self.attention = model, attention
        whole = (model, getattr(model, "original_model", None))
        holders = [m for m in model.modules() if any(child is attention.module for child in m.children())]
        self.candidates = [
            Replay(holder, stream_only=True) for holder in holders if not any(holder is one for one in whole)
        ]

    def find(self, trial: LayerCheck, facts: LayerFacts) -> str | None:
        """Name of the module in the block through which a token that nobody attends to still reaches others."""
        blocks = [replay for replay in self.candidates if replay.output is not None]
        ways = [way for way, reason in facts.refusals.items() if reason is None and way[0] != "pattern"]
        if self.attention.cross or not trial.last or not ways or not blocks or blocks[0].n_dest != facts.n_dest:
            return None
        (name, strict), block, source = ways[0], blocks[0], trial.source
        mask = torch.zeros_like(trial.mask)
        mask[:, :, source] = True
        mask[:, source, source] = False
        n_sinks = facts.n_sinks if name == "attention_mask" else 0
        with installed(
            self.attention.module, name, ObservedAttention(Deletion(mask, "the attention", n_sinks), strict)
        ):
            still, kept = _run(block)
            changed, moved = _run(block, source)
        if still is None or changed is None or not _reaches(still, changed, source, 0.0):
            return None
        # A branch may weigh little beside the residual stream: each part is held to its own size.
        reached = [part for part in moved if part in kept and _reaches(kept[part], moved[part], source)]
        if not reached and not _reaches(still, changed, source):
            return None
        path = next(path for path, module in self.model.named_modules() if module is block.module)
        return f"{path}.{reached[0]}" if reached else path


def _run(block: Replay, *moved: int) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Output of the block and of its parts, in the order in which they ran."""
    parts: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: Any, result: Any) -> None:  # noqa: ARG001
        rows = block.rows(output_of(result))
        if rows is not None:
            parts.setdefault(name, rows)

    with ExitStack() as stack:
        for name, part in block.module.named_children():
            stack.callback(part.register_forward_hook(partial(keep, name)).remove)
        return block.run(moved), parts


def _reaches(before: Tensor, after: Tensor, source: int, noise: float | None = None) -> bool:
    """Whether another token than the source is changed, by more than rounding."""
    if before.shape != after.shape:
        return False
    change = largest_change(after, before)
    change[source] = 0
    return bool(change.max() > (rounding(before) if noise is None else noise))
