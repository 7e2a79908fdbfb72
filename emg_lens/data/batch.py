"""The batch that travels from data through the model to loss, analyses and storage."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from emg_lens.errors import EmgLensError
from emg_lens.validation import short

OF_REFERENCE = ("reference", "reference_targets")
WHOLE_NUMBERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class BatchError(EmgLensError, ValueError):
    """The parts of a batch do not belong together."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Trials with everything that a loss or an analysis needs.

    Attributes:
        x: Standardized samples `[trial, channel, time]`.
        targets: One row per trial: class index `[trial]`, values `[trial, target]`, ...; None where there is nothing
            to predict.
        lengths: Valid samples of each trial; None where all trials are complete. Later samples are padding.
        reference: Standardized training trials. Mean and resample ablations take their values from them.
        reference_targets: Targets of the training trials, one row per trial.
        repetition_id: The repetition that each trial was cut from, for scores in which each repetition weighs the same.

    Example:
        >>> import torch
        >>> batch = Batch(torch.zeros(4, 2, 10), targets=torch.tensor([0, 1, 0, 1]))
        >>> len(batch), batch[:2].targets.tolist()
        (4, [0, 1])
    """

    x: Float[Tensor, "trial channel time"]
    targets: Shaped[Tensor, "trial ..."] | None = None
    lengths: Int[Tensor, " trial"] | None = None
    reference: Float[Tensor, "reference channel time"] | None = None
    reference_targets: Shaped[Tensor, "reference ..."] | None = None
    repetition_id: Int[Tensor, " trial"] | None = None

    def __post_init__(self) -> None:
        for name, values in self._parts().items():
            if not isinstance(values, Tensor) or not values.ndim:
                raise BatchError(f"{name} is {short(values)}; expected a torch tensor, e.g. torch.as_tensor({name})")
            if name not in OF_REFERENCE and len(values) != len(self.x):
                raise BatchError(f"{len(values)} {name} for {len(self.x)} trials; expected one per trial")
        if self.reference is not None and self.reference.shape[1:] != self.x.shape[1:]:
            raise BatchError(
                f"reference trials are {list(self.reference.shape[1:])}; expected {list(self.x.shape[1:])}, as in x"
            )
        if self.reference_targets is not None and len(self.reference_targets) != len(
            () if self.reference is None else self.reference
        ):
            raise BatchError(f"{len(self.reference_targets)} reference_targets; expected one per trial of reference")
        if self.lengths is not None and (self.lengths.ndim != 1 or self.lengths.dtype not in WHOLE_NUMBERS):
            raise BatchError(f"lengths is {short(self.lengths)}; expected one whole number per trial")
        if self.lengths is not None and not ((self.lengths >= 1) & (self.lengths <= self.x.shape[-1])).all():
            raise BatchError(f"lengths are not all between 1 and {self.x.shape[-1]}, the number of samples in x")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, trials: slice | Int[Tensor, " chosen"]) -> "Batch":
        """Select trials; the reference stays whole."""
        if isinstance(trials, int):
            raise BatchError(
                f"batch[{trials}] has no trial axis; use batch[{trials}:{trials + 1}], or batch.split(size)"
            )
        chosen = {name: values[trials] for name, values in self._parts().items() if name not in OF_REFERENCE}
        return replace(self, **chosen)

    def without_reference(self) -> "Batch":
        """Return the trials alone."""
        return replace(self, reference=None, reference_targets=None)

    def split(self, size: int) -> Iterator["Batch"]:
        """Divide the trials into consecutive batches of at most `size`."""
        if not isinstance(size, int) or size < 1:
            raise BatchError(f"size={size!r}; expected a number of trials, 1 or more")
        return (self[first : first + size] for first in range(0, len(self), size))

    def to(self, device: str | torch.device) -> "Batch":
        """Move all parts to a device."""
        try:
            return Batch(**{name: values.to(device) for name, values in self._parts().items()})
        except (RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = str(error).partition("\n")[0][:200]
            raise BatchError(
                f"device={short(device)} cannot be used ({reason}); expected e.g. 'cpu' or 'cuda'"
            ) from None

    def _parts(self) -> dict[str, Any]:
        """The parts that are given, by name."""
        parts: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: values for name, values in parts.items() if values is not None or name == "x"}
