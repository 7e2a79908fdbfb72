"""Folders that a `dataset.yaml` describes: what users have, in the forms they have it."""

import gzip
import shutil
import time
import unicodedata

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from emg_lens.data import DataError, Recipe, data_fingerprint, load_dataset, load_trials, subjects, text
from emg_lens.data.registry import duplicate_files
from emg_lens.data.sources.description import FolderDescription

BY_NAME = """
files: "{subject}/{label}_{repetition}.csv"
fs: 100
signals:
  emg: {columns: [e1, e2], units: mV}
  acc: {columns: 4-6, units: g, native_fs: 50, ch_names: [x, y, z]}
label: {field: label, classes: {fist: closed fist, open: open hand}}
repetition: {field: repetition}
time: {column: t, unit: ms}
"""
IN_A_COLUMN = """
files: "p{subject}_day{day}.tsv"
fs: 100
separator: "\\t"
signals: {emg: {columns: 2-3}}
label: {column: gesture, rest: [0], unlabelled: [-1]}
"""


def table(rows=30, seed=0, t0=0, step=10.0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"t": t0 + step * np.arange(rows), **{n: rng.normal(size=rows) for n in ("e1", "e2", *"xyz")}})


def described(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "dataset.yaml").write_text(text)
    return folder


def by_name(folder, **changes):
    described(folder, BY_NAME)
    for k, (subject, label, repetition) in enumerate((s, g, r) for s in "AB" for g in ("fist", "open") for r in (1, 2)):
        (folder / subject).mkdir(exist_ok=True)
        table(seed=k, **changes).to_csv(folder / subject / f"{label}_{repetition}.csv", index=False)
    return folder


def test_subject_label_and_repetition_can_stand_in_the_path(tmp_path):
    recordings = list(load_dataset("folder", by_name(tmp_path)))
    assert [(r.subject, int(r.label[0]), int(r.repetition[0])) for r in recordings[:4]] == [
        *(("A", 1, 1), ("A", 1, 2), ("A", 2, 1), ("A", 2, 2)),
    ]
    emg, acc = recordings[5].signals["emg"], recordings[5].signals["acc"]
    np.testing.assert_allclose(emg.data, table(seed=5)[["e1", "e2"]], rtol=1e-6)
    np.testing.assert_allclose(acc.data, table(seed=5)[[*"xyz"]], rtol=1e-6)
    assert (emg.ch_names, emg.units, emg.native_fs) == (("e1", "e2"), "mV", 100)
    assert (acc.ch_names, acc.units, acc.native_fs) == (("x", "y", "z"), "g", 50)
    assert recordings[0].meta["class_names"] == {1: "closed fist", 2: "open hand"}
    assert subjects("folder", tmp_path) == ("A", "B")
    made = load_trials("folder", tmp_path, subjects=["B"])
    assert made.x.shape == (4, 5, 30) and made.classes == ("closed fist", "open hand")


def test_labels_can_stand_in_a_column_and_repetitions_are_counted_through_the_files(tmp_path):
    described(tmp_path, IN_A_COLUMN)
    gesture = np.repeat([0, 4, 0, 2, -1, 4], 5)
    for day in (2, 10):
        frame = pd.DataFrame({"n": range(30), "a": 1.0, "b": 2.0, "gesture": gesture})
        frame.to_csv(tmp_path / f"p07_day{day}.tsv", sep="\t", index=False)
    first, second = load_dataset("folder", tmp_path)
    assert first.meta["file"].endswith("day2.tsv") and first.subject == "07"
    assert first.trials[["label", "repetition"]].to_numpy().tolist() == [[4, 1], [2, 1], [4, 2]]
    assert second.trials["repetition"].tolist() == [3, 2, 4]
    assert (first.label == -1).sum() == 5 and first.signals["emg"].ch_names == ("emg.0", "emg.1")


