"""`emg-lens cost`."""

import itertools
from typing import Annotated

import typer

from emg_lens.commands import terminal
from emg_lens.commands.model_argument import named_model
from emg_lens.commands.options import SettingsOption


def cost(
    names: Annotated[list[str], typer.Argument(help="Models (emg-lens list).")],
    channels: Annotated[
        list[int], typer.Option("--channels", min=1, help="Number of EMG channels; may be repeated.")
    ] = [8, 16],
    samples: Annotated[list[int], typer.Option("--samples", min=1, help="Samples per window; may be repeated.")] = [
        200,
        1000,
    ],
    outputs: Annotated[int, typer.Option("--outputs", min=0, help="Number of classes or target values.")] = 6,
    settings: SettingsOption = [],
) -> None:
    """Print parameters, operations, memory and time per window for each number of channels and each length.

    The table also names the nearest memory of a GAP9 microcontroller that can hold the weights if it is empty.

    Example: emg-lens cost tinymyo --channels 8 --channels 16 --samples 1000
    """
    from emg_lens.analysis.cost import cost_cells, model_costs

    models = {
        f"{name}, {n_channels} x {n_samples}": named_model(name, n_channels, n_samples, outputs, settings)
        for name, n_channels, n_samples in itertools.product(names, channels, samples)
    }
    with terminal.err.status("running the models"):
        table = cost_cells(model_costs(models))
    terminal.print_table(table)
