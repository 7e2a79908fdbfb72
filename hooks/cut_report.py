"""The report of a cut: it is measured while the model runs and read afterwards."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.attention_kernel import ScoresOrPattern
from emg_lens.hooks.context_guard import ContextGuard
from emg_lens.hooks.deletion import Deletion
from emg_lens.hooks.fused_attention import FusedCall, any_edge
from emg_lens.hooks.hook_points import DeadHookError, probing
from emg_lens.hooks.removed_attention import GivenScores, RemovedAttention
from emg_lens.hooks.vmap import of_all_mapped
from emg_lens.tables import WholeTable

COMPARED_ROWS = 4
"""Rows of each fused attention that are compared with the explicit cut."""
DROPOUT = "the model ran in training mode with dropout, so two runs differ; call model.eval() first"


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
            It cannot be read from torch's fused attention, which has no pattern. There, some rows of the output are
            compared with the explicit cut.
        trials: Number of trials; inside `torch.vmap`, of all mapped trials.
        trials_measured: Number of trials from which `already_dead`, `rows_fully_cut` and `mass_removed` are measured:
            all, or an evenly spaced sample where the queries and keys of all trials need more than 128 MiB.
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
    trials_measured: int


class Meter:
    """Cuts and measures one layer while the model runs; it synchronises with the device only when it is read.

    It is an edit for `attention_kernel`, and does nothing while the model is probed.

    Args:
        layer: The layer.
        intervention_point: The name of the intervention point.
        module: Path of the attention module.
        n_heads: Number of heads.
        deletion: The cut.
        removed: Measures the attention that the cut removes.
        in_own_thread: Returns whether it is called in the thread of the context.
        fuses: Whether torch's fused attention stays fused.
    """

    def __init__(
        self,
        layer: int,
        intervention_point: str,
        module: str,
        n_heads: int,
        deletion: Deletion,
        removed: RemovedAttention,
        in_own_thread: Callable[[], bool],
        fuses: bool,
    ) -> None:
        self.layer, self.intervention_point, self.module = layer, intervention_point, module
        self.n_heads, self.deletion, self.removed = n_heads, deletion, removed
        self.in_own_thread, self.fuses = in_own_thread, fuses
        self.calls = self.fired = self.checked = 0
        self.leaks: list[Tensor] = []
        self.unlike: list[Tensor] = []
        touched = any_edge(deletion.mask).any(0).nonzero()[:, 0]
        self.rows = touched[torch.linspace(0, len(touched) - 1, min(COMPARED_ROWS, len(touched))).long()]

    def count_call(self, *_: object) -> None:
        """Count a run of the attention module (a torch forward pre-hook)."""
        self.calls += self.in_own_thread() and not probing.get()

    def before(self, scores: ScoresOrPattern) -> ScoresOrPattern:
        """Record the scores and return them with the cut edges at -inf."""
        if probing.get():
            return scores
        self.fired += 1
        cut = self.deletion.scores(scores)
        self._check_heads(scores.shape[1])
        self.removed.add(GivenScores(scores.detach()), tuple(scores.shape))
        return cut

    def _check_heads(self, n_heads: int) -> None:
        if n_heads != self.n_heads:
            raise EdgeError(
                f"{self.deletion.where} has {n_heads} heads, but the model had {self.n_heads}; do not change heads"
                " after adapt, or call adapt again and use its result"
            )

    def empty_rows(self, pattern: ScoresOrPattern) -> ScoresOrPattern:
        """Return the pattern with zeros in rows with every edge cut."""
        return pattern if probing.get() else self.deletion.empty_rows(pattern)

    def before_fused(self, call: FusedCall) -> FusedCall:
        """Record a call of torch's fused attention and return it with the edges cut by its mask."""
        if probing.get():
            return call
        self.fired += 1
        cut = self.deletion.fused(call)
        self._check_heads(call.shape[1])
        self.removed.add(call, call.shape)
        return cut

    @torch.no_grad()
    def after_fused(self, call: FusedCall, value: Tensor, output: Tensor) -> None:
        """Compare some rows of the output with the explicit cut: fused attention has no pattern to read."""
        if probing.get():
            return
        self.checked += 1
        exact, fused = call.output(value, self.rows.to(value.device)), output[..., self.rows.to(value.device), :]
        apart = (exact - fused).abs() > torch.finfo(output.dtype).eps ** 0.5 * value.abs().amax()
        self.unlike.append((apart | (exact.isnan() != fused.isnan())).any())

    @torch.no_grad()
    def check_hook(self, pattern: Float[Tensor, "batch head dest src"], hook: object) -> None:  # noqa: ARG002
        """Record the attention on cut edges after other hooks at `hook_pattern`, where the module uses their result."""
        if not probing.get():
            mask = self.deletion.mask.to(pattern.device)
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
        if self.deletion.is_absent_in(pattern):  # much faster on a CPU
            return
        on_cut = torch.where(cut, pattern.detach(), 0.0)
        self.leaks.append(of_all_mapped(torch.maximum(on_cut.amax(), -on_cut.amin())).max())  # NaN stays NaN

    def attention_left(self) -> float:
        """Return the largest attention on a cut edge after the cut; infinite for NaN."""
        return max((math.inf if math.isnan(leak) else leak for leak in map(float, self.leaks)), default=0.0)

    def reading(self) -> LayerCut:
        """Return the measurements so far."""
        cut = self.deletion.mask
        edges = int(cut.sum()) * (self.n_heads if len(cut) == 1 else 1)
        mass_removed, removed = self.removed.fraction(), self.removed
        return LayerCut(
            layer=self.layer,
            intervention_point=self.intervention_point,
            module=self.module,
            edges_cut=edges,
            already_dead=edges - removed.edges_with_attention(edges),
            rows_fully_cut=removed.rows(),
            mass_removed=mass_removed,
            attention_left=self.attention_left(),
            trials=removed.ran,
            trials_measured=removed.measured,
        )


