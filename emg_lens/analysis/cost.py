"""Compute of a model: parameters, operations, memory and time for one window (docs/tinymyo-model.md §9.5).

Nothing is quantised here: the sizes at 8 and 4 bits count only the weights, without scales.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from emg_lens.hooks.evaluation import evaluating
from emg_lens.models.declarations import why_undeclared
from emg_lens.models.encoder import HookedBiosignalEncoder, count_parameters
from emg_lens.models.staged import blocks_with_positions
from emg_lens.tables import WholeTable
from emg_lens.validation import ArgumentError, checked

BITS = {"fp32": 32, "int8": 8, "int4": 4}
"""Bits of a weight."""
GAP9 = {"L1": 128 * 2**10, "L2": 3 * 2**19, "eMRAM": 2 * 2**20}
"""Approximate sizes in bytes of the memories of GreenWaves' GAP9, from nearest to farthest (Fasulo 2025, §3.2)."""
OUTSIDE = "external"
"""The memory of models that are larger than all of these."""


@checked
def model_costs(models: Mapping[str, nn.Module], *, seconds: PositiveFloat = 0.2) -> pd.DataFrame:
    """Measure the compute of one window for several models, in eval mode, without hooks.

    Args:
        models: Models by name, each with `example_input` (all registered models have it). The models are not changed.
        seconds: Time in seconds to run each model for the measurement of its latency.

    Returns:
        One row per model:

        * `model`, `channels`, `samples`, `tokens` (0 for a model without tokens), `parameters`.
        * `flops`: floating-point operations counted by torch; an addition and a product count one each. Norms,
          activations and softmax are not counted.
        * `flops_formula`: the result of `forward_flops`; NaN if parts of the model declare no operations.
        * `activation_bytes`: the largest memory of tensors at a time, without weights and input, in float32. The
          internal memory of fused kernels is not included.
        * `fp32_bytes`, `int8_bytes`, `int4_bytes`: size of the weights; `fp32_in`, ...: the smallest memory of a GAP9
          into which the weights fit.
        * `latency_ms`: median time in ms with one thread of this machine's processor.

    Raises:
        ArgumentError: No models, or a model without `example_input`.

    Example:
        >>> from emg_lens import build_model
        >>> from emg_lens.analysis import model_costs
        >>> model = build_model("isonet", modalities={"emg": 4}, n_samples=50, n_classes=3, d_model=64, n_layers=2)
        >>> costs = model_costs({"small IsoNet": model}, seconds=0.01)
        >>> costs[["model", "tokens", "flops", "flops_formula", "int8_in"]].to_dict("records")
        [{'model': 'small IsoNet', 'tokens': 5, 'flops': 694144, 'flops_formula': 694144.0, 'int8_in': 'L1'}]
    """
    if not models:
        raise ArgumentError("models is empty; expected models by name: {'TinyMyo': model}")
    return WholeTable([{"model": name} | _costs(name, model, seconds) for name, model in models.items()])


def cost_cells(costs: pd.DataFrame) -> pd.DataFrame:
    """Format the table of `model_costs` as text: millions of operations, MiB, ms."""
    cells = {
        "model": costs["model"],
        "tokens": [f"{n:d}" for n in costs["tokens"]],
        "parameters": [f"{n:,d}" for n in costs["parameters"]],
        "MFLOP": [f"{n / 1e6:,.1f}" for n in costs["flops"]],
        "activations (MiB)": [f"{n / 2**20:.2f}" for n in costs["activation_bytes"]],
    }
    for kind in BITS:
        sizes = zip(costs[f"{kind}_bytes"], costs[f"{kind}_in"], strict=True)
        cells[f"{kind.upper()} (MiB)"] = [f"{n / 2**20:.2f} {where}" for n, where in sizes]
    return pd.DataFrame(cells | {"time (ms)": [f"{ms:.1f}" for ms in costs["latency_ms"]]})


