"""How a sweep runs: its executor, the trials in one forward, and the parallel threads."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import Tensor, nn

from emg_lens.errors import EmgLensError
from emg_lens.io.checkpoint import digest
from emg_lens.memory import trials_not_finite
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.executors.folded_attention import LONG
from emg_lens.sweeps.structure import reason_not_to_fold, reason_not_to_share

Executor = Literal["auto", "loop", "tree"]

CPU_TOKENS = 1536
"""Tokens in one forward on a CPU: with more, activations leave the caches, and nothing runs faster."""
SIDE_BY_SIDE_TOKENS = 768
"""Fewest tokens in a micro-batch with a thread of its own; with less work, threads wait for the interpreter."""


class SweepInputError(EmgLensError, ValueError):
    """Trials or options that a sweep cannot use with this model."""


@dataclass(frozen=True)
class Settings:
    """How a sweep runs: the executor (`"folded"`, `"tree"` or `"loop"`), and the trials in one forward.

    A checkpoint keeps them, because other choices would change the last digits.
    """

    executor: str
    batch_size: int


def known_arithmetic(model: nn.Module) -> str:
    """Return the fastest way to run a model: `"folded"`, `"tree"` (with a digest of its parts), or `"loop"`."""
    if reason_not_to_fold(model) is None:
        return "folded"
    device = device_of(model).type
    precision = f" in {torch.get_autocast_dtype(device)}" if torch.is_autocast_enabled(device) else ""
    if reason_not_to_share(model) is not None:
        return f"loop{precision}"
    kinds = map(type, model.modules())
    return f"tree {digest(f'{kind.__module__}.{kind.__qualname__}'.encode() for kind in kinds)}{precision}"


def reproducible_executor(model: nn.Module) -> Executor:
    """Choose the executor from the model alone, so that the last digits do not depend on speed or batch size."""
    return "loop" if known_arithmetic(model).startswith("loop") else "tree"


def choose_executor(model: nn.Module, asked: Executor) -> str:
    """Choose the executor that will run."""
    if asked == "loop":
        return "loop"
    if reason_not_to_fold(model) is None:
        return "folded"
    against = reason_not_to_share(model)
    if against is None:
        return "tree"
    if asked == "auto":
        return "loop"
    raise SweepInputError(f"executor {asked!r} cannot run this {type(model).__name__}: {against}; use 'loop'")


def settle(model: nn.Module, x: Tensor, asked: Executor, batch_size: int | None) -> Settings:
    """Choose how the sweep will run."""
    executor = choose_executor(model, asked)
    if not isinstance(model, HookedBiosignalEncoder):
        return Settings(executor, min(batch_size or len(x), len(x)))
    workers = n_workers(model, x, executor)
    n_rounds = math.ceil(len(x) / (room(model, executor, workers) * workers))
    return Settings(executor, min(batch_size or math.ceil(len(x) / (n_rounds * workers)), len(x)))


def asked_settings(model: nn.Module, x: Tensor, asked: Executor, batch_size: int | None) -> dict[str, str]:
    """Return the settings that the user chose, in the form of a checkpoint."""
    chosen = {} if asked == "auto" else {"executor": choose_executor(model, asked)}
    return chosen | ({"batch_size": str(min(batch_size, len(x)))} if batch_size else {})


def n_workers(model: nn.Module, x: Tensor, executor: str) -> int:
    """Return the number of threads; only the folded tree, which uses no hooks, runs in more than one."""
    if executor != "folded" or device_of(model).type != "cpu":
        return 1
    assert isinstance(model, HookedBiosignalEncoder)
    return max(1, min(torch.get_num_threads(), len(x) * model.cfg.n_ctx // SIDE_BY_SIDE_TOKENS))


def room(model: HookedBiosignalEncoder, executor: str, n_workers: int) -> int:
    """Return how many trials of a worker fit into a quarter of the free memory, and on a CPU near its caches."""
    cfg, n = model.cfg, model.cfg.n_ctx
    scores = 0 if executor == "folded" and n >= LONG else 2 * cfg.n_heads * n * n
    a_layer = n * (6 * cfg.d_model + 2 * cfg.d_mlp) + scores
    a_trial = 4 * a_layer * (cfg.n_layers + 1 if executor in ("folded", "tree") else 2)
    device = device_of(model)
    if device.type == "cuda":
        return max(1, int(torch.cuda.mem_get_info(device)[0] / 4 / a_trial))
    return max(1, min(int(psutil.virtual_memory().available / 4 / n_workers / a_trial), trials_near_the_caches(n)))


def trials_near_the_caches(n_ctx: int) -> int:
    """Return the trials in one forward on a CPU, with `n_ctx` tokens each: at least `CPU_TOKENS` tokens."""
    return CPU_TOKENS // n_ctx + 1


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model."""
    return next(model.parameters()).device


def check_inputs(x: Tensor, reference: Tensor | None) -> None:
    """Refuse trials that no model can use."""
    if x.ndim < 2 or not x.numel():
        raise SweepInputError(f"no trials to run: x is {list(x.shape)}; expected [trial, channel, time]")
    for name, trials in (("x", x), ("reference", reference)):
        if trials is None:
            continue
        if not len(trials):
            raise SweepInputError(f"{name} has no trial: it is {list(trials.shape)}; give at least one trial")
        if trials.shape[1:] != x.shape[1:]:
            raise SweepInputError(f"{name} trials are {list(trials.shape[1:])}; expected {list(x.shape[1:])}, as in x")
        if not trials.is_floating_point():
            continue
        bad = trials_not_finite(trials)
        if bad:
            raise SweepInputError(
                f"{name} has NaN or infinite values in {len(bad)} of {len(trials)} trials, the first is trial"
                f" {bad[0]}; repair them or leave them out"
            )


def check_scratch(folder: str | Path | None) -> Path | None:
    """Return the folder for temporary files."""
    if folder is None:
        return None
    place = Path(folder).expanduser()
    try:
        tempfile.TemporaryFile(dir=place).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SweepInputError(f"cannot write to the folder scratch={str(folder)!r}: {reason}") from None
    return place