def test_arrays_of_matlab_hdf5_and_numpy_files(tmp_path):
    emg = np.random.default_rng(0).normal(size=(20, 4))
    label = np.repeat([1, 2], 10)
    text = "files: '{subject}.%s'\nfs: 50\nsignals: {emg: {key: signal, columns: 1-3}}\nlabel: {key: cls}\n"
    savemat(described(tmp_path / "mat", text % "mat") / "S1.mat", {"signal": emg, "cls": label})
    with h5py.File(described(tmp_path / "h5", text % "h5") / "S1.h5", "w") as file:
        file["signal"], file["cls"] = emg, label
    np.save(described(tmp_path / "npy", "files: '{subject}.npy'\nfs: 50\nsignals: {emg: {}}") / "S1.npy", emg)
    for kind, n in (("mat", 3), ("h5", 3), ("npy", 4)):
        (r,) = load_dataset("folder", tmp_path / kind)
        np.testing.assert_allclose(r.signals["emg"].data, emg[:, :n], rtol=1e-6)
        assert r.trials["label"].tolist() == ([1] if kind == "npy" else [1, 2])


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["plain", "packed"])
@pytest.mark.parametrize("name", ["A.h5", "A.mat"])
def test_chunks_that_were_never_written_are_not_zeros(tmp_path, name, options):
    described(tmp_path, f"files: '{{subject}}{name[1:]}'\nfs: 10\nsignals: {{emg: {{key: emg}}}}\n")
    x = np.random.default_rng(0).normal(size=(100, 2))
    for written in (60, 100):
        with h5py.File(tmp_path / name, "w") as file:
            shape, chunks = (x.shape, (10, 2)) if name == "A.h5" else (x.T.shape, (2, 10))
            emg = file.create_dataset("emg", shape, chunks=chunks, **options)
            place = slice(0, written)
            emg[place if name == "A.h5" else (slice(None), place)] = x[place] if name == "A.h5" else x[place].T
        if written < len(x):
            with pytest.raises(DataError, match="4 of the 10 chunks of emg were never written"):
                list(load_dataset("folder", tmp_path))
    assert next(load_dataset("folder", tmp_path)).signals["emg"].data.shape == (100, 2)


def test_packed_text_without_a_header_below_some_lines(tmp_path):
    described(
        tmp_path, "files: '{subject}.txt.gz'\nfs: 10\nheader: false\nskip_lines: 2\nsignals: {emg: {columns: 1-2}}"
    )
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(b"a device\nof 2020\n1;2\n3;4\n5;6\n", mtime=0))
    (r,) = load_dataset("folder", tmp_path)
    assert r.signals["emg"].data.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_leading_zeros_do_not_matter_and_rest_has_no_repetition(tmp_path):
    described(
        tmp_path,
        "files: 's_{subject}.csv'\nfs: 10\nsignals: {e: {columns: 1}}\nlabel: {column: g, rest: [0],"
        " classes: {'007': fist}}\nrepetition: {column: r}\n",
    )
    pd.DataFrame({"e": 1.0, "g": ["00", "07", "007"], "r": [4, 4, 5]}).to_csv(tmp_path / "s_x.csv", index=False)
    (r,) = load_dataset("folder", tmp_path)
    assert r.label.tolist() == [0, 1, 1] and r.repetition.tolist() == [0, 4, 5]
    by_field = described(
        tmp_path / "b", "files: '{subject}_{label}.csv'\nfs: 10\nsignals: {e: {columns: 1}}\nlabel: {field: label}\n"
    )
    table().to_csv(by_field / "s1_03.csv", index=False)
    assert next(load_dataset("folder", by_field)).label[0] == 3


@pytest.mark.parametrize(
    "g, r, message",
    [(-5, 1, "label must contain whole numbers from 0, got '-5'"), (1, -3, "repetition must .*, got '-3'")],
)
def test_numbers_below_zero_are_rejected(tmp_path, g, r, message):
    described(
        tmp_path,
        "files: '{subject}.csv'\nfs: 10\nsignals: {e: {columns: 1}}\nlabel: {column: g}\nrepetition: {column: r}\n",
    )
    pd.DataFrame({"e": [1.0, 2.0], "g": g, "r": r}).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(DataError, match=message):
        list(load_dataset("folder", tmp_path))