@dataclass(eq=False, repr=False)
class CutReport:
    """The report of `cutting`, layer by layer; it is complete after the context.

    Attributes:
        edges: The edge set, as text.
        intervention_point: `"scores"` or `"attention_mask"`; `"none"` if nothing is cut.
        routes: One sentence for each other route between tokens that is not cut: another branch of a cut block, layers
            without attention, or tokens that contain other channels before the first layer.
        dropout: Whether the model ran in training mode with dropout, so that two runs differ.

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
    dropout: bool = False

    @property
    def layers(self) -> tuple[LayerCut, ...]:
        """One entry for each cut layer; the first reading after a forward computes the measurements."""
        return tuple(meter.reading() for meter in self._meters)

    @property
    def mass_removed(self) -> float:
        """The mean of `mass_removed` over the cut layers; 0 if nothing is cut."""
        return sum(entry.mass_removed for entry in self.layers) / max(len(self._meters), 1)

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each cut layer, with the columns of `LayerCut`."""
        return WholeTable([vars(entry) for entry in self.layers], columns=[f.name for f in fields(LayerCut)])

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
            if any(map(bool, meter.unlike)):
                raise DeadHookError(
                    f"{where}: torch's fused attention does not give the output of the cut; give the model an explicit"
                    " attention (in transformers: attn_implementation='eager')"
                )
            left = meter.attention_left()
            if left == float("inf"):
                raise DeadHookError(
                    f"{where}: the pattern is NaN in rows with cut edges. Padding may leave a row without any edge: pad"
                    " on the right, or leave every row an edge"
                )
            if left > 0:
                raise DeadHookError(
                    f"{where}: a cut edge still has attention {left:.3g}; expected 0. Remove other hooks that"
                    " write to the scores or the pattern"
                )
        self._scope.verify()

    def __repr__(self) -> str:
        head = f"CutReport({self.edges}, intervention_point={self.intervention_point!r})"
        table = [self.to_frame().to_string(index=False)] if self._meters else []
        return "\n".join([head, *table, *self.routes, *[DROPOUT] * self.dropout])
