"""Silent and voiced speech of one speaker with facial EMG, in the folders of Gaddy and Klein (2020).

Source: docs/silent-speech.md §1.2.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from emg_lens.data.files import check_choice, existing_folder, files_below, natural_key, select_subjects
from emg_lens.data.recording import DataError
from emg_lens.data.registry import DataSet
from emg_lens.data.sequences import SequenceSet, SignalSequence
from emg_lens.data.sources.silent_speech_signals import (
    AUDIO_FS,
    FRAME_RATE,
    FS,
    PHONEMES,
    clean_emg,
    phonemes_of_frames,
    standardized_spectra,
)
from emg_lens.data.trials import TrialSet
from emg_lens.data.utterances import ALPHABET, frame_trials, text_trials
from emg_lens.scoring.text_errors import comparable_text

NAME, SPEAKER = "silent-speech", "speaker"
SILENT, VOICED, ALONE = "silent_parallel_data", "voiced_parallel_data", "nonparallel_data"
FOLDERS = (SILENT, VOICED, ALONE)
ALIGNMENTS = "text_alignments"
EXPECTED = f"{', '.join(FOLDERS)}, testset_<split>.json and, for audio, {ALIGNMENTS}"
N_CHANNELS, N_BANDS = 8, 80
AUDIO = ("audio_clean", "audio_resampled")
"""Names of the audio at 22.05 kHz, in the original folders and in a later copy."""
NO_PART, TRAINING, DEVELOPMENT, TEST = range(4)
PARTS = f"repetition {TRAINING} = training, {DEVELOPMENT} = development, {TEST} = test, by the published split"
Sentence = tuple[str, int]


@dataclass(frozen=True)
class UtteranceFiles:
    """One utterance: its files' common start, and what its JSON file says."""

    start: Path
    kind: str
    session: str
    number: int
    sentence: Sentence
    text: str

    @property
    def name(self) -> str:
        """Kind, session and number."""
        return f"{self.kind.partition('_')[0]} {self.session} {self.number}"

    def file(self, ending: str) -> Path:
        """One of its files."""
        return self.start.with_name(f"{self.number}_{ending}")

    @property
    def audio(self) -> Path | None:
        """Its audio at 22.05 kHz."""
        return next((path for name in AUDIO if (path := self.file(f"{name}.flac")).is_file()), None)


def load(
    root: str | Path,
    *,
    subjects: Iterable[str | int] | None = None,
    task: Literal["text", "audio"] = "text",
    split: Literal["origdev", "largedev"] = "largedev",
    longest_s: float | None = None,
) -> TrialSet:
    """Read utterances, one trial each.

    Args:
        root: Folder with the three folders of utterances (or with `emg_data`, which holds them), the split and the
            alignments.
        subjects: There is one: `"speaker"`.
        task: Targets: `"text"` = characters, `"audio"` = mel spectra and phonemes.
        split: File with the sentences of the development and test sets.
        longest_s: Leave out longer utterances; default none. All trials are as long as the longest.
    """
    select_subjects({SPEAKER: ()}, subjects)
    check_choice(NAME, "task", task, ("text", "audio"))
    check_choice(NAME, "split", split, ("origdev", "largedev"))
    folder = existing_folder(root, EXPECTED)
    listed = _utterances(folder)
    spoken = [one for one in listed if one.sentence[1] >= 0 and one.text]
    notes = [PARTS, *_count(len(listed) - len(spoken), "recordings without text (silence) are no utterances")]
    parts, of_split = _parts(spoken, folder / f"testset_{split}.json")
    notes += of_split
    make = _with_texts if task == "text" else partial(_with_frames, folder=folder)
    sequences, of_task = make(spoken, _emg(listed, spoken), parts)
    notes += of_task
    if longest_s is not None:
        kept = [parts[one.name] == NO_PART or one.x.shape[1] / FS <= longest_s for one in sequences.sequences]
        notes += _count(kept.count(False), f"utterances are longer than {longest_s:g} s and left out")
        sequences = sequences.choose(kept)
    sequences = replace(sequences, notes=tuple(notes))
    trials = text_trials(sequences, parts=parts) if task == "text" else frame_trials(sequences, parts=parts)
    return trials.select(trials.repetition != NO_PART)