@pytest.mark.parametrize("label", ["{column: 9}", "{column: gesture}", "{key: other}"])
def test_a_numpy_array_has_numbered_columns(tmp_path, label):
    described(tmp_path, f"files: '{{subject}}.npy'\nfs: 50\nsignals: {{emg: {{columns: 1}}}}\nlabel: {label}\n")
    np.save(tmp_path / "x.npy", np.ones((4, 2)))
    with pytest.raises(DataError, match="lists .* for label; columns of arrays are numbers from 1|no variable 'other'"):
        list(load_dataset("folder", tmp_path))
    described(tmp_path, "files: '{subject}.npy'\nfs: 50\nsignals: {emg: {columns: 1}}\nlabel: {column: 2}\n")
    assert next(load_dataset("folder", tmp_path)).label.tolist() == [1] * 4


@pytest.mark.parametrize(
    "content",
    [
        b"\x93NUMPY\x01\x00\x76\x00{'descr': (((((".ljust(700),
        b"PK\x03\x04" + bytes(90),
        b"",
        b"\x93NUMPY\x01\x00\xff\xff{",
    ],
)
def test_damaged_numpy_arrays_are_rejected_in_one_line(tmp_path, content):
    described(tmp_path, "files: '{subject}.npy'\nfs: 50\nsignals: {emg: {}}\n")
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match="x.npy: cannot be read as a .npy file .*is it complete"):
        list(load_dataset("folder", tmp_path))


def test_a_changed_description_is_other_data(tmp_path):
    before = data_fingerprint("folder", by_name(tmp_path))
    described(tmp_path, BY_NAME.replace("fist: closed fist, open: open hand", "open: closed fist, fist: open hand"))
    assert data_fingerprint("folder", tmp_path) != before


def test_missing_rows_are_noted_and_a_wrong_rate_is_rejected(tmp_path):
    by_name(tmp_path)
    frame = table(3000)
    frame.drop(index=range(40, 43)).to_csv(tmp_path / "A" / "fist_1.csv", index=False)
    assert not next(load_dataset("folder", tmp_path)).notes
    frame.drop(index=range(40, 60)).to_csv(tmp_path / "A" / "fist_1.csv", index=False)
    assert next(load_dataset("folder", tmp_path)).notes == (
        "time has 1 gaps, the longest of 0.21 s after row 40: rows are missing",
    )
    table(step=9.7).to_csv(tmp_path / "A" / "fist_1.csv", index=False)
    with pytest.raises(DataError, match="103.093 rows per second by the column of times, but fs is 100"):
        next(load_dataset("folder", tmp_path))


