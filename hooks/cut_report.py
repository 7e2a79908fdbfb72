"""The report of a cut: it is measured while the model runs and read afterwards."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.hooks.attention_kernel import ScoresOrPattern
from emg_lens.hooks.context_guard import ContextGuard
from emg_lens.hooks.deletion import Deletion, allowed
from emg_lens.hooks.hook_points import DeadHookError, probing
from emg_lens.hooks.vmap import of_all_mapped


@dataclass(frozen=True)
class LayerCut:
    """The measurements of a cut in one layer.

    Attributes:
        layer: 0-based.
        intervention_point: `"scores"` or `"attention_mask"`.
        module: Path of the attention module, such as `"encoder_blocks.0.attn"`.
        edges_cut: Number of edges (head, dest, src) in the cut.
        already_dead: Number of these edges without attention in any trial before the cut (causal or padding mask,
            permanently masked edges, an outer cut).
        rows_fully_cut: Number of rows (head, dest) without any remaining edge, in at least one trial.
        mass_removed: Attention probability of the cut edges before the cut: a fraction from 0 to 1, the mean over
            trials, heads and dest rows. NaN where the pattern is not the softmax of the scores.
        attention_left: Largest attention on a cut edge after the cut. It is 0; otherwise `cutting` raises an error.
        trials: Number of trials; inside `torch.vmap`, of all mapped trials.
    """

    layer: int
    intervention_point: str
    module: str
    edges_cut: int
    already_dead: int
    rows_fully_cut: int
    mass_removed: float
    attention_left: float
    trials: int


class Meter:
    """Cuts and measures one layer while the model runs; it synchronises with the device only in `reading`.

    It is an edit for `attention_kernel`, and does nothing while the model is probed. `plain_softmax`: whether the
    attention is the softmax of the scores that it receives.
    """

    def __init__(
        self,
        layer: int,
        intervention_point: str,
        module: str,
        n_heads: int,
        deletion: Deletion,
        plain_softmax: bool,
        in_own_thread: Callable[[], bool],
    ) -> None:
        self.layer, self.intervention_point, self.module = layer, intervention_point, module
        self.n_heads, self.deletion, self.plain_softmax = n_heads, deletion, plain_softmax
        self.in_own_thread = in_own_thread
        self.calls = self.fired = self.checked = self.trials = 0
        self.masses: list[Tensor] = []
        self.leaks: list[Tensor] = []
        self.alive: Tensor | None = None
        self.emptied: Tensor | None = None

    def count_call(self, *_: object) -> None:
        """Count a run of the attention module (a torch forward pre-hook)."""
        self.calls += self.in_own_thread() and not probing.get()

    def before(self, scores: ScoresOrPattern) -> ScoresOrPattern:
        """Record the scores and return them with the cut edges at -inf."""
        if probing.get():
            return scores
        self._measure(scores)
        return self.deletion.scores(scores)

    def empty_rows(self, pattern: ScoresOrPattern) -> ScoresOrPattern:
        """Return the pattern with zeros in rows with every edge cut."""
        return pattern if probing.get() else self.deletion.empty_rows(pattern)

    @torch.no_grad()
    def _measure(self, scores: ScoresOrPattern) -> None:
        cut, scores = self.deletion.on(scores), scores.detach()
        self.fired += 1
        possible = allowed(scores)[..., : cut.shape[-1] - self.deletion.n_sinks]
        permanent_mask = cut[..., : possible.shape[-1]]
        emptied = (possible & permanent_mask).any(-1) & ~(possible & ~permanent_mask).any(-1)
        self.emptied = _either(self.emptied, of_all_mapped(emptied.any(0)).any(0))
        # Not torch's softmax: an outer cut may be editing calls of that function.
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        pattern = (wide - wide.logsumexp(-1, keepdim=True)).exp().nan_to_num()
        if self.plain_softmax:
            mass, alive = (pattern * cut).sum() / pattern[0, :, :, 0].numel(), ((pattern > 0) & cut).any(0)
        else:
            mass, alive = pattern.sum() * torch.nan, (possible & permanent_mask).any(0)
        masses = of_all_mapped(mass)
        self.trials += len(scores) * len(masses)
        self.masses.append(masses.sum())
        self.alive = _either(self.alive, of_all_mapped(alive).any(0))

    @torch.no_grad()
    def check_hook(self, pattern: Float[Tensor, "batch head dest src"], hook: object) -> None:  # noqa: ARG002
        """Record the attention on cut edges after other hooks at `hook_pattern`, where the module uses their result."""
        mask = self.deletion.mask.to(pattern.device)
        if not probing.get():
            self._note_leak(pattern[..., : mask.shape[-1]], mask)

    @torch.no_grad()
    def after(self, pattern: ScoresOrPattern) -> ScoresOrPattern:
        """Record the attention that the model uses."""
        if probing.get():
            return pattern
        self.checked += 1
        self._note_leak(pattern, self.deletion.on(pattern))
        return pattern

    def _note_leak(self, pattern: Tensor, cut: Tensor) -> None:
        leak = pattern.detach().masked_fill(~cut, 0.0).abs().nan_to_num(nan=torch.inf).max()
        self.leaks.append(of_all_mapped(leak).max())

    def reading(self) -> LayerCut:
        """Return the measurements so far."""
        cut = self.deletion.mask
        edges = int(cut.sum()) * (self.n_heads if len(cut) == 1 else 1)
        return LayerCut(
            layer=self.layer,
            intervention_point=self.intervention_point,
            module=self.module,
            edges_cut=edges,
            already_dead=0 if self.alive is None else edges - int(self.alive.sum()),
            rows_fully_cut=0 if self.emptied is None else int(self.emptied.sum()),
            mass_removed=min(sum(map(float, self.masses)) / max(self.trials, 1), 1.0),  # rounding may give 1 + 1e-7
            attention_left=max(map(float, self.leaks), default=0.0),
            trials=self.trials,
        )


def _either(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else old.to(new.device) | new


@dataclass(eq=False, repr=False)
class CutReport:
    """The report of `cutting`, layer by layer; it is complete after the context.

    Attributes:
        edges: The edge set, as text.
        intervention_point: `"scores"` or `"attention_mask"`; `"none"` if nothing is cut.
        routes: One sentence for each other route between tokens that is not cut: another branch of a cut block, or
            layers without attention.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig, cross_modal, cutting
        >>> model = IsoNet(IsoNetConfig(modalities={"emg": 2, "acc": 1}, n_samples=8, n_classes=3, n_layers=1))
        >>> with cutting(model, cross_modal()) as report:
        ...     logits = model(torch.randn(2, 3, 8))
        >>> report.intervention_point, report.layers[0].edges_cut, report.layers[0].attention_left
        ('scores', 32, 0.0)
        >>> 0 < report.mass_removed < 1
        True
    """

    edges: str
    intervention_point: str
    routes: tuple[str, ...]
    _meters: list[Meter]
    _scope: ContextGuard

    @property
    def layers(self) -> tuple[LayerCut, ...]:
        """One entry for each cut layer."""
        return tuple(meter.reading() for meter in self._meters)

    @property
    def mass_removed(self) -> float:
        """The mean of `mass_removed` over the cut layers; 0 if nothing is cut."""
        return sum(entry.mass_removed for entry in self.layers) / max(len(self._meters), 1)

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each cut layer, with the columns of `LayerCut`."""
        return pd.DataFrame([vars(entry) for entry in self.layers], columns=[f.name for f in fields(LayerCut)])

    def verify(self) -> None:
        """Verify that the model ran, that every forward was cut, and that no cut edge had attention."""
        if not any(meter.fired for meter in self._meters):
            self._scope.verify()
        for meter in self._meters:
            where = f"{self._scope.what}: layer {meter.layer} ({meter.deletion.where})"
            if not meter.fired or not meter.checked:
                raise DeadHookError(f"{where}: nothing was cut; check that the layer ran")
            if meter.fired < meter.calls or meter.checked < meter.fired:
                raise DeadHookError(
                    f"{where}: the attention ran {meter.calls} times, but it was cut {meter.fired} times and checked"
                    f" {meter.checked} times; another hook or function replaces the attention"
                )
            left = meter.reading().attention_left
            if left == float("inf"):
                raise DeadHookError(
                    f"{where}: the pattern is NaN in rows with cut edges. Padding may leave a row without any edge: pad"
                    " on the right, or leave every row an edge"
                )
            if left > 0:
                raise DeadHookError(
                    f"{where}: a cut edge still has attention {left:.3g}; expected 0. Remove other hooks that"
                    " write to the pattern"
                )
        self._scope.verify()

    def __repr__(self) -> str:
        head = f"CutReport({self.edges}, intervention_point={self.intervention_point!r})"
        table = [self.to_frame().to_string(index=False)] if self._meters else []
        return "\n".join([head, *table, *self.routes])
