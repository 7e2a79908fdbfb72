"""Recognisers: text from sound (docs/events-and-text.md §6).

The word error rate of decoded speech depends on the recogniser, so name it with every result. Trained recognisers of
other packages register themselves at the entry point `emg_lens.recognisers`.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from emg_lens.data.mel import MelSettings, mel_spectrogram
from emg_lens.registry import Registry
from emg_lens.validation import ArgumentError, checked, short


class Recogniser(ABC):
    """Text from sound. A subclass takes its options, such as a file of weights, in its constructor."""

    @abstractmethod
    def transcribe(self, audio: Float[Tensor, " sample"], fs: float) -> str:
        """Return the text of one utterance.

        Args:
            audio: Samples, in the range -1 to 1.
            fs: Sampling rate in Hz.
        """


RECOGNISERS: Registry[type[Recogniser]] = Registry("recogniser", "emg_lens.recognisers", type[Recogniser])
"""Classes of recognisers by name."""


class NearestPhone(Recogniser):
    """A recogniser for simulated speech: the phone with the most similar mean spectrum, frame by frame.

    It knows no language and needs no download. Real speech needs a trained recogniser.
    """

    @checked
    def __init__(
        self,
        audio: Sequence[Tensor],
        phones: Sequence[Sequence[str]],
        settings: MelSettings = MelSettings(),  # noqa: B008 - immutable
        silence: str = "sil",
        least_frames: PositiveInt = 2,
    ) -> None:
        """Average the spectra of each phone.

        Args:
            audio: Samples of the training utterances.
            phones: The phone of each frame of each utterance.
            settings: How spectra are computed.
            silence: Name of the phone that separates words.
            least_frames: Shorter runs of a phone are removed.

        Raises:
            ArgumentError: Phones and frames do not belong together.

        Example:
            >>> import torch
            >>> from emg_lens.decoding import NearestPhone
            >>> pitch = {"a": 0.1, "o": 0.5, "sil": 0.0}
            >>> tones = {phone: 0.5 * torch.sin(step * torch.arange(5120)) for phone, step in pitch.items()}
            >>> recogniser = NearestPhone(list(tones.values()), [[phone] * 20 for phone in tones])
            >>> recogniser.transcribe(torch.cat([tones[p] for p in ("a", "o", "sil", "o")]), fs=22_050.0)
            'ao o'
        """
        if len(audio) != len(phones) or not audio:
            raise ArgumentError(f"{len(audio)} utterances with {len(phones)} lists of phones; expected one each")
        spectra = [mel_spectrogram(samples, settings).numpy(force=True) for samples in audio]
        for number, (spectrum, of_frames) in enumerate(zip(spectra, phones, strict=True)):
            if len(spectrum) != len(of_frames):
                raise ArgumentError(
                    f"utterance {number} has {len(spectrum)} frames and {len(of_frames)} phones; expected one phone for"
                    f" each {settings.hop} samples"
                )
        frames, names = np.concatenate(spectra), np.array([phone for of_frames in phones for phone in of_frames])
        self.settings, self.silence, self.least_frames = settings, silence, least_frames
        self.phones = tuple(dict.fromkeys(names.tolist()))
        self.means = torch.from_numpy(np.stack([frames[names == phone].mean(0) for phone in self.phones]))

    def frames(self, mel: Float[Tensor, "frame band"]) -> list[str]:
        """Return the nearest phone of each frame."""
        nearest = torch.cdist(mel.to(self.means), self.means).argmin(1)
        return [self.phones[k] for k in nearest.tolist()]

    def transcribe(self, audio: Float[Tensor, " sample"], fs: float) -> str:
        """Write each run of a phone once; silence separates words."""
        if fs != self.settings.fs:
            raise ArgumentError(f"fs={fs}; expected {self.settings.fs} Hz, as in training; resample the audio")
        if audio.ndim != 1:
            raise ArgumentError(f"audio={short(audio)}; expected samples of one utterance")
        runs = [
            (phone, len(list(run)))
            for phone, run in itertools.groupby(self.frames(mel_spectrogram(audio, self.settings)))
        ]
        long = [phone for phone, n in runs if n >= self.least_frames]
        letters = [" " if phone == self.silence else phone for phone, _ in itertools.groupby(long)]
        return " ".join("".join(letters).split())
