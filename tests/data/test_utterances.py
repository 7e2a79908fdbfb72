"""Trials of whole utterances: padding, texts, frames, twins; and simulated speech against its own truth."""

import dataclasses

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from emg_lens.data import (
    DataError,
    SequenceSet,
    SignalSequence,
    frame_trials,
    load_trials,
    simulated_speech,
    text_trials,
)
from emg_lens.data.sources.simulated.speech import PAIR, SAMPLES_PER_FRAME, WORDS
from emg_lens.scoring import dtw_path, phoneme_confusions
from emg_lens.scoring.token_metrics import counted_steps

SMALL = {"n_subjects": 2, "n_sessions": 2, "n_utterances": 3}


def test_a_text_trial_holds_the_whole_utterance_its_text_and_its_length():
    speech = simulated_speech(SMALL).sequences
    trials = load_trials("simulated-speech", simulation=SMALL)
    longest = max(one.x.shape[1] for one in speech.sequences)
    assert trials.n_samples % 8 == 0 and 0 <= trials.n_samples - longest < 8
    for k, one in enumerate(speech.sequences):
        n = one.x.shape[1]
        assert np.array_equal(trials.x[k, :, :n], one.x) and not trials.x[k, :, n:].any()
        symbols = trials.targets[k, :, 0].astype(int)
        text = "".join(trials.classes[s] for s in symbols if s >= 0).replace("|", " ")
        assert text == one.text
        for n_steps in (trials.n_samples // 8, trials.n_samples // 4, trials.n_samples):
            each = trials.n_samples // n_steps
            assert counted_steps(trials.targets[[k]], n_steps)[0] == -(-n // each), "steps that begin in the utterance"
    assert trials.repetition.tolist() == [int(one.session) for one in speech.sequences]
    assert len(set(trials.repetition_id.tolist())) == len(trials)


def test_frames_of_a_silent_utterance_are_those_of_its_twin():
    speech = simulated_speech(SMALL).sequences
    trials = load_trials("simulated-speech", task="audio", simulation=SMALL)
    assert trials.classes == speech.label_names and trials.target_names[:-3] == speech.frame_names
    for k, one in enumerate(speech.sequences):
        source = speech[one.twin] if one.twin else one
        n, n_steps = len(source.frames), -(-one.x.shape[1] // SAMPLES_PER_FRAME)
        row = trials.targets[k]
        assert np.array_equal(row[:n, :-3], source.frames) and np.array_equal(row[:n, -3], source.frame_labels)
        assert (row[:n, -1] == n_steps).all() and not row[n:].any()
        assert (row[:n, -2] == (-1 if one.twin else np.arange(n))).all()


def test_utterances_that_cannot_be_trials_are_refused_in_one_line():
    one = SignalSequence("a", "A", "1", np.ones((1, 16), np.float32), text="ab")
    silent = dataclasses.replace(one, name="s", twin="v")
    make = lambda *some: SequenceSet.of(some, {"emg": 1}, 100, frame_names=("f",), label_names=("x",))
    frames = {"frames": np.zeros((2, 1), np.float32), "frame_labels": np.zeros(2, int)}
    for call, message in (
        (lambda: text_trials(make(dataclasses.replace(one, text="a!"))), "has the character '!'"),
        (lambda: text_trials(make(dataclasses.replace(one, text=None))), "sequence a has no text"),
        (lambda: text_trials(make(one), ["a", "a", "|", "blank"]), "expected different characters"),
        (lambda: frame_trials(make(silent)), r"sequence s has no frames .* add its twin \(v\)"),
        (lambda: frame_trials(make(dataclasses.replace(one, **frames, frame_rate=30.0))), "has 3.333 samples"),
    ):
        with pytest.raises(DataError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_parts_number_the_trials_for_splits():
    speech = simulated_speech(SMALL).sequences
    parts = {name: 3 if name.endswith("silent") else 1 for name in speech.names}
    trials = text_trials(speech, ("a", "b", "i", "m", "p", "s", "t", "u", "|", "blank"), parts=parts)
    train, test = trials.split([1], [3])
    assert len(train) == len(test) == len(speech) // 2


def test_a_speaker_depends_on_nothing_else():
    alone = simulated_speech(SMALL, [2]).sequences
    assert np.array_equal(alone.sequences[0].x, simulated_speech(SMALL).sequences["02-1-001"].x)
    assert not np.array_equal(alone.sequences[0].x, simulated_speech({**SMALL, "seed": 1}, [2]).sequences["02-1-001"].x)
    with pytest.raises(DataError, match="simulation: "):
        load_trials("simulated-speech", simulation={"speakers": 3})


def test_the_marker_decides_for_all_words_of_an_utterance():
    texts = {one.text for one in simulated_speech(SMALL).sequences.sequences}
    assert all(not {*PAIR} <= {*text} for text in texts)
    words = {word for text in texts for word in text.split()}
    assert words <= {*WORDS} and len(words) > 6
    free = simulated_speech({**SMALL, "pair": "equal", "n_utterances": 20}).sequences
    assert any({*PAIR} <= {*one.text} for one in free.sequences)


def phone_energy(one, speech, label):
    """EMG energy of each electrode in the frames of a phone; in all frames if it is None."""
    n = len(one.frame_labels)
    x = np.pad(one.x, ((0, 0), (0, n * SAMPLES_PER_FRAME - one.x.shape[1])))
    energy = (x.reshape(len(x), n, SAMPLES_PER_FRAME) ** 2).mean(2).T
    return energy if label is None else energy[one.frame_labels == speech.label_names.index(label)]


@pytest.mark.parametrize("pair", ["marked", "apart"])
def test_the_pair_has_the_same_emg_unless_it_is_set_apart(pair):
    speech = simulated_speech({"n_subjects": 1, "n_sessions": 1, "n_utterances": 150, "pair": pair}).sequences
    voiced = [one for one in speech.sequences if not one.twin]
    p, b, t = (np.log(np.concatenate([phone_energy(one, speech, k) for one in voiced]).mean(0)) for k in "pbt")
    assert (np.abs(p - b).max() < 0.35) == (pair == "marked")
    assert np.abs(p - t).max() > 0.7
    spectra = [
        np.concatenate([one.frames[one.frame_labels == speech.label_names.index(k)] for one in voiced]) for k in "pb"
    ]
    assert np.abs(spectra[0].mean(0) - spectra[1].mean(0)).max() > 1, "their sound differs"


def test_aligned_twins_follow_the_planted_warp_better_than_a_linear_stretch():
    """DTW of EMG energies against the true times; the error in ms is far below that of a linear stretch."""
    speech = simulated_speech({"n_subjects": 1, "n_sessions": 1, "n_utterances": 40, "duration_spread": 0.5})
    errors = []
    for silent in (one for one in speech.sequences.sequences if one.twin):
        voiced = speech.sequences[silent.twin]
        sides = []
        for one in (voiced, silent):
            n = one.x.shape[1] // SAMPLES_PER_FRAME
            energy = (one.x[:, : n * SAMPLES_PER_FRAME].reshape(len(one.x), n, SAMPLES_PER_FRAME) ** 2).mean(2).T
            smooth = np.log(np.apply_along_axis(np.convolve, 0, energy, np.ones(3) / 3, "same"))
            sides.append((smooth - smooth.mean(0)) / smooth.std(0))
        cost = np.linalg.norm(sides[0][:, None] - sides[1][None], axis=2)
        step_s = SAMPLES_PER_FRAME / speech.sequences.fs
        times = (np.arange(len(cost)) + 0.5) * step_s
        true = np.interp(times, speech.boundaries[voiced.name], speech.boundaries[silent.name])
        stretched = times * speech.boundaries[silent.name][-1] / speech.boundaries[voiced.name][-1]
        warped = (dtw_path(cost) + 0.5) * step_s
        errors.append([1000 * np.abs(some - true).mean() for some in (warped, stretched)])
    warped, stretched = np.mean(errors, axis=0)
    assert warped < 60 and warped < 0.5 * stretched, (warped, stretched)


def test_phones_with_the_same_emg_are_confused_in_half_of_their_frames():
    """A classifier of EMG energies cannot distinguish p from b, but distinguishes every other pair."""
    sizes = {"n_subjects": 1, "n_sessions": 2, "n_utterances": 100, "pair": "equal"}
    speech = simulated_speech(sizes).sequences
    parts = []
    for session in ("1", "2"):
        voiced = [one for one in speech.sequences if not one.twin and one.session == session]
        energy = [np.log(phone_energy(one, speech, None)) for one in voiced]
        parts.append((np.concatenate(energy), np.concatenate([one.frame_labels for one in voiced])))
    (x, y), (new, true) = parts
    names = np.array(speech.label_names)
    predicted = LinearDiscriminantAnalysis(priors=np.full(len(names), 1 / len(names))).fit(x, y).predict(new)
    table = phoneme_confusions(names[true].tolist(), names[predicted].tolist()).set_index(["first", "second"])
    pair = table.loc[("b", "p")]
    share = pair["confusion"] / (pair["confusion"] + pair["accuracy"])
    assert share == pytest.approx(0.5, abs=0.1), "of the frames that are classified as one of the two"
    others = table.drop(index=[("b", "p")]).dropna()
    assert (others["confusion"] < 0.2).all()
