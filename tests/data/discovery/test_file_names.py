"""The pattern of files is found from what varies in their names, and it matches exactly these files."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.data.discovery.file_names import find_pattern
from emg_lens.data.sources.description import FolderDescription

GESTURES = ("fist", "open", "wrist_flexion")


def pattern(template, inside=False, **values):
    paths = [template.format(**dict(zip(values, some, strict=True))) for some in product(*values.values())]
    return find_pattern(paths, inside, "folder")


@pytest.mark.parametrize(
    "template, values, files",
    [
        ("S{s}/{g}_{r}.csv", {"s": (1, 2), "g": GESTURES, "r": (1, 2, 3)},
         "{subject}/{label}_{repetition:number}.csv"),
        ("S{s}/{g}_{r}.csv", {"s": (1, 2), "g": ("fist", "open"), "r": (1, 2)}, "{subject}/{label}_{repetition}.csv"),
        ("{s}_{g}_{r}.csv", {"s": (1, 2, 3), "g": (1, 2), "r": range(1, 9)}, "{subject}_{label}_{repetition}.csv"),
        ("{g}{r}.npy", {"g": ("fist", "open"), "r": (1, 2)}, "{label:text}{repetition:number}.npy"),
        ("{g}/{r}.txt", {"g": GESTURES, "r": (1, 2)}, "{label}/{repetition}.txt"),
        ("{s}/day{d}_{g}_{r}.csv", {"s": ("ann", "bob"), "d": (1, 2), "g": GESTURES, "r": (1, 2)},
         "{subject}/day{session:number}_{label}_{repetition:number}.csv"),
        ("{m}/S{s}_{g}_{r}.csv", {"m": ("EMG", "ACC"), "s": (1, 2), "g": GESTURES, "r": (1, 2)},
         "{part}/S{subject:number}_{label}_{repetition:number}.csv"),
        ("sub-0{s}/emg/run-{r}_task-{g}_emg.edf", {"s": (1, 2), "r": (1, 2), "g": ("fist", "open")},
         "sub-{subject}/emg/run-{repetition}_task-{label}_emg.edf"),
    ],
)  # fmt: skip
def test_fields_are_found_in_usual_layouts(template, values, files):
    assert pattern(template, **values).files == files


def test_a_field_that_contains_the_text_after_it_is_followed_by_a_number():
    found = pattern("{g} {r} emg.csv", g=("Faust öffnen", "Faust", "Hand drehen"), r=(1, 2, 3))
    assert found.files == "{label} {repetition:number} emg.csv" and len(found.paths) == 9
    read = FolderDescription.from_content(
        {"files": found.files, "fs": 100, "signals": {"emg": {"columns": "1-2"}}, "subject": "a"}
    )
    fields = [read.places(Path("/data") / path, Path("/data")) for path in found.paths]
    assert [(one["label"], one["repetition"]) for one in fields if one] == [
        *product(("Faust öffnen", "Faust", "Hand drehen"), "123")
    ]


def test_labels_inside_leave_subject_and_session_for_the_names():
    found = pattern("0{s}/{d}_raw_data_11-2{d}_05.04.16.txt.gz", inside=True, s=(1, 2, 3), d=(1, 2))
    assert found.files == "{subject}/{session}_raw_data_{date}.txt.gz"


def test_a_counter_of_files_is_no_repetition():
    paths = [
        f"person{s}/[{100 * s + 7 * g + 3 * r}]2018-07-03 15:2{r}:29{g}{s}_{g}.csv"
        for s, g, r in product((1, 2), range(1, 10), range(4))
    ]
    assert find_pattern(paths, False, "folder").files == "{subject}/[{counter}]{date}_{label}.csv"


def test_names_of_one_varying_part_are_one_field():
    paths = [f"recording_force_{name}.mat" for name in ("v2", "v3", "v11", "v11_2", "v3_2")]
    found = find_pattern(paths, False, "folder")
    assert found.files == "recording_force_{subject}.mat" and found.values["subject"][3] == "v11_2"


words = st.lists(st.sampled_from(["fist", "open", "pinch", "wave"]), min_size=2, max_size=4, unique=True)


@given(
    st.sampled_from(["{s}/{g}_{r}", "S{s}_{g}_{r}", "{g}/S{s}-{r}", "P{s}/trial{r}_{g}", "x_{s}_{g}_rep{r}"]),
    words,
    st.integers(1, 4),
    st.integers(2, 5),
    st.sampled_from([".csv", ".mat", ".txt.gz"]),
)
def test_the_pattern_reads_back_every_file_it_was_found_from(template, gestures, n_subjects, n_repetitions, suffix):
    values = {"s": range(1, n_subjects + 1), "g": gestures, "r": range(1, n_repetitions + 1)}
    found = pattern(template + suffix, **values)
    subject = {} if found.subject is None else {"subject": found.subject}
    read = FolderDescription.from_content(
        {"files": found.files, "fs": 100, "signals": {"emg": {"columns": "1-2"}}} | subject
    )
    root = Path("/data")
    for i, path in enumerate(found.paths):
        fields = read.places(root / path, root)
        assert fields is not None and fields["label"] in path
        assert {name: some[i] for name, some in found.values.items()}.items() <= fields.items()
    assert len(found.paths) == n_subjects * len(gestures) * n_repetitions
