import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from layer_sweep_table import BASELINE_MEAN, EDGES, EQUAL, MODES, PRINTED, paper_scores, with_extras
from rich.console import Console
from synthetic import cell_of, tidy

from emg_lens.data.leakage import SHARED, Leakage
from emg_lens.data.pre_onset import Decodability
from emg_lens.io.csv_tables import to_csv
from emg_lens.studies.report.equal_conditions import identities
from emg_lens.studies.report.notes import study_notes
from emg_lens.studies.report.table_formats import to_html, to_latex, to_markdown, to_rich
from emg_lens.studies.report.views.layer_sweep import (
    layout_additivity,
    layout_depth,
    layout_expected,
    layout_layer_sweep,
)
from emg_lens.studies.report.views.single import figure_singles, layout_singles
from emg_lens.studies.report.wording import single_conditions
from emg_lens.studies.results.findings import Cell

SHORT = {"unimodal": "Uni", "cross_modal": "Cross"}
HEADS = ("Individual", "RFB", "RFE")


@pytest.fixture(scope="module")
def paper() -> Cell:
    """Scores with exactly the paper's means, and their tests."""
    return cell_of(paper_scores(40, spread=0), chance=1 / 17)


@pytest.fixture(scope="module")
def table(paper):
    return layout_layer_sweep(paper)


# --- Table 3 ----------------------------------------------------------------------------------------------


def test_the_papers_means_give_the_papers_drops(table):
    # Three printed drops came from means with more decimals than printed: .909, .682 and .694 give 0.5, 25.4
    # and 24.1. All others must be reproduced to the digit.
    unrounded = {0.909, 0.682, 0.694}
    checked = 0
    for (kind, layer), cells in PRINTED.items():
        for head, (accuracy, drop) in zip(HEADS, cells, strict=True):
            row = table.loc[(f"L{layer + 1}", SHORT[kind]), head]
            assert row["Acc."] == f"{accuracy:.3f}"
            if accuracy in unrounded:
                assert float(row["Drop %"]) == pytest.approx(drop, abs=0.11)
            else:
                assert row["Drop %"] == f"{drop:.1f}"
                checked += 1
    assert checked == 26
    assert table.loc[("L2", "Uni"), ("Individual", "Drop %")] == "24.6"


def test_the_tidy_drop_is_negative_where_the_printed_one_is_positive(paper):
    row = paper.tests.set_index("condition").loc["unimodal/individual/L2"]
    assert row["delta_percent"] == pytest.approx(100 * (0.689 - BASELINE_MEAN) / BASELINE_MEAN)


def test_rows_and_columns_are_ordered_as_in_the_paper(table):
    assert list(table.index)[:3] == [("L1", "Uni"), ("L1", "Cross"), ("L2", "Uni")]
    assert table.index[-1] == ("Baseline", "–") and len(table) == 11
    assert list(table.columns) == [(h, c) for h in HEADS for c in ("Acc.", "Sig.", "Drop %")]
    assert list(table.iloc[-1]) == ["0.914"] + ["–"] * 8


def test_the_six_identities_are_marked_for_both_types(table):
    for (mode, layer), other in EQUAL.items():
        for kind in EDGES:
            cell = table.loc[(f"L{layer + 1}", SHORT[kind]), (HEADS[MODES.index(mode)], "Sig.")]
            assert cell.endswith("†" if other == "baseline" else "‡")
    marked = sum(cell.endswith(("†", "‡")) for cell in table.xs("Sig.", axis=1, level=1).to_numpy().ravel())
    assert marked == 12


def test_the_footnotes_say_what_a_reader_must_know(table):
    notes = "\n".join(table.attrs["notes"])
    assert "n = 40 subjects" in notes
    assert "Mann–Whitney" in notes and "Bonferroni within family “mode”" in notes
    assert "Individual 10, RFB 10, RFE 10" in notes
    assert "30 tests (10 per mode), of which 18 are distinct and not structural nulls." in notes
    assert "Chance accuracy: 0.059" in notes
    assert "34 test trials per subject: one trial changes the subject's accuracy by 2.94 pp" in notes
    assert "† Structural null: no cut edge has a path to the readout" in notes
    assert "RFB L1 = Individual L1; RFB L5 = RFB L4; RFE L1 = RFB L4; RFE L4 = Individual L4." in notes


