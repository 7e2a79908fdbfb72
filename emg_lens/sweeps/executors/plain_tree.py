"""The tree of a plan through the model's own blocks: a common prefix is computed once, no arithmetic is copied."""

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.hooks.anatomy import PATTERN, SCORES, DeadHookError, at_path, listening
from emg_lens.hooks.deletion import Deletion
from emg_lens.hooks.probe import find_lever
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.plan import Keep, Mask, Node, Root, Rows


class PlainTree:
    """Depth-first walk over a root on one micro-batch, for our encoders whatever their blocks do.

    A cut is a hook at the block's `hook_attn_scores`, which was found to act when the lever was probed.
    """

    def __init__(self, model: HookedBiosignalEncoder) -> None:
        self.model, self.blocks = model, list(model.blocks)[: model.cfg.n_layers]
        self.lever = find_lever(model, model.layout)

    def run(self, root: Root, x: Float[Tensor, "trial channel time"], keep: Keep, done: Rows = frozenset()) -> None:
        """Logits of every distinct condition of a root that is not done."""
        self._descend(root.tree, self.model.residual_in(x), 0, keep, done)

    def _descend(self, node: Node, resid: Tensor, depth: int, keep: Keep, done: Rows) -> None:
        """Run the children of `node`, whose output is `resid`, in block `depth`."""
        for child in node.unfinished(done):
            after = self._block(depth, child.mask, resid.clone())  # a block may write into what it is given
            if depth < len(self.blocks) - 1:
                self._descend(child, after, depth + 1, keep, done)
            elif child.leaf is not None:
                keep({child.leaf: self.model.head(self.model.ln_final(after))})

    def _block(self, depth: int, mask: Mask | None, resid: Tensor) -> Tensor:
        """A block's own forward, with the edges of a mask cut.

        Raises:
            DeadHookError: The hook did not fire, or a cut edge carries attention.
        """
        if mask is None:
            return self.blocks[depth](resid)
        path = self.lever.paths[depth]
        deletion = Deletion(mask.tensor(), f"{path}.{SCORES}")
        leaks: list[Tensor] = []

        def cut(scores: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            return deletion.scores_strict(scores) if self.lever.strict else deletion.scores(scores)

        def check(pattern: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            pattern = deletion.empty_rows(pattern) if self.lever.strict else pattern
            leaks.append((pattern * deletion.on(pattern)).abs().amax())
            return pattern

        with ExitStack() as stack:
            stack.enter_context(listening(at_path(self.model, f"{path}.{SCORES}"), cut))
            stack.enter_context(listening(at_path(self.model, f"{path}.{PATTERN}"), check))
            after = self.blocks[depth](resid)
        if not leaks or not bool(torch.stack(leaks).amax() == 0):
            what = "a cut edge still carries attention" if leaks else "the cut never took place"
            raise DeadHookError(f"block {depth} of {type(self.model).__name__}: {what} at {path}")
        return after
