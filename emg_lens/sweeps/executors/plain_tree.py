"""Run the tree of a plan through the model's own blocks: layers in common are computed once."""

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
    """Depth-first walk over a root on one micro-batch, for encoders with any kind of block.

    Every node is one forward of its block. A cut is a hook at `hook_attn_scores` of the block; that this hook acts was
    tested when the intervention point was probed. All threads share hooks, so only one thread may `run` it.
    """

    def __init__(self, model: HookedBiosignalEncoder) -> None:
        self.model, self.blocks = model, list(model.blocks)[: model.cfg.n_layers]
        self.paths = find_intervention_point(model, model.layout).paths
        self.rows_read = (1,) if reads_first_row_only(model) else ()

    def run(self, root: Root, x: Float[Tensor, "trial channel time"], keep: Keep, done: Rows = frozenset()) -> None:
        """Compute the outputs of every distinct condition of a root that is not done."""
        self._descend(root.tree, self.model.residual_in(x), 0, keep, done)

    def _descend(self, node: Node, resid: Tensor, depth: int, keep: Keep, done: Rows) -> None:
        """Run block `depth` for the children of `node`; `resid` is the output of `node`."""
        children, last = node.unfinished(done), depth == len(self.blocks) - 1
        kept = [_Projections(block) for block in blocks_of(self.blocks[depth])]
        for child in children:
            with ExitStack() as shared:
                for projections in kept if len(children) > 1 else ():
                    shared.enter_context(projections.shared())
                # A block may write into its input.
                after = self._block(depth, child.mask, resid.clone(), *self.rows_read * last)
            if not last:
                self._descend(child, after, depth + 1, keep, done)
            elif child.leaf is not None:
                keep({child.leaf: self.model.head(self.model.ln_final(after))})

    def _block(self, depth: int, mask: Mask | None, resid: Tensor, *n_dest: int) -> Tensor:
        """Run a block with the edges of a mask cut."""
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
                what = "a cut edge still has attention" if one.leaks else "the cut was not applied"
                raise DeadHookError(f"block {depth} of {type(self.model).__name__}: {what} at {one.path}")
        return after

    def _apart(self, depth: int, cut: Bool[Tensor, "head dest src"]) -> Iterator[tuple[str, Tensor]]:
        """Yield the path of every attention module of a layer, and its part of the mask."""
        if not self.model.layout.stages:
            yield self.paths[depth], cut
        for stage in self.model.layout.stages:
            if depth in stage.layers:
                yield self.paths[StageLayer(depth, stage.name)], cut[stage.edges[1:]]


class _AttentionCut:
    """The cut of one attention module: a hook on its scores, and one that checks the pattern."""

    def __init__(self, path: str, cut: Bool[Tensor, "head dest src"]) -> None:
        self.path, self.cut = path, cut
        self.leaks: list[Tensor] = []

    def cut_edges(self, scores: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        return scores.masked_fill(_of_rows(self.cut, scores), -torch.inf)

    def note_leak(self, pattern: Tensor, hook: Any) -> None:  # noqa: ARG002
        self.leaks.append((pattern * _of_rows(self.cut, pattern)).abs().amax())


def _of_rows(cut: Bool[Tensor, "head dest src"], attention: Tensor) -> Bool[Tensor, "head rows src"]:
    """Return the mask of the rows that a block computes."""
    return cut[:, : attention.shape[-2]]


class _Projections:
    """Queries, keys and values of a block, computed once for siblings with the same input."""

    def __init__(self, block: nn.Module) -> None:
        self.attention = getattr(block, "attn", None)
        self.inputs: tuple[Tensor | None, ...] = ()
        self.made: tuple[Tensor, ...] = ()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Replace the projection of the block's attention inside the context, around one forward of the block."""
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
        return tuple(made.clone() for made in self.made)  # attention may write into them


def _all_equal(before: tuple[Tensor | None, ...], now: tuple[Tensor | None, ...]) -> bool:
    return len(before) == len(now) and all(
        a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(before, now, strict=True)
    )