@checked
def forward_flops(model: nn.Module) -> int:
    """Count the floating-point operations of one window by formula, from what the parts of an encoder declare.

    An encoder's `embed`, blocks and `unembed` declare `multiply_accumulates`; each counts as two operations. With n
    tokens, width d, MLP width m, L layers and s samples a token this is 2nsd for the embedding, L(8nd² + 4n²d + 4ndm)
    for the blocks, and the head. Norms, activations, softmax, residual sums and added positions are left out.

    Raises:
        ArgumentError: `model` is not an encoder, or one of its parts does not declare `multiply_accumulates`.
    """
    if not isinstance(model, HookedBiosignalEncoder):
        raise ArgumentError(f"forward_flops needs an encoder (HookedBiosignalEncoder), got {type(model).__name__}")
    cfg: Any = model.cfg
    has_head = cfg.readout != "none"
    blocks = [one for layer in model.blocks for one in blocks_with_positions(layer, cfg.n_ctx)]
    parts: list[Any] = [model.embed, *(block for block, _ in blocks), *([model.unembed] if has_head else [])]
    reasons = [why_undeclared(part, "multiply_accumulates") for part in parts]
    reasons += [why_undeclared(model, name) for name in ("runs_blocks_in_order", "readout_positions")]
    if reason := next(filter(None, reasons), None):
        raise ArgumentError(f"forward_flops cannot count the operations of {type(model).__name__}: {reason}")
    ends = [part.multiply_accumulates(cfg) for part in (parts[0], *parts[len(blocks) + 1 :])]
    return 2 * (sum(ends) + sum(block.multiply_accumulates(n_positions) for block, n_positions in blocks))


def _costs(name: str, model: Any, seconds: float) -> dict[str, Any]:
    if not hasattr(model, "example_input"):
        raise ArgumentError(f"{name!r} is a {type(model).__name__} without example_input; expected one of our models")
    x = model.example_input(1)
    with evaluating(model), torch.no_grad():
        model(x)  # one-time work of the first call is not counted
        flops = counted_flops(model, x)
        held = held_bytes(model, x)
        timer = Timer("model(x)", globals={"model": model, "x": x}, num_threads=1)
        latency = timer.blocked_autorange(min_run_time=seconds).median
    n_parameters = count_parameters(model)
    sizes = {kind: -(-n_parameters * bits // 8) for kind, bits in BITS.items()}
    try:
        by_formula = float(forward_flops(model))
    except ArgumentError:
        by_formula = np.nan
    return {
        "channels": model.cfg.n_channels,
        "samples": model.cfg.n_samples,
        "tokens": getattr(model.cfg, "n_ctx", 0),
        "parameters": n_parameters,
        "flops": flops,
        "flops_formula": by_formula,
        "activation_bytes": held,
        **{f"{kind}_bytes": size for kind, size in sizes.items()},
        **{
            f"{kind}_in": next((name for name, most in GAP9.items() if size <= most), OUTSIDE)
            for kind, size in sizes.items()
        },
        "latency_ms": 1000 * latency,
    }


def counted_flops(model: nn.Module, x: Tensor) -> int:
    """Count the floating-point operations of `model(x)` with torch's counter, with attention."""
    # torch's counter ignores its fused attention for CPUs, so the plain form with the same arithmetic runs. The counter
    # needs gradients, because without them it fails for a module that returns a view of its own parameter. It also
    # ignores the recurrent kernels of oneDNN.
    backend: Any = torch.backends.mkldnn
    before, backend.enabled = backend.enabled, False
    try:
        kernel = sdpa_kernel(SDPBackend.MATH)
        with _plain_layers(), torch.enable_grad(), kernel, FlopCounterMode(display=False) as counter:
            model(x)
    finally:
        backend.enabled = before
    return counter.get_total_flops()


def held_bytes(model: nn.Module, x: Tensor) -> int:
    """Measure the largest memory in bytes of tensors at a time while `model(x)` runs, without weights and input."""
    with _plain_layers(), torch.no_grad(), HeldBytes([x, *model.parameters(), *model.buffers()]) as held:
        model(x)
    return held.most


@contextmanager
def _plain_layers() -> Iterator[None]:
    """Turn off torch's fused kernels of transformer layers, whose operations and inner tensors cannot be counted.

    They run in evaluation mode for frozen weights and without gradients.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class HeldBytes(TorchDispatchMode):
    """A context that counts the bytes of tensors that operations make and that are still in use: `most` at a time.

    Args:
        known: Tensors that are not counted: weights and input.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.most = self.held = 0
        self.counted = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._add, made)
        return made

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self.counted:
            self.counted.add(place)
            self.held += size
            self.most = max(self.most, self.held)
            weakref.finalize(storage, self._drop, place, size)

    def _drop(self, place: int, size: int) -> None:
        self.counted.discard(place)
        self.held -= size
