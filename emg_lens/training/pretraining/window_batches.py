"""Batches of a corpus for pre-training: windows with their masks, read by workers, the same for any number of them."""

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
from emg_lens.training.pretraining.masking import TRAINING, VALIDATION, draw_mask, of_tokens
from emg_lens.training.pretraining.recipe import PretrainingRecipe

Stretch = tuple[int, int]
"""First place and last place + 1 in an epoch's order."""


@dataclass(frozen=True)
class WindowBatch:
    """Windows that a process runs at once.

    Attributes:
        x: Samples.
        masked: Tokens that are hidden.
        real: Tokens that count.
    """

    x: Float[Tensor, "window channel time"]
    masked: Bool[Tensor, "window token"]
    real: Bool[Tensor, "window token"]

    def to(self, device: torch.device) -> "WindowBatch":
        """The same elsewhere."""
        return WindowBatch(*(part.to(device, non_blocking=True) for part in (self.x, self.masked, self.real)))


class WindowBatches(Dataset):
    """Batches by their stretch of an epoch's order. What cannot be read comes back as text: see `read_batches`."""

    def __init__(self, corpus: Corpus, recipe: PretrainingRecipe, patches: int, epoch: int | None) -> None:
        """Of a training epoch; `None`: windows for validation, in their own order, with the same masks every time."""
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
        real = of_tokens(self.corpus.real(numbers), self.patches)
        drawn = [
            draw_mask(tokens, self.recipe.masked_fraction, (*self.stream, place))
            for place, tokens in enumerate(real, first)
        ]
        masked = torch.stack([torch.from_numpy(mask) for mask in drawn])
        return torch.from_numpy(self.corpus.read(numbers)), masked, torch.from_numpy(real)


def read_batches(batches: WindowBatches, stretches: Sequence[Stretch], workers: int) -> Iterator[WindowBatch]:
    """The batches of these stretches in order, read ahead by so many processes (0: read here).

    Raises:
        DataError: What a reader found wrong.
    """
    # A sequence of indices is a sampler, too.
    loader = DataLoader(batches, batch_size=None, sampler=stretches, num_workers=workers)  # pyright: ignore
    for found in loader:
        if isinstance(found, str):
            raise DataError(found)
        yield WindowBatch(*found)