def find(root: str | Path) -> dict[str, list[Path]]:
    """Find the files of the speaker."""
    folder = existing_folder(root, EXPECTED)
    endings = ("_emg.npy", "_info.json", ".TextGrid", *(f"_{name}.flac" for name in AUDIO))
    used = [path for path in files_below(folder) if path.name.endswith(endings) or path.name.startswith("testset_")]
    return {SPEAKER: used}


def _utterances(folder: Path) -> list[UtteranceFiles]:
    """All recordings in order of kind, session and number."""
    place = folder / "emg_data" if (folder / "emg_data").is_dir() else folder
    found = []
    for kind in FOLDERS:
        sessions = sorted((place / kind).glob("*/"), key=lambda path: natural_key(path.name))
        for session in sessions:
            for path in sorted(session.glob("*_info.json"), key=lambda path: natural_key(path.name)):
                number = path.name.partition("_")[0]
                info = _json(path)
                try:
                    sentence, text = (str(info["book"]), int(info["sentence_index"])), str(info["text"])
                    found.append(UtteranceFiles(path, kind, session.name, int(number), sentence, text.strip()))
                except (KeyError, TypeError, ValueError):
                    raise DataError(f"{path}: expected book, sentence_index and text") from None
    if not found:
        raise DataError(f"{folder} has no <number>_info.json in {', '.join(FOLDERS)}; expected {EXPECTED}")
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); is it complete?") from None


def _count(n: int, what: str) -> list[str]:
    return [f"{n} {what}"] * bool(n)


