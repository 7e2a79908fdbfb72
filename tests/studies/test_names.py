"""Any names of subjects, classes, conditions and levels: nothing is lost, renamed, executed, or written elsewhere."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from emg_lens.data.folds import Fold
from emg_lens.data.splits import RepetitionSplit
from emg_lens.data.trials import TrialSet
from emg_lens.io.csv_tables import read_table, to_csv, write_csv
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.report.table_formats import to_html, to_latex, to_markdown, to_rich
from emg_lens.studies.result import StudyResult
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.studies.study import Study

SUBJECTS = ["NA", "nan", "None", "null", '""', "true", "1e5", "007", "../../up", "/abs", ".hidden", "con", "[red]x[/]"]
SUBJECTS += ["=1+1"]
CLASSES = ["NA", "=cmd|' /C calc'!A0", "[link=http://x]b[/link]"]
KINDS = {"NA": "unimodal()", "null": "cross_modal()", "-1": "every()", "[/]": "self_edges()"}
ODD = [
    *SUBJECTS,
    "+1",
    "-1",
    "@x",
    "\uff1d1",
    "'quoted'",
    "'=1",
    "''=1",
    "a,b",
    'say "x"',
    "a\\",
    "é",
    "e\u0301",
    "日本",
]
ODD += ["$x$", "_~^"]
MARKUP = [
    "[red]",
    "[/]",
    "\x1b[31mred",
    "a\u202eb",
    "a|b",
    "[a](http://x)",
    "![a][b]",
    "<b>",
    "&lt;",
    "$x$ \\ {a}",
    "a\n\nb",
]

STUDY = """
name: names
title: "[red]Names[/red]"
cohort: {dataset: trials}
split: {by: repetition, train: [1], test: [2]}
model: {d_model: 8, n_heads: 2, n_layers: 2, d_mlp: 8}
training: {epochs: 1, batch_size: 16, lr: 0.003, anneal_epochs: 0}
conditions:
  layer_masks: {edges: EDGES, modes: [individual]}
  extra:
    - {name: "NA", edges: "flow('emg', 'cls')"}
    - {name: "=1+1", edges: "flow('acc', 'cls')"}
  controls: {random_edges: 1}
factors:
  None: {"=A": {}, "true": {training: {lr: 0.001}}}
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> StudyResult:
    folder = tmp_path_factory.mktemp("names")
    rng, n = np.random.default_rng(0), len(SUBJECTS)
    y = np.tile(np.repeat(CLASSES, 2), 2 * n)
    trials = TrialSet.from_arrays(
        x=rng.standard_normal((len(y), 4, 8)),
        y=y,
        subject=np.repeat(SUBJECTS, len(y) // n),
        repetition=np.tile(np.repeat([1, 2], 2 * len(CLASSES)), n),
        channels={"emg": 2, "acc": 2},
        fs=100.0,
    )
    trials.save(folder / "trials.h5")
    edges = str(KINDS).replace("'", '"')
    return Study.parse(STUDY.replace("EDGES", edges)).run(folder / "trials.h5", folder / "runs", jobs=1)


def test_every_subject_counts_under_its_own_name(result):
    assert set(result.scores["subject"]) == set(SUBJECTS)
    assert (result.tests()["n_subjects"] == len(SUBJECTS)).all()
    assert set(result.predictions()["subject"]) == set(SUBJECTS)
    assert all(sorted(outputs) == sorted(CLASSES) for outputs in result.facts["outputs"])


def test_conditions_kinds_and_levels_keep_their_names(result):
    tests = result.tests()
    assert set(tests["edges"]) == {*KINDS, "=1+1", "emg", "acc"} and set(tests["None"]) == {"=A", "true"}
    assert {"NA", "=1+1", "NA/individual/L1", "[/]/individual/L2"} <= set(tests["condition"])
    assert len(tests) == 2 * (len(KINDS) * 2 + 2 + 4), "both sensors are removed in two ways"


def test_the_result_read_back_is_the_result(result):
    again = StudyResult.load(result.folder)
    pd.testing.assert_frame_equal(again.scores, result.scores)
    pd.testing.assert_frame_equal(again.tests(), result.tests())
    assert read_table(result.folder / "table.csv")["condition"].tolist() == result.tests()["condition"].tolist()


def test_nothing_is_written_outside_of_the_run(result):
    out = result.folder.parent.parent
    assert {p.name for p in out.parent.iterdir()} == {"trials.h5", "runs"}
    assert {p.name for p in out.iterdir() if not p.name.startswith(".")} == {"names"}
    fits = [p.name for p in (result.folder / "fits").iterdir() if not p.name.startswith(".")]
    assert len(fits) == len({f.casefold() for f in fits}) == 2 * len(SUBJECTS)


def test_no_cell_of_any_csv_is_a_formula(result):
    paths = list(result.folder.rglob("*.csv"))
    assert len(paths) > 2 * len(SUBJECTS)
    for path in paths:
        for row in csv.reader(path.read_text().splitlines()):
            wrong = [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t")) and not is_number(cell)]
            assert not wrong, (path, wrong)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_the_terminal_does_not_interpret_markup(result):
    console = Console(file=io.StringIO(), width=200)
    for part in result.terminal():
        console.print(part)
    text = console.file.getvalue()
    assert "[red]Names[/red]" in text and "[/]" in text and "\x1b" not in text


def test_the_page_and_the_tables_escape_what_users_wrote(result):
    page = (result.folder / "report.html").read_text()
    assert "<script" not in page and "[red]x[/]" in page and "[link=http://x]b[/link]" in page
    assert "=1+1" in (result.folder / "table.tex").read_text() and "=1+1" in (result.folder / "table.md").read_text()


@pytest.mark.parametrize("name", ODD)
def test_text_survives_a_csv_round_trip(name, tmp_path):
    table = pd.DataFrame({"subject": [name, "b"], "n": [-1, 2], f"{name} ": ["x", name]})
    write_csv(table, tmp_path / "t.csv")
    again = read_table(tmp_path / "t.csv")
    assert list(again.columns) == list(table.columns) and again["subject"].tolist() == [name, "b"]
    assert again["n"].tolist() == [-1, 2] and again[f"{name} "].tolist() == ["x", name]
    assert not to_csv(table[[f"{name} "]]).startswith(("=", "+", "-", "@", "\uff1d"))


@pytest.mark.parametrize("name", [*ODD, "x" * 5000, "nul.txt", "COM1", "a.", "..", "..."])
def test_every_folder_name_is_safe_and_unique(name):
    spec, split = StudySpec.load("quickstart"), RepetitionSplit(test=(1,))

    def folder(of: str) -> str:
        return Fit({}, Fold(of, (of,), (of,), split), spec).folder_name

    made = folder(name)
    assert len(made) < 200 and made.isascii() and made[0] not in ".-" and "/" not in made and made[-1] != "."
    assert made.split(".")[0].lower() not in ("con", "nul", "com1")
    assert len({folder(other) for other in {*ODD, name}}) == len({*ODD, name})


@pytest.mark.parametrize("text", MARKUP)
def test_tables_escape_text(text):
    table = pd.DataFrame({"a": [text], text: ["1"]})
    table.attrs["notes"] = [text]
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(to_rich(table, text))
    assert "\x1b[31m" not in console.file.getvalue() and "\u202e" not in console.file.getvalue()
    markdown, latex = to_markdown(table, text), to_latex(table, text)
    assert "](" not in markdown and "][" not in markdown and " <b>" not in markdown and "\x1b" not in markdown + latex
    assert "<b>" not in to_html(table) and "$x$" not in latex and "\n\n" not in latex