def test_footnotes_on_marks_appear_only_with_marks(paper):
    names = ["baseline", "unimodal/individual/L2", "cross_modal/individual/L2"]
    scores = paper.scores[paper.scores["condition"].isin(names)]
    notes = "\n".join(layout_layer_sweep(cell_of(scores)).attrs["notes"])
    assert "†" not in notes and "‡" not in notes and "Chance" not in notes


def test_an_equality_that_holds_for_one_type_only_says_which(paper):
    changed = paper.tests.copy()
    changed.loc[changed["condition"] == "cross_modal/from_beginning/L1", "equivalent_to"] = (
        "cross_modal/from_beginning/L1"
    )
    notes = "\n".join(layout_layer_sweep(replace(paper, tests=changed)).attrs["notes"])
    assert "RFB L1 = Individual L1 (Uni)" in notes and "RFB L5 = RFB L4;" in notes


def test_other_edge_names_layers_and_fewer_modes_are_laid_out_too():
    rows = [("baseline", None, "", np.nan, 0.9)]
    rows += [(f"{k}/L{n}", k, "from_end", n - 1, 0.5) for n in (9, 10) for k in ("a & b", "c", "d")]
    scores = pd.DataFrame(rows, columns=["condition", "edges", "mode", "layer", "accuracy"]).assign(subject="s")
    table = layout_layer_sweep(cell_of(scores))
    assert [i[0] for i in table.index] == ["L9"] * 3 + ["L10"] * 3 + ["Baseline"]
    assert [i[1] for i in table.index][:3] == ["a & b", "c", "d"]
    assert list(table.columns.get_level_values(0).unique()) == ["RFE"]


def test_a_study_without_layer_conditions_has_no_such_tables():
    cell = cell_of(with_extras(paper_scores(3).query("condition == 'baseline'"), joint=np.nan))
    assert layout_layer_sweep(cell) is None and layout_depth(cell) is None and layout_additivity(cell) is None
    assert not len(identities(cell.scores))


def test_a_gain_is_printed_as_a_negative_drop_and_nothing_as_minus_zero(paper):
    accuracy = paper.scores["accuracy"].where(paper.scores["condition"] == "baseline", 0.95)
    cells = layout_layer_sweep(cell_of(paper.scores.assign(accuracy=accuracy))).xs("Drop %", axis=1, level=1).to_numpy()
    assert set(cells[:-1].ravel()) == {"−3.9"}
    text = layout_layer_sweep(paper).to_string()
    assert "−0.0" not in text and "-0.0" not in text


# --- the other tables -------------------------------------------------------------------------------------


def test_all_identities_hold_in_the_papers_table(paper):
    equal = identities(paper.scores)
    assert len(equal) == 12 and (equal["max_abs_difference"] == 0).all()
    assert (equal["equal_to"] == "baseline").sum() == 4


def test_a_broken_identity_shows_by_how_much(paper):
    scores = paper.scores.copy()
    broken = (scores["condition"] == "unimodal/from_beginning/L5") & (scores["subject"] == "s7")
    scores.loc[broken, "accuracy"] += 0.25
    equal = identities(scores).set_index("condition")["max_abs_difference"]
    assert equal["unimodal/from_beginning/L5"] == pytest.approx(0.25) and (equal > 0).sum() == 1


def test_scores_without_an_audit_have_no_identities(paper):
    assert identities(paper.scores[["subject", "condition", "accuracy"]]).empty


def test_depth_is_counted_by_masked_and_by_live_layers(paper):
    # docs/isonet-protocol.md §4.9, item 5: by live layers, uni RFB / RFE are .909/.633, .682/.406, .460/.289, .286.
    depth = layout_depth(paper)["Live layers cut"]
    assert list(depth["Uni RFB"]) == ["0.909", "0.682", "0.460", "0.286", "–"]
    assert list(depth["Uni RFE"]) == ["0.633", "0.406", "0.289", "0.286", "–"]
    assert list(depth["Cross RFE"]) == ["0.813", "0.694", "0.639", "0.636", "–"]
    nominal = layout_depth(paper)["Layers cut"]
    assert list(nominal["Uni RFE"]) == ["0.914", "0.633", "0.406", "0.289", "0.286"]


