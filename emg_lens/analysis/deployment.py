"""What one window costs on this machine: operations, bytes, time and energy, intact and with edges cut."""

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from emg_lens.analysis.cost import counted_flops, held_bytes
from emg_lens.analysis.quantisation.matrices import Per, weight_bytes
from emg_lens.analysis.quantisation.quantised_model import Bits, Quantisation
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import resolve_layout
from emg_lens.layout import TokenLayout
from emg_lens.sweeps.conditions import Condition, with_baseline
from emg_lens.sweeps.engine import audit
from emg_lens.sweeps.side_by_side import torch_threads
from emg_lens.tables import WholeTable
from emg_lens.validation import ArgumentError, checked

WARM_UP = 5
"""Runs before the first measured one."""
ENERGY_SECONDS = 0.5
"""Shortest time in s over which energy is measured; the counters change about once per ms."""
POWERCAP = Path("/sys/class/powercap")
NOT_MEASURED = "not measured"


@checked
def profile(
    model: nn.Module,
    x: Tensor,
    conditions: Sequence[Condition] | None = None,
    *,
    bits: Bits | None = None,
    per: Per = "tensor",
    hop_s: PositiveFloat | None = None,
    runs: Annotated[int, Field(ge=30)] = 50,
    threads: PositiveInt = 1,
    layout: TokenLayout | None = None,
    reference: Tensor | None = None,
) -> pd.DataFrame:
    """Measure operations, bytes, time and energy of one window (batch 1) on this machine, in evaluation mode.

    Time, energy and activation memory are those of float32 arithmetic on this processor. A copy from `quantised`
    simulates whole numbers and is slower than the model: give the model itself, and `bits` for the bytes of weights.

    Args:
        model: One of our models, an adapted model, or (without conditions) any torch module with one tensor as input.
        x: Trials `[trial, ...]`; the first is used.
        conditions: Conditions to measure after the baseline, each in place while the model runs.
        bits: Bits of a weight for `weight_bytes`; default: those of a quantised copy, otherwise 32.
        per: With `bits`: one scale for each matrix or for each output channel.
        hop_s: Time in s between two windows in use; for `real_time_factor`.
        runs: Number of measured runs of each condition, 30 or more, after 5 runs without measurement.
        threads: Number of CPU threads.
        layout: Meaning of the positions; default `model.layout`.
        reference: Trials for means and resampled values, where a condition needs them.

    Returns:
        One row per condition:

        * `condition`, `processor`, `threads`, `runs`.
        * `macs`: multiply-accumulates that run (torch's count of operations / 2; attention included; norms,
          activations and softmax not). Cutting an edge does not change them.
        * `macs_without_cut_edges`: those that remain if hardware skips cut edges, 2 d_head for each; NaN if unknown.
        * `weight_bytes`: weights in `bits` bits with their scales (4 bytes each), and 4 bytes for all other values.
        * `activation_bytes`: the largest memory of tensors at a time, without weights and input. Transformer layers of
          torch run without their fused kernels for it. NaN for conditions that cut edges, whose masks are not part of a
          deployed model.
        * `latency_ms`, `latency_iqr_ms`: median and interquartile range of the time of one run in ms.
        * `real_time_factor`: median time / `hop_s`; below 1 the machine keeps up. NaN without `hop_s`.
        * `energy_mj`: energy of one run in mJ from the kernel's counters of the processor package, idle power included;
          NaN if they cannot be read. `energy_meter` says which.

    Raises:
        ArgumentError: No trials, or `per` without `bits`.
        EdgeError: Conditions that do not fit the model.

    Example:
        >>> from emg_lens import build_model
        >>> from emg_lens.analysis import profile
        >>> model = build_model("isonet", modalities={"emg": 4}, n_samples=50, n_classes=3, d_model=64, n_layers=2)
        >>> table = profile(model, model.example_input(), bits=8, hop_s=0.05)
        >>> table[["condition", "runs", "macs", "weight_bytes"]].to_dict("records")
        [{'condition': 'baseline', 'runs': 50, 'macs': 347072, 'weight_bytes': 86996}]
    """
    if x.ndim < 1 or not len(x):
        raise ArgumentError(f"x has shape {list(x.shape)}; expected at least one trial [trial, ...]")
    if bits is None and per != "tensor":
        raise ArgumentError(f"per={per!r} without bits; give bits=8, or a copy from quantised")
    spec = getattr(model, "quantisation", None)
    if bits is None and isinstance(spec, Quantisation):
        bits, per = spec.bits, spec.per
    one = x[:1].to(next(model.parameters(), x).device)
    planned = with_baseline(conditions or [])
    removed = _removed_macs(model, planned, layout) if conditions else {}
    with evaluating(model):
        macs, held = counted_flops(model, one) // 2, held_bytes(model, one)
    facts = {"processor": processor_name(), "threads": threads, "runs": runs}
    rows = []
    for condition in planned:
        contexts: list[Any] = []
        if condition.interventions:
            known = resolve_layout(model, layout)
            contexts = [change.applied(model, known, reference) for change in condition.interventions]
        with evaluating(model), torch.no_grad(), torch_threads(threads), ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            seconds = run_times(lambda: model(one), runs, on_gpu=one.is_cuda)
            joules, meter = _energy(model, one)
        low, median, high = np.percentile(1000 * seconds, [25, 50, 75])
        rows.append(
            {"condition": condition.name}
            | facts
            | {
                "macs": macs,
                "macs_without_cut_edges": macs - removed.get(condition.name, 0),
                "weight_bytes": weight_bytes(model, bits, per),
                "activation_bytes": np.nan if contexts else held,
                "latency_ms": median,
                "latency_iqr_ms": high - low,
                "real_time_factor": median / 1000 / hop_s if hop_s else np.nan,
                "energy_mj": 1000 * joules,
                "energy_meter": meter,
            }
        )
    return WholeTable(rows)


