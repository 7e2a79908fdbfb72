"""What a cut did: measured while the model runs, read afterwards."""

from dataclasses import dataclass, fields

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.hooks.anatomy import DeadHookError
from emg_lens.hooks.deletion import Deletion


@dataclass(frozen=True)
class LayerCut:
    """What a cut did in one layer.

    Attributes:
        layer: 0-based.
        lever: `"scores"`, `"pattern"` or `"attention_mask"`.
        edges_cut: Edges (head, dest, src) in the cut.
        already_dead: How many of them carried no attention in any trial before the cut (causal or padding
            mask, severed edges, an outer cut).
        rows_fully_cut: Rows (head, dest) that the cut left without any attention, in at least one trial.
        mass_removed: Attention probability that the cut edges held just before the cut, mean over trials,
            heads and dest rows: a fraction from 0 to 1.
        attention_left: Largest attention found on a cut edge afterwards; 0, or `cutting` raises.
        trials: Batch entries that passed.
    """

    layer: int
    lever: str
    edges_cut: int
    already_dead: int
    rows_fully_cut: int
    mass_removed: float
    attention_left: float
    trials: int


class Meter:
    """Measures one layer's cut while the model runs; nothing waits for the device before the reading."""

    def __init__(self, layer: int, lever: str, n_heads: int, deletion: Deletion) -> None:
        self.layer, self.lever, self.n_heads, self.deletion = layer, lever, n_heads, deletion
        self.calls = self.fired = self.checked = self.trials = 0
        self.masses: list[Tensor] = []
        self.leaks: list[Tensor] = []
        self.alive: Tensor | None = None
        self.emptied: Tensor | None = None
        self._had_attention: Tensor | None = None

    @torch.no_grad()
    def before(self, pattern: Float[Tensor, "batch head dest src"]) -> None:
        """Take in the attention as it would be without this cut."""
        cut = self.deletion.on(pattern)
        pattern = pattern.detach().float().nan_to_num()
        self.fired += 1
        self.trials += len(pattern)
        self.masses.append((pattern * cut).sum() / pattern[0, :, :, 0].numel())
        self.alive = _either(self.alive, ((pattern > 0) & cut).any(0))
        self._had_attention = (pattern > 0).any(-1)

    @torch.no_grad()
    def after(self, pattern: Float[Tensor, "batch head dest src"]) -> None:
        """Take in the attention that the model uses."""
        cut = self.deletion.on(pattern)
        pattern = pattern.detach()
        self.checked += 1
        self.leaks.append(pattern.masked_fill(~cut, 0.0).abs().nan_to_num(nan=torch.inf).max())
        if self._had_attention is not None:
            emptied = (pattern == 0).all(-1) & self._had_attention & cut.any(-1)
            self.emptied = _either(self.emptied, emptied.any(0))
            self._had_attention = None

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
            lever=self.lever,
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
        lever: `"scores"`, `"pattern"` or `"attention_mask"`.
    """

    def __init__(self, edges: str, lever: str, meters: list[Meter]) -> None:
        self.edges = edges
        self.lever = lever
        self._meters = meters
        self._runs = 0

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

    def count_run(self, *_: object) -> None:
        """Note that some attention layer of the model ran (a torch forward pre-hook)."""
        self._runs += 1

    def verify(self) -> None:
        """Confirm that the model ran, that the cut took place every time, and that no cut edge carried attention.

        Raises:
            DeadHookError: One of these does not hold.
        """
        if not self._runs and not any(meter.fired for meter in self._meters):
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
            if meter.leak > 0:
                raise DeadHookError(
                    f"{where}: a cut edge still carries attention ({meter.leak:.3g}); does another hook write it back?"
                )

    def __repr__(self) -> str:
        head = f"CutReport({self.edges}, lever={self.lever!r})"
        return head if not self._meters else f"{head}\n{self.to_frame().to_string(index=False)}"
