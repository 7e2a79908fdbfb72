"""Mel spectra against transformers, numpy and librosa; sound from them; and words from sound."""

import numpy as np
import pytest
import torch
from scipy import signal
from transformers.audio_utils import mel_filter_bank

from emg_lens.data import MelSettings, mel_spectrogram
from emg_lens.data.mel import mel_filters
from emg_lens.decoding import (
    RECOGNISERS,
    VOCODERS,
    GriffinLim,
    NearestPhone,
    Recogniser,
    griffin_lim,
)
from emg_lens.scoring import word_errors
from emg_lens.validation import ArgumentError

FS = 22_050


def vowel(seconds=1.0, pitch_hz=110.0, formants=((700, 60), (1200, 80), (2600, 120))):
    """Pulses at a pitch through three resonances, as a voice makes an 'a'."""
    n = int(seconds * FS)
    source = np.zeros(n)
    source[(np.arange(0, n * pitch_hz / FS) * FS / pitch_hz).astype(int)] = 1
    for frequency, width in formants:
        radius = np.exp(-np.pi * width / FS)
        source = signal.lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * frequency / FS), radius**2], source)
    return torch.from_numpy(0.5 * source / np.abs(source).max()).float()


@pytest.mark.parametrize(
    "settings",
    [MelSettings(), MelSettings(16_000.0, 40, 512, 128, 80.0, 7600.0), MelSettings(8000.0, 20, 256, 64, 0.0, 900.0)],
)
def test_filters_are_those_of_transformers(settings):
    expected = mel_filter_bank(
        settings.n_fft // 2 + 1,
        settings.n_bands,
        settings.low_hz,
        settings.high_hz,
        int(settings.fs),
        "slaney",
        "slaney",
    )
    np.testing.assert_allclose(mel_filters(settings).numpy(), expected.T, atol=1e-12)


def by_numpy(audio):
    """One window after the other, in double precision."""
    padded = np.pad(audio, 384, mode="reflect")
    window = signal.get_window("hann", 1024)
    starts = range(0, len(padded) - 1024 + 1, 256)
    spectra = np.array([np.abs(np.fft.rfft(window * padded[start : start + 1024])) for start in starts])
    filters = mel_filter_bank(513, 80, 0.0, 8000.0, FS, "slaney", "slaney")
    return np.log(np.maximum(spectra @ filters, 1e-5))