def processor_name() -> str:
    """Name the processor of this machine, as its kernel does."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "unknown"


class EnergyMeter:
    """The kernel's energy counters of the processor packages, which only root may read on many machines.

    Args:
        folder: The kernel's folder of counters.

    Attributes:
        name: The meter, or `"not measured"` if no counter can be read.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        self.zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        try:
            readable = bool(self.zones) and bool(self._read())
        except (OSError, ValueError):
            readable = False
        self.zones = self.zones if readable else []
        self.name = "processor package (powercap), idle included" if readable else NOT_MEASURED

    def _read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self.zones]

    def joules(self, run: Callable[[], object]) -> float:
        """Return the energy in J during a call; NaN if it is not measured. A counter that overflows is corrected."""
        if not self.zones:
            run()
            return float("nan")
        before = self._read()
        run()
        spent = [now - then for now, then in zip(self._read(), before, strict=True)]
        ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in self.zones if min(spent) < 0]
        return sum(one if one >= 0 else one + ranges[k] for k, one in enumerate(spent)) / 1e6


def _energy(model: nn.Module, x: Tensor) -> tuple[float, str]:
    meter, counted = EnergyMeter(), 0
    if meter.name == NOT_MEASURED:
        return float("nan"), meter.name

    def run() -> None:
        nonlocal counted
        end = time.perf_counter() + ENERGY_SECONDS
        while time.perf_counter() < end:
            model(x)
            counted += 1

    return meter.joules(run) / counted, meter.name


def run_times(run: Callable[[], object], runs: int, on_gpu: bool = False) -> Float[np.ndarray, " run"]:
    """Measure the time of each call in s, after a few calls without measurement."""
    times = []
    for _ in range(WARM_UP + runs):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return np.array(times[WARM_UP:])


def _removed_macs(model: Any, conditions: Sequence[Condition], layout: TokenLayout | None) -> dict[str, float]:
    """Return the multiply-accumulates of cut edges: a score and a sum over d_head values for each."""
    table = audit(model, conditions, layout)
    width = getattr(getattr(model, "cfg", None), "d_head", np.nan)
    return dict(zip(table["condition"], 2 * width * table["edges_cut"], strict=True))
