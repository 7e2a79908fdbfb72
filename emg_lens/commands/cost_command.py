"""`emg-lens cost`."""

import itertools
from typing import Annotated

import typer

from emg_lens.commands import terminal
from emg_lens.commands.options import SettingsOption, settings_by_name


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
    from emg_lens.models.registry import architecture

    given = settings_by_name(settings)
    models = {}
    for name, n_channels, n_samples in itertools.product(names, channels, samples):
        entry, classes = architecture(name), [str(k) for k in range(outputs)]
        config = entry.configure(given, modalities={"emg": n_channels}, n_samples=n_samples, class_names=classes)
        models[f"{name}, {n_channels} x {n_samples}"] = entry.model(config)
    with terminal.err.status("running the models"):
        table = cost_cells(model_costs(models))
    terminal.print_table(table)