@pytest.mark.parametrize(
    "text, message",
    [
        ("files: '{subject}.csv'", "dataset.yaml: fs is missing; signals is missing"),
        (BY_NAME.replace("{subject}", "x"), r"files needs the field \{subject\}"),
        (BY_NAME.replace("field: label", "field: gesture"), "label.field 'gesture' is not a field of files"),
        (BY_NAME.replace("{label}", "{subject}"), "files has the field 'subject' twice"),
        (BY_NAME.replace("{label}_", "{label}"), "files needs text between 'label' and 'repetition'"),
        (BY_NAME.replace("{label}", "{label"), "no field in braces, or braces that do not match"),
        (BY_NAME.replace("{label}", "_".join(f"{{f{i}}}" for i in range(30))), "files has more than 10 fields"),
        (BY_NAME.replace("fs: 100", "fs: -1"), "fs=-1; expected a number greater than or equal to 0.000001"),
        (BY_NAME.replace("fs: 100", "fs: 5e-324"), "fs=.5e-324.; expected a number greater than or equal to 0.000001"),
        (BY_NAME + "skip_lines: 1000000000\n", "skip_lines=1000000000; expected a number less than or equal to 100000"),
        (BY_NAME.replace("units: g", "unit: g"), "signals.acc.unit is not a known key; did you mean 'units'"),
        (BY_NAME.replace("{field: repetition}", "{}"), "give exactly one of field, column and key"),
        (BY_NAME.replace("[e1, e2]", "[0]"), "greater than or equal to 1"),
        ("[1, 2", "cannot be read as a description"),
        ("- a", "expected keys and values"),
        (BY_NAME.replace(".csv", ".xlsx"), "no file matches .*xlsx.*; found A/fist_1.csv"),
        (BY_NAME.replace("[e1, e2]", "[e1, e9]"), "fist_1.csv: no column 'e9'; it has 6: t, e1, e2, x, y, z"),
        (BY_NAME.replace("[x, y, z]", "[x, y]"), "acc has 3 channels, but ch_names has 2 names"),
        (
            BY_NAME.replace("fist: closed fist, ", ""),
            "unknown label 'fist'; the description lists 'open'; list every value",
        ),
        (
            BY_NAME.replace(", classes: {fist: closed fist, open: open hand}", ""),
            "label must contain whole numbers from 0, got 'fist'",
        ),
        (BY_NAME.replace("column: t", "column: x").replace("4-6", "[t, y, z]"), "time does not rise in row"),
        (BY_NAME + "separator: ';'\n", "no column 'e1'; it has 1: .*is `separator` right"),
        (BY_NAME.replace("fs: 100", "fs: true"), "fs=true; expected a number or text"),
        (BY_NAME.replace("fs: 100", "fs: 100\nfs: 200"), "has the key 'fs' twice"),
        (BY_NAME.replace("{fist:", "{fist: other, fist:"), "has the key 'fist' twice"),
        (BY_NAME.replace("classes: {", "rest: [fist], classes: {"), "the value 'fist' is listed twice"),
        (BY_NAME.replace("4-6", "6-4"), "lists no column"),
        (BY_NAME.replace("[e1, e2]", "[]"), "lists no column"),
        (
            BY_NAME.replace("{field: label, classes", "{key: cls, classes"),
            "is a table; list the columns of label, not a key",
        ),
    ],
)
def test_an_invalid_description_or_file_gives_a_one_line_error(tmp_path, text, message):
    described(by_name(tmp_path), text)
    with pytest.raises(DataError, match=message) as error:
        list(load_dataset("folder", tmp_path))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.write_text(path.read_text() + "1,2\n"), "'e2', row 31: ''; is the file incomplete"),
        (lambda path: path.write_text(path.read_text().replace(",", ",x", 7)), "no column|is no number|cannot be read"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00" * 50), "cannot be read|no column"),
        (lambda path: path.write_text(""), "cannot be read"),
        (lambda path: path.write_text("t,e1,e2,x,y,z\n"), r"emg is float64 \[0, 2\], expected .* at least one row"),
    ],
)
def test_damaged_tables_are_rejected_in_one_line(tmp_path, damage, message):
    damage(by_name(tmp_path) / "A" / "fist_1.csv")
    with pytest.raises(DataError, match=message) as error:
        list(load_dataset("folder", tmp_path))
    assert "\n" not in str(error.value) and "fist_1.csv" in str(error.value)


def test_many_classes_are_compared_in_one_pass(tmp_path):
    many = "{" + ", ".join(f"{i}: c{i}" for i in range(1, 30_000)) + "}"
    began = time.process_time()
    with pytest.raises(DataError, match="two classes have the same name|label"):
        list(
            load_dataset(
                "folder", small(tmp_path, SMALL + f"label: {{column: g, classes: {many}}}\n", b"a,b,g\n1,2,x\n")
            )
        )
    assert time.process_time() - began < 20