def test_single_layer_drops_do_not_add_up_to_the_drop_of_all_layers(paper):
    # docs/isonet-protocol.md §4.6: uni .788 and .628, cross .269 and .278; 73.4 and 32.5 % above chance.
    table = layout_additivity(paper).set_index("Type")
    assert list(table.loc["Uni"]) == ["78.8", "62.8", "68.7", "73.4"]
    assert list(table.loc["Cross"]) == ["26.9", "27.8", "30.4", "32.5"]


def test_extra_conditions_have_their_own_table_with_expected_values(paper):
    cell = cell_of(with_extras(paper_scores(10), joint=0.5, other=np.nan))
    extras = layout_singles(cell, single_conditions(cell.tests)).set_index("Condition")
    assert list(extras["Expected"]) == ["0.500", "–"]
    assert list(extras["Drop %"]) == ["10.0", "10.0"]
    assert re.fullmatch(r"−\d\.\d \[−\d\.\d, −\d\.\d\]", extras.loc["joint", "Change, pp [95 % CI]"])
    assert len(layout_layer_sweep(cell)) == 11
    assert layout_expected(cell) is None
    assert single_conditions(paper.tests).empty


def test_an_expected_value_equal_to_the_baseline_is_labelled():
    """It was printed like a number of the simulation, which the baseline then seemed to confirm."""
    scores = tidy(baseline=[0.9] * 6, joint=[0.5] * 6, rest=[0.9] * 6, some=[0.6] * 6)
    of = scores["condition"]
    scores["expected"] = of.map({"joint": 0.25, "rest": 0.9, "some": 0.55})
    scores["expected_is_baseline"] = (of == "rest") | ((of == "some") & (scores["subject"] < "s3"))
    cell = cell_of(scores)
    table = layout_singles(cell, single_conditions(cell.tests)).set_index("Condition")
    assert table["Expected"].to_dict() == {"joint": "0.250", "rest": "baseline", "some": "0.550 (50 % baseline)"}
    assert table.attrs["notes"][0].startswith("Expected “baseline”: the simulation implies at least the accuracy of")
    axes = figure_singles(cell).axes[0]
    diamonds = [float(np.ravel(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == "D"]
    assert diamonds == pytest.approx([0.25, 0.55])


def test_expected_accuracy_is_not_shown_for_another_metric():
    scores = tidy("macro_f1", baseline=[0.9, 0.8], cut=[0.5, 0.4]).assign(expected=0.25)
    cell = cell_of(scores, metric="macro_f1")
    assert "Expected" not in layout_singles(cell, single_conditions(cell.tests))


def test_layer_conditions_are_shown_with_their_expected_accuracy(paper):
    scores = paper.scores
    scores = scores.assign(expected=np.where(scores["condition"] == "unimodal/individual/L2", 0.7, np.nan))
    (row,) = layout_expected(cell_of(scores)).to_dict("records")
    assert (row["Condition"], row["Acc."], row["Expected"]) == ("unimodal/individual/L2", "0.689", "0.700")


def test_an_error_is_printed_in_its_own_unit_with_signed_changes():
    scores = tidy("mae", baseline=[2.0, 4.0], cut=[5.0, 7.0]).assign(n_test=8)
    scores = scores.assign(mode=scores["condition"].map({"cut": "individual", "baseline": ""}), layer=0.0, edges="e")
    table = layout_layer_sweep(cell_of(scores, metric="mae"))
    assert list(table.columns) == [("Individual", c) for c in ("MAE", "Sig.", "Change %")]
    assert list(table.iloc[0]) == ["6.000", "ns", "100.0"]
    notes = "\n".join(table.attrs["notes"])
    assert "Change % = 100 (masked − baseline) / baseline." in notes and "MAE is the mean over subjects" in notes
    assert "accuracy" not in notes.lower() and "pp" not in notes and "8 test trials per subject." in notes
    assert layout_additivity(cell_of(scores, metric="mae")) is None
    cell = cell_of(scores.drop(columns=["mode", "layer"]), metric="mae")
    (row,) = layout_singles(cell, single_conditions(cell.tests)).to_dict("records")
    assert row["Change"] == "3.000" and row["Change %"] == "100.0"


@pytest.mark.parametrize(
    ("n", "note"), [(2, "subjects (n = 2)."), (4, "subjects (n = 4)."), (5, "CI: Student t confidence interval of")]
)
def test_a_table_says_that_fewer_than_five_subjects_have_no_interval(n, note):
    cell = cell_of(tidy(baseline=np.linspace(0.8, 0.9, n).tolist(), cut=np.linspace(0.5, 0.7, n).tolist()))
    table = layout_singles(cell, single_conditions(cell.tests))
    assert note in table.attrs["notes"][-1]
    assert ("Change, pp [95 % CI]" in table) == (n == 5) == ("[" in table.iloc[0, -1])


def test_one_subject_has_no_interval_and_no_heading_of_one():
    cell = cell_of(tidy(baseline=[0.5], cut=[0.25]))
    (row,) = layout_singles(cell, single_conditions(cell.tests)).to_dict("records")
    assert row["Change, pp"] == "−25.0"


def test_how_many_fits_a_subject_has_is_said_where_there_are_several():
    scores = pd.concat([tidy(baseline=[0.9, 0.8], cut=[0.5, 0.4]).assign(fit=f"seed {k}") for k in range(3)])
    assert "3 fits per subject (seeds, electrode sets, folds), averaged" in "\n".join(study_notes(cell_of(scores)))
    assert "fits per subject" not in "\n".join(study_notes(cell_of(scores.query("fit == 'seed 0'"))))


def test_test_trials_are_counted_by_fit_where_a_subject_has_several():
    scores = pd.concat([tidy(baseline=[0.9, 0.8], cut=[0.5, 0.4]).assign(fit=f"block {k}", n_test=40) for k in (1, 2)])
    several, one = ("\n".join(study_notes(cell_of(s))) for s in (scores, scores.query("fit == 'block 1'")))
    assert "40 test trials per subject and fit: one trial changes the fit's accuracy by 2.50 pp" in several
    assert "40 test trials per subject: one trial changes the subject's accuracy by 2.50 pp" in one


def test_repetitions_are_counted_and_not_their_windows():
    scores = tidy(baseline=[0.9, 0.8], cut=[0.5, 0.4]).assign(
        n_test=lambda s: 250 + 5 * (s.index % 2), n_repetitions=24
    )
    notes = "\n".join(study_notes(cell_of(scores)))
    assert "24 test repetitions per subject (250 to 255 windows)" in notes
    assert "one repetition changes the subject's accuracy by 4.17 pp." in notes
    assert "windows" not in "\n".join(study_notes(cell_of(scores.assign(n_test=24))))
    assert "These are tests over subjects. The p of a verdict compares with random controls instead." in notes


def test_pre_onset_decodability_stands_under_the_table():
    cell = cell_of(tidy(baseline=[0.9, 0.8], cut=[0.5, 0.4]))
    decodability = (Decodability("emg", 0.49, 0.93, 1 / 12, 24), Decodability("all", 0.66, 0.97, 1 / 12, 24))
    known = Leakage(1, 24, 12, dict.fromkeys(SHARED, 0), decodability, pre_onset_s=0.6)
    notes = study_notes(replace(cell, leakage=known))
    assert "the last 0.6 s before movement onset with accuracy 0.49 from EMG, 0.66 from all" in notes[-1]
    assert study_notes(replace(cell, leakage=replace(known, decodability=()))) == study_notes(cell) == notes[:-1]
    blocked = study_notes(replace(cell, leakage=replace(known, class_repeats=0.88, class_repeats_at_random=0.05)))
    assert blocked[-1].startswith(
        "88% of consecutive repetitions, in the order of the data, have the same class (5% expected in random order)"
    )
    shuffled = study_notes(replace(cell, leakage=replace(known, class_repeats=0.06, class_repeats_at_random=0.05)))
    assert shuffled == notes


# --- formats ----------------------------------------------------------------------------------------------


NASTY = pd.DataFrame({"Condition": [r"a|b & 50%_{x}\y^~#$", "<b>[bold]*</b>"], "Acc.": ["0.5", "*†‡–−—±×²·"]})
NASTY.attrs["notes"] = ["p < .05 & more"]


@pytest.mark.parametrize("which", ["table3", "nasty"])
def test_markdown_has_as_many_cells_in_every_row(table, which):
    text = to_markdown(table if which == "table3" else NASTY, "A title")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = {len(re.split(r"(?<!\\)\|", row)) for row in rows}
    assert len(cells) == 1 and len(rows) == (13 if which == "table3" else 4)


def test_markdown_repeats_labels_and_escapes_stars(table):
    lines = to_markdown(table).splitlines()
    assert lines[0].startswith("| Layer | Type | Individual Acc. | Individual Sig.")
    assert lines[3].startswith("| L1 | Cross | 0.911 |")
    assert r"\*\*\*\*" in lines[4] and "****" not in lines[4]


@pytest.mark.parametrize("which", ["table3", "nasty"])
def test_latex_is_balanced(table, which):
    text = to_latex(table if which == "table3" else NASTY, "Accuracy_1 & drop %", "tab:x")
    plain = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0
    opened, closed = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert sorted(opened) == sorted(closed) and "%" not in plain and "#" not in plain
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    widths = {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith(r"\\")}
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert columns and widths == {len(columns.group(1)) - 1}
    assert all(ord(c) < 128 for c in text)


def test_latex_groups_the_columns_under_their_modes(table):
    text = to_latex(table, "c")
    assert r"\multicolumn{3}{c}{RFB}" in text and r"\cmidrule(lr){6-8}" in text
    assert r"L2 & Uni & 0.689" in text and "\n & Cross & 0.860" in text
    assert r"$\ddagger$" in text and r"$\dagger$" in text and r"\toprule" in text


def test_a_latex_row_cannot_begin_with_an_option_of_the_row_before():
    text = to_latex(pd.DataFrame({"a": ["[x]", "*"]}))
    assert "\n{}[x]" in text and "\n{}*" in text


def test_csv_gives_the_numbers_back(paper):
    back = pd.read_csv(io.StringIO(to_csv(paper.tests)), keep_default_na=True)
    assert np.array_equal(back["p_wilcoxon"], paper.tests["p_wilcoxon"])
    assert np.array_equal(back["delta_percent"], paper.tests["delta_percent"])


def test_the_terminal_shows_users_text_as_it_is(table):
    console = Console(width=140, file=io.StringIO(), color_system=None)
    console.print(to_rich(NASTY, "[red]title"), to_rich(table, "Table 3"))
    text = console.file.getvalue()
    assert "<b>[bold]*</b>" in text and "[red]title" in text and "p < .05 & more" in text
    assert "24.6" in text and "RFB" in text and "Structural null" in text


class _Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.text, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(dict(attrs).get("colspan", 1))

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("which", ["table3", "nasty"])
def test_html_rows_have_one_width_and_escaped_text(table, which):
    parser = _Cells()
    parser.feed(to_html(table if which == "table3" else NASTY))
    assert set(parser.rows) == {11 if which == "table3" else 2}
    if which == "nasty":
        assert "<b>[bold]*</b>" in parser.text and "b" not in parser.tags


def test_table_3_fits_into_a_terminal_of_80_letters(table):
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(to_rich(table, "Table 3"))
    lines = console.file.getvalue().splitlines()
    assert "…" not in console.file.getvalue()
    assert any(line.split() == ["Layer", "Type", *["Acc.", "Sig.", "Drop", "%"] * 3] for line in lines)
    assert any(line.split() == ["Individual", "RFB", "RFE"] for line in lines)
    assert any(line.split()[:3] == ["L2", "Uni", "0.689"] for line in lines)
    (baseline,) = (line.split() for line in lines if line.split()[:1] == ["Baseline"])
    assert baseline == ["Baseline", "–", "0.914", *["–"] * 8]


def test_a_long_name_is_wrapped_in_the_terminal_and_numbers_are_not_cut():
    long = pd.DataFrame({"Condition": ["every edge between " * 6], "Change, pp [95 % CI]": ["−12.3 [−14.5, −10.1]"]})
    console = Console(width=60, file=io.StringIO(), color_system=None)
    console.print(to_rich(long))
    text = console.file.getvalue()
    assert "−12.3 [−14.5, −10.1]" in text and "…" not in text and text.count("every") == 6
