"""`emg-lens probe`."""

from typing import Annotated

import typer
from rich.text import Text

from emg_lens.commands import terminal
from emg_lens.commands.model_argument import (
    ChannelsOption,
    ModelArgument,
    OutputsOption,
    SamplesOption,
    named_or_saved,
)
from emg_lens.commands.options import SettingsOption

CHECK_FAILED = 1
"""Exit code if a check failed."""


def probe(
    model: ModelArgument,
    channels: ChannelsOption = None,
    samples: SamplesOption = None,
    outputs: OutputsOption = None,
    settings: SettingsOption = [],
    trials: Annotated[int, typer.Option("--trials", min=2, help="Number of random trials to run.")] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the weights and of the trials.")] = 0,
) -> None:
    """Check a model for faults that change results without an error. One line for each check, with its number.

    The checks: the same output alone and in a batch, in any order, and twice; blindness to later input, if the model
    is causal; input and parameters without effect; edges that the model masks itself. The exit code is 0 if all
    checks passed, 1 if one failed, and 2 after an error.

    Example: emg-lens probe tinymyo-gestures --channels 16 --samples 2000
    """
    import torch

    from emg_lens.analysis.model_checks.checking import check_model

    torch.manual_seed(seed)
    with terminal.err.status("running the model"):
        probed = named_or_saved(model, channels, samples, outputs, settings)
        report = check_model(probed, probed.example_input(trials, seed=seed + 1))
    for line in repr(report).splitlines():
        style = "bold red" if line.startswith("  FAIL") else ""
        terminal.out.print(Text(line.rstrip(), style), soft_wrap=True)
    if not report.passed:
        raise typer.Exit(CHECK_FAILED)
