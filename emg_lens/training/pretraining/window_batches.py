"""Batches of a corpus for pre-training: windows with random masks. The number of readers does not change them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from emg_lens.data.corpus import Corpus
from emg_lens.data.recording import DataError
from emg_lens.data.window_order import WindowOrder
from emg_lens.errors import EmgLensError
from emg_lens.training.pretraining.masking import TRAINING, VALIDATION, random_mask, tokens_of_channels
from emg_lens.training.pretraining.recipe import PretrainingRecipe

Stretch = tuple[int, int]
"""Windows number `first` to `last - 1` in the order of an epoch."""


@dataclass(frozen=True)
class WindowBatch:
    """Windows that one process computes at once.

    Attributes:
        x: Samples.
        masked: True for masked tokens.
        real: True for tokens that count in the loss, False for padding.
    """

    x: Float[Tensor, "window channel time"]
    masked: Bool[Tensor, "window token"]
    real: Bool[Tensor, "window token"]

    def to(self, device: torch.device) -> "WindowBatch":
        """Copy the batch to a device."""
        return WindowBatch(*(part.to(device, non_blocking=True) for part in (self.x, self.masked, self.real)))


class WindowBatches(Dataset):
    """The batches of one epoch. The index is a `Stretch`; an item is a batch, or the text of an error."""

    def __init__(self, corpus: Corpus, recipe: PretrainingRecipe, patches: int, epoch: int | None) -> None:
        """Set up a training epoch (0-based), or validation (None) in the order of the corpus with constant masks."""
        self.corpus, self.recipe, self.patches = corpus, recipe, patches
        self.order = None if epoch is None else WindowOrder(len(corpus), recipe.seed, epoch)
        self.stream = (recipe.seed, VALIDATION, 0) if epoch is None else (recipe.seed, TRAINING, epoch)

    def __getitem__(self, stretch: Stretch) -> Any:
        try:
            return self._batch(*stretch)
        except EmgLensError as error:
            return str(error)

    def _batch(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        numbers = torch.arange(first, last).numpy() if self.order is None else self.order.stretch(first, last)
        real = tokens_of_channels(self.corpus.real(numbers), self.patches)
        masks = [
            random_mask(tokens, self.recipe.masked_fraction, (*self.stream, place))
            for place, tokens in enumerate(real, first)
        ]
        masked = torch.stack([torch.from_numpy(mask) for mask in masks])
        return torch.from_numpy(self.corpus.read(numbers)), masked, torch.from_numpy(real)


def read_batches(batches: WindowBatches, stretches: Sequence[Stretch], workers: int) -> Iterator[WindowBatch]:
    """Yield the batches of these stretches in order; `workers` processes read ahead (0 = this process reads)."""
    # A sequence of indices can serve as a sampler.
    loader = DataLoader(batches, batch_size=None, sampler=stretches, num_workers=workers)  # pyright: ignore
    for batch in loader:
        if isinstance(batch, str):
            raise DataError(batch)
        yield WindowBatch(*batch)
