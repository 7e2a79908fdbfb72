"""Folders of silent speech that this file writes itself, with all traps: silence, alignments, twins, splits."""

import json
import math

import numpy as np
import pytest
import scipy.signal
import soundfile

from emg_lens.data import DataError, load_trials
from emg_lens.data.registry import describe_dataset
from emg_lens.data.textgrid import read_textgrid

FS = 22_050 / 256 * 8
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = {end}
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = {end}
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = {end}
            text = "say ""hi"" = 3"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = {end}
        intervals: size = {n}
"""
INTERVAL = '        intervals [{k}]:\n            xmin = {a}\n            xmax = {b}\n            text = "{text}"\n'


def textgrid(intervals, end):
    rows = [INTERVAL.format(k=k, a=a, b=b, text=text) for k, (a, b, text) in enumerate(intervals, start=1)]
    return LONG.format(end=end, n=len(rows)) + "".join(rows)


class Writer:
    """Writes the published layout, independently of the reader."""

    def __init__(self, root):
        self.root, self.rng, self.raw = root, np.random.default_rng(0), {}

    def utterance(self, kind, session, number, sentence, text, seconds, phones=None, audio="audio_clean"):
        folder = self.root / "emg_data" / kind / session
        folder.mkdir(parents=True, exist_ok=True)
        n = round(1000 * seconds)
        t = np.arange(n) / 1000
        emg = 30 * self.rng.normal(size=(n, 8)) + 200 * np.sin(2 * np.pi * 60 * t)[:, None] + 500
        np.save(folder / f"{number}_emg.npy", emg)
        self.raw[kind, session, number] = emg
        info = {"book": sentence[0], "sentence_index": sentence[1], "text": text, "chunks": [[n, 16 * n, n]]}
        (folder / f"{number}_info.json").write_text(json.dumps(info))
        np.save(folder / f"{number}_button.npy", np.zeros(n, bool))
        samples = 0.1 * self.rng.normal(size=round(22_050 * seconds))
        soundfile.write(folder / f"{number}_{audio}.flac", samples, 22_050)
        soundfile.write(folder / f"{number}_audio.flac", samples[::2], 16_000)
        if phones is not None:
            place = self.root / "text_alignments" / session
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{session}_{number}_audio.TextGrid").write_text(textgrid(phones, seconds))

    def split(self, name="largedev", dev=(("war", 5),), test=(("war", 6),)):
        (self.root / f"testset_{name}.json").write_text(json.dumps({"dev": dev, "test": test}))


@pytest.fixture
def corpus(tmp_path):
    writer = Writer(tmp_path)
    phones = [(0.0, 0.2, "sp"), (0.2, 0.5, "AA1"), (0.5, 0.6, ""), (0.6, 1.0, "Z")]
    for number, index in ((0, 1), (2, 5), (10, 6), (11, 7)):
        seconds = 1.0 + 0.1 * index
        writer.utterance("voiced_parallel_data", "5-4", number, ("war", index), f"Sentence {index}!", seconds, phones)
        writer.utterance("silent_parallel_data", "5-5", number, ("war", index), f"Sentence {index}!", 0.9 + 0.1 * index)
    writer.utterance("silent_parallel_data", "5-5", 1, ("war", -1), "", 0.7)  # silence between two utterances
    writer.utterance(
        "nonparallel_data", "4-1", 0, ("dracula", 3), "The café - well-known.", 1.2, phones, "audio_resampled"
    )
    writer.utterance("nonparallel_data", "4-1", 1, ("dracula", 4), "No alignment", 1.1)
    writer.utterance("nonparallel_data", "4-1", 2, ("war", 6), "Sentence 6!", 1.1, phones)  # a test sentence
    writer.split()
    return writer


def expected_emg(before, own, after):
    x = np.concatenate([before, own, after])
    for harmonic in range(1, 8):
        b, a = scipy.signal.iirnotch(60 * harmonic, 30, 1000)
        x = np.stack([scipy.signal.filtfilt(b, a, column) for column in x.T], axis=1)
    b, a = scipy.signal.butter(3, 2, "highpass", fs=1000)
    x = np.stack([scipy.signal.filtfilt(b, a, column) for column in x.T], axis=1)[len(before) :][: len(own)]
    times = np.arange(len(x)) / 1000
    new = np.arange(0, times[-1], 1 / FS)
    x = np.stack([np.interp(new, times, column) for column in x.T])[:, 8:]
    return 50 * np.tanh(x / 20 / 50)


def texts_of(trials):
    rows = trials.targets[..., 0].astype(int)
    return ["".join(trials.classes[k] for k in row if k >= 0).replace("|", " ") for row in rows]


def test_texts_sets_and_silence(corpus):
    trials = load_trials("silent-speech", corpus.root)
    by_part = {part: sorted(np.array(texts_of(trials))[trials.repetition == part].tolist()) for part in (1, 2, 3)}
    assert by_part[3] == ["sentence 6"] and by_part[2] == ["sentence 5"]
    alone = ["no alignment", "the cafe well known"]
    assert by_part[1] == sorted([*alone, *["sentence 1"] * 2, *["sentence 7"] * 2])
    assert trials.fs == FS and trials.classes[-1] == "blank" and len(trials.classes) == 38
    notes = " ".join(trials.notes)
    assert "1 recordings without text" in notes and "3 voiced utterances of development and test" in notes
    assert set(trials.subject) == {"speaker"}


def test_emg_is_filtered_with_its_neighbours(corpus):
    trials = load_trials("silent-speech", corpus.root)
    raw, none = corpus.raw, np.zeros((0, 8))
    silent = lambda number: raw["silent_parallel_data", "5-5", number]
    voiced = lambda number: raw["voiced_parallel_data", "5-4", number]
    wanted = {  # the neighbour of utterance 0 is silence; 10 and 11 are neighbours, 2 has none after it
        ("sentence 1", 0): (none, silent(0), silent(1)),
        ("sentence 6", 0): (none, silent(10), silent(11)),
        ("sentence 5", 0): (silent(1), silent(2), none),
        ("sentence 7", 1): (voiced(10), voiced(11), none),
    }
    seen: dict[str, int] = {}
    for x, text, fraction in zip(trials.x, texts_of(trials), trials.targets[:, 0, 1], strict=True):
        key = (text, seen.setdefault(text, 0))
        seen[text] += 1
        if key in wanted:
            n = round(float(fraction) * trials.n_samples)
            np.testing.assert_allclose(x[:, :n], expected_emg(*wanted.pop(key)), atol=2e-4)
            assert not x[:, n:].any()
    assert not wanted


def test_frames_twins_and_missing_alignments(corpus):
    trials = load_trials("silent-speech", corpus.root, task="audio")
    assert len(trials.target_names) == 83 and len(trials.classes) == 48
    notes = " ".join(trials.notes)
    assert "1 voiced utterances have no alignment" in notes
    parts, own = trials.repetition.tolist(), trials.targets[:, 0, -2] == 0
    assert sorted(zip(parts, own.tolist(), strict=True)) == [
        (1, False), (1, False), (1, True), (1, True), (1, True), (2, False), (3, False)
    ]  # fmt: skip
    rate = 22_050 / 256
    for row, is_own in zip(trials.targets, own, strict=True):
        n = int((row[:, -1] > 0).sum())
        labels = [trials.classes[int(k)] for k in row[:n, -3]]
        edges = [math.floor(rate * t) for t in (0.2, 0.5, 0.6, 1.0)]
        assert labels[: edges[3]] == ["sil"] * edges[0] + ["aa"] * (edges[1] - edges[0]) + ["sil"] * (
            edges[2] - edges[1]
        ) + ["z"] * (edges[3] - edges[2])
        assert set(labels[edges[3] :]) <= {"sil"}
        assert (row[:n, -2] == (np.arange(n) if is_own else -1)).all()
    training = trials.targets[(trials.repetition == 1) & own]
    values = training[training[..., -1] > 0][:, :80]
    assert np.abs(values.mean(0)).max() < 0.1 and abs(values.std() - 1) < 0.05


def test_sets_of_another_size_are_noted(corpus):
    corpus.split("origdev", dev=(("war", 5), ("war", 99)), test=(("war", 6),))
    notes = " ".join(load_trials("silent-speech", corpus.root, split="origdev").notes)
    assert "1 development utterances for 2 sentences of testset_origdev.json" in notes
    assert "test utterances for" not in notes


def test_long_utterances_can_be_left_out(corpus):
    trials = load_trials("silent-speech", corpus.root, longest_s=1.45)
    assert trials.n_samples / FS <= 1.46 and "longer than 1.45 s and left out" in " ".join(trials.notes)


def break_it(corpus, what):
    emg = corpus.root / "emg_data" / "silent_parallel_data" / "5-5"
    grid = corpus.root / "text_alignments" / "5-4" / "5-4_0_audio.TextGrid"
    if what == "split":
        (corpus.root / "testset_largedev.json").unlink()
    elif what == "pickle":
        np.save(emg / "2_emg.npy", np.array([{"a": 1}], object), allow_pickle=True)
    elif what == "channels":
        np.save(emg / "2_emg.npy", np.zeros((500, 7)))
    elif what == "info":
        (emg / "2_info.json").write_text('{"book": "war"}')
    elif what == "phone":
        grid.write_text(grid.read_text().replace("AA1", "QQ"))
    elif what == "cut":
        grid.write_text(grid.read_text()[:-60])
    elif what == "tier":
        grid.write_text(grid.read_text().replace('"phones"', '"Phones"'))
    elif what == "rate":
        path = corpus.root / "emg_data" / "voiced_parallel_data" / "5-4" / "0_audio_clean.flac"
        soundfile.write(path, np.zeros(16_000), 16_000)
    elif what == "audio":
        (corpus.root / "emg_data" / "voiced_parallel_data" / "5-4" / "0_audio_clean.flac").unlink()
    elif what == "alignments":
        (corpus.root / "text_alignments").rename(corpus.root / "elsewhere")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("split", "testset_largedev.json does not exist"),
        ("pickle", "2_emg.npy: cannot be read"),
        ("channels", r"2_emg.npy is float64 \(500, 7\); expected numbers"),
        ("info", "2_info.json: expected book, sentence_index and text"),
        ("phone", "unknown phoneme 'QQ'"),
        ("cut", "is no complete TextGrid"),
        ("tier", "has no tier 'phones'; it has words, Phones"),
        ("rate", "0_audio_clean.flac has 1 axes at 16000 Hz; expected one channel at 22050 Hz"),
        ("audio", "0_audio_clean.flac does not exist"),
        ("alignments", "no voiced utterance has an alignment; expected"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(corpus, what, message):
    break_it(corpus, what)
    with pytest.raises(DataError, match=message) as error:
        load_trials("silent-speech", corpus.root, task="audio")
    assert "\n" not in str(error.value)


def test_the_index_lists_what_is_read(corpus):
    (files,) = describe_dataset("silent-speech").index(corpus.root).values()
    names = {path.name for path in files}
    assert {"testset_largedev.json", "10_emg.npy", "0_audio_clean.flac", "5-4_0_audio.TextGrid"} <= names
    assert not {"0_button.npy", "0_audio.flac"} & names


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_textgrids_long_and_short(tmp_path, encoding):
    path = tmp_path / "a.TextGrid"
    path.write_text(textgrid([(0, 0.25, "AA1"), (0.25, 1e0, 'é "" -3')], 1.0), encoding=encoding)
    tiers = read_textgrid(path)
    assert tiers["phones"] == [(0.0, 0.25, "AA1"), (0.25, 1.0, 'é " -3')]
    assert tiers["words"] == [(0.0, 1.0, 'say "hi" = 3')]
    short = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n2\n'
    short += '"TextTier"\n"clicks"\n0\n1\n1\n0.5\n"x"\n'
    path.write_text(short + '"IntervalTier"\n"phones"\n0\n1\n2\n0\n0.5\n"S"\n0.5\n1\n""\n', encoding=encoding)
    assert read_textgrid(path) == {"phones": [(0.0, 0.5, "S"), (0.5, 1.0, "")]}
