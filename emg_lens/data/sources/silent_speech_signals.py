"""Filters, alphabet and phonemes of the silent-speech corpus (docs/silent-speech.md §1.2)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy  # submodules are imported at first use
from jaxtyping import Float, Int

from emg_lens.data.recording import DataError
from emg_lens.data.textgrid import read_textgrid

RAW_FS, AUDIO_FS, HOP = 1000.0, 22_050, 256
FRAME_RATE = AUDIO_FS / HOP
SAMPLES_PER_FRAME = 8
FS = SAMPLES_PER_FRAME * FRAME_RATE
"""689.0625 Hz. The published code writes 689.06: the difference is 0.04 ms in ten seconds."""
MAINS_HZ, N_HARMONICS, QUALITY = 60.0, 7, 30.0
HIGHPASS_HZ, HIGHPASS_ORDER = 2.0, 3
DROPPED = 8
"""Samples at the start of an utterance that are dropped."""
SCALE, LIMIT = 20.0, 50.0
SILENCE = "sil"
PHONEMES = (
    *("aa", "ae", "ah", "ao", "aw", "ax", "axr", "ay", "b", "ch", "d", "dh", "dx", "eh", "el", "em", "en", "er", "ey"),
    *("f", "g", "hh", "hv", "ih", "iy", "jh", "k", "l", "m", "n", "nx", "ng", "ow", "oy", "p", "r", "s", "sh", "t"),
    *("th", "uh", "uw", "v", "w", "y", "z", "zh", SILENCE),
)
NO_SPEECH = ("", "sp", "spn")
"""Labels of an alignment that mean silence."""


def clean_emg(
    before: Float[np.ndarray, "before channel"],
    own: Float[np.ndarray, "time channel"],
    after: Float[np.ndarray, "after channel"],
) -> Float[np.ndarray, "channel sample"]:
    """Filter and resample the EMG of one utterance as Gaddy and Klein (2021) do.

    The neighbours in time are joined to it, so that no filter starts within the utterance. Notches at 60 Hz and its
    harmonics (quality 30) and a high-pass at 2 Hz (order 3) run forwards and backwards. Then the utterance is cut out
    and interpolated linearly to 689.0625 Hz, eight samples per frame of audio. The first eight samples are dropped, and
    amplitudes x become 50 · tanh(x / 1000).

    Args:
        before: Samples at 1000 Hz of the utterance before it in the session; may be empty.
        own: Its own samples.
        after: Samples of the utterance after it; may be empty.
    """
    x = np.concatenate([before, own, after]).astype(np.float64)
    for harmonic in range(1, N_HARMONICS + 1):
        x = scipy.signal.filtfilt(*scipy.signal.iirnotch(harmonic * MAINS_HZ, QUALITY, RAW_FS), x, axis=0)
    x = scipy.signal.filtfilt(*scipy.signal.butter(HIGHPASS_ORDER, HIGHPASS_HZ, "highpass", fs=RAW_FS), x, axis=0)
    x = x[len(before) : len(before) + len(own)]
    times = np.arange(len(x)) / RAW_FS
    sampled = scipy.interpolate.interp1d(times, x, axis=0)(np.arange(0, times[-1], 1 / FS))[DROPPED:]
    return np.ascontiguousarray((LIMIT * np.tanh(sampled / SCALE / LIMIT)).T, dtype=np.float32)


def phonemes_of_frames(path: Path, n_frames: int) -> Int[np.ndarray, " frame"]:
    """Read the phoneme of each frame of audio from the tier `phones` of an alignment.

    Digits of stress are cut. Frames that no interval covers are silence.

    Raises:
        DataError: The file has no such tier, or an unknown phoneme.
    """
    tiers = read_textgrid(path)
    if "phones" not in tiers:
        raise DataError(f"{path} has no tier 'phones'; it has {', '.join(tiers) or 'none'}")
    index = {name: number for number, name in enumerate(PHONEMES)}
    labels = np.full(n_frames, index[SILENCE])
    for start, end, text in tiers["phones"]:
        name = text.lower().rstrip("0123456789")
        if name not in index and name not in NO_SPEECH:
            raise DataError(f"{path}: unknown phoneme {text!r}; expected one of {', '.join(PHONEMES)}")
        labels[int(start * FRAME_RATE) : int(end * FRAME_RATE)] = index[SILENCE if name in NO_SPEECH else name]
    return labels


def standardized_spectra(
    spectra: Sequence[Float[np.ndarray, "frame band"]], is_training: Sequence[bool]
) -> list[Float[np.ndarray, "frame band"]]:
    """Subtract the mean of each band, and divide all bands by one scale; both from training utterances."""
    training = np.concatenate([one for one, counts in zip(spectra, is_training, strict=True) if counts])
    mean = training.mean(axis=0, dtype=np.float64)
    scale = float((training - mean).std(dtype=np.float64)) or 1.0
    return [((one - mean) / scale).astype(np.float32) for one in spectra]
