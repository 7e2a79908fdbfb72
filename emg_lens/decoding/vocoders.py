"""Vocoders: sound from mel spectra (docs/events-and-text.md §6).

A neural vocoder of another package registers itself at the entry point `emg_lens.vocoders`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from emg_lens.data.mel import MelSettings, mel_filters
from emg_lens.registry import Registry
from emg_lens.validation import ArgumentError, check_fields, checked, short

Momentum = Annotated[float, Field(ge=0, lt=1)]
AMPLITUDE_STEPS = 50


class Vocoder(ABC):
    """Sound from mel spectra. A subclass takes its options, such as a file of weights, in its constructor."""

    @abstractmethod
    def audio(self, mel: Float[Tensor, "frame band"], settings: MelSettings) -> Float[Tensor, " sample"]:
        """Return `hop` samples for each frame.

        Args:
            mel: Log mel spectra as `mel_spectrogram` computes them.
            settings: How they were computed.
        """


VOCODERS: Registry[type[Vocoder]] = Registry("vocoder", "emg_lens.vocoders", type[Vocoder])
"""Classes of vocoders by name."""


@dataclass(frozen=True)
class GriffinLim(Vocoder):
    """Sound whose spectra are closest to the given ones, without a trained model; see `griffin_lim`."""

    n_iterations: PositiveInt = 60
    momentum: Momentum = 0.99
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def audio(self, mel: Float[Tensor, "frame band"], settings: MelSettings) -> Float[Tensor, " sample"]:
        """Return `hop` samples for each frame."""
        return griffin_lim(mel, settings, self.n_iterations, self.momentum, self.seed)


@checked
def griffin_lim(
    mel: Float[Tensor, "frame band"],
    settings: MelSettings = MelSettings(),  # noqa: B008 - immutable
    n_iterations: PositiveInt = 60,
    momentum: Momentum = 0.99,
    seed: NonNegativeInt = 0,
) -> Float[Tensor, " sample"]:
    """Compute sound from log mel spectra by the fast Griffin-Lim algorithm (Perraudin et al. 2013).

    First the amplitude spectra are estimated, as non-negative values whose bands are the given ones (Lee and Seung
    2001). Then phases are iterated from random ones until they belong to overlapping windows of one signal.

    Args:
        mel: Log mel spectra, at least 3 frames.
        settings: How they were computed.
        n_iterations: Number of iterations of the phases.
        momentum: Weight of the last change; 0 is the algorithm of Griffin and Lim (1984).
        seed: Seed of the first phases.

    Returns:
        `hop` samples for each frame.

    Raises:
        ArgumentError: Spectra are not finite, or not of these settings.

    Example:
        >>> import torch
        >>> from emg_lens.data import mel_spectrogram
        >>> from emg_lens.decoding import griffin_lim
        >>> tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(22_016) / 22_050)
        >>> audio = griffin_lim(mel_spectrogram(tone))
        >>> audio.shape, int(torch.fft.rfft(audio).abs().argmax() * 22_050 / len(audio) / 10 + 0.5)
        (torch.Size([22016]), 44)
    """
    if mel.ndim != 2 or not mel.is_floating_point() or mel.shape[1] != settings.n_bands or len(mel) < 3:
        raise ArgumentError(
            f"mel={short(mel)}; expected log spectra [frame, {settings.n_bands} bands], 3 frames or more"
        )
    if not mel.isfinite().all():
        raise ArgumentError("mel has values that are not finite; expected logarithms, at least log(floor)")
    lead, n_samples = settings.hop // 2, settings.hop * len(mel)
    amplitude = _amplitudes(mel.mT.exp(), mel_filters(settings).to(mel))
    amplitude = torch.cat([amplitude[:, :1], amplitude], 1)  # the first window begins before the first sample
    window = torch.hann_window(settings.n_fft, dtype=mel.dtype, device=mel.device)
    options = {"n_fft": settings.n_fft, "hop_length": settings.hop, "window": window}
    random = torch.Generator().manual_seed(seed)
    angle = 2 * torch.pi * torch.rand(amplitude.shape, generator=random, dtype=torch.float64)
    phase, before = torch.polar(torch.ones_like(angle), angle).to(amplitude.dtype.to_complex()).to(mel.device), 0.0
    for _ in range(n_iterations):
        signal = torch.istft(amplitude * phase, **options, length=lead + n_samples)
        spectrum = torch.stft(signal, **options, return_complex=True)
        phase = spectrum - momentum / (1 + momentum) * before
        phase, before = phase / phase.abs().clamp(min=torch.finfo(mel.dtype).tiny), spectrum
    return torch.istft(amplitude * phase, **options, length=lead + n_samples)[lead:]


def _amplitudes(bands: Float[Tensor, "band frame"], filters: Float[Tensor, "band bin"]) -> Float[Tensor, "bin frame"]:
    """Estimate non-negative spectra whose bands are the given ones."""
    spectrum = (torch.linalg.pinv(filters) @ bands).clamp(min=1e-8)
    wanted = filters.mT @ bands
    for _ in range(AMPLITUDE_STEPS):
        spectrum = (spectrum * wanted / (filters.mT @ (filters @ spectrum)).clamp(min=1e-12)).clamp(min=1e-12)
    return spectrum
