"""The batch that travels from data through the model to loss, analyses and storage."""

from dataclasses import dataclass, fields, replace

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from emg_lens.errors import EmgLensError


class BatchError(EmgLensError, ValueError):
    """The parts of a batch do not belong together."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some trials, and everything about them that a loss or an analysis needs.

    Attributes:
        x: Standardized samples, one row a trial.
        targets: One row a trial; None where there is nothing to predict.
        lengths: Valid samples of each trial; None where all trials are complete. Later samples are padding.
        reference: Standardized training trials, which mean and resample ablations take their values from.

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

    def __post_init__(self) -> None:
        for name in ("targets", "lengths"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.x):
                raise BatchError(f"{len(values)} {name} for {len(self.x)} trials; expected one a trial")
        if self.lengths is not None and not ((self.lengths >= 1) & (self.lengths <= self.x.shape[-1])).all():
            raise BatchError(f"lengths must be between 1 and {self.x.shape[-1]}, the samples of x")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, some: slice | Int[Tensor, " chosen"]) -> "Batch":
        """The chosen trials, with the same reference."""
        rows = {name: getattr(self, name) for name in ("x", "targets", "lengths")}
        return replace(self, **{name: values[some] for name, values in rows.items() if values is not None})

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return Batch(**{name: None if values is None else values.to(device) for name, values in parts.items()})
