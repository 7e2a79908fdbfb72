"""The argument MODEL of commands that run one model."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from emg_lens.commands.options import settings_by_name

CHANNELS, SAMPLES, OUTPUTS = 8, 1000, 6

ModelArgument = Annotated[
    str,
    typer.Argument(help="Name of a model (emg-lens list), or folder of a saved model, of a fit or of a pre-training."),
]
ChannelsOption = Annotated[
    int | None, typer.Option("--channels", min=1, help=f"Number of EMG channels of a named model; default {CHANNELS}.")
]
SamplesOption = Annotated[
    int | None, typer.Option("--samples", min=1, help=f"Samples per window of a named model; default {SAMPLES}.")
]
OutputsOption = Annotated[
    int | None, typer.Option("--outputs", min=0, help=f"Classes or targets of a named model; default {OUTPUTS}.")
]


def named_or_saved(
    model: str, channels: int | None, samples: int | None, outputs: int | None, settings: Sequence[str]
) -> Any:
    """Build the model of a name with random weights, or load the one in a folder; in evaluation mode."""
    from emg_lens.models.registry import architecture_names
    from emg_lens.models.saved_models import saved_model
    from emg_lens.validation import ArgumentError

    is_path = os.sep in model or model.startswith("~") or model == "."
    if model in architecture_names() or not (is_path or Path(model).exists()):
        n_outputs = OUTPUTS if outputs is None else outputs
        return named_model(model, channels or CHANNELS, samples or SAMPLES, n_outputs, settings)
    if settings or not (channels is samples is outputs is None):
        raise ArgumentError(
            f"{model} is a saved model, whose sizes and settings are fixed; leave out --channels, --samples, --outputs"
            " and --set"
        )
    return saved_model(model)


def named_model(name: str, n_channels: int, n_samples: int, n_outputs: int, settings: Sequence[str]) -> Any:
    """Build the model of a name for EMG, with random weights, in evaluation mode; `settings` are those of `--set`."""
    from emg_lens.models.registry import architecture

    entry, classes = architecture(name), [str(k) for k in range(n_outputs)]
    given, sizes = settings_by_name(settings), {"modalities": {"emg": n_channels}, "n_samples": n_samples}
    return entry.model(entry.configure(given, **sizes, class_names=classes)).eval()
