"""What a cut did: measured while the model runs, read afterwards."""

from dataclasses import dataclass, fields

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.hooks.context_guard import ContextGuard
from emg_lens.hooks.deletion import Deletion, allowed
from emg_lens.hooks.hook_points import DeadHookError
from emg_lens.hooks.vmap import of_all_mapped


@dataclass(frozen=True)
class LayerCut:
    """What a cut did in one layer.

    Attributes:
        layer: 0-based.
        lever: `"scores"` or `"attention_mask"`.
        module: Path of the attention module that was cut, such as `"encoder_blocks.0.attn"`.
        edges_cut: Edges (head, dest, src) in the cut.
        already_dead: How many of them carried no attention in any trial before the cut (causal or padding
            mask, severed edges, an outer cut).
        rows_fully_cut: Rows (head, dest) that the cut left without any edge, in at least one trial.
        mass_removed: Attention probability that the cut edges held just before the cut, mean over trials,
            heads and dest rows: a fraction from 0 to 1; NaN where attention is no softmax of its scores.
        attention_left: Largest attention found on a cut edge afterwards; 0, or `cutting` raises.
        trials: Batch entries that passed; inside `torch.vmap`, of all that it maps.
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
    """Measures one layer's cut while the model runs; nothing waits for the device before the reading.

    Args:
        layer: 0-based.
        lever: Which lever cuts.
        module: Path of the attention module.
        n_heads: Query heads.
        deletion: The cut.
        plain_softmax: Whether the scores that it sees are what attention is the softmax of.
    """

    def __init__(
        self, layer: int, intervention_point: str, module: str, n_heads: int, deletion: Deletion, *, plain_softmax: bool
    ) -> None:
        self.layer, self.intervention_point, self.module = layer, intervention_point, module
        self.n_heads, self.deletion, self.plain_softmax = n_heads, deletion, plain_softmax
        self.calls = self.fired = self.checked = self.trials = 0
        self.masses: list[Tensor] = []
        self.leaks: list[Tensor] = []
        self.alive: Tensor | None = None
        self.emptied: Tensor | None = None

    @torch.no_grad()
    def before(self, scores: Float[Tensor, "batch head dest src"]) -> None:
        """Take in the scores as they would be without this cut."""
        cut, scores = self.deletion.on(scores), scores.detach()
        self.fired += 1
        possible = allowed(scores)[..., : cut.shape[-1] - self.deletion.n_sinks]
        permanent_mask = cut[..., : possible.shape[-1]]
        emptied = (possible & permanent_mask).any(-1) & ~(possible & ~permanent_mask).any(-1)
        self.emptied = _either(self.emptied, of_all_mapped(emptied.any(0)).any(0))
        # Not softmax(): a function of torch that another cut, further out, may be attached_hook to.
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
    def after(self, pattern: Float[Tensor, "batch head dest src"]) -> None:
        """Take in the attention that the model uses."""
        cut = self.deletion.on(pattern)
        self.checked += 1
        leak = pattern.detach().masked_fill(~cut, 0.0).abs().nan_to_num(nan=torch.inf).max()
        self.leaks.append(of_all_mapped(leak).max())

    @property
    def leak(self) -> float:
        """Largest attention seen on a cut edge after the cut; infinite if NaN was."""
        return max((float(leak) for leak in self.leaks), default=0.0)

    def reading(self) -> LayerCut:
        """The measurement so far."""
        cut = self.deletion.mask
        edges = int(cut.sum()) * (self.n_heads if len(cut) == 1 else 1)
        return LayerCut(
            layer=self.layer,
            intervention_point=self.intervention_point,
            module=self.module,
            edges_cut=edges,
            already_dead=0 if self.alive is None else edges - int(self.alive.sum()),
            rows_fully_cut=0 if self.emptied is None else int(self.emptied.sum()),
            mass_removed=min(
                sum(map(float, self.masses)) / max(self.trials, 1), 1.0
            ),  # a sum of softmaxes may exceed 1 by 1e-7
            attention_left=self.leak,
            trials=self.trials,
        )


def _either(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else old.to(new.device) | new


class CutReport:
    """What `cutting` did, layer by layer; complete once the context is left.

    Attributes:
        edges: The edge set, as text.
        lever: `"scores"` or `"attention_mask"`; `"none"` where nothing is cut.
        routes: Sentences, one a place where tokens reach each other past the attention that was cut: another branch
            of a cut block, layers of the stack that have no attention.
    """

    def __init__(
        self,
        edges: str,
        intervention_point: str,
        meters: list[Meter],
        scope: ContextGuard,
        routes: tuple[str, ...] = (),
    ) -> None:
        self.edges = edges
        self.intervention_point = intervention_point
        self.routes = routes
        self._meters = meters
        self._scope = scope

    @property
    def layers(self) -> tuple[LayerCut, ...]:
        """One entry a cut layer."""
        return tuple(meter.reading() for meter in self._meters)

    @property
    def mass_removed(self) -> float:
        """Mean of `mass_removed` over the cut layers; 0 where nothing is cut."""
        return sum(entry.mass_removed for entry in self.layers) / max(len(self._meters), 1)

    def to_frame(self) -> pd.DataFrame:
        """One row a cut layer, the columns of `LayerCut`."""
        return pd.DataFrame([vars(entry) for entry in self.layers], columns=[f.name for f in fields(LayerCut)])

    def verify(self) -> None:
        """Confirm that the model ran, that the cut took place every time, and that no cut edge carried attention.

        Raises:
            DeadHookError: One of these does not hold.
        """
        if not self._scope.runs and not any(meter.fired for meter in self._meters):
            raise DeadHookError(
                f"the model was not run inside cutting({self.edges}): nothing was cut, nothing verified"
            )
        for meter in self._meters:
            where = f"cutting({self.edges}): layer {meter.layer} ({meter.deletion.where})"
            if not meter.fired or not meter.checked:
                raise DeadHookError(f"{where}: the cut never took place; did that layer run?")
            if meter.fired < meter.calls or meter.checked < meter.fired:
                raise DeadHookError(
                    f"{where}: attention ran {meter.calls} times, the cut took place {meter.fired} times and was"
                    f" checked {meter.checked} times"
                )
            if meter.leak == float("inf"):
                raise DeadHookError(
                    f"{where}: the pattern is NaN in rows with cut edges; does padding leave a row with nothing to"
                    " attend to? Pad on the right, or give every row a token"
                )
            if meter.leak > 0:
                raise DeadHookError(
                    f"{where}: a cut edge still carries attention ({meter.leak:.3g}); does another hook write it back?"
                )
        self._scope.verify()

    def __repr__(self) -> str:
        head = f"CutReport({self.edges}, intervention_point={self.intervention_point!r})"
        table = [self.to_frame().to_string(index=False)] if self._meters else []
        return "\n".join([head, *table, *self.routes])
