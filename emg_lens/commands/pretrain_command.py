"""`emg-lens pretrain`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from emg_lens.commands import terminal
from emg_lens.commands.options import OutOption, PartsOption


def pretrain_(
    name: Annotated[str, typer.Argument(help="Name of a pre-training, or its file (.yaml).")],
    data: PartsOption = None,
    out_folder: OutOption = Path("runs"),
    workers: Annotated[int, typer.Option("--workers", min=0, help="Number of processes that load data.")] = 0,
    precision: Annotated[str, typer.Option("--precision", help="Mixed precision: no, bf16.")] = "no",
    device: Annotated[str, typer.Option("--device", help="Device: auto, cpu.")] = "auto",
    log_to: Annotated[str | None, typer.Option("--log", help="Also log to tensorboard or wandb, if installed.")] = None,
) -> None:
    """Pre-train an encoder by masked reconstruction, or resume a stopped pre-training.

    To use several processes or machines: torchrun --nproc-per-node 2 -m emg_lens pretrain ...

    Example: emg-lens pretrain pretrain-myo --data ~/emg
    """
    from emg_lens.training.pretraining.run_folder import run_pretraining
    from emg_lens.training.pretraining.spec import PretrainingSpec

    spec = PretrainingSpec.load(name)
    run = run_pretraining(
        spec,
        data,
        out_folder,
        workers=workers,
        precision=precision,  # pyright: ignore[reportArgumentType] - invalid values are rejected
        device=device,  # pyright: ignore[reportArgumentType]
        log_to=log_to,  # pyright: ignore[reportArgumentType]
        console=terminal.err,
    )
    if os.environ.get("RANK", "0") != "0":  # the first of several processes prints
        return
    last = run.losses.iloc[-1]
    subjects = f" (subjects {', '.join(run.validation.subjects)})" if run.validation.subjects else ""
    losses = f"training {last['train_masked']:.4f}, validation{subjects} {last['validation_masked']:.4f}"
    terminal.say(f"masked loss after {int(last['step'])} steps: {losses}")
    terminal.say(str(run.folder))
