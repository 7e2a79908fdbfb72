"""What the command line prints of a study, at several widths."""

import io

import pandas as pd
import pytest
from layer_sweep_table import paper_scores
from rich.console import Console
from synthetic import by_factors, findings_of, head_scores

from emg_lens.studies.report.quality_sentences import quality_line, quality_warning
from emg_lens.studies.report.table_formats import fitted
from emg_lens.studies.report.terminal import MOST_ROWS, FittedTable, terminal_parts


def printed(findings, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for part in terminal_parts(findings):
        console.print(part)
    return console.file.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_is_too_long_and_every_row_keeps_its_name(width):
    text = printed(findings_of(paper_scores(6)), width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    table = text[text.index("Verdicts") :]
    assert "all unimodal edges cut" in table and "unimodal edges of L2 cut" in table
    assert "not shown" in table or "no control" in table


def test_warning_quality_and_answers_come_before_the_table():
    scores = paper_scores(6).assign(train=1.0, reference=0.99, accuracy_chance=0.1)
    findings = findings_of(scores, question="Which edges matter?")
    (cell,), text = findings.cells, words(printed(findings, 80))
    assert text.startswith("A study Which edges matter? ")
    order = [quality_warning(cell), quality_line(cell), "Is there fusion", "Verdicts"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert "Why" not in text, "a note names no column that the terminal leaves out"


def test_a_long_table_shows_its_first_rows_and_says_where_the_others_are():
    text = printed(findings_of(head_scores(4, 8)), 100)
    assert text.count("edges of head") == 1 + MOST_ROWS and "In table.md: 19 more rows." in words(text)


def test_a_command_says_which_of_its_files_has_all_rows():
    console = Console(file=io.StringIO(), width=80)
    wide = {"an ablation with a long name": range(20), "a difference of the drop in pp": range(20)}
    console.print(FittedTable(pd.DataFrame(wide), "Numbers", "out/numbers.csv"))
    assert "In out/numbers.csv: 8 more rows." in words(console.file.getvalue())


def test_columns_are_left_out_in_the_order_that_the_table_names():
    table = pd.DataFrame({"Name": ["a"], "first": ["1" * 20], "second": ["2" * 20], "third": ["3" * 20]})
    table.attrs["optional"] = ["second"]
    assert list(fitted(table, 100)) == ["Name", "first", "second", "third"]
    assert list(fitted(table, 60)) == ["Name", "first", "third"]
    assert list(fitted(table, 40)) == ["Name", "first"] == list(fitted(table, 5))


def test_a_column_is_left_out_where_long_names_are_not_wrapped():
    table = pd.DataFrame([["n" * 50, *["1" * 9] * 6]], columns=["Name", *"abcdef"])
    assert len(fitted(table, 100).columns) == 6 and len(fitted(table, 115).columns) == 7


def test_a_study_of_models_alone_prints_their_table_and_speaks_of_no_cut():
    scores = by_factors({("both",): [0.9, 0.8], ("emg",): [0.7, 0.75]}, ["sensors"])
    text = printed(findings_of(scores, factors={"sensors": {"both": {}, "emg": {}}}), 80)
    assert "0.850 ± 0.071" in text and "cut" not in text and "ablation" not in text