def _parts(spoken: list[UtteranceFiles], path: Path) -> tuple[dict[str, int], list[str]]:
    """Part of each utterance. Voiced utterances of development and test sentences are in none."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected the sentences of the development and test sets there")
    content, parts, notes = _json(path), {}, []
    try:
        held = {
            part: {(str(book), int(index)) for book, index in content[key]}
            for key, part in (("dev", DEVELOPMENT), ("test", TEST))
        }
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: expected dev and test, each a list of [book, sentence_index]") from None
    for one in spoken:
        part = next((part for part, sentences in held.items() if one.sentence in sentences), TRAINING)
        parts[one.name] = part if one.kind == SILENT or part == TRAINING else NO_PART
    for part, name in ((DEVELOPMENT, "development"), (TEST, "test")):
        n, expected = list(parts.values()).count(part), len(held[part])
        notes += [f"{n} {name} utterances for {expected} sentences of {path.name}"] * (n != expected)
    n_twins = list(parts.values()).count(NO_PART)
    return parts, [*notes, *_count(n_twins, "voiced utterances of development and test sentences are in no set")]


def _emg(listed: list[UtteranceFiles], spoken: list[UtteranceFiles]) -> dict[str, Float[np.ndarray, "channel time"]]:
    """Clean EMG of each utterance; its neighbours in the session may be silence."""
    by_number = {(one.kind, one.session, one.number): one for one in listed}
    cache: dict[str, np.ndarray] = {}

    def raw(kind: str, session: str, number: int) -> np.ndarray:
        one = by_number.get((kind, session, number))
        if one is None:
            return np.zeros((0, N_CHANNELS))
        if one.name not in cache:
            if len(cache) > 3:  # an utterance and its neighbours
                cache.pop(next(iter(cache)))
            cache[one.name] = _array(one.file("emg.npy"))
        return cache[one.name]

    return {
        one.name: clean_emg(*(raw(one.kind, one.session, one.number + shift) for shift in (-1, 0, 1))) for one in spoken
    }


def _array(path: Path) -> Float[np.ndarray, "time channel"]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]}); is it complete?") from None
    if values.ndim != 2 or values.shape[1] != N_CHANNELS or len(values) < 100 or values.dtype.kind not in "iuf":
        raise DataError(
            f"{path} is {values.dtype} {values.shape}; expected numbers [time, {N_CHANNELS}] at 1000 Hz, at least 100"
            " rows"
        )
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds NaN or infinity; is it complete?")
    return values.astype(np.float64)


def _with_texts(
    spoken: list[UtteranceFiles], emg: Mapping[str, np.ndarray], parts: Mapping[str, int]
) -> tuple[SequenceSet, list[str]]:
    sequences, n_changed, n_empty = [], 0, 0
    for one in spoken:
        text = comparable_text(one.text)
        kept = " ".join("".join(letter for letter in text if letter in (*ALPHABET[:-2], " ")).split())
        n_changed += kept != text
        n_empty += not kept
        if parts[one.name] != NO_PART and kept:
            sequences.append(SignalSequence(one.name, SPEAKER, one.session, emg[one.name], text=kept))
    notes = _count(n_changed, "texts have characters that are not in the alphabet; these are left out")
    notes += _count(n_empty, "texts have no such characters; these utterances are left out")
    return SequenceSet.of(sequences, {"emg": N_CHANNELS}, FS), notes


def _with_frames(
    spoken: list[UtteranceFiles], emg: Mapping[str, np.ndarray], parts: Mapping[str, int], folder: Path
) -> tuple[SequenceSet, list[str]]:
    alignments = folder / ALIGNMENTS
    places = {one.name: alignments / one.session / f"{one.session}_{one.number}_audio.TextGrid" for one in spoken}
    voiced = [one for one in spoken if one.kind != SILENT and places[one.name].is_file()]
    twins: dict[Sentence, str] = {}
    for one in voiced:
        if one.kind == VOICED:
            twins.setdefault(one.sentence, one.name)
    silent = [one for one in spoken if one.kind == SILENT and one.sentence in twins]
    n_silent = sum(one.kind == SILENT for one in spoken)
    notes = _count(
        len(spoken) - n_silent - len(voiced), f"voiced utterances have no alignment in {ALIGNMENTS}: left out"
    )
    notes += _count(n_silent - len(silent), "silent utterances have no voiced twin with an alignment and are left out")
    if not voiced:
        raise DataError(
            f"no voiced utterance has an alignment; expected {alignments}/<session>/<session>_<n>_audio.TextGrid"
        )
    spectra = standardized_spectra([_mel(one) for one in voiced], [parts[one.name] == TRAINING for one in voiced])
    sequences = []
    for one, frames in zip(voiced, spectra, strict=True):
        labels = phonemes_of_frames(places[one.name], len(frames))
        given: dict[str, Any] = {"frames": frames, "frame_labels": labels, "frame_rate": FRAME_RATE}
        sequences.append(SignalSequence(one.name, SPEAKER, one.session, emg[one.name], **given))
    sequences += [
        SignalSequence(one.name, SPEAKER, one.session, emg[one.name], twin=twins[one.sentence]) for one in silent
    ]
    names = {"frame_names": [f"mel {band}" for band in range(1, N_BANDS + 1)], "label_names": PHONEMES}
    return SequenceSet.of(sequences, {"emg": N_CHANNELS}, FS, **names), notes


def _mel(one: UtteranceFiles) -> Float[np.ndarray, "frame band"]:
    """Log mel spectra of an utterance's audio."""
    import torch

    from emg_lens.data.mel import mel_spectrogram

    try:
        import soundfile
    except ImportError:
        raise DataError("soundfile is not installed; run pip install 'emg-lens[speech]' to read FLAC") from None
    path = one.audio
    if path is None:
        raise DataError(f"{one.file(AUDIO[0] + '.flac')} does not exist; expected the audio at 22.05 kHz")
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); is it complete?") from None
    if rate != AUDIO_FS or samples.ndim != 1:
        raise DataError(f"{path} has {samples.ndim} axes at {rate} Hz; expected one channel at {AUDIO_FS} Hz")
    return mel_spectrogram(torch.from_numpy(samples)).numpy()


SILENT_SPEECH = DataSet(NAME, load, f"silent and voiced speech with facial EMG: {EXPECTED}", find, finished=True)