def test_a_folder_without_a_description_says_where_to_read_about_it(tmp_path):
    with pytest.raises(DataError, match="dataset.yaml: no such file; expected a description .*data-sets.md"):
        load_dataset("folder", tmp_path)


SMALL = "files: '{subject}.csv'\nfs: 10\nsignals: {emg: {columns: [a, b]}}\n"


def small(folder, text, content, name="x.csv"):
    described(folder, text)
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "text, content, message",
    [
        (SMALL, b"a,b,c\n1,2,3,\n4,5,6,\n", "x.csv: cannot be read .*is it complete, and is `separator` right"),
        (SMALL.replace("[a, b]", "1-2"), b"1,2\n3,4\n", "its first line contains numbers; write header: false"),
        (SMALL, b"a;b\n1,5;2,5\n", "column 'a', row 1: '1,5'; is it a decimal comma"),
        (SMALL + "label: {column: g}\n", b"a,b,g\n1,2,0\n", "label 0 would mean rest; list 0 under rest"),
        (SMALL + "label: {column: b}\n", b"a,b\n1,2\n", "x.csv: column 'b' is used for emg and for label; use it once"),
        (
            SMALL.replace("[a, b]", "1-2") + "time: {column: a}\n",
            b"a,b\n1,2\n",
            "column 'a' is used for emg and for time",
        ),
        (
            SMALL.replace("[a, b]", "1-2") + "header: false\nlabel: {column: 2}\n",
            b"5,6\n1,2\n",
            "column 2 is used for emg and for label",
        ),
        (SMALL.replace("[a, b]", "[a, b, 2]"), b"a,b\n1,2\n", "column 'b' is used for emg and for emg"),
        (SMALL + "label: {column: g, rest: [7]}\n", b"a,b,g\n1,2,0\n1,2,7\n", "label 0 would mean rest"),
        (SMALL.replace("[a, b]", "[a, a]"), b"a,b\n1,2\n", "lists a column twice"),
        (
            SMALL + "label: {column: g, classes: {1: fist, 2: fist}}\n",
            b"a,b,g\n1,2,1\n",
            "two classes have the same name",
        ),
        (SMALL + "label: {column: g, classes: {1: fist}}\n", b"a,b,g\n1,2,1\n1,2,\n", "unknown label ''; .*lists '1'"),
        (SMALL, b"a,b\n1,2\n\n5,6\n", "column 'a', row 2: ''; is the file incomplete, or a line empty"),
        (SMALL.replace("[a, b]", "1-2") + "header: false\n", b"1,2\r\n \r\n5,6\r\n", "row 2: ''; .*or a line empty"),
        (SMALL + "separator: '::'\n", b"a::b\n1::2\n\n5::6\n", "row 2: ''; .*or a line empty"),
        (SMALL + "separator: '\\s+'\n", b"a b\n1 2\n\n5 6\n", "row 2: ''; .*or a line empty"),
        (SMALL, b"a,b,a\n1,2,3\n", "2 columns have the name 'a'; give the number of one: 1, 3"),
        (SMALL + "label: {column: g}\n", b"a,g,b,g\n1,2,3,4\n", "2 columns have the name 'g'"),
    ],
)
def test_tables_with_ambiguous_columns_or_labels_are_rejected(tmp_path, text, content, message):
    with pytest.raises(DataError, match=message):
        list(load_dataset("folder", small(tmp_path, text, content)))


@pytest.mark.parametrize(
    "more, content",
    [
        ("", b"\xef\xbb\xbfa,b,g,r\n1,2.5,NA,4\n3,4,,\n"),
        ("separator: ','\n", b"a, b, g, r\n1, 2.5, NA, 4\n3, 4, , \n"),
        ("separator: '\\t'\n", b"a\tb\tg\tr\n1\t2.5\tNA\t4\n3\t4\t\t\n"),
        ("separator: ;\ndecimal: ','\n", b"a;b;g;r\r\n1;2,5;NA;4\r\n3;4;;\r\n"),
    ],
    ids=["mark of Excel", "spaces", "tab", "decimal comma"],
)
def test_tables_as_other_programs_write_them(tmp_path, more, content):
    text = SMALL + more + "label: {column: g, rest: [''], classes: {NA: natural}}\nrepetition: {column: r}\n"
    (r,) = load_dataset("folder", small(tmp_path, text, content))
    assert r.signals["emg"].data.tolist() == [[1, 2.5], [3, 4]] and r.meta["class_names"] == {1: "natural"}
    assert r.label.tolist() == [1, 0] and r.repetition.tolist() == [4, 0]


