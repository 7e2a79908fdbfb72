"""Check whether an intervention point cuts edges in one layer, by a small cut in the attention module alone.

The check changes the source token at the module's input; the output at the destination must not change
(docs/transformerlens.md §5).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.deletion import Deletion
from emg_lens.hooks.fused_attention import allowed, any_edge
from emg_lens.hooks.hook_points import DeadHookError
from emg_lens.hooks.verification.installed_point import NoInfluence, ObservedAttention, PointName, Refusal, installed
from emg_lens.hooks.verification.module_replay import Replay
from emg_lens.hooks.verification.own_token import OnlyOwnToken

TokenOutputs = Float[Tensor, "pos rest"]
MOST_SOURCES = 4
"""Largest number of source tokens that are tried until one influences another token."""
STRENGTHS = (2.0, 20.0, 200.0)
"""Size of the change, in standard deviations; in half precision a small change may be lost by rounding."""


@dataclass(frozen=True)
class LayerFacts:
    """Facts about the attention of one layer, without a reference to the model.

    Attributes:
        n_dest: Number of positions that the layer writes; it reads `n_src` positions.
        n_sinks: Number of softmax columns that are not tokens (attention sinks).
        forbidden: Edges that the layer never uses, according to the scores.
        refusals: For each intervention point and each value of `strict`: the reason why it cannot cut edges, or None.
        plain_softmax: Whether the pattern is the softmax of the scores at `hook_attn_scores`.
        live_pattern: Whether a change at `hook_pattern` has an effect, where `hook_attn_scores` has none.
        fuses: Whether the layer computes its attention by torch's fused function, and a mask of this function cuts.
    """

    n_dest: int
    n_src: int
    n_sinks: int
    forbidden: Bool[Tensor, "dest src"] | None
    refusals: dict[tuple[PointName, bool], str | None]
    plain_softmax: bool
    live_pattern: bool = False
    fuses: bool = False


class _NoPattern(ObservedAttention):
    """Sets the pattern to zero."""

    def renormalised(self, pattern: Tensor) -> Tensor:
        return torch.zeros_like(pattern)


class LayerCheck:
    """Checks the intervention points of one layer's attention.

    The check cuts every edge of the first row, one edge of the second row in the first head, and the source of the
    strongest edge of the last row from three quarters of the rows. The rows without a cut must not change. When the
    source is changed, the rows from which it was cut must not change either.
    """

    def __init__(self, replay: Replay, n_heads: int, expected: Tensor | None) -> None:
        self.replay, self.n_heads, self.expected = replay, n_heads, expected
        self.last, self.source = replay.n_dest - 1, 0
        self.n_sinks, self.forbidden = 0, None
        self.fuses = True
        self.of_kernel: TokenOutputs | None = None
        self.is_plain_softmax = False
        self._deletions: dict[tuple[int, int], Deletion] = {}  # each keeps its mask, so an id stays that of the mask

    def cut(
        self, name: PointName, strict: bool, mask: Tensor, fuses: bool = False
    ) -> AbstractContextManager[ObservedAttention]:
        """Return a context in which the edges of `mask` are cut in this layer."""
        n_sinks = self.n_sinks if name == "attention_mask" else 0
        made = Deletion(mask, "the attention", n_sinks, self.forbidden)
        edit = ObservedAttention(self._deletions.setdefault((id(mask), n_sinks), made), fuses=fuses)
        return installed(self.replay.module, name, edit, strict, fuses and name == "scores")

    def facts(self) -> LayerFacts:
        """Return all facts about the layer; `NoInfluence` or another `Refusal` if it cannot be checked."""
        if self.expected is None or not self.replay.n_dest:
            raise Refusal("its input has no tensor [batch, pos, d_model], or it did not run in the probing forward")
        self._measure_unedited()
        refusals: dict[tuple[PointName, bool], str | None] = {}
        refusals["attention_mask", True] = self._refusal("attention_mask", True)
        if refusals["attention_mask", True] and self.fuses:
            self.fuses = False
            refusals["attention_mask", True] = self._refusal("attention_mask", True)
        if refusals["attention_mask", True] and largest_change(self._unedited(), self.base).max() > self.noise:
            raise Refusal("its outputs for the same input differ, so they cannot be compared")
        refusals["scores", False] = self._refusal("scores", False)
        refusals["scores", True] = self._refusal("scores", True) if refusals["scores", False] else None
        refusals["pattern", False] = "not tried, because the scores hook works"
        if not refusals["scores", True]:
            self.fuses = self.fuses and self._agrees("scores", bool(refusals["scores", False]), fuses=True)
        else:
            refusals["pattern", False] = self._refusal("pattern", False)
            if self.fuses and not self._agrees("attention_mask", True, fuses=False):
                self.fuses = False
                refusals["attention_mask", True] = self._refusal("attention_mask", True)
        sizes = (self.replay.n_dest, self.replay.n_src, self.n_sinks)
        live_pattern = bool(refusals["scores", True]) and self._pattern_is_live()
        return LayerFacts(*sizes, self.forbidden, refusals, self.is_plain_softmax, live_pattern, self.fuses)

    # --- the module without a cut ------------------------------------------------------------------------------

    def _measure_unedited(self) -> None:
        """Run the module without a cut, and choose the edges of the small cut."""
        observed = ObservedAttention(fuses=True, keeps=True)
        base, given = self._unedited(observed=observed), self.replay.rows(self.expected)
        if base is None or given is None:
            raise Refusal("its output has no position axis")
        self.base, self.noise = base, rounding(base)
        if not bool(base.isfinite().all()):
            raise Refusal("its output is not finite on the probing input; pass inputs=<a small batch>")
        scores, n_dest, n_src = observed.known_scores(), self.replay.n_dest, self.replay.n_src
        self.explicit = observed.explicit and not observed.fused
        self.precision = [base.dtype] if scores is None else [base.dtype, scores.dtype]
        # Alone, the module may use another path than in the model (a fused one).
        if largest_change(base, given).max() > self._tolerance:
            raise Refusal("its outputs for the same input differ, so they cannot be compared")
        if scores is not None and scores.ndim == 4 and scores.shape[-2] == n_dest:
            if scores.shape[-1] < n_src:
                raise Refusal(
                    f"{n_dest} queries read {scores.shape[-1]} keys, so the keys are not the tokens of the layout"
                )
            self.n_sinks = scores.shape[-1] - n_src
            self.forbidden = ~allowed(scores[..., :n_src]).flatten(0, 1).any(0).cpu()
        self._choose_source(scores)
        self._choose_mask()

    def _unedited(self, moved: Sequence[int] = (), observed: ObservedAttention | None = None) -> TokenOutputs | None:
        """Run the module without a cut; the attention is always observed, so that rounding is the same."""
        edit = ObservedAttention(fuses=True) if observed is None else observed
        with installed(self.replay.module, "attention_mask", edit):
            return self.replay.run(moved)

    @cached_property
    def no_edge(self) -> Tensor:
        """A mask that cuts nothing."""
        return torch.zeros(self.n_heads, self.replay.n_dest, self.replay.n_src, dtype=torch.bool)

    def _choose_source(self, scores: Float[Tensor, "batch head dest src"] | None) -> None:
        """Choose the source that the last row attends to most and that influences the last row."""
        n_src = self.replay.n_src
        others = [src for src in range(n_src) if self.replay.cross or src != self.last] or [0]
        likely = torch.zeros(n_src)
        if scores is not None and scores.ndim == 4 and scores.shape[-2] == self.replay.n_dest:
            likely = scores[0, :, -1].float().softmax(-1)[:, :n_src].nan_to_num().mean(0).cpu()
        likely[others[-1]] += 1e-9  # without a pattern, prefer the previous token: every local window contains it
        tried = sorted(others, key=lambda src: -float(likely[src]))[:MOST_SOURCES]
        for self.replay.strength in STRENGTHS:
            for self.source in tried:
                if self._moves([self.source], self.last):
                    return
        raise NoInfluence(
            f"changing token {' or '.join(map(str, tried))} at its input does not change the output of token"
            f" {self.last} even without a cut, so a cut cannot be verified"
        )

    def _moves(self, sources: list[int], dest: int) -> bool:
        return bool(largest_change(self._unedited(sources), self.base)[dest] > 2 * self.noise)

    def _choose_mask(self) -> None:
        n_dest, n_src = self.replay.n_dest, self.replay.n_src
        self.elsewhere = list(range(n_src)) if self.replay.cross else list(range(1, n_src))
        mask = torch.zeros(self.n_heads, n_dest, n_src, dtype=torch.bool)
        reads_others = self.replay.cross
        if self.elsewhere and not reads_others:
            first = None if self.forbidden is None else self.forbidden[0, 1:]
            reads_others = self._moves(self.elsewhere, 0) if first is None else not first.all()
        mask[:, 0, : None if reads_others else 1] = True
        if n_dest > 1:
            mask[:, -1, self.source] = True
        if n_dest > 3:
            mask[0, 1, 0] = True
        spared = list(range(1 if n_dest < 4 else 2, self.last, 4))
        if not self.replay.cross:
            spared.append(self.source)
        kept = mask[:, spared, self.source]
        mask[:, :, self.source] = True
        mask[:, spared, self.source] = kept
        self.mask = mask
        touched, closed = any_edge(mask)[..., 0].any(0).tolist(), mask[:, :, self.source].all(0).tolist()
        self.untouched = [row for row in spared if not touched[row]]
        self.closed = [row for row in range(n_dest) if closed[row] and (self.replay.cross or row != self.source)]

    def _agrees(self, name: PointName, strict: bool, fuses: bool) -> bool:
        """Return whether the cut has the same result at another point, or without torch's fused attention."""
        with self.cut(name, strict, self.mask, fuses) as observed:
            out = self.replay.run()
        as_wanted = observed.fused == (not observed.explicit) == fuses
        limit = self.noise if fuses else self._tolerance
        return as_wanted and self.of_kernel is not None and bool(largest_change(out, self.of_kernel).max() <= limit)

    def _observe_softmax(self, observed: ObservedAttention) -> None:
        """Find out whether the pattern is the softmax of the scores."""
        scores, pattern = observed.scores, observed.pattern
        if scores is not None and pattern is not None and scores.shape == pattern.shape:
            scores = scores if observed.deletion is None else observed.deletion.scores(scores)
            wide = torch.promote_types(scores.dtype, torch.float32)
            difference = scores.softmax(-1, dtype=wide).nan_to_num_().sub_(pattern.nan_to_num()).abs_()
            self.is_plain_softmax = float(difference.amax()) <= torch.finfo(pattern.dtype).eps ** 0.5

    def _pattern_is_live(self) -> bool:
        try:
            with installed(self.replay.module, "pattern", _NoPattern()):
                return bool(largest_change(self._unedited(), self.base).max() > self.noise)
        except Refusal:
            return False

    # --- intervention points -----------------------------------------------------------------------------------

    def _refusal(self, name: PointName, strict: bool) -> str | None:
        try:
            self._try(name, strict)
        except (Refusal, EdgeError, DeadHookError) as reason:
            return str(reason)
        return None

    def _try(self, name: PointName, strict: bool) -> None:
        """Raise an error if the intervention point does not cut."""
        run = partial(self._run, name, strict)
        noise = self.noise
        if name == "pattern":  # renormalised values have the rounding errors of the whole row
            noise = max(noise, 4 * float(torch.finfo(self.base.dtype).eps * self.base.abs().max()))
        compared = name == "scores" and self.of_kernel is not None  # with the mask inside the module, in all rows
        same = name == "attention_mask" and self.explicit  # there, a cut of no edge adds zeros to the scores
        idle = self.base if compared or same else run(self.no_edge)
        if bool(largest_change(idle, self.base).max() > self._tolerance):
            raise Refusal("its output changes although no edge is cut")
        out = run(self.mask)
        if not bool(out.isfinite().all()):
            raise Refusal("a row with every edge cut gives NaN")
        if not compared and self.untouched and bool(largest_change(out, idle)[self.untouched].max() > noise):
            raise Refusal("tokens without a cut edge change too")
        if not bool(largest_change(out, idle)[0] > noise):  # one edge of the last row may have too little weight
            raise Refusal("the output of token 0 does not change when all its edges are cut")
        if self.last:
            self._check_source(run(self.mask, [self.source]), out, noise)
        if self.elsewhere and not compared and bool(largest_change(run(self.mask, self.elsewhere), out)[0] > noise):
            raise Refusal("other tokens still influence token 0 after all its edges were cut")
        if name == "attention_mask":
            self.of_kernel = out
        elif self.of_kernel is not None:
            self._compare(out, self.of_kernel)
        elif name == "pattern":
            raise Refusal("the attention does not use torch's softmax, so its result cannot be compared")

    def _compare(self, out: TokenOutputs, of_kernel: TokenOutputs) -> None:
        difference = float(largest_change(out, of_kernel).max())
        if not difference <= self._tolerance:
            raise Refusal(
                f"its output differs by {difference:.3g} from -inf before the softmax in the attention module"
            )

    def _check_source(self, moved: TokenOutputs, out: TokenOutputs, noise: float) -> None:
        """Raise an error if the source still influences tokens after all edges to them were cut."""
        change = largest_change(moved, out)[self.closed]
        if bool(change.max() > noise):
            reached = self.closed[int(change.argmax())]
            raise Refusal(f"token {self.source} still influences token {reached} after the edge between them was cut")

    @property
    def _tolerance(self) -> float:
        """The largest difference between two ways of computing the same output."""
        # With autocast, scores have less precision.
        return float(max(torch.finfo(dtype).eps for dtype in self.precision) ** 0.5 * self.base.abs().max())

    def _run(
        self, name: PointName, strict: bool, mask: Tensor, moved: Sequence[int] = (), fuses: bool = True
    ) -> TokenOutputs:
        first = mask is (self.no_edge if self.of_kernel is None else self.mask) and not len(moved)
        with self.cut(name, strict, mask, fuses and self.fuses and name == "attention_mask") as observed:
            observed.keeps = name == "scores" and first
            out = self.replay.run(moved)
        if not observed.fired:
            what = "it calls neither softmax nor scaled_dot_product_attention of torch"
            raise Refusal(what if name == "attention_mask" else "its hook point does not fire")
        if observed.keeps:
            self._observe_softmax(observed)
        if name == "attention_mask":
            self.fuses = self.fuses and observed.fused and not observed.explicit
        assert out is not None
        return out


