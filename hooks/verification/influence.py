"""Whether a lever cuts in one layer: a small cut is tried on the attention module alone, and its influence measured.

A hook that fires is not a hook that acts, and a pattern that shows a zero is not an edge that is cut: another branch
of the module may read the source all the same. So the source token is changed at the module's input, and the output
at the destination must not move (docs/transformerlens.md §5).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.deletion import Deletion, allowed
from emg_lens.hooks.hook_points import DeadHookError
from emg_lens.hooks.verification.installed_point import NoInfluence, ObservedAttention, PointName, Refusal, installed
from emg_lens.hooks.verification.module_replay import Replay

TokenOutputs = Float[Tensor, "pos rest"]
MOST_SOURCES = 4
"""How many source tokens are tried until one moves another token."""
STRENGTHS = (2.0, 20.0, 200.0)
"""How strongly they are changed, in standard deviations: in half precision an even row rounds a light edge away."""


@dataclass(frozen=True)
class LayerFacts:
    """What is known of one layer's attention; holds nothing of the model.

    Attributes:
        n_dest: Positions that it writes.
        n_src: Positions that it reads.
        n_sinks: Columns of its softmax that are no tokens.
        forbidden: Edges that it never has, as far as the kernel shows.
        refusals: InterventionPoint, and whether it is strict -> why it does not cut here; None where it does.
        plain_softmax: Whether the pattern is the softmax of what `hook_attn_scores` shows.
    """

    n_dest: int
    n_src: int
    n_sinks: int
    forbidden: Bool[Tensor, "dest src"] | None
    refusals: dict[tuple[PointName, bool], str | None]
    plain_softmax: bool


class LayerCheck:
    """Tries levers on one layer's attention.

    The trial cut: the strongest edge of the last row, in all heads; every edge that the first row has; one edge of the
    second row, in the first head. All other rows must stay as they are.
    """

    def __init__(self, replay: Replay, n_heads: int, expected: Tensor | None) -> None:
        self.replay, self.n_heads, self.expected = replay, n_heads, expected
        self.last, self.source = replay.n_dest - 1, 0
        self.n_sinks, self.forbidden = 0, None
        self.of_kernel: TokenOutputs | None = None

    def facts(self) -> LayerFacts:
        """Everything about the layer.

        Raises:
            NoInfluence: No source moves its output.
            Refusal: Nothing can be found out about it.
        """
        if self.expected is None or not self.replay.n_dest:
            raise Refusal("its input holds no tensor [batch, pos, d_model], or it did not run in the probing forward")
        self._look()
        refusals: dict[tuple[PointName, bool], str | None] = {}
        refusals["attention_mask", True] = self._refusal("attention_mask", True)
        refusals["scores", False] = self._refusal("scores", False)
        refusals["scores", True] = self._refusal("scores", True) if refusals["scores", False] else None
        refusals["pattern", False] = "not tried, since the scores act"
        if refusals["scores", True]:
            refusals["pattern", False] = self._refusal("pattern", False)
        replay = self.replay
        return LayerFacts(replay.n_dest, replay.n_src, self.n_sinks, self.forbidden, refusals, self._is_plain_softmax())

    # --- the module as it is ------------------------------------------------------------------------------

    def _look(self) -> None:
        """The module untouched: what it gives, what it reads, which edge is worth a trial."""
        base, given = self.replay.run(), self.replay.rows(self.expected)
        if base is None or given is None:
            raise Refusal("its output has no position axis")
        self.base, self.noise = base, rounding(base)
        if not bool(base.isfinite().all()):
            raise Refusal("its output is not finite on the probing input; pass inputs=")
        self.at_kernel = ObservedAttention()
        with installed(self.replay.module, "attention_mask", self.at_kernel):
            self.replay.run()
        again = self.replay.run()
        assert again is not None
        # Alone it may take another path than in the model (a fused one), but the same one every time.
        unlike = largest_change(base, given).max() > self._loose
        if bool(unlike or largest_change(again, base).max() > self.noise):
            raise Refusal("it gives different outputs for the same input, so nothing can be compared")
        scores, n_dest, n_src = self.at_kernel.scores, self.replay.n_dest, self.replay.n_src
        if scores is not None and scores.ndim == 4 and scores.shape[-2] == n_dest:
            if scores.shape[-1] < n_src:
                raise Refusal(f"{n_dest} queries read {scores.shape[-1]} keys, so its keys are no tokens of the layout")
            self.n_sinks = scores.shape[-1] - n_src
            self.forbidden = ~allowed(scores[..., :n_src]).flatten(0, 1).any(0).cpu()
        self._choose_source()
        self._choose_mask()

    def _choose_source(self) -> None:
        """The source that the last row reads most, if the pattern shows; it must move that row.

        Raises:
            Refusal: No source does.
        """
        n_src = self.replay.n_src
        others = [src for src in range(n_src) if self.replay.cross or src != self.last] or [0]
        likely = torch.zeros(n_src)
        pattern = self.at_kernel.pattern
        if pattern is not None and pattern.ndim == 4 and pattern.shape[-2] == self.replay.n_dest:
            likely = pattern[0, :, -1, :n_src].float().mean(0).cpu()
        likely[others[-1]] += 1e-9  # where nothing shows, the token before: every local window holds it
        tried = sorted(others, key=lambda src: -float(likely[src]))[:MOST_SOURCES]
        for self.replay.strength in STRENGTHS:
            for self.source in tried:
                if self._moves(self.base, [self.source], self.last):
                    return
        raise NoInfluence(
            f"changing token {' or '.join(map(str, tried))} at its input does not move the output of token {self.last},"
            " cut or not, so a cut cannot be verified"
        )

    def _moves(self, base: TokenOutputs, sources: list[int], dest: int) -> bool:
        return bool(largest_change(self.replay.run(sources), base)[dest] > 2 * self.noise)

    def _choose_mask(self) -> None:
        n_dest, n_src = self.replay.n_dest, self.replay.n_src
        self.elsewhere = list(range(n_src)) if self.replay.cross else list(range(1, n_src))
        mask = torch.zeros(self.n_heads, n_dest, n_src, dtype=torch.bool)
        reads_itself_alone = not self.replay.cross and not (
            self.elsewhere and self._moves(self.base, self.elsewhere, 0)
        )
        mask[:, 0, : 1 if reads_itself_alone else None] = True
        if n_dest > 1:
            mask[:, -1, self.source] = True
        if n_dest > 3:
            mask[0, 1, 0] = True
        self.mask = mask
        self.untouched = [row for row in range(n_dest) if not mask[:, row].any()]

    def _is_plain_softmax(self) -> bool:
        seen = ObservedAttention(strict=False)
        try:
            with installed(self.replay.module, "scores", seen):
                self.replay.run()
        except Refusal:
            return False
        if seen.scores is None or seen.pattern is None or seen.scores.shape != seen.pattern.shape:
            return False
        expected, shown = seen.scores.float().softmax(-1).nan_to_num(), seen.pattern.float().nan_to_num()
        return torch.allclose(expected, shown, atol=torch.finfo(seen.pattern.dtype).eps ** 0.5)

    # --- levers -------------------------------------------------------------------------------------------

    def _refusal(self, name: PointName, strict: bool) -> str | None:
        try:
            self._try(name, strict)
        except (Refusal, EdgeError, DeadHookError) as reason:
            return str(reason)
        return None

    def _try(self, name: PointName, strict: bool) -> None:
        """Raise what speaks against a lever."""
        run = partial(self._run, name, strict)
        noise = self.noise
        if name == "pattern":  # what is renormalised keeps the rounding of the row that it was part of
            noise = max(noise, 4 * float(torch.finfo(self.base.dtype).eps * self.base.abs().max()))
        idle, _ = run(torch.zeros_like(self.mask))
        if bool(largest_change(idle, self.base).max() > self._loose):
            raise Refusal("its output changes although nothing is cut")
        out, seen = run(self.mask)
        if not bool(out.isfinite().all()):
            raise Refusal("a row with every edge cut comes out as NaN")
        moved = largest_change(out, idle)
        if not bool(moved[0] > noise):  # one edge of the last row may weigh too little to show
            raise Refusal("the output of token 0 does not change when all its edges are cut")
        if self.untouched and bool(moved[self.untouched].max() > noise):
            raise Refusal("tokens of which no edge is cut change too")
        if self.last:
            self._hold_source_back(run, noise)
        if self.elsewhere and bool(largest_change(run(self.mask, self.elsewhere)[0], out)[0] > noise):
            raise Refusal("other tokens still move token 0 after all its edges were cut")
        if name == "attention_mask":
            self.of_kernel = out
        elif self.of_kernel is not None:
            apart = float(largest_change(out, self.of_kernel).max())
            if not apart <= self._loose:
                raise Refusal(f"its output is {apart:.3g} away from that of -inf before the softmax at the kernel")
        elif name == "pattern":
            raise Refusal("the attention ends in no softmax of torch, so there is nothing to hold its result to")

    def _hold_source_back(self, run: Callable[..., tuple[TokenOutputs, ObservedAttention]], noise: float) -> None:
        """Raise if a source that no other token attends to still moves one."""
        outgoing = torch.zeros_like(self.mask)
        outgoing[:, :, self.source] = True
        if not self.replay.cross:
            outgoing[:, self.source, self.source] = False
        change = largest_change(run(outgoing, [self.source])[0], run(outgoing)[0])
        if not self.replay.cross:
            change[self.source] = 0
        if bool(change.max() > noise):
            reached = int(change.argmax())
            raise Refusal(f"token {self.source} still moves token {reached} after the edge between them was cut")

    @property
    def _loose(self) -> float:
        """What two ways of computing the same may differ by."""
        made = [t.dtype for t in (self.base, self.at_kernel.scores) if t is not None]  # autocast: scores are coarser
        return float(max(torch.finfo(dtype).eps for dtype in made) ** 0.5 * self.base.abs().max())

    def _run(
        self, name: PointName, strict: bool, mask: Tensor, moved: list[int] | None = None
    ) -> tuple[TokenOutputs, ObservedAttention]:
        n_sinks = self.n_sinks if name == "attention_mask" else 0
        seen = ObservedAttention(Deletion(mask, "the attention", n_sinks, self.forbidden), strict)
        with installed(self.replay.module, name, seen):
            out = self.replay.run(moved or [])
        if not seen.fired:
            what = "no softmax and no scaled_dot_product_attention of torch runs in it"
            raise Refusal(what if name == "attention_mask" else "its hook point does not fire")
        assert out is not None
        return out, seen


def largest_change(after: TokenOutputs | None, before: TokenOutputs) -> Float[Tensor, " pos"]:
    """The largest change of every row; infinite where it is NaN."""
    assert after is not None
    return (after - before).abs().amax(1).nan_to_num(nan=torch.inf)


def rounding(output: TokenOutputs) -> float:
    """What rows may differ by whose arithmetic is the same: nothing, in principle.

    In half precision a single step of rounding is larger than what most edges carry, so there it is nothing indeed.
    """
    eps = torch.finfo(output.dtype).eps
    return float((16 if eps < 1e-4 else 1 / 16) * eps * output.abs().max())
