import time

import numpy as np
import pytest

from emg_lens.data import DataError, load_dataset, subjects

STAMP = "2018-07-04T17:23:{:09.6f}"


def write(folder, name="[1]2018-07-04 17:23:13337433_4.csv", emg_hz=200.0, seconds=2.0, lines=None):
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k in range(int(seconds * emg_hz)):
        values = [k % 128] + [-i for i in range(7)]
        rows.append((k / emg_hz, ["emg", *values]))
    for k in range(int(seconds * 50)):
        rows.append((k / 50, ["acc", 0, -1024, 2048, "gyro", 16, 0, -32, "quat", 16384, 0, -8192, 4096]))
    rows.sort(key=lambda row: row[0])
    text = [",".join(f'"{v}"' for v in [STAMP.format(t), *v, STAMP.format(t)]) for t, v in rows]
    (folder / name).write_text("\n".join(text if lines is None else lines(text)) + "\n")


def read(root, **options):
    return list(load_dataset("psl-myo", root, **options))


def test_each_sensor_keeps_its_own_rate_and_gets_its_unit(tmp_path):
    write(tmp_path / "person1")
    (r,) = read(tmp_path)
    assert {m: (s.fs, len(s.data), s.units) for m, s in r.signals.items()} == {
        "emg": (200, 400, "adc"),
        "acc": (50, 100, "g"),
        "gyro": (50, 100, "deg/s"),
        "quat": (50, 100, ""),
    }
    np.testing.assert_array_equal(r.signals["emg"].data[:, 0], np.arange(400) % 128)
    np.testing.assert_allclose(r.signals["acc"].data[3], [0, -0.5, 1])
    np.testing.assert_allclose(r.signals["gyro"].data[3], [1, 0, -2])
    np.testing.assert_allclose(r.signals["quat"].data[3], [1, 0, -0.5, 0.25])
    assert (r.label == 4).all() and len(r.label) == 400 and r.fs == 200 and r.subject == "person1"
    assert len(r.trials) == 1 and "uniform at 200 Hz" in r.notes[0]


def test_repetitions_count_a_persons_signs_in_order_of_time_not_of_the_bracketed_number(tmp_path):
    person = tmp_path / "raw" / "person2"
    write(person, "[9]2018-07-04 17:23:10000001_4.csv", seconds=0.2)
    write(person, "[1]2018-07-04 17:24:10000001_4.csv", seconds=0.2)
    write(person, "[2]2018-07-04 17:23:50000001_7.csv", seconds=0.2)
    assert [(int(r.label[0]), int(r.repetition[0])) for r in read(tmp_path)] == [(4, 1), (7, 1), (4, 2)]


def test_persons_come_in_natural_order_and_can_be_chosen_by_number(tmp_path):
    for number in (1, 2, 10):
        write(tmp_path / f"person{number}", seconds=0.2)
    write(tmp_path / "other", seconds=0.2)
    assert subjects("psl-myo", tmp_path) == ("person1", "person2", "person10")
    assert [r.subject for r in read(tmp_path, subjects=[10, "person1"])] == ["person1", "person10"]
    with pytest.raises(DataError, match="unknown subject 3; known: person1, person2, person10"):
        read(tmp_path, subjects=[3])


def test_a_file_that_lost_rows_gets_a_note(tmp_path):
    write(tmp_path / "person1", emg_hz=190.0)
    (r,) = read(tmp_path)
    assert any("emg rows arrived at 190.0 Hz instead of 200" in note for note in r.notes)


@pytest.mark.parametrize(
    "lines, message",
    [
        (
            lambda t: [*t[:-1], t[-1][:20]],
            r"row 500 is neither an emg nor an acc/gyro/quat row; is the file complete",
        ),
        (
            lambda t: [row for row in t if '"emg"' in row],
            "400 emg rows and 0 acc rows; expected at least 2 of each",
        ),
        (lambda _: [], "0 emg rows"),
        (lambda t: [t[0], t[1].replace("16384", "nan"), *t[2:]], "invalid literal"),
        (lambda t: [*t[:-1], t[-1].replace("2018-07", "soon")], "pars|datetime"),
        (lambda t: [*t[:9], *t[7:]], "emg time does not rise in row 8"),
    ],
)
def test_damaged_files_are_rejected_in_one_line(tmp_path, lines, message):
    write(tmp_path / "person1", lines=lines)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path)
    assert "_4.csv" in str(error.value) and "\n" not in str(error.value)


def test_invalid_text_gives_a_one_line_error(tmp_path):
    write(tmp_path / "person1")
    (path,) = (tmp_path / "person1").iterdir()
    path.write_bytes(path.read_bytes()[:1000] + b"\xff" + path.read_bytes()[1001:])
    with pytest.raises(DataError, match=r"_4.csv: cannot be read \('utf-8' codec can't decode byte 0xff") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_short_file_is_noted(tmp_path):
    write(tmp_path / "person1", seconds=1.5)
    notes = read(tmp_path)[0].notes
    assert any("emg lasts 1.50 s, expected 2 s" in note for note in notes)
    assert any("acc lasts 1.50 s" in note for note in notes)


def test_a_sign_that_does_not_exist_is_rejected(tmp_path):
    write(tmp_path / "person1", "[1]2018-07-04 17:23:13337433_19.csv")
    with pytest.raises(DataError, match="sign 19 does not exist; expected 1 to 18"):
        read(tmp_path)


def test_a_long_file_with_an_odd_last_row_is_rejected_at_once(tmp_path):
    write(tmp_path / "person1")
    (path,) = (tmp_path / "person1").iterdir()
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows * 200, "x"]))
    began = time.monotonic()
    with pytest.raises(DataError, match=f"row {200 * len(rows) + 1} is neither"):
        read(tmp_path)
    assert time.monotonic() - began < 5
