"""`emg-lens new` on recordings in the layouts that people have: each is described without a line of Python."""

import json
from itertools import product

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console
from scipy.io import savemat
from typer.testing import CliRunner

from emg_lens import TrialSet, load_trials
from emg_lens.cli import app
from emg_lens.data import Recipe, Segment, load_dataset
from emg_lens.studies.runs.plan import prepare
from emg_lens.studies.spec.study_spec import StudySpec

NAMES = ("fist", "open", "pinch")


def new(folder, *options):
    """Run the command; return its output and the content of both files."""
    result = CliRunner().invoke(app, ["new", "--data", str(folder), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    root = folder.parent if folder.is_file() else folder
    description = root / "dataset.yaml"
    read = yaml.safe_load(description.read_text()) if description.exists() else {}
    return result.output, read, yaml.safe_load((root / "study.yaml").read_text())


def check(folder):
    """What `emg-lens check` does with the written study."""
    root = folder.parent if folder.is_file() else folder
    study = StudySpec.load(str(root / "study.yaml"))
    study.check()
    return prepare(study, folder, root / "run", 1, Console(quiet=True))


def performances(subjects=("A", "B"), repetitions=(1, 2, 3)):
    return [(s, g, r, k) for k, (s, g, r) in enumerate(product(subjects, range(3), repetitions))]


def test_subject_label_and_repetition_in_the_path_of_a_table(tmp_path, emg, acc):
    for subject, gesture, repetition, seed in performances():
        samples = np.hstack([emg(gesture, seed=seed), np.repeat(acc(gesture, seed=seed), 10, axis=0)])
        frame = pd.DataFrame(samples, columns=["emg1", "emg2", "emg3", "emg4", "ax", "ay", "az"])
        frame.insert(0, "time_ms", np.arange(len(frame)))
        (tmp_path / subject).mkdir(exist_ok=True)
        frame.to_csv(tmp_path / subject / f"{NAMES[gesture]}_{repetition}.csv", index=False)
    output, description, study = new(tmp_path)
    assert description["files"] == "{subject}/{label}_{repetition}.csv" and description["fs"] == 1000
    assert description["signals"]["emg"] == {"columns": ["emg1", "emg2", "emg3", "emg4"]}
    assert description["signals"]["acc"] == {"columns": ["ax", "ay", "az"], "native_fs": 100}
    assert description["time"] == {"column": "time_ms", "unit": "ms"}
    assert description["label"]["classes"] == {"fist": "fist", "open": "open", "pinch": "pinch"}
    steps = study["cohort"]["recipe"]["signals"]["emg"]
    assert [step["step"] for step in steps] == ["bandpass", "rectify", "lowpass"] and steps[0]["high_hz"] == 450
    assert study["split"] == {"by": "repetition", "test": [2]} and "emg-lens check" in output
    assert len(check(tmp_path).n_train) == 2


def test_the_comments_of_the_study_name_the_keys_that_make_a_run_shorter(tmp_path, emg):
    for subject, gesture, repetition, seed in performances():
        np.savetxt(tmp_path / f"{subject}_{NAMES[gesture]}_{repetition}.csv", emg(gesture, seed=seed), delimiter=",")
    new(tmp_path)
    text = (tmp_path / "study.yaml").read_text()
    of_new = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    assert "training.epochs, a larger cohort.segment.stride_s, cohort.subjects: [some" in of_new
    shorter = yaml.safe_load(text) | yaml.safe_load("conditions: {controls: {random_edges: 0}}")
    shorter["cohort"]["subjects"], shorter["training"]["epochs"] = ["A"], 1
    shorter["cohort"]["segment"]["stride_s"] *= 2
    assert "conditions: {controls: {random_edges: 0}}" in of_new and StudySpec.from_content(shorter)


def test_one_file_per_sensor_with_a_clock_of_its_own(tmp_path, emg, acc):
    for subject, gesture, repetition, seed in performances():
        where = tmp_path / f"P{subject == 'B':02d}" / f"{NAMES[gesture]}_{repetition}"
        where.parent.mkdir(exist_ok=True)
        for sensor, samples, fs, start in (
            ("emg", emg(gesture, seconds=2, fs=500, seed=seed), 500, 10.0),
            ("imu", acc(gesture, seconds=2, seed=seed), 100, 10.2),
        ):
            names = ["ax", "ay", "az"] if sensor == "imu" else ["c1", "c2", "c3", "c4"]
            frame = pd.DataFrame(samples, columns=names)
            frame.insert(0, "time_s", start + np.arange(len(frame)) / fs)
            frame.to_csv(f"{where}_{sensor}.csv", index=False)
    _, description, _ = new(tmp_path)
    assert description["files"] == "{subject}/{label}_{repetition}_{part}.csv" and description["fs"] == 500
    assert description["signals"]["acc"] == {"part": "imu", "columns": ["ax", "ay", "az"], "fs": 100}
    recording = next(load_dataset("folder", tmp_path))
    assert {name: len(s.data) for name, s in recording.signals.items()} == {"emg": 900, "acc": 200}  # from 10.2 s on
    np.testing.assert_allclose(recording.signals["emg"].data[0], emg(0, seconds=2, fs=500)[100], rtol=1e-5)
    assert any("0.2 s before" in note for note in recording.notes)
    assert check(tmp_path).n_train


def test_one_folder_per_sensor_with_files_of_the_same_name(tmp_path, emg, acc):
    for subject, gesture, repetition, seed in performances():
        for sensor, samples in (("EMG", emg(gesture, fs=500, seed=seed)), ("ACC", acc(gesture, seed=seed))):
            (tmp_path / sensor).mkdir(exist_ok=True)
            name = f"S{1 + (subject == 'B')}_G{gesture + 1}_R{repetition}.txt"
            np.savetxt(tmp_path / sensor / name, samples, fmt="%.4f", delimiter="\t")
    _, description, _ = new(tmp_path, "--fs", "500")
    assert description["files"] == "{part}/{subject}_G{label}_R{repetition}.txt" and description["header"] is False
    assert description["signals"] == {
        "emg": {"part": "EMG", "columns": "1-4"},
        "acc": {"part": "ACC", "columns": "1-3", "fs": 100},
    }
    recording = next(load_dataset("folder", tmp_path))
    np.testing.assert_allclose(recording.signals["acc"].data, acc(0), rtol=1e-5)
    assert recording.meta["class_names"] == {1: "gesture 1", 2: "gesture 2", 3: "gesture 3"}


@pytest.mark.parametrize("decimal, separator", [(".", ","), (",", ";")])
def test_labels_in_a_column_and_sessions(tmp_path, emg, decimal, separator):
    for subject, day in product(("ann", "bob"), (1, 2)):
        parts, labels = [], []
        for k, gesture in enumerate((0, 1, 2, 0, 1, 2)):
            parts += [emg(0, seconds=0.5, seed=k) * 0.1, emg(gesture, seed=k)]
            labels += ["rest"] * 500 + [NAMES[gesture]] * 1500
        frame = pd.DataFrame(np.vstack(parts), columns=[f"Channel {i}" for i in range(1, 5)]).assign(gesture=labels)
        frame.to_csv(tmp_path / f"{subject}_day{day}.csv", index=False, sep=separator, decimal=decimal)
    output, description, _ = new(tmp_path, "--fs", "1000")
    assert description["files"] == "{subject}_day{session}.csv"
    assert description["label"] == {"column": "gesture", "rest": ["rest"], "classes": {n: n for n in NAMES}}
    assert "ASSUMED" in (tmp_path / "dataset.yaml").read_text() and "means rest" in output
    first, second, *_ = load_dataset("folder", tmp_path)
    assert first.trials["repetition"].tolist() == [1] * 3 + [2] * 3
    assert second.trials["repetition"].tolist() == [3] * 3 + [4] * 3  # the second day goes on
    assert check(tmp_path).n_train


def test_gesture_and_number_without_text_between(tmp_path, emg):
    for gesture, repetition in product(range(3), range(1, 5)):
        np.save(tmp_path / f"{NAMES[gesture]}{repetition}.npy", emg(gesture, seed=repetition).T)
    output, description, study = new(tmp_path, "--fs", "1000")
    assert description["files"] == "{label:text}{repetition:number}.npy" and description["subject"] == tmp_path.name
    assert description["signals"] == {"emg": {"axes": ["channel", "time"]}}
    assert "one subject" in output and study["split"]["test"] == [2, 4]
    assert check(tmp_path).n_train


def test_matlab_structures_with_rates_and_labels(tmp_path, emg, acc):
    for subject in (1, 2, 3):
        order = [0, 1, 2] * 3
        record = {
            "emg": np.vstack([emg(g, seed=k) for k, g in enumerate(order)]),
            "acc": np.vstack([acc(g, seed=k) for k, g in enumerate(order)]),
            "gesture": np.repeat(np.array(order) + 1, 1500)[:, None],
            "info": {"fs": 1000.0, "person": f"S{subject}"},
        }
        savemat(tmp_path / f"subject{subject}.mat", {"rec": record})
    _, description, _ = new(tmp_path)
    assert description["signals"] == {"emg": {"key": "rec.emg"}, "acc": {"key": "rec.acc", "fs": 100}}
    assert description["label"]["key"] == "rec.gesture" and description["fs"] == 1000
    assert check(tmp_path).n_train


def test_cells_of_trials_of_different_lengths(tmp_path, emg):
    for subject in (1, 2):
        order = [0, 1, 2] * 4
        trials, names = np.empty(len(order), object), np.empty(len(order), object)
        for k, gesture in enumerate(order):
            trials[k], names[k] = emg(gesture, seconds=1.2 + 0.05 * k, seed=k), NAMES[gesture]
        savemat(tmp_path / f"s{subject}.mat", {"data": {"emg": trials, "label": names, "Fs": 1000}})
    _, description, study = new(tmp_path)
    assert description["signals"] == {"emg": {"key": "data.emg", "axes": ["trial", "time", "channel"]}}
    recordings = list(load_dataset("folder", tmp_path))
    assert len(recordings) == 24 and [len(r.label) for r in recordings[:2]] == [1200, 1250]
    assert recordings[4].trials[["label", "repetition"]].to_numpy().tolist() == [[2, 2]]
    assert study["split"] == {"by": "repetition", "test": [2, 4]} and check(tmp_path).n_train


def test_groups_and_attributes_of_an_hdf5_file(tmp_path, emg, acc):
    for subject in "AB":
        with h5py.File(tmp_path / f"{subject}.h5", "w") as file:
            group = file.create_group("data")
            group.attrs["sampling_rate"] = 500.0
            order = [0, 1, 2] * 3
            group["EMG"] = np.vstack([emg(g, fs=500, seed=k) for k, g in enumerate(order)])
            group["accelerometer"] = np.vstack([acc(g, seed=k) for k, g in enumerate(order)])
            group["label"] = np.repeat([NAMES[g] for g in order], 750).astype("S")
    _, description, _ = new(tmp_path)
    assert description["fs"] == 500 and description["signals"]["emg"] == {"key": "data/EMG"}
    assert description["signals"]["acc"] == {"key": "data/accelerometer", "fs": 100}
    assert description["label"]["classes"] == {name: name for name in NAMES} and check(tmp_path).n_train


@pytest.mark.parametrize("apart", [False, True])
def test_trials_in_one_array(tmp_path, emg, apart):
    order = [0, 1, 2] * 4
    x, y = np.stack([emg(g, seconds=0.6, seed=k).T for k, g in enumerate(order)]), np.array(order)
    if apart:
        np.save(tmp_path / "X.npy", x)
        np.save(tmp_path / "y.npy", y)
    else:
        np.savez(tmp_path / "all.npz", X=x, y=y, fs=1000)
    _, description, _ = new(tmp_path, "--fs", "1000")
    (signal,) = description["signals"].values()
    assert signal["axes"] == ["trial", "channel", "time"]
    trials = load_trials("folder", tmp_path, Recipe(), Segment())
    assert len(trials) == (12 if 0 not in description["label"].get("rest", []) else 8)
    np.testing.assert_allclose(trials.x[-1], x[-1], rtol=1e-5)


def test_nested_json(tmp_path, emg):
    for subject in "AB":
        order = [0, 1, 2] * 3
        trials = [
            {"gesture": NAMES[g], "emg": emg(g, seconds=0.5, fs=200, seed=k).tolist()} for k, g in enumerate(order)
        ]
        (tmp_path / f"{subject}.json").write_text(json.dumps({"fs": 200, "trials": trials}))
    _, description, _ = new(tmp_path)
    assert description["signals"] == {"emg": {"key": "trials.emg", "axes": ["trial", "time", "channel"]}}
    assert description["fs"] == 200 and description["label"]["key"] == "trials.gesture" and check(tmp_path).n_train


def test_a_saved_trial_set_needs_no_description(tmp_path, emg):
    order = [0, 1, 2] * 6
    x = np.stack([np.abs(emg(g, fs=100, seed=k)).T for k, g in enumerate(order)])
    file = tmp_path / "mine.h5"
    TrialSet.from_arrays(
        x, y=[NAMES[g] for g in order], subject=["A"] * 9 + ["B"] * 9, repetition=np.arange(18) // 3 % 3 + 1,
        channels={"emg": 4}, fs=100.0,
    ).save(file)  # fmt: skip
    output, description, study = new(file)
    assert description == {} and study["cohort"] == {"dataset": "trials"} and "18 trials" in output
    assert check(file).n_train


def test_a_structured_matlab_file_of_version_7_3(tmp_path, emg):
    for subject in (1, 2):
        with h5py.File(tmp_path / f"s{subject}.mat", "w", userblock_size=512) as file:
            order = [0, 1, 2] * 3
            group = file.create_group("rec")
            group["emg"] = np.vstack([emg(g, seed=k) for k, g in enumerate(order)]).T  # MATLAB's order of axes
            group["class"] = np.repeat(np.array(order, float) + 1, 1500)[None]
            group["fs"] = [[1000.0]]
    _, description, _ = new(tmp_path)
    assert description["signals"] == {"emg": {"key": "rec.emg"}} and description["label"]["key"] == "rec.class"
    assert check(tmp_path).n_train


def test_one_table_with_all_subjects(tmp_path, emg):
    frames = []
    for subject, gesture, trial, seed in performances(("P1", "P2", "P3")):
        frame = pd.DataFrame(emg(gesture, seconds=0.5, seed=seed), columns=[f"emg_{i}" for i in range(4)])
        frames.append(frame.assign(subject=subject, label=gesture + 1, trial=trial))
    pd.concat(frames).to_csv(tmp_path / "recordings.csv", index=False)
    output, description, study = new(tmp_path / "recordings.csv", "--fs", "1000")
    assert "--data is the folder of recordings.csv" in output
    assert description["subject"] == {"column": "subject"} and description["repetition"] == {"column": "trial"}
    recordings = list(load_dataset("folder", tmp_path))
    assert [r.subject for r in recordings] == ["P1", "P2", "P3"] and len(recordings[2].trials) == 9
    np.testing.assert_allclose(recordings[1].signals["emg"].data[:500], frames[9].iloc[:, :4], rtol=1e-5)
    study = StudySpec.load(str(tmp_path / "study.yaml"))
    assert len(prepare(study, tmp_path, tmp_path / "run", 1, Console(quiet=True)).n_train) == 3


def test_arrays_with_the_subject_of_each_trial_in_a_file_of_its_own(tmp_path, emg):
    rows = performances()
    np.save(tmp_path / "X.npy", np.stack([emg(g, seconds=0.4, seed=k) for *_, g, _, k in [(0, *r) for r in rows]]))
    np.save(tmp_path / "y.npy", np.array([g + 1 for _, g, _, _ in rows]))
    np.save(tmp_path / "subjects.npy", np.array(["AB".index(s) + 1 for s, *_ in rows]))
    _, description, _ = new(tmp_path, "--fs", "1000")
    assert description["subject"] == {"part": "subjects"} and description["label"]["part"] == "y"
    recordings = list(load_dataset("folder", tmp_path))
    assert [r.subject for r in recordings] == ["1"] * 9 + ["2"] * 9
    assert [int(r.label[0]) for r in recordings[9:]] == [1] * 3 + [2] * 3 + [3] * 3


def write_edf(path, samples, fs, names):
    """A plain EDF file of whole seconds, with whole numbers from -32768 to 32767 µV."""
    n_seconds, n = len(samples) // fs, len(names)
    fields = [
        [name.ljust(16) for name in names], [" " * 80] * n, ["uV".ljust(8)] * n, ["-32768".ljust(8)] * n,
        ["32767".ljust(8)] * n, ["-32768".ljust(8)] * n, ["32767".ljust(8)] * n, [" " * 80] * n,
        [str(fs).ljust(8)] * n, [" " * 32] * n,
    ]  # fmt: skip
    start = "0".ljust(8) + "X X X X".ljust(80) + "Startdate X X X X".ljust(80) + "01.01.2520.00.00"
    start += str(256 * (n + 1)).ljust(8) + " " * 44 + str(n_seconds).ljust(8) + "1".ljust(8) + str(n).ljust(4)
    blocks = samples[: n_seconds * fs].reshape(n_seconds, fs, n).transpose(0, 2, 1)
    path.write_bytes((start + "".join(map("".join, fields))).encode() + blocks.astype("<i2").tobytes())


def test_bids_with_edf_files_and_tables_of_events(tmp_path, emg):
    pytest.importorskip("mne")
    for subject, run in product((1, 2), (1, 2)):
        folder = tmp_path / f"sub-{subject:02d}" / "emg"
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"sub-{subject:02d}_task-grasp_run-{run}"
        order = [0, 1, 2] * 2
        samples = np.vstack(
            [np.vstack([emg(g, 1, 500, seed=k), emg(0, 1, 500, seed=k) / 9]) for k, g in enumerate(order)]
        )
        write_edf(folder / f"{stem}_emg.edf", (100 * samples).round(), 500, ["FCR", "ECR", "FDS", "EDC"])
        events = pd.DataFrame({"onset": 2.0 * np.arange(6), "duration": 1.0, "trial_type": [NAMES[g] for g in order]})
        events.to_csv(folder / f"{stem}_events.tsv", sep="\t", index=False)
        channels = pd.DataFrame({"name": ["FCR", "ECR", "FDS", "EDC"], "type": "EMG", "units": "uV"})
        channels.to_csv(folder / f"{stem}_channels.tsv", sep="\t", index=False)
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-02\t31\n")
    (tmp_path / "dataset_description.json").write_text('{"Name": "test", "BIDSVersion": "1.10.0"}')
    _, description, _ = new(tmp_path)
    assert description["fs"] == 500 and description["signals"]["emg"]["ch_names"] == ["FCR", "ECR", "FDS", "EDC"]
    assert description["label"]["onset"] == "onset" and description["label"]["column"] == "trial_type"
    recording = next(load_dataset("folder", tmp_path))
    assert recording.trials["start"].tolist() == [0, 2, 4, 6, 8, 10] and recording.trials["stop"].tolist()[0] == 1
    np.testing.assert_allclose(recording.signals["emg"].data[:500], (100 * emg(0, 1, 500)).round() / 1e6, atol=2e-6)
    assert check(tmp_path).n_train


def test_annotations_of_a_file_that_mne_reads(tmp_path, emg):
    mne = pytest.importorskip("mne")
    for subject in "AB":
        order = [0, 1, 2] * 3
        info = mne.create_info(["EMG1", "EMG2", "EMG3", "EMG4"], 500, "emg")
        raw = mne.io.RawArray(np.vstack([emg(g, 1, 500, seed=k) for k, g in enumerate(order)]).T, info, verbose="error")
        raw.set_annotations(mne.Annotations(np.arange(9.0), [0.8] * 9, [NAMES[g] for g in order]))
        raw.save(tmp_path / f"{subject}_raw.fif", verbose="error")
    _, description, _ = new(tmp_path)
    assert description["label"] == {"key": "annotation", "classes": {n: n for n in NAMES}, "rest": [""]}
    recording = next(load_dataset("folder", tmp_path))
    np.testing.assert_allclose(recording.trials["start"], np.arange(9))
    assert check(tmp_path).n_train


def test_a_logger_with_lines_above_the_table_and_columns_that_are_no_channels(tmp_path, emg):
    head = '# Logger 2.1\n# {"device": "x", "sampling rate": 500, "channels": 4}\n# EndOfHeader\n'
    for gesture, repetition in product(range(3), (1, 2, 3)):
        samples = emg(gesture, fs=500, seed=repetition)
        rows = np.column_stack([np.arange(len(samples)) % 16, np.zeros(len(samples)), samples])
        text = "\n".join("\t".join(f"{v:g}" for v in row) for row in rows)
        names = "nSeq\tDigital\tEMG_A1\tEMG_A2\tEMG_A3\tEMG_A4\n"
        (tmp_path / f"{NAMES[gesture]}-{repetition}.txt").write_text(head + names + text)
    output, description, _ = new(tmp_path)
    assert description["fs"] == 500 and description["skip_lines"] == 3
    assert description["signals"] == {"emg": {"columns": ["EMG_A1", "EMG_A2", "EMG_A3", "EMG_A4"]}}
    assert "not used: nSeq, Digital" in output and check(tmp_path).n_train


def test_numbers_alone_in_the_names_and_scalars_inside(tmp_path, emg):
    for subject, gesture, repetition in product((1, 2), (1, 2, 3), (1, 2, 3)):
        content = {"data": emg(gesture - 1, channels=6), "gesture": gesture, "subject": subject}
        savemat(tmp_path / f"{subject:03d}-{gesture:03d}-{repetition:03d}.mat", content)
    _, description, study = new(tmp_path, "--fs", "1000")
    assert description["files"].startswith("{subject}-") and description["signals"] == {"emg": {"key": "data"}}
    recordings = list(load_dataset("folder", tmp_path))
    assert {(r.subject, int(r.label[0]), int(r.repetition[0])) for r in recordings} == {
        *product(("001", "002"), (1, 2, 3), (1, 2, 3))
    }
    assert check(tmp_path).n_train


@pytest.mark.parametrize(
    "content, options, message",
    [
        ({}, (), "has no file with samples of sensors; expected .csv"),
        ({"notes.txt": "hello\nworld\n"}, (), "has no file with samples of sensors"),
        (
            {"a.csv": "emg1,emg2\n" + "1,2\n3,1\n" * 40},
            ("--fs", "0.2"),
            "one sample every 5 s; write Hz: 200 for 0.2 kHz",
        ),
        ({"a.csv": "emg1,emg2\n" + "1,2\n3,1\n" * 40}, ("--fs", "200"), "1 gesture and no force, angles or glove"),
        ({"study.yaml": "name: x\n"}, (), "study.yaml exists; delete it, or give --force"),
    ],
)
def test_what_cannot_be_described_is_an_error_of_one_line(tmp_path, content, options, message):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    result = CliRunner().invoke(app, ["new", "--data", str(tmp_path), *options])
    assert result.exit_code == 1 and message in str(result.exception) and "\n" not in str(result.exception)
    assert not (tmp_path / "study.yaml").exists() or content == {"study.yaml": "name: x\n"}


def test_a_corrected_description_is_used_and_kept(tmp_path, emg):
    for gesture, repetition in product(range(3), (1, 2, 3)):
        np.save(tmp_path / f"{NAMES[gesture]}_{repetition}.npy", emg(gesture))
    new(tmp_path, "--fs", "1000")
    file = tmp_path / "dataset.yaml"
    file.write_text(file.read_text().replace("fist: fist", "fist: closed fist"))
    (tmp_path / "study.yaml").unlink()
    output, description, _ = new(tmp_path)
    assert "exists and is used" in output and description["label"]["classes"]["fist"] == "closed fist"
    output, description, _ = new(tmp_path, "--force")
    assert "delete it to describe" in output and description["label"]["classes"]["fist"] == "closed fist"
    file.unlink()
    assert new(tmp_path, "--force", "--fs", "1000")[1]["label"]["classes"]["fist"] == "fist"


def test_nothing_is_written_into_a_read_only_folder(tmp_path, emg):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for gesture, repetition in product(range(3), (1, 2, 3)):
        np.save(data / f"{NAMES[gesture]}_{repetition}.npy", emg(gesture))
    before = sorted(data.iterdir())
    data.chmod(0o555)
    try:
        result = CliRunner().invoke(app, ["new", "--data", str(data), "--fs", "1000"])
        assert "is read-only; give another folder with --out" in str(result.exception)
        result = CliRunner().invoke(app, ["new", "--data", str(data), "--fs", "1000", "--out", str(out)])
        assert result.exit_code == 0, result.output
    finally:
        data.chmod(0o755)
    assert sorted(data.iterdir()) == before and {path.name for path in out.iterdir()} == {"dataset.yaml", "study.yaml"}
    study = StudySpec.load(str(out / "study.yaml"))
    assert study.cohort.options == {"description": str(out / "dataset.yaml")}
    assert prepare(study, data, tmp_path / "run", 1, Console(quiet=True)).n_train
