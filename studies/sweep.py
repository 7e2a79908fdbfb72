"""Running many conditions on one model and one batch of inputs, with an audit of what each could have changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.analysis.reach import reach
from emg_lens.encoder import HookedBiosignalEncoder
from emg_lens.hooks import cut
from emg_lens.studies.conditions import BASELINE, Condition, with_baseline


@dataclass(frozen=True)
class SweepResult:
    """Logits and audit of a sweep.

    Attributes:
        conditions: The conditions in order, the baseline first.
        logits: Condition name -> `[trial, class]`, on the CPU.
        audit: One row a condition: edges cut, live edges cut, rows fully cut, largest change of a logit against the
            baseline, whether the condition is a structural null, the first condition that cuts the same live edges,
            and the largest difference between the two (rounding, unless something is wrong).
    """

    conditions: tuple[Condition, ...]
    logits: dict[str, Float[Tensor, "trial class"]]
    audit: pd.DataFrame

    def accuracy(self, y: Int[Tensor, " trial"]) -> pd.DataFrame:
        """One row a condition: name, tags, accuracy in [0, 1], and the paper's Δ% = 100 (acc − base) / base (§2.3).

        Raises:
            ValueError: As many labels as trials are needed.
        """
        y = torch.as_tensor(y)
        logits = torch.stack([self.logits[c.name] for c in self.conditions])
        if y.shape != logits.shape[1:2]:
            raise ValueError(f"got {list(y.shape)} labels for {logits.shape[1]} trials")
        accuracy = (logits.argmax(-1) == y).double().mean(-1)
        table = pd.DataFrame([{"condition": c.name, **c.tags} for c in self.conditions])
        table["accuracy"] = accuracy.numpy()
        table["delta_percent"] = 100 * (table["accuracy"] - table["accuracy"].iloc[0]) / table["accuracy"].iloc[0]
        return table


def sweep(
    model: HookedBiosignalEncoder,
    x: Float[Tensor, "trial channel time"],
    conditions: Sequence[Condition],
    *,
    batch_size: int = 256,
    on_condition: Callable[[str], None] | None = None,
) -> SweepResult:
    """Run the baseline and every condition.

    Args:
        model: An encoder; it is run in eval mode and left as it was.
        x: Trials, standardised as in training.
        conditions: What to cut, one run each; the baseline is added.
        batch_size: Trials a forward pass.
        on_condition: Called with the name of each finished condition (progress bars).

    Raises:
        EdgeError: Edges that do not fit the model's layout, or conditions that share a name.
    """
    conditions = with_baseline(conditions)
    audit = audit_conditions(model, conditions)
    x = x.to(model.cfg.device)
    was_training = model.training
    model.eval()
    logits = {}
    try:
        with torch.inference_mode():
            for condition in conditions:
                hooks = cut(model, condition.edges)
                runs = [model.run_with_hooks(part, fwd_hooks=hooks) for part in x.split(batch_size)]
                logits[condition.name] = torch.cat(runs).cpu()
                if on_condition is not None:
                    on_condition(condition.name)
    finally:
        model.train(was_training)
    names = audit["condition"]
    audit.insert(4, "max_abs_delta_logit", [_distance(logits, n, BASELINE) for n in names])
    audit["equivalence_error"] = [_distance(logits, n, e) for n, e in zip(names, audit["equivalent_to"], strict=True)]
    return SweepResult(tuple(conditions), logits, audit)


def _distance(logits: dict[str, Tensor], a: str, b: str) -> float:
    return float((logits[a] - logits[b]).abs().max())


def audit_conditions(model: HookedBiosignalEncoder, conditions: Sequence[Condition]) -> pd.DataFrame:
    """What each condition cuts and whether it could matter, from the structure of the model alone.

    Returns:
        One row a condition: condition, edges_cut, live_edges_cut, rows_fully_cut, structural_null (no cut edge has a
        path to the readout), equivalent_to (the first condition that cuts the same live edges, often itself).
    """
    severed = model.severed_mask()
    first_with: dict[bytes, str] = {}
    rows = []
    for condition in conditions:
        mask = condition.edges.mask(model.layout, model.cfg.n_layers, model.cfg.n_heads)
        cut_mask = mask if severed is None else mask & ~severed
        absent = mask if severed is None else mask | severed
        found = reach(mask, model.readout_positions, severed)
        signature = np.packbits(found.live_cut.numpy()).tobytes()
        rows.append(
            {
                "condition": condition.name,
                "edges_cut": int(cut_mask.sum()),
                "live_edges_cut": int(found.live_cut.sum()),
                "rows_fully_cut": int((absent.all(-1) & cut_mask.any(-1)).sum()),
                "structural_null": found.is_null,
                "equivalent_to": first_with.setdefault(signature, condition.name),
            }
        )
    return pd.DataFrame(rows)
