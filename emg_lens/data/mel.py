"""Mel spectra of speech, in the form that vocoders of silent speech take (docs/events-and-text.md §6)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from emg_lens.validation import ArgumentError, check_fields, checked, short


@dataclass(frozen=True)
class MelSettings:
    """How a mel spectrum is computed; the defaults are those of HiFi-GAN and of Gaddy and Klein (2021).

    Attributes:
        fs: Sampling rate of the audio, in Hz.
        n_bands: Number of mel bands.
        n_fft: Length of the window and of the Fourier transform, in samples.
        hop: Samples from one frame to the next.
        low_hz: Lower edge of the lowest band.
        high_hz: Upper edge of the highest band.
        floor: Smallest value before the logarithm.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> from emg_lens.data import MelSettings
        >>> round(MelSettings().frames_per_s, 2)
        86.13
    """

    fs: PositiveFloat = 22_050.0
    n_bands: PositiveInt = 80
    n_fft: PositiveInt = 1024
    hop: PositiveInt = 256
    low_hz: float = 0.0
    high_hz: PositiveFloat = 8000.0
    floor: PositiveFloat = 1e-5

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.low_hz < self.high_hz <= self.fs / 2:
            raise ArgumentError(
                f"low_hz={self.low_hz}, high_hz={self.high_hz}; expected 0 <= low_hz < high_hz <= fs/2 = {self.fs / 2}"
            )
        if self.hop >= self.n_fft or (self.n_fft - self.hop) % 2 or self.n_fft % 2:
            raise ArgumentError(f"hop={self.hop}, n_fft={self.n_fft}; expected even numbers with hop < n_fft")

    @property
    def frames_per_s(self) -> float:
        """Number of frames in one second."""
        return self.fs / self.hop

    @property
    def padding(self) -> int:
        """Samples that are reflected at each end, so that n samples have n // hop frames."""
        return (self.n_fft - self.hop) // 2


@checked
def mel_spectrogram(
    audio: Float[Tensor, "*batch sample"],
    settings: MelSettings = MelSettings(),  # noqa: B008 - immutable
) -> Float[Tensor, "*batch frame band"]:
    """Compute log mel spectra: log(max(band amplitude, floor)).

    The amplitude spectra of Hann windows are weighted by triangular bands on the scale of Slaney's Auditory Toolbox
    (1998). Each band has the area 1. The audio is reflected by (n_fft - hop) / 2 samples at each end, and windows are
    not centred.

    Args:
        audio: Samples, in the range -1 to 1.
        settings: Sampling rate, bands and windows.

    Returns:
        Natural logarithms, one row for each `hop` samples.

    Raises:
        ArgumentError: The audio is no floating-point tensor, or is too short to be reflected.

    Example:
        >>> import torch
        >>> from emg_lens.data import mel_spectrogram
        >>> tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(22_050) / 22_050)
        >>> mel = mel_spectrogram(tone)
        >>> mel.shape, int(mel.mean(0).argmax())
        (torch.Size([86, 80]), 11)
    """
    if not audio.ndim or not audio.is_floating_point() or audio.shape[-1] <= settings.padding:
        raise ArgumentError(
            f"audio={short(audio)}; expected floating-point samples [..., sample], more than {settings.padding}"
        )
    flat = audio.reshape(-1, 1, audio.shape[-1])
    padded = torch.nn.functional.pad(flat, (settings.padding, settings.padding), mode="reflect")[:, 0]
    window = torch.hann_window(settings.n_fft, dtype=audio.dtype, device=audio.device)
    spectrum = torch.stft(padded, settings.n_fft, settings.hop, window=window, center=False, return_complex=True).abs()
    bands = mel_filters(settings).to(spectrum) @ spectrum
    return bands.clamp(min=settings.floor).log().mT.reshape(*audio.shape[:-1], -1, settings.n_bands)


@lru_cache(maxsize=8)
def mel_filters(settings: MelSettings) -> Float[Tensor, "band bin"]:
    """Return the weight of each frequency in each band."""
    low, high = _mel(np.array([settings.low_hz, settings.high_hz]))
    edges = _hertz(np.linspace(low, high, settings.n_bands + 2))
    frequencies = np.fft.rfftfreq(settings.n_fft, 1 / settings.fs)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    weights = np.maximum(np.minimum(rising, falling), 0) * 2 / (edges[2:] - edges[:-2])[:, None]
    return torch.from_numpy(weights)


LINEAR_TO_HZ, HZ_PER_MEL, LOG_STEP = 1000.0, 200 / 3, np.log(6.4) / 27
"""Slaney's scale: linear up to 1000 Hz, then 27 steps for a factor of 6.4."""


def _mel(hertz: np.ndarray) -> np.ndarray:
    above = np.log(np.maximum(hertz, LINEAR_TO_HZ) / LINEAR_TO_HZ) / LOG_STEP
    return np.minimum(hertz, LINEAR_TO_HZ) / HZ_PER_MEL + above


def _hertz(mel: np.ndarray) -> np.ndarray:
    knee = LINEAR_TO_HZ / HZ_PER_MEL
    return np.minimum(mel, knee) * HZ_PER_MEL * np.exp(np.maximum(mel - knee, 0) * LOG_STEP)