@pytest.mark.parametrize(
    "more, content",
    [
        ("", b"a,b\n1,2\n3,4\n\n\r\n  \n"),
        ("", b"\n\na,b\n\n1,2\n3,4"),
        ("", b"a,b\r\r\n1,2\r\r\n3,4\r\r\n"),
        ("", b"a,b\r1,2\r3,4\r"),
        ("skip_lines: 3\n", b"made by\n\na program\n\na,b\n1,2\n3,4\n"),
        ("skip_lines: 1\nseparator: '::'\n", b"x\n\na::b\n1::2\n3::4\n"),
        ("", b"a,b,c,c\n1,2,5,6\n3,4,5,6\n"),
    ],
    ids=[
        "at the end",
        "at the start",
        "csv module on Windows",
        "old Mac",
        "header",
        "long separator",
        "unused",
    ],
)
def test_empty_lines_outside_the_rows_and_unused_columns_do_not_matter(tmp_path, more, content):
    (r,) = load_dataset("folder", small(tmp_path, SMALL + more, content))
    assert r.signals["emg"].data.tolist() == [[1, 2], [3, 4]] and r.signals["emg"].ch_names == ("a", "b")


def test_a_path_that_can_be_read_in_two_ways_is_rejected(tmp_path):
    text = (
        "files: '{subject}_{label}_{repetition}.csv'\nfs: 10\nsignals: {emg: {columns: [a]}}\nlabel: {field: label}\n"
    )
    with pytest.raises(DataError, match="closed_1.csv matches files .* in two ways"):
        load_dataset("folder", small(tmp_path, text, b"a\n1\n", "s_1_fist_closed_1.csv"))


def test_long_names_that_do_not_match_are_rejected_quickly(tmp_path):
    description = FolderDescription(files="{subject}_{a}_{b}_{c}.csv", fs=10, signals={"emg": {}})
    assert description.places(tmp_path / ("a_" * 60 + ".csvx"), tmp_path) is None
    with pytest.raises(DataError, match="in two ways"):
        description.places(tmp_path / ("a_" * 60 + ".csv"), tmp_path)


def test_files_of_the_same_kind_that_do_not_fit_are_noted(tmp_path):
    small(tmp_path, SMALL, b"a,b\n1,2\n")
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "y.CSV").write_bytes(b"a,b\n1,2\n")
    (r,) = load_dataset("folder", tmp_path)
    assert r.notes == ("1 files of the same kind do not match '{subject}.csv' and are not read: anna/y.CSV",)


def test_names_in_either_form_of_unicode_are_the_same(tmp_path):
    text = "files: '{subject}_{label}.csv'\nfs: 10\nsignals: {emg: {columns: [a]}}\n"
    text += "label: {field: label, classes: {Grüße: g}}\n"
    small(tmp_path, text, b"a\n1\n", unicodedata.normalize("NFD", "Jürgen_Grüße.csv"))
    (r,) = load_dataset("folder", tmp_path)
    assert r.subject == "Jürgen" and r.label.tolist() == [1]


def test_identical_files_of_two_subjects_are_found(tmp_path):
    by_name(tmp_path)
    assert duplicate_files("folder", tmp_path) == ()
    shutil.copytree(tmp_path / "A", tmp_path / "A copy")
    shutil.copy(tmp_path / "B" / "fist_1.csv", tmp_path / "B" / "fist_3.csv")  # of one person: another matter
    pairs = duplicate_files("folder", tmp_path)
    assert len(pairs) == 4 and pairs[0] == (tmp_path / "A" / "fist_1.csv", tmp_path / "A copy" / "fist_1.csv")


