"""What a model costs to run: parameters, arithmetic, memory and time for one window (docs/tinymyo-model.md §9.5).

Nothing is quantised here: bytes at 8 and 4 bits are those of the weights alone, without scales.
"""

import weakref
from collections.abc import Iterable, Mapping
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

from emg_lens.models.declarations import why_undeclared
from emg_lens.models.encoder import HookedBiosignalEncoder, count_parameters
from emg_lens.models.staged import blocks_with_positions
from emg_lens.validation import ArgumentError, checked

BITS = {"fp32": 32, "int8": 8, "int4": 4}
"""Of a weight."""
GAP9 = {"L1": 128 * 2**10, "L2": 3 * 2**19, "eMRAM": 2 * 2**20}
"""Bytes of the memories of GreenWaves' GAP9, about, from the nearest to the farthest (Fasulo 2025, §3.2)."""
OUTSIDE = "external"
"""Where what is larger than all of them has to be."""


@checked
def model_costs(models: Mapping[str, nn.Module], *, seconds: PositiveFloat = 0.2) -> pd.DataFrame:
    """Costs of one window through each of some models, in eval mode, without hooks.

    Args:
        models: By name; each with `example_input`, as every model of the registry has it. Left as they were.
        seconds: That each is run for to measure its time.

    Returns:
        One row a model:

        * `model`, `channels`, `samples`, `tokens` (0 for a model without), `parameters`.
        * `flops`: floating-point operations that torch counts, an addition and a product each as one; of norms,
          activations and softmax none.
        * `flops_formula`: what `forward_flops` says; NaN for a model that it does not know.
        * `activation_bytes`: the most that tensors take at a time beside weights and input, float32; what a
          fused kernel takes inside is not in it.
        * `fp32_bytes`, `int8_bytes`, `int4_bytes` of the weights, and in which memory of a GAP9 they would fit
          (`fp32_in`, ...), if nothing else were in it.
        * `latency_ms`: median time on this machine, one thread of its processor.

    Raises:
        ArgumentError: No models, or one without `example_input`.
    """
    if not models:
        raise ArgumentError("models is empty; give at least one by its name: {'TinyMyo': model}")
    return pd.DataFrame([{"model": name} | _costs(name, model, seconds) for name, model in models.items()])


def cost_cells(costs: pd.DataFrame) -> pd.DataFrame:
    """`model_costs` as text: millions of parameters and operations, KiB and MiB, ms."""
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
        raise ArgumentError(f"{name!r} is a {type(model).__name__} without example_input; expected a registered model")
    was_training, x = model.training, model.example_input(1)
    model.eval()
    try:
        with torch.no_grad():
            model(x)  # what the first call alone does is not counted
            flops, activations = _counted_flops(model, x), _most_held(model, x)
            timer = Timer("model(x)", globals={"model": model, "x": x}, num_threads=1)
            latency = timer.blocked_autorange(min_run_time=seconds).median
    finally:
        model.train(was_training)
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
        "activation_bytes": activations,
        **{f"{kind}_bytes": size for kind, size in sizes.items()},
        **{f"{kind}_in": _memory_for(size) for kind, size in sizes.items()},
        "latency_ms": 1000 * latency,
    }


def _counted_flops(model: nn.Module, x: Tensor) -> int:
    # torch's counter does not know its fused attention for CPUs: the plain form is the same arithmetic. Without
    # gradients, it stumbles over a module that gives a view of its own parameter.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


class _HeldBytes(TorchDispatchMode):
    """Inside, counts bytes of the tensors that operations make, for as long as somebody holds them.

    Attributes:
        most: At a time.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.most = self.held = 0
        self.seen = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._add, made)
        return made

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self.seen:
            self.seen.add(place)
            self.held += size
            self.most = max(self.most, self.held)
            weakref.finalize(storage, self._drop, place, size)

    def _drop(self, place: int, size: int) -> None:
        self.seen.discard(place)
        self.held -= size


def _most_held(model: nn.Module, x: Tensor) -> int:
    """Bytes of all tensors that a forward holds at once, beside weights and input."""
    with _HeldBytes([x, *model.parameters(), *model.buffers()]) as counter:
        model(x)
    return counter.most


def _memory_for(n_bytes: int) -> str:
    return next((name for name, size in GAP9.items() if n_bytes <= size), OUTSIDE)
