"""`emg-lens export`."""

from pathlib import Path
from typing import Annotated

import typer

from emg_lens.commands import terminal
from emg_lens.commands.model_argument import (
    ChannelsOption,
    ModelArgument,
    OutputsOption,
    SamplesOption,
    named_or_saved,
)
from emg_lens.commands.options import SettingsOption


def export(
    model: ModelArgument,
    onnx: Annotated[Path, typer.Option("--onnx", help="File to write, or to replace.")],
    bits: Annotated[
        int | None,
        typer.Option("--bits", min=2, max=16, help="Round the weights to this number of bits first (in float32)."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Trials in one run of the file.")] = 1,
    channels: ChannelsOption = None,
    samples: SamplesOption = None,
    outputs: OutputsOption = None,
    settings: SettingsOption = [],
) -> None:
    r"""Write a model as an ONNX file, and check the file with onnxruntime against the model.

    Prints the largest difference, the size, and the time of one run on this machine. Nothing is written if the outputs
    differ. Needs the extra: pip install 'emg-lens\[deploy]'

    Example: emg-lens export isonet --channels 16 --samples 50 --onnx isonet.onnx
    """
    from emg_lens.analysis.onnx_files import export_onnx
    from emg_lens.analysis.quantisation.quantised_model import quantised

    with terminal.err.status("exporting"):
        built = named_or_saved(model, channels, samples, outputs, settings)
        done = export_onnx(built if bits is None else quantised(built, bits), onnx, batch=batch)
    shape, spread = " x ".join(map(str, done.shape)), f"{done.latency_iqr_ms:.2f}"
    for line in (
        f"file        {done.file} ({done.size / 2**20:.2f} MiB, weights in float32)",
        f"input       signals [batch x channel x time] {shape}",
        f"difference  {done.largest_difference:.2g} at most (largest output {done.largest_output:.3g})",
        f"time        {done.latency_ms:.2f} ms with onnxruntime (median; interquartile range {spread});"
        f" {done.model_latency_ms:.2f} ms with torch; one thread",
    ):
        terminal.say(line)
