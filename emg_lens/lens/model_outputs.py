"""The output tensor of any model: what it returns, the logits in it, or what a function of the user makes of it."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from emg_lens.errors import printable
from emg_lens.validation import ArgumentError

OutputFunction = Callable[[Any], Tensor]
"""Makes one tensor of floats `[trial, ...]` from what a model returns: `lambda o: o.logits`."""
MOST_PARTS = 6
"""Parts of a returned object that a message lists."""


class OutputError(ArgumentError):
    """A model whose output is not one tensor with a row for each trial."""


def output_tensor(model: nn.Module, returned: Any, output: OutputFunction | None, n_trials: int | None) -> Tensor:
    """Return the output tensor in what a model returned.

    Args:
        model: The model, for messages.
        returned: What it returned.
        output: Function that makes the tensor. None = the returned tensor itself, or the `logits` of a returned object
            or mapping, as in the outputs of Hugging Face.
        n_trials: Number of trials that went in; None = not checked.

    Raises:
        OutputError: There is no such tensor, `output` fails, or the tensor has not one row of floats per trial.

    Example:
        >>> import torch
        >>> from emg_lens.lens.model_outputs import output_tensor
        >>> returned = {"logits": torch.zeros(4, 3), "features": torch.zeros(4, 16)}
        >>> output_tensor(torch.nn.Identity(), returned, None, 4).shape
        torch.Size([4, 3])
        >>> output_tensor(torch.nn.Identity(), returned, lambda o: o["features"], 4).shape
        torch.Size([4, 16])
    """
    kind = type(getattr(model, "original_model", model)).__name__
    tensor = logits_in(returned) if output is None else _applied(output, returned, kind)
    if not isinstance(tensor, Tensor):
        if output is not None:
            raise OutputError(f"output=... returned {_described(tensor)}; expected one tensor [trial, ...] of logits")
        raise OutputError(
            f"{kind} returns {_described(returned)}; expected one tensor [trial, ...]: say which part is the output,"
            f" output={_example(returned)}"
        )
    of_trials = n_trials is None or (tensor.ndim > 0 and len(tensor) == n_trials)
    if not of_trials or not tensor.is_floating_point():
        raise OutputError(
            f"the output of {kind} is {list(tensor.shape)} ({tensor.dtype}); expected floats [{n_trials or 'trial'},"
            " ...], one row per trial: output=<a function of what the model returns> can choose or reshape it"
        )
    return tensor


def logits_in(returned: Any) -> Tensor | None:
    """Return a returned tensor, or the tensor `logits` in a returned object or mapping; None if there is neither."""
    if isinstance(returned, Tensor):
        return returned
    logits = returned.get("logits") if isinstance(returned, Mapping) else getattr(returned, "logits", None)
    return logits if isinstance(logits, Tensor) else None


def _applied(output: OutputFunction, returned: Any, kind: str) -> Any:
    try:
        return output(returned)
    except Exception as error:
        raise OutputError(
            f"output=... raises {type(error).__name__} ({printable(str(error))}); {kind} returns {_described(returned)}"
        ) from error


def _parts(returned: Any) -> dict[str, Any]:
    """Return the parts of a returned object, by the text that selects them."""
    if isinstance(returned, Mapping):
        dot = all(hasattr(returned, str(key)) for key in returned)  # as in the outputs of Hugging Face
        return {f".{key}" if dot else f"[{key!r}]": part for key, part in returned.items()}
    if isinstance(returned, tuple | list):
        return {f"[{i}]": part for i, part in enumerate(returned)}
    return {}


def _described(returned: Any) -> str:
    """Describe a returned object in a few words: its class, and its parts with their shapes."""
    if isinstance(returned, Tensor):
        return f"a tensor {list(returned.shape)}"
    parts = _parts(returned)
    shown = [
        f"{name} {list(part.shape) if isinstance(part, Tensor) else type(part).__name__}"
        for name, part in list(parts.items())[:MOST_PARTS]
    ]
    more = [f"{len(parts) - MOST_PARTS} more"] if len(parts) > MOST_PARTS else []
    return f"a {type(returned).__name__}" + (f" with {', '.join([*shown, *more])}" if shown else "")


def _example(returned: Any) -> str:
    """Write a function that chooses the part which most probably holds one row per trial."""
    tensors = {name: part for name, part in _parts(returned).items() if isinstance(part, Tensor) and part.ndim > 1}
    name = min(tensors, key=lambda one: tensors[one].ndim, default=None)
    if name is None:
        return "<a function of it>"
    mean = ".mean(1)" if tensors[name].ndim == 3 else ""
    return f"lambda o: o{name}{mean}"