def packed(text):
    return gzip.compress(text.encode(), mtime=0)  # a test is called by what it is given


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.csv.gz", packed("a,b\n1,2\n" * 10_000), "x.csv.gz: contains more than 0 MB of text"),
        ("x.csv", b"a,b\n" + b"1,2\n" * 10_000, "x.csv: contains more than 0 MB of text"),
        ("x.csv.gz", packed("a,b\n1,2\n")[:-9], "x.csv.gz: cannot be read .*is it complete"),
        ("x.csv.gz", packed("a,b\n1,2\n")[:12] + b"\xff" * 20, "x.csv.gz: cannot be read .*is it complete"),
        ("x.csv", b",".join([b"a"] * 6000), "x.csv: its first line has 6000 columns; expected 5000 at most"),
    ],
)
def test_too_large_or_damaged_text_is_rejected(tmp_path, monkeypatch, name, content, message):
    monkeypatch.setattr(text, "MOST_BYTES", 20_000)
    pattern = SMALL.replace("{subject}.csv", name.replace("x", "{subject}"))
    with pytest.raises(DataError, match=message):
        list(load_dataset("folder", small(tmp_path, pattern, content, name)))


@pytest.mark.parametrize(
    "separator, content",
    [(r"\s+", b"a  b\n1 \t2\n"), ("::", b"a::b\n1::2\n"), ("(.*)*", b"a(.*)*b\n1(.*)*2\n"), (",", b"a,b\r1,2\r")],
)
def test_a_separator_stands_for_itself(tmp_path, separator, content):
    (r,) = load_dataset("folder", small(tmp_path, SMALL + f"separator: '{separator}'\n", content))
    assert r.signals["emg"].data.tolist() == [[1, 2]]


TWO_RATES = """
files: "{subject}.h5"
fs: 200
signals: {emg: {key: emg}, acc: {key: acc, fs: 40}}
label: {key: label, rest: [0]}
"""


def two_rates(folder, n_acc=40):
    described(folder, TWO_RATES)
    rng = np.random.default_rng(0)
    with h5py.File(folder / "A.h5", "w") as file:
        file["emg"], file["acc"] = rng.normal(size=(200, 2)), np.linspace(0, 1, n_acc)[:, None]
        file["label"] = np.repeat([0, 1], 100)
    return folder


def test_signals_of_their_own_rate_are_brought_together_by_a_recipe(tmp_path):
    (recording,) = load_dataset("folder", two_rates(tmp_path))
    assert {name: (signal.fs, len(signal.data)) for name, signal in recording.signals.items()} == {
        "emg": (200, 200),
        "acc": (40, 40),
    }
    trials = load_trials("folder", tmp_path, Recipe(signals={}, fs=40))
    assert trials.x.shape == (1, 3, 20) and trials.fs == 40
    np.testing.assert_allclose(trials.x[0, 2], np.linspace(0, 1, 40)[20:], atol=1e-6)


@pytest.mark.parametrize("n_acc", [38, 42, 200])
def test_signals_that_do_not_last_equally_long_are_rejected(tmp_path, n_acc):
    with pytest.raises(DataError, match="expected the same duration at {'emg': '200 Hz', 'acc': '40 Hz'}"):
        list(load_dataset("folder", two_rates(tmp_path, n_acc)))


def test_a_column_of_a_table_cannot_have_another_rate(tmp_path):
    text = BY_NAME.replace("native_fs: 50", "fs: 50")
    (by_name(tmp_path) / "dataset.yaml").write_text(text)
    with pytest.raises(DataError, match="is a table, and all its columns have one rate; leave out the fs of acc"):
        list(load_dataset("folder", tmp_path))
