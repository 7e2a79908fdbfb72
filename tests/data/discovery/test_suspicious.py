"""`emg-lens new` says what looks wrong: rates, gestures written in two ways, few values, missing values."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.io import savemat
from typer.testing import CliRunner

from emg_lens.cli import app

NAMES = ("fist", "open", "pinch")


def new(folder, *options):
    """Run the command; return its output and the content of both files."""
    result = CliRunner().invoke(app, ["new", "--data", str(folder), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output, *(yaml.safe_load((folder / name).read_text()) for name in ("dataset.yaml", "study.yaml"))


def test_slow_emg_with_a_sign_is_no_envelope(tmp_path, emg):
    for gesture, repetition in product(range(3), (1, 2, 3)):
        np.save(tmp_path / f"{NAMES[gesture]}_{repetition}.npy", emg(gesture, seconds=6, fs=40))
    output, _, study = new(tmp_path, "--fs", "40")
    assert [step["step"] for step in study["cohort"]["recipe"]["signals"]["emg"]] == ["rectify", "lowpass"]
    assert "signed emg at 40 Hz: the rate is probably wrong" in output


def test_gestures_that_are_left_out_or_written_in_two_ways_are_named(tmp_path, emg):
    for subject, gesture, repetition, seed in [(*one, k) for k, one in enumerate(product("ABC", range(3), (1, 2, 3)))]:
        (tmp_path / subject).mkdir(exist_ok=True)
        np.save(tmp_path / subject / f"{NAMES[gesture]}_{repetition}.npy", emg(gesture, seed=seed))
    for repetition in (1, 2, 3):
        np.save(tmp_path / "A" / f"Fist_{repetition}.npy", emg(0))
        np.save(tmp_path / "A" / f"rock_{repetition}.npy", emg(1))
    np.save(tmp_path / "B" / "rock_1.npy", emg(1))
    output, _, study = new(tmp_path, "--fs", "1000")
    assert "the labels 'Fist' and 'fist' are 2 gestures" in output
    assert "gesture rock left out: a subject lacks" in output
    assert "# gesture rock left out" in (tmp_path / "study.yaml").read_text() and len(study["cohort"]["labels"]) == 4


def test_a_column_of_few_values_is_no_channel(tmp_path, emg):
    for gesture, repetition in product(range(3), (1, 2, 3)):
        frame = pd.DataFrame(emg(gesture, seed=repetition), columns=["A", "B", "C", "D"])
        frame = frame.assign(Serie=1 + repetition % 2, emg_lead=np.arange(len(frame)) % 2)
        frame.drop(columns="emg_lead").to_csv(tmp_path / f"{NAMES[gesture]}_{repetition}.csv", index=False)
        named = tmp_path / "named" / f"{NAMES[gesture]}_{repetition}.csv"
        named.parent.mkdir(exist_ok=True)
        frame.rename(columns={"A": "emg_a", "B": "emg_b"}).to_csv(named, index=False)
    output, description, _ = new(tmp_path / "named", "--fs", "1000")
    assert description["signals"]["emg"]["columns"] == ["emg_a", "emg_b", "emg_lead"]
    assert "channel emg_lead is of 3 different values or fewer" in output
    for file in (tmp_path / "named").iterdir():
        file.unlink()
    output, description, _ = new(tmp_path, "--fs", "1000")
    assert description["signals"]["emg"]["columns"] == ["A", "B", "C", "D"]
    assert "Serie has only the values 2 and is not used" in output.partition("Suspicious")[2]


def test_a_number_of_the_file_is_not_called_another_label(tmp_path, emg):
    for subject in (1, 2):
        rows = np.vstack([emg(g, seed=k) for k, g in enumerate([0, 1, 2] * 3)])
        labels = np.repeat(np.array([0, 1, 2] * 3) + 1, 1500)[:, None]
        content = {"emg": rows, "fs": 1000.0, "stimulus": labels, "restimulus": labels, "exercise": 2}
        savemat(tmp_path / f"S{subject}.mat", content)
    output = new(tmp_path)[0]
    assert "stimulus (restimulus is used instead)" in output and "exercise (" not in output


def test_the_files_whose_times_disagree_are_counted(tmp_path, emg):
    for gesture, repetition in product(range(2), (1, 2, 3)):
        frame = pd.DataFrame(emg(gesture, seed=repetition), columns=["emg1", "emg2", "emg3", "emg4"])
        frame.insert(0, "time_s", np.arange(len(frame)) / (1000 if repetition > 1 else 900))
        frame.to_csv(tmp_path / f"{NAMES[gesture]}_{repetition}.csv", index=False)
    assert "its times give 900 to 1000 Hz in the 6 files that were looked at" in new(tmp_path)[0]


@pytest.mark.parametrize("cell", ["", "NaN"])
def test_a_missing_value_is_named_by_its_line_and_is_no_fault_of_the_description(tmp_path, emg, cell):
    for gesture, repetition in product(range(2), (1, 2, 3)):
        lines = pd.DataFrame(emg(gesture), columns=["emg1", "emg2", "emg3", "emg4"]).to_csv(index=False).splitlines()
        if (gesture, repetition) == (1, 2):
            lines[7] = f"1,{cell},3,4"
        (tmp_path / f"{NAMES[gesture]}_{repetition}.csv").write_text("\n".join(lines))
    result = CliRunner().invoke(app, ["new", "--data", str(tmp_path), "--fs", "1000"])
    message = str(result.exception)
    assert "open_2.csv: emg lacks a value (line 8 of the file) in column 'emg2', row 7" in message
    assert "Fill in the value" in message and "correct it there" not in message


def test_a_rate_is_refused_where_it_stands_elsewhere_and_an_assumed_one_is_said_again(tmp_path, emg):
    for gesture, repetition in product(range(3), (1, 2, 3)):
        np.save(tmp_path / f"{NAMES[gesture]}_{repetition}.npy", emg(gesture))
    assert "sampling rate is 1000 Hz (a guess)" in new(tmp_path)[0]
    before = (tmp_path / "dataset.yaml").read_text()
    result = CliRunner().invoke(app, ["new", "--data", str(tmp_path), "--force", "--fs", "500"])
    assert "--fs 500" in str(result.exception) and "correct fs there" in str(result.exception)
    assert (tmp_path / "dataset.yaml").read_text() == before
    assert "the sampling rate: ASSUMED (a guess)" in new(tmp_path, "--force")[0]
    result = CliRunner().invoke(app, ["new", "--data", str(tmp_path), "--force", "--as", "uci-emg", "--fs", "500"])
    assert "the loader of uci-emg has the sampling rate" in str(result.exception)
