"""The tree of a plan through the model's own blocks: a common prefix is computed once, no arithmetic is copied."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from emg_lens.hooks.hook_points import PATTERN, SCORES, DeadHookError, StageLayer, at_path, attached_hook
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.models.attention import Attention
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.staged import blocks_of
from emg_lens.sweeps.plan import Keep, Mask, Node, Root, Rows
from emg_lens.sweeps.structure import reads_first_row_only


class PlainTree:
    """Depth-first walk over a root on one micro-batch, for our encoders whatever their blocks do.

    Every node is its block's own forward. A cut is a hook at the block's `hook_attn_scores`, which was found to act
    when the lever was probed. Hooks are everybody's: only one thread may `run` it.
    """

    def __init__(self, model: HookedBiosignalEncoder) -> None:
        self.model, self.blocks = model, list(model.blocks)[: model.cfg.n_layers]
        self.paths = find_intervention_point(model, model.layout).paths
        self.rows_read = (1,) if reads_first_row_only(model) else ()

    def run(self, root: Root, x: Float[Tensor, "trial channel time"], keep: Keep, done: Rows = frozenset()) -> None:
        """Logits of every distinct condition of a root that is not done."""
        self._descend(root.tree, self.model.residual_in(x), 0, keep, done)

    def _descend(self, node: Node, resid: Tensor, depth: int, keep: Keep, done: Rows) -> None:
        """Run the children of `node`, whose output is `resid`, in block `depth`."""
        children, last = node.unfinished(done), depth == len(self.blocks) - 1
        kept = [_Projections(block) for block in blocks_of(self.blocks[depth])]
        for child in children:
            with ExitStack() as shared:
                for projections in kept if len(children) > 1 else ():
                    shared.enter_context(projections.shared())
                # A block may write into what it is given.
                after = self._block(depth, child.mask, resid.clone(), *self.rows_read * last)
            if not last:
                self._descend(child, after, depth + 1, keep, done)
            elif child.leaf is not None:
                keep({child.leaf: self.model.head(self.model.ln_final(after))})

    def _block(self, depth: int, mask: Mask | None, resid: Tensor, *n_dest: int) -> Tensor:
        """A block's own forward, with the edges of a mask cut.

        Raises:
            DeadHookError: The hooks did not fire, or a cut edge carries attention.
        """
        if mask is None:
            return self.blocks[depth](resid, *n_dest)
        cut = mask.tensor().to(resid.device)
        cuts = [_AttentionCut(path, own) for path, own in self._apart(depth, cut) if own.any()]
        with ExitStack() as stack:
            for one in cuts:
                stack.enter_context(attached_hook(at_path(self.model, f"{one.path}.{SCORES}"), one.cut_edges))
                stack.enter_context(attached_hook(at_path(self.model, f"{one.path}.{PATTERN}"), one.note_leak))
            after = self.blocks[depth](resid, *n_dest)
        for one in cuts:
            if not one.leaks or any(bool(leak != 0) for leak in one.leaks):
                what = "a cut edge still carries attention" if one.leaks else "the cut never took place"
                raise DeadHookError(f"block {depth} of {type(self.model).__name__}: {what} at {one.path}")
        return after

    def _apart(self, depth: int, cut: Bool[Tensor, "head dest src"]) -> Iterator[tuple[str, Tensor]]:
        """Path and part of the mask of every attention in a layer."""
        if not self.model.layout.stages:
            yield self.paths[depth], cut
        for stage in self.model.layout.stages:
            if depth in stage.layers:
                yield self.paths[StageLayer(depth, stage.name)], cut[stage.edges[1:]]


class _AttentionCut:
    """The cut of one attention module: a hook on its scores, and one that looks at the pattern."""

    def __init__(self, path: str, cut: Bool[Tensor, "head dest src"]) -> None:
        self.path, self.cut = path, cut
        self.leaks: list[Tensor] = []

    def cut_edges(self, scores: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        return scores.masked_fill(_of_rows(self.cut, scores), -torch.inf)

    def note_leak(self, pattern: Tensor, hook: Any) -> None:  # noqa: ARG002
        self.leaks.append((pattern * _of_rows(self.cut, pattern)).abs().amax())


def _of_rows(cut: Bool[Tensor, "head dest src"], attention: Tensor) -> Bool[Tensor, "head rows src"]:
    """The mask of the rows that a block computes."""
    return cut[:, : attention.shape[-2]]


class _Projections:
    """Queries, keys and values of a block, made once for siblings: those of the same input are used again."""

    def __init__(self, block: nn.Module) -> None:
        self.attention = getattr(block, "attn", None)
        self.inputs: tuple[Tensor | None, ...] = ()
        self.made: tuple[Tensor, ...] = ()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside, the block's attention projects through `__call__`; only around a forward of this block."""
        attention = self.attention
        if not isinstance(attention, Attention) or "project" in vars(attention):
            yield
            return
        self.project: Callable[..., tuple[Tensor, ...]] = attention.project
        vars(attention)["project"] = self
        try:
            yield
        finally:
            del vars(attention)["project"]

    def __call__(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        if not _all_equal(self.inputs, inputs):
            self.inputs = tuple(given if given is None else given.clone() for given in inputs)
            self.made = self.project(*inputs)
        return tuple(made.clone() for made in self.made)  # what follows may write into them


def _all_equal(before: tuple[Tensor | None, ...], now: tuple[Tensor | None, ...]) -> bool:
    return len(before) == len(now) and all(
        a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(before, now, strict=True)
    )