def test_spectra_equal_single_windows_of_numpy():
    audio = vowel(0.5) + 0.01 * torch.from_numpy(np.random.default_rng(0).normal(size=FS // 2)).float()
    np.testing.assert_allclose(mel_spectrogram(audio).numpy(), by_numpy(audio.double().numpy()), atol=2e-3)
    exact = mel_spectrogram(audio.double())
    np.testing.assert_allclose(exact.numpy(), by_numpy(audio.double().numpy()), atol=1e-9)
    both = mel_spectrogram(torch.stack([audio, audio.flip(0)]))
    torch.testing.assert_close(both[0], mel_spectrogram(audio))
    assert both.shape == (2, len(audio) // 256, 80)


def test_spectra_are_those_of_librosa():
    librosa = pytest.importorskip("librosa")
    audio = vowel(0.5).double().numpy()
    expected = librosa.feature.melspectrogram(
        y=np.pad(audio, 384, mode="reflect"),
        sr=FS,
        n_fft=1024,
        hop_length=256,
        center=False,
        power=1.0,
        n_mels=80,
        fmax=8000,
    )
    found = mel_spectrogram(torch.from_numpy(audio)).numpy()
    np.testing.assert_allclose(found, np.log(np.maximum(expected, 1e-5)).T, atol=1e-4)


def test_silence_is_the_floor():
    assert (mel_spectrogram(torch.zeros(2000)) == np.log(np.float32(1e-5))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mel_spectrogram(torch.zeros(384)), "more than 384"),
        (lambda: NearestPhone([torch.zeros(9, 9999)], [["a"]]), "utterance 0 has 9 frames and 1 phones"),
        (lambda: MelSettings(high_hz=12_000.0), "high_hz <= fs/2 = 11025"),
        (lambda: MelSettings(hop=255), "expected even numbers with hop < n_fft"),
        (lambda: griffin_lim(torch.zeros(10, 40)), "80 bands"),
        (lambda: griffin_lim(torch.full((10, 80), -torch.inf)), "not finite"),
        (lambda: GriffinLim(momentum=1.0), "momentum=1.0; expected a number less than 1"),
        (lambda: NearestPhone([torch.zeros(2560)], [["a"] * 9]), "10 frames and 9 phones"),
        (lambda: NearestPhone([], []), "0 utterances with 0 lists"),
    ],
)
def test_what_is_no_speech_is_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


# --- vocoder ----------------------------------------------------------------------------------------------


def convergence(audio, target):
    """Difference of amplitude spectra, relative to the target."""
    spectra = [
        torch.stft(one, 1024, 256, window=torch.hann_window(1024), return_complex=True).abs() for one in (audio, target)
    ]
    return float((spectra[0] - spectra[1]).norm() / spectra[1].norm())


def test_sound_from_the_spectra_of_a_vowel_has_these_spectra():
    audio = vowel(1.0)[: 86 * 256]
    mel = mel_spectrogram(audio)
    rebuilt = griffin_lim(mel)
    assert rebuilt.shape == audio.shape and rebuilt.dtype == torch.float32
    audible = mel > mel.max() - 5  # 43 dB
    error = (mel_spectrogram(rebuilt) - mel)[audible].abs()
    assert error.mean() < 0.12 and error.quantile(0.99) < 0.8
    assert convergence(rebuilt, audio) < 0.3
    few = griffin_lim(mel, n_iterations=1)
    assert convergence(few, audio) > 1.5 * convergence(rebuilt, audio)
    torch.testing.assert_close(GriffinLim().audio(mel, MelSettings()), rebuilt)
    assert not torch.equal(griffin_lim(mel, seed=1), rebuilt)


def test_vocoders_and_recognisers_are_found_by_name():
    assert VOCODERS["griffin-lim"] is GriffinLim and RECOGNISERS["nearest-phone"] is NearestPhone
    assert issubclass(NearestPhone, Recogniser)


# --- recogniser -------------------------------------------------------------------------------------------

PHONES = {"a": (700, 1200), "i": (300, 2300), "u": (350, 800), "s": (5000, 7000), "f": (3000, 3600)}


def utterance(words, rng):
    """Each phone as noise through two resonances, for 8 to 14 frames, with silence between words."""
    samples, frames = [], []
    for phone in f" {' '.join(words)} ":
        n = int(rng.integers(8, 15))
        frames += ["sil" if phone == " " else phone] * n
        noise = rng.normal(size=256 * n)
        if phone == " ":
            samples.append(1e-4 * noise)
            continue
        parts = [signal.lfilter([1], [1, -1.9 * np.cos(2 * np.pi * f / FS), 0.9025], noise) for f in PHONES[phone]]
        samples.append(0.05 * sum(parts))
    return torch.from_numpy(np.concatenate(samples)).float(), frames


def test_words_are_recognised_from_sound_and_from_the_sound_of_their_spectra():
    rng = np.random.default_rng(0)
    words = ["sai", "fu", "isa", "usi", "fa"]
    training = [utterance(rng.choice(words, 4), rng) for _ in range(6)]
    recogniser = NearestPhone(*map(list, zip(*training, strict=True)), least_frames=4)
    said = [" ".join(rng.choice(words, 3)) for _ in range(6)]
    spoken = [utterance(text.split(), rng)[0] for text in said]
    direct = [recogniser.transcribe(audio, FS) for audio in spoken]
    assert word_errors(said, direct).pooled()["word_error_rate"] == 0
    vocoder = VOCODERS["griffin-lim"]()
    through = [recogniser.transcribe(vocoder.audio(mel_spectrogram(audio), MelSettings()), FS) for audio in spoken]
    assert word_errors(said, through).pooled()["word_error_rate"] < 0.2
    damaged = [recogniser.transcribe(audio.flip(0), FS) for audio in spoken]
    assert word_errors(said, damaged).pooled()["word_error_rate"] > 0.7
    with pytest.raises(ArgumentError, match="fs=16000; expected 22050.0 Hz"):
        recogniser.transcribe(spoken[0], 16_000)