def inherited_facts(replay: Replay, facts: LayerFacts, shown: bool) -> LayerFacts | None:
    """Return the facts of a layer for another one with an equal program, after a short check; None if it fails.

    Each token gets only the edge to itself, and the first half of the tokens is changed. The second half must not
    change. `shown`: this is known already.
    """
    half = replay.n_dest // 2
    by_scores = any(way[0] == "scores" and reason is None for way, reason in facts.refusals.items())
    if not (by_scores and half and replay.n_dest == replay.n_src == facts.n_src) or replay.cross:
        return None
    if not shown:
        with installed(replay.module, "attention_mask", OnlyOwnToken(cross=False)):
            out, moved = replay.run(), replay.run(range(half))
        if out is None or moved is None or not bool(out.isfinite().all()):
            return None
        if bool(largest_change(moved, out)[half:].max() > rounding(out)):
            return None
    return replace(facts, forbidden=None)  # only needed where the scores hook does not work


def largest_change(after: TokenOutputs | None, before: TokenOutputs) -> Float[Tensor, " pos"]:
    """Return the largest change of every row; infinite for NaN."""
    assert after is not None
    return (after - before).abs().amax(1).nan_to_num(nan=torch.inf)


def rounding(output: TokenOutputs) -> float:
    """Return the largest difference that rounding can cause between two runs of the same arithmetic.

    In half precision one rounding step exceeds the effect of most edges, so there the limit is below one step.
    """
    eps = torch.finfo(output.dtype).eps
    return float((16 if eps < 1e-4 else 1 / 16) * eps * output.abs().max())
