import gzip

import numpy as np
import pytest

from emg_lens.data import DataError, load_dataset

HEADER = "\t".join(["time", *(f"channel{i}" for i in range(1, 9)), "class"])


def table(classes=(0, 1, 0, 2, 0, 1, 0, 2, 0), run=100, hold=10, step_ms=1):
    """Rows `step_ms` apart; values change every `hold` rows."""
    label = np.repeat(classes, run)
    values = np.repeat(np.random.default_rng(0).integers(-99, 99, (len(label) // hold + 1, 8)), hold, axis=0)
    return [
        "\t".join([str(1 + k * step_ms), *(f"{v}e-05" for v in values[k]), str(label[k])]) for k in range(len(label))
    ]


def write(folder, name="1_raw_data_13-12_22.03.16.txt", rows=None, header=HEADER, **made):
    folder.mkdir(parents=True, exist_ok=True)
    text = "\r\n".join([header, *(table(**made) if rows is None else rows)]) + "\r\n"
    packed = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    (folder / name).write_bytes(packed)


def read(root, **options):
    return list(load_dataset("uci-emg", root, **options))


def test_rates_come_from_the_time_column_and_from_how_often_rows_change(tmp_path):
    write(tmp_path / "01", hold=10, step_ms=1)
    (r,) = read(tmp_path)
    emg = r.signals["emg"]
    assert emg.fs == pytest.approx(1000) and emg.native_fs == pytest.approx(100, rel=0.02)
    assert r.fs == emg.fs and emg.units == "V" and emg.data.shape == (900, 8)
    assert any("90% of rows repeat" in note and "has no content above" in note for note in r.notes)


def test_an_empty_line_between_rows_is_an_error(tmp_path):
    rows = table()
    write(tmp_path / "01", rows=[*rows[:50], "", *rows[50:], "", ""])
    with pytest.raises(DataError, match="time in line 52 is nan"):
        read(tmp_path)
    write(tmp_path / "01", rows=[*rows, "", ""])  # at the end they do not matter
    assert len(read(tmp_path)[0].label) == len(rows)


def test_a_file_whose_rows_all_change_gets_no_warning_about_repeats(tmp_path):
    write(tmp_path / "01", hold=1, step_ms=5)
    (r,) = read(tmp_path)
    assert r.signals["emg"].native_fs == pytest.approx(200, rel=0.02)
    assert not any("repeat" in note for note in r.notes)


def test_unmarked_rows_are_unlabelled_and_rest_is_a_class(tmp_path):
    write(tmp_path / "01")
    (r,) = read(tmp_path)
    assert sorted(set(r.label)) == [-1, 1, 2] and (r.repetition[r.label == -1] == 0).all()
    assert r.trials["label"].tolist() == [1, 2, 1, 2] and r.trials["repetition"].tolist() == [1, 1, 2, 2]
    assert list(r.meta["class_names"]) == [1, 2, 3, 4, 5, 6]


def test_the_seventh_class_is_declared_only_where_it_occurs(tmp_path):
    write(tmp_path / "01", classes=(0, 7, 0))
    assert read(tmp_path)[0].meta["class_names"][7] == "extended palm"


def test_repetitions_go_on_through_the_series_of_a_subject_and_start_anew_with_the_next(tmp_path):
    write(tmp_path / "02", "2_raw_data_b.txt.gz"), write(tmp_path / "02", "1_raw_data_a.txt")
    write(tmp_path / "10")
    trials = [(r.subject, r.trials["repetition"].tolist()) for r in read(tmp_path)]
    assert trials == [("02", [1, 1, 2, 2]), ("02", [3, 3, 4, 4]), ("10", [1, 1, 2, 2])]
    assert [r.subject for r in read(tmp_path, subjects=[2])] == ["02", "02"]


def test_a_series_present_twice_is_rejected(tmp_path):
    write(tmp_path / "01", "1_raw_data_a.txt"), write(tmp_path / "01", "1_raw_data_a.txt.gz")
    with pytest.raises(DataError, match="two files for subject 01, series 1"):
        read(tmp_path)


@pytest.mark.parametrize(
    "rows, header, message",
    [
        (table()[:-1] + ["900\t1e-05"], HEADER, "channel2 in line 901 is nan, expected a number; is it complete"),
        (table()[:-1] + ["901\tx" + "\t0" * 8], HEADER, "channel1 in line 901 is x, expected a number"),
        ([*table()[:5], table()[3]], HEADER, "time does not rise in row 6"),
        ([r[:-1] + "9" for r in table()], HEADER, "class in line 2 is 9, expected 0 to 7"),
        (table(), HEADER.replace("class", "label"), "columns .*label, expected .*class"),
        ([], HEADER, "time does not rise|too few"),
        ([*table()[:-1], table()[-1][:-1] + "0.5"], HEADER, "class in line 901 is 0.5, expected 0 to 7"),
        ([*table()[:-1], "901\t1e300" + "\t0" * 8], HEADER, "channel1 in line 901 is 1e.300, expected a number"),
        ([row + "\t0" for row in table()], HEADER, "cannot be read .rows are longer than the header"),
    ],
)
def test_damaged_files_are_rejected_in_one_line(tmp_path, rows, header, message):
    write(tmp_path / "01", rows=rows, header=header)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path)
    assert "1_raw_data" in str(error.value) and "\n" not in str(error.value)


def test_a_truncated_gzip_file_is_rejected(tmp_path):
    write(tmp_path / "01", "1_raw_data_a.txt.gz")
    path = tmp_path / "01" / "1_raw_data_a.txt.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="1_raw_data_a.txt.gz: cannot be read .*is it complete"):
        read(tmp_path)


def test_missing_rows_and_missing_gestures_are_noted(tmp_path):
    write(tmp_path / "01", rows=[row for i, row in enumerate(table()) if not 300 <= i < 450])
    (r,) = read(tmp_path)
    assert any("time jumps by 151 ms after line 301: rows are missing" in note for note in r.notes)
    assert any("without 2 repetitions (fist 1, wrist flexion 0" in note for note in r.notes)


def test_a_series_with_every_gesture_twice_has_no_such_note(tmp_path):
    write(tmp_path / "01", classes=[of for gesture in (1, 2, 3, 4, 5, 6) * 2 for of in (0, gesture)])
    assert not any("complete" in note or "missing" in note for note in read(tmp_path)[0].notes)
