"""Inputs of models: calling a model, and small random inputs to probe it."""

import inspect
from collections.abc import Mapping
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn

from emg_lens.errors import EmgLensError
from emg_lens.hooks.hook_points import check_unmapped, class_name
from emg_lens.validation import ArgumentError, short

Inputs = Tensor | tuple | Mapping[str, Any]
"""The input of a model: one tensor, a tuple of positional arguments, or a mapping of keyword arguments."""


FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What models raise for an input that does not fit them."""


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run `model` on `inputs`; if it fails and `inputs` have another type or device, say so."""
    if isinstance(inputs, tuple | Mapping) and not inputs:
        raise ArgumentError(f"inputs={inputs!r} is empty; expected the arguments of {type(model).__name__}")
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    except (RuntimeError, TypeError, ValueError) as error:
        if difference := unlike_parameters(model, inputs):
            raise ArgumentError(f"{class_name(model)} cannot run this input: {difference}") from error
        raise


def first_call(model: nn.Module, inputs: Inputs) -> Any:
    """Run `model` on an input that a user gave; if it fails, say on what, where, why, and what to do."""
    try:
        return call(model, inputs)
    except (EmgLensError, torch.OutOfMemoryError):
        raise
    except FAILURES as error:
        given = [f"{name} {list(one.shape)}" if isinstance(one, Tensor) else name for name, one in _named(inputs)]
        reason = reason_of_failure(model, inputs, error)
        raise ArgumentError(f"{class_name(model)} fails on {', '.join(given)}: {reason}") from error


def reason_of_failure(model: nn.Module, inputs: Inputs, error: Exception) -> str:
    """Say why a model fails on an input, in which of its parts, and what to do.

    Example:
        >>> import torch
        >>> from emg_lens.hooks.model_inputs import reason_of_failure
        >>> reason_of_failure(torch.nn.Linear(3, 2), torch.zeros(2, 4), RuntimeError("sizes 4 and 3 differ"))
        'RuntimeError: sizes 4 and 3 differ; check that the input has the size that the model was built for'
    """
    if difference := unlike_parameters(model, inputs):
        return difference
    original = getattr(model, "original_model", model)
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
    reason = f"{text}{_failed_part(original, error)}"
    try:
        signature = inspect.signature(original.forward)
    except (TypeError, ValueError):  # compiled code has none
        return reason
    args = () if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else (inputs,)
    try:
        given = signature.bind_partial(*args, **(inputs if isinstance(inputs, Mapping) else {})).arguments
    except TypeError:
        return f"{reason}; expected the arguments ({', '.join(signature.parameters)})"
    named = [one for one in signature.parameters.values() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    missing = [one.name for one in named if one.default is one.empty and one.name not in given]
    optional = [one.name for one in named if one.name not in given and one.name in str(error)]
    wrap = "wrap the model in a class that gives {} (docs/own-model.md)"
    if missing:
        return f"{reason}; {wrap.format(' and '.join(missing))}"
    advice = f"; if it needs {' or '.join(optional)}, {wrap.format('it')}" if optional else ""
    return f"{reason}; check that the input has the size that the model was built for{advice}"


def _failed_part(model: nn.Module, error: Exception) -> str:
    """Return the innermost module that raised an error, for a message; nothing for the model itself."""
    names, place = {id(part): name for name, part in model.named_modules() if name}, ""
    for frame, _ in walk_tb(error.__traceback__):
        part = frame.f_locals.get("self")
        if id(part) in names:
            place = f" (in {names[id(part)]}, {short(part)})"
    return place


def _named(inputs: Inputs) -> list[tuple[str, Any]]:
    """Return the arguments in an input, with names for messages."""
    if isinstance(inputs, Mapping):
        return list(inputs.items())
    return [(f"inputs[{i}]", one) for i, one in enumerate(inputs)] if isinstance(inputs, tuple) else [("x", inputs)]


def unlike_parameters(model: nn.Module, inputs: Inputs) -> str:
    """Say how the type or the device of an input differs from the parameters of a model, and what to do.

    Whole numbers count only where the model reads no words and no input has floats.

    Example:
        >>> import torch
        >>> from emg_lens.hooks.model_inputs import unlike_parameters
        >>> unlike_parameters(torch.nn.Linear(3, 2), torch.zeros(4, 3, dtype=torch.float64))
        'x is torch.float64, the parameters are torch.float32; pass x.to(torch.float32)'
    """
    parameter = next((one for one in model.parameters() if one.is_floating_point()), None)
    tensors = {name: one for name, one in _named(inputs) if isinstance(one, Tensor)}
    reads_words = any(isinstance(part, nn.Embedding) for part in model.modules())
    whole_numbers = reads_words or any(one.is_floating_point() for one in tensors.values())
    if parameter is None:
        return ""
    for name, one in tensors.items():
        if one.device != parameter.device:
            wanted = f"'{parameter.device}'"
            return f"{name} is on {one.device}, the parameters are on {parameter.device}; pass {name}.to({wanted})"
        if one.dtype != parameter.dtype and (one.is_floating_point() or not whole_numbers):
            return f"{name} is {one.dtype}, the parameters are {parameter.dtype}; pass {name}.to({parameter.dtype})"
    return ""


def example_inputs(model: nn.Module, n_tokens: int, batch: int = 1) -> Inputs:
    """Make a random input: `model.example_input()` if it exists, otherwise `n_tokens` words, an image or samples."""
    check_unmapped(model)
    parameter = next(model.parameters())
    if callable(getattr(model, "example_input", None)):
        x = model.example_input(batch=batch)  # pyright: ignore
        if not isinstance(x, Tensor):
            return x
        return x.to(parameter) if x.is_floating_point() else x.to(parameter.device)
    generator = torch.Generator().manual_seed(0)
    wrapped = getattr(model, "original_model", None)
    kind = getattr(wrapped, "main_input_name", "input_ids")
    if kind == "input_ids" and model.cfg.d_vocab:  # pyright: ignore
        n_words = int(model.cfg.d_vocab)  # pyright: ignore
        low = min(5, n_words // 2)  # in most vocabularies the first entries are special tokens
        return torch.randint(low, n_words, (batch, n_tokens), generator=generator).to(parameter.device)
    shape = _signal_shape(kind, getattr(wrapped, "config", None), n_tokens)
    if shape is None:
        raise ArgumentError(f"cannot make an example {kind!r} for {type(model).__name__}; pass inputs=<a small batch>")
    return torch.randn(batch, *shape, generator=generator).to(parameter)


def _signal_shape(kind: str, config: Any, n_tokens: int) -> tuple[int, ...] | None:
    """Return the shape of one trial: an image, a time series, a spectrogram, or a waveform with `n_tokens` frames."""
    if kind == "pixel_values" and hasattr(config, "image_size"):
        size = config.image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return (config.num_channels, height, width)
    if kind == "past_values" and hasattr(config, "context_length"):
        return (config.context_length, config.num_input_channels)
    if kind == "input_values" and hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        return (config.max_length, config.num_mel_bins)
    if kind == "input_values" and hasattr(config, "conv_kernel"):
        n_samples = n_tokens
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            n_samples = (n_samples - 1) * stride + kernel
        return (n_samples,)
    return None
