"""How a sweep runs: which executor, how many trials a forward, how many threads side by side."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

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
EXECUTORS: tuple[Executor, ...] = get_args(Executor)

CPU_TOKENS = 1536
"""Tokens a forward on a CPU: more do not run faster, and their activations leave the caches."""
SIDE_BY_SIDE_TOKENS = 768
"""Tokens from which on a micro-batch is worth a thread of its own; with less work, threads wait for the interpreter."""


class SweepInputError(EmgLensError, ValueError):
    """Trials that cannot be run, or an executor that cannot run this model."""


@dataclass(frozen=True)
class Settings:
    """How a sweep runs. Kept in its checkpoint: other choices would change the last digits.

    Attributes:
        executor: What runs: `"folded"`, `"tree"` or `"loop"`.
        batch_size: Trials a forward.
    """

    executor: str
    batch_size: int


def known_arithmetic(model: nn.Module) -> str:
    """The fastest way in which a model may run: `"folded"`, `"tree"` (with a digest of its parts), or `"loop"`."""
    if reason_not_to_fold(model) is None:
        return "folded"
    if reason_not_to_share(model) is not None:
        return "loop"
    kinds = map(type, model.modules())
    return f"tree {digest(f'{kind.__module__}.{kind.__qualname__}'.encode() for kind in kinds)}"


def reproducible_executor(model: nn.Module) -> Executor:
    """The executor that follows from what the model is, never from speed: the last digits would depend on it."""
    return "loop" if known_arithmetic(model) == "loop" else "tree"


def choose_executor(model: nn.Module, asked: Executor) -> str:
    """The executor that will run.

    Raises:
        SweepInputError: It is unknown, or cannot run this model.
    """
    if asked not in EXECUTORS:
        raise SweepInputError(f"unknown executor {asked!r}; known: {', '.join(EXECUTORS)}")
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
    """How the sweep will run.

    Raises:
        SweepInputError: As `choose_executor`, or a batch size below one.
    """
    if batch_size is not None and not (type(batch_size) is int and batch_size > 0):
        raise SweepInputError(f"batch_size={batch_size!r}; expected a number of trials, 1 or more, or None")
    executor = choose_executor(model, asked)
    if not isinstance(model, HookedBiosignalEncoder):
        return Settings(executor, min(batch_size or len(x), len(x)))
    workers = n_workers(model, x, executor)
    n_rounds = math.ceil(len(x) / (room(model, executor, workers) * workers))
    return Settings(executor, min(batch_size or math.ceil(len(x) / (n_rounds * workers)), len(x)))


def asked_settings(model: nn.Module, x: Tensor, asked: Executor, batch_size: int | None) -> dict[str, str]:
    """The settings that the user chose, as a checkpoint writes them.

    Raises:
        SweepInputError: As `choose_executor`.
    """
    chosen = {} if asked == "auto" else {"executor": choose_executor(model, asked)}
    return chosen | ({"batch_size": str(min(batch_size, len(x)))} if batch_size else {})


def n_workers(model: nn.Module, x: Tensor, executor: str) -> int:
    """Threads that run micro-batches side by side; hooks are everybody's, so only the folded tree may have several."""
    if executor != "folded" or device_of(model).type != "cpu":
        return 1
    assert isinstance(model, HookedBiosignalEncoder)
    return max(1, min(torch.get_num_threads(), len(x) * model.cfg.n_ctx // SIDE_BY_SIDE_TOKENS))


def room(model: HookedBiosignalEncoder, executor: str, n_workers: int) -> int:
    """Trials a worker whose activations fit into a quarter of the free memory (and stay near the caches of a CPU)."""
    cfg, n = model.cfg, model.cfg.n_ctx
    scores = 0 if executor == "folded" and n >= LONG else 2 * cfg.n_heads * n * n
    a_layer = n * (6 * cfg.d_model + 2 * cfg.d_mlp) + scores
    a_trial = 4 * a_layer * (cfg.n_layers + 1 if executor in ("folded", "tree") else 2)
    device = device_of(model)
    if device.type == "cuda":
        return max(1, int(torch.cuda.mem_get_info(device)[0] / 4 / a_trial))
    return max(1, min(int(psutil.virtual_memory().available / 4 / n_workers / a_trial), trials_near_the_caches(n)))


def trials_near_the_caches(n_ctx: int) -> int:
    """Trials a forward on a CPU, of `n_ctx` tokens each: `CPU_TOKENS`, and not fewer."""
    return CPU_TOKENS // n_ctx + 1


def device_of(model: nn.Module) -> torch.device:
    """Where the model is."""
    return next(model.parameters()).device


def check_inputs(x: Tensor, reference: Tensor | None) -> None:
    """Refuse trials that no model can make sense of.

    Raises:
        SweepInputError: No tensor, no trials, values that are not finite, or reference trials of another shape.
    """
    for name, trials in (("x", x), ("reference", reference)):
        if not isinstance(trials, Tensor) and not (trials is None and name == "reference"):
            what = type(trials).__name__
            raise SweepInputError(f"{name} is a {what}; expected a torch tensor, torch.as_tensor(x).float() makes one")
    if x.ndim < 2 or not x.numel():
        raise SweepInputError(f"no trials to run: x is {list(x.shape)}")
    for name, trials in (("x", x), ("reference", reference)):
        if trials is None or not trials.is_floating_point():
            continue
        bad = trials_not_finite(trials)
        if bad:
            raise SweepInputError(
                f"{name} has NaN or infinite values in {len(bad)} of {len(trials)} trials, the first is trial"
                f" {bad[0]}; clean them or leave them out"
            )
    if reference is not None and reference.shape[1:] != x.shape[1:]:
        raise SweepInputError(f"reference trials are {list(reference.shape[1:])}, those of x {list(x.shape[1:])}")


def check_scratch(folder: str | Path | None) -> Path | None:
    """The folder for temporary files.

    Raises:
        SweepInputError: It is none, or may not be written to.
    """
    if folder is None:
        return None
    if not str(folder):
        raise SweepInputError("scratch is empty; give a folder, '.' for this one")
    place = Path(folder).expanduser()
    try:
        tempfile.TemporaryFile(dir=place).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SweepInputError(f"scratch={str(folder)!r} is no folder to write to: {reason}") from None
    return place
