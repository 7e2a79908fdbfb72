"""ONNX files of models: write, run with onnxruntime, compare (extra `deploy`)."""

import contextlib
import importlib.util
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from emg_lens.analysis.deployment import run_times
from emg_lens.errors import EmgLensError, printable
from emg_lens.hooks.evaluation import evaluating
from emg_lens.io.files import check_replaceable, write_bytes
from emg_lens.lens.model_outputs import OutputFunction, output_tensor
from emg_lens.sweeps.side_by_side import torch_threads
from emg_lens.sweeps.structure import has_hooks
from emg_lens.validation import ArgumentError, checked

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest allowed difference from the model's output, as a fraction of the largest output."""
RUNS = 50
INPUT, OUTPUT = "signals", "outputs"


class ExportError(EmgLensError, RuntimeError):
    """A model that cannot be exported, or whose file computes something else."""


@dataclass(frozen=True)
class OnnxExport:
    """A written file, and what was measured on it.

    Attributes:
        file: The file.
        size: Its size in bytes.
        shape: Shape of the input `signals`.
        largest_difference: Largest difference between outputs of the file and of the model, over two inputs.
        largest_output: Largest absolute output of the model on these inputs.
        latency_ms: Median time of one run with onnxruntime in ms, one thread.
        latency_iqr_ms: Interquartile range of these times in ms.
        model_latency_ms: Median time of the model itself in ms, one thread.
    """

    file: Path
    size: int
    shape: tuple[int, ...]
    largest_difference: float
    largest_output: float
    latency_ms: float
    latency_iqr_ms: float
    model_latency_ms: float


@checked
def export_onnx(
    model: nn.Module,
    file: str | Path,
    x: Tensor | None = None,
    *,
    output: OutputFunction | None = None,
    batch: PositiveInt = 1,
) -> OnnxExport:
    """Write a model as an ONNX file, run the file with onnxruntime, and compare it with the model.

    The file computes the outputs in evaluation mode in float32 for inputs of one shape, named `signals`; its output is
    named `outputs`. It is written only if it agrees with the model.

    Args:
        model: One of our models, also a quantised copy, or a module with one input.
        file: The file to write, or to replace.
        x: Input for the comparison `[batch, channel, time]`; default: standard-normal signals.
        output: Function of what the model returns that makes the tensor to write, as for `sweep`: `lambda o: o[0]`. Not
            needed for a model that returns a tensor, or an object with `logits`.
        batch: Trials in one run, if `x` is not given.

    Returns:
        The size of the file, the largest difference, and times.

    Raises:
        ExportError: The extra `deploy` is not installed, the model cannot be exported, the outputs differ by more than
            1e-4 of the largest one, or the file cannot be written.
        ArgumentError: A model with hooks, without `example_input` and without `x`, that does not run on `x`, or that
            does not return a tensor without `output`; no trials; or a file in a folder that does not exist.
        NotAFileError: The file is a pipe or a device.

    Example:
        >>> import torch
        >>> from emg_lens.analysis import export_onnx
        >>> done = export_onnx(torch.nn.Linear(3, 2), "linear.onnx", torch.randn(1, 3))
        >>> done.file.name, done.shape, done.largest_difference < 1e-5
        ('linear.onnx', (1, 3), True)
    """
    path = Path(file).expanduser()
    check_replaceable(path)
    if not path.name or path.is_dir() or not path.parent.is_dir():
        missing_folder = "" if not path.name or path.parent.is_dir() else f"; there is no folder {str(path.parent)!r}"
        raise ArgumentError(
            f"file={str(file)!r}; expected a file in a folder that exists, 'model.onnx'{missing_folder}"
        )
    if missing := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        raise ExportError(f"{' and '.join(missing)} not installed; pip install 'emg-lens[deploy]'")
    if has_hooks(model):
        raise ArgumentError("the model has hooks, which a file cannot contain; call model.reset_hooks() first")
    if x is None and not hasattr(model, "example_input"):
        raise ArgumentError(f"cannot make an input for {type(model).__name__}; pass x=<a batch>")
    given: Any = model
    x = given.example_input(batch) if x is None else x.detach()
    assert x is not None
    model = _Written(model, output)
    _check_run(model, x)
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    with evaluating(model), torch.no_grad():
        content = _onnx_bytes(model, x.clone())
        expected = [model(one.clone()).cpu().numpy() for one in (x, other)]
        again = x.clone()  # a model may change its input in place
        with torch_threads(1):
            own_times = run_times(lambda: model(again), RUNS)
    session = _session(content)
    found = [session.run([OUTPUT], {INPUT: one.cpu().numpy()})[0] for one in (x, other)]
    difference = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
    largest = max(float(np.abs(one).max()) for one in expected)
    if not difference <= TOLERANCE * max(largest, 1e-12):
        raise ExportError(
            f"onnxruntime's outputs differ from the model's by {difference:.3g}, of at most {largest:.3g}; nothing was"
            " written"
        )
    given_numpy = x.cpu().numpy()
    seconds = run_times(lambda: session.run([OUTPUT], {INPUT: given_numpy}), RUNS)
    low, median, high = np.percentile(1000 * seconds, [25, 50, 75])
    try:
        write_bytes(path, content)
    except OSError as error:
        raise ExportError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    shape = tuple(x.shape)
    return OnnxExport(
        path, len(content), shape, difference, largest, median, high - low, 1000 * float(np.median(own_times))
    )


class _Written(nn.Module):
    """A model that returns only the tensor that is written to the file."""

    def __init__(self, model: nn.Module, output: OutputFunction | None) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, x: Tensor) -> Tensor:
        """Run the model, and choose its output."""
        returned = self.model(x)
        if self.output is None and isinstance(returned, Tensor):
            return returned
        return output_tensor(self.model, returned, self.output, None)


def _check_run(model: _Written, x: Tensor) -> None:
    """Refuse an input on which the model does not run, and a model that does not return a tensor."""
    kind = type(model.model).__name__
    if not x.numel():
        raise ArgumentError(f"x has shape {list(x.shape)}; expected at least one trial: [batch, ...]")
    try:
        with evaluating(model), torch.no_grad():
            model(x.clone())
    except EmgLensError:
        raise
    except Exception as error:
        raise ArgumentError(f"{kind} does not run on x of shape {list(x.shape)}: {printable(str(error))}") from error


def _onnx_bytes(model: _Written, x: Tensor) -> bytes:
    """Return the content of the file; what torch's exporter prints and logs is left out."""
    noise = logging.getLogger("torch.onnx")
    level, printed = noise.level, io.StringIO()
    noise.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model, (x,), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
        assert program is not None
        return program.model_proto.SerializeToString()
    except Exception as error:  # noqa: BLE001 - the exporter raises errors of many kinds
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"torch cannot export {type(model.model).__name__} to ONNX: {reason}") from error
    finally:
        noise.setLevel(level)


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
