import base64
import re
import warnings
from html import escape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from layer_sweep_table import paper_scores, with_extras
from matplotlib.figure import Figure
from synthetic import SPEC, by_factors, findings_of, tidy

from emg_lens.data.leakage import SHARED, Leakage
from emg_lens.plotting.saving import to_svg
from emg_lens.studies.report.answers import answers_to_questions
from emg_lens.studies.report.guide import reading_guide
from emg_lens.studies.report.html_pieces import FIRST_ROWS, MOST_ROWS, text_table
from emg_lens.studies.report.leakage_section import leakage_by_cohort, leakage_sentences, leakage_table
from emg_lens.studies.report.page import _named, render_report
from emg_lens.studies.report.quality_sentences import quality_line, quality_warning
from emg_lens.studies.report.view import VIEWS, View, views_of
from emg_lens.studies.results.findings import Findings
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.studies.statistics.power import power_warnings

VOID = {"meta", "img", "br", "hr", "link", "input"}
RECORD = {"folder": None, "fingerprint": "3d2bf8de", "warnings": power_warnings(4, [10], SPEC)}


class Page(HTMLParser):
    """Text, tags and attributes of a page; fails on tags that are not closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def leakage(fit: str = "s1", n: int = 10, **shared: int) -> dict:
    report = Leakage(n_folds=1, n_test=n, n_classes=1, shared={what: shared.get(what, 0) for what in SHARED})
    return {**report.to_dict(), "fit": fit}


def paper(**parts) -> Findings:
    scores = with_extras(paper_scores(12), joint=0.8).assign(accuracy_chance=1 / 17)
    return findings_of(scores, leakage=[leakage(subject=10)], name="isonet-table3", **parts)


def page_of(findings: Findings, **record) -> str:
    """The page, with every figure that the study's views draw; drawing must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = {view.name: view.figures(findings) for view in views_of(findings)}
        svgs = {view: {name: to_svg(figure) for name, figure in some.items()} for view, some in drawn.items()}
        return render_report(findings, svgs, {"torch": "2.13.0"}, RECORD | record)


@pytest.fixture(scope="module")
def html():
    return page_of(paper(question="Which layers?"))


def test_the_page_is_well_formed_and_has_every_section(html):
    page = Page(html)
    assert page.tags.count("h1") == 1 and page.tags.count("img") == 5
    headings = "Results, Cohort and data, Leakage between training and test, Model and training"
    headings += ", What this study does not show, How to read these numbers, Statistics in full, Audit"
    headings += ", How to reproduce"
    assert re.findall(r"<h2[^>]*>([^<]*)", html) == headings.split(", ")
    written = ["Which layers?", "simulated", "12 emg, 36 acc, 40 samples each at 20 Hz", "fist, rest", "2.13.0"]
    written += ["one repetition is missing (1 of 12 fits)", "isonet", "AdamW", "All 10 test trials come from a subject"]
    written += ["name: isonet-table3", "emg-lens run spec.yaml", "Which layers?", "3d2bf8de"]
    for shown in [*written, "5,921,041", "0.01235", "joint", "0.800"]:
        assert shown in page.text, shown


def test_the_page_loads_nothing_and_runs_nothing(html):
    page = Page(html)
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "srcset", "action"):
            assert value.startswith(("data:image/svg+xml;base64,", "#"))
    assert not re.search(r"https?://|url\(|@import", html)


def test_the_figures_inside_load_nothing_either(html):
    for encoded in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", html):
        svg = base64.b64decode(encoded).decode()
        assert svg.rstrip().endswith("</svg>")
        assert not re.search(r"<(script|image|foreignObject)", svg)
        assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', svg))


def test_the_page_shows_table_3_its_marks_and_the_identities(html):
    text = Page(html).text
    assert "Individual" in text and "RFB" in text and "ns†" in text and "‡" in text
    assert "12 conditions must equal another one by the structure of the model" in text
    assert "The largest difference in accuracy is 0." in text
    assert "Live layers cut" in text and "Single layers compared with all layers" in text


def test_the_first_screen_has_quality_answers_and_the_main_figure(html):
    first = html[: html.index('id="results"')]
    assert first.count("<img") == 1 and "Is there fusion, and where?" in first
    answers = answers_to_questions(paper())
    assert answers and all(escape(text) in first for texts in answers.values() for text in texts[:4])


def test_warnings_and_quality_come_before_the_answers():
    scores = paper_scores(6).assign(train=1.0, reference=0.99, accuracy_chance=0.1)
    made = findings_of(scores)
    (cell,) = made.cells
    text = Page(page_of(made)).text
    assert quality_warning(cell) and quality_line(cell)
    assert text.index(quality_warning(cell)) < text.index(quality_line(cell)) < text.index("Is there fusion")


def test_every_link_of_the_contents_has_a_section(html):
    links = [value for name, value in Page(html).attributes if name == "href"]
    assert len(links) == 9 and all(f'<h2 id="{link[1:]}">' in html for link in links)


@pytest.mark.parametrize("named_rows", [False, True])
def test_a_long_table_shows_its_first_rows_and_folds_the_others(named_rows):
    table = pd.DataFrame({"Head": [f"H{k}" for k in range(40)], "Drop": "0.1"})
    table = table.assign(Layer=["L1", "L2"] * 20).set_index("Layer") if named_rows else table
    table.attrs["kept"] = [30]
    shown, _, folded = text_table(table).partition("<details><summary>28 more rows</summary>")
    assert shown.count("<tr") == 1 + FIRST_ROWS and folded.count("<tr") == 29
    assert ">H30<" in shown and ">H10<" in shown and ">H11<" in folded and ">H30<" not in folded
    assert "<details" not in text_table(table[:MOST_ROWS])


def test_on_a_phone_a_table_is_folded_by_mode(html):
    wide, _, folded = html.partition('<div class="folded">')
    assert folded.startswith("<details open><summary>Individual</summary>")
    assert "<details><summary>RFB</summary>" in folded and '<div class="wide">' in wide
    assert ".folded { display: none; }" in html and ".wide { display: none; }" in html


def test_every_word_of_the_reading_guide_is_on_the_page(html):
    text = Page(html).text
    guide = reading_guide(paper())
    assert len(guide) == 9 and all(name in text and words in text for name, words in guide.items())
    for must in ("fraction of a signal", "separate interventions", "off-distribution", "self-repair"):
        assert must in text


def test_whatever_a_user_writes_is_shown_and_never_obeyed():
    evil = "<script>alert('x')</script>\"&$title${x}"
    scores = with_extras(paper_scores(3), **{evil: 0.5}).assign(sensors=evil)
    findings = findings_of(scores, title=evil, question=evil, factors={"sensors": {evil: {}}})
    findings.facts["notes"] = [[evil]] * 3
    page = Page(page_of(findings, warnings=[evil], folder=evil))
    assert "script" not in page.tags
    assert page.text.count(evil) >= 15


def test_a_report_of_single_conditions_only_or_without_audit_is_made_too():
    scores = with_extras(paper_scores(3).query("condition == 'baseline'"), joint=np.nan)
    for table in (scores, scores[["subject", "condition", "accuracy"]]):
        text = Page(page_of(findings_of(table))).text
        assert "Single conditions" in text and "Layer by layer" not in text
        assert "Leakage between training and test" not in text, "the study has no leakage report"
    assert "No condition is a structural null" in text


def test_a_study_of_unmasked_models_alone_has_a_report():
    scores = by_factors({("both",): [0.9, 0.8], ("emg",): [0.7, 0.75]}, ["sensors"])
    text = Page(page_of(findings_of(scores, factors={"sensors": {"both": {}, "emg": {}}}))).text
    assert "Accuracy by sensors" in text and "0.850 ± " in text
    assert "Single conditions" not in text and "Audit" not in text
    settings = text.index("How to reproduce")
    assert not re.search("cut|mask|ablat|condition", text[:settings], re.IGNORECASE), "nobody cut anything"


def test_one_subject_makes_a_report_without_intervals():
    text = Page(page_of(findings_of(paper_scores(1)))).text
    assert not re.search(r"\bnan\b", text.lower()) and "95 % CI" not in text


def test_a_regression_report_uses_the_metric_and_unit_of_the_regression():
    scores = paper_scores(6).rename(columns={"accuracy": "mae"})
    scores["mae"] = 10 - 9 * scores["mae"]
    text = Page(page_of(findings_of(scores, metrics=("mae",)))).text
    tests = findings_of(scores, metrics=("mae",)).tests_table
    worst = tests.query("mode == 'individual' and edges == 'unimodal'").nlargest(1, "difference").iloc[0]
    sentence = (
        f"The largest increase, {worst['difference']:.3f} (95 % CI [{worst['ci_low']:.3f}, {worst['ci_high']:.3f}]), is"
        f" for unimodal edges of L{worst['layer'] + 1:.0f}."
    )
    assert sentence in text, "the worst layer is where the error rises most"
    assert "Increase [95 % CI]" in text and "Change %" in text
    results = text[text.index("Results") : text.index("Statistics in full")]
    assert "ccuracy" not in results and " pp" not in results


def test_what_holds_by_structure_is_looked_for_within_each_level():
    """A cut of edges that one level's model does not have is a structural null there, and nowhere else."""
    names = {"both": ("cut", False), "emg": ("baseline", True)}
    scores = pd.concat(
        [
            tidy(baseline=[0.9, 0.8], cut=[0.9, 0.8] if null else [0.5, 0.4]).assign(
                sensors=level,
                structural_null=lambda s, null=null: s["condition"].eq("baseline") | null,
                equivalent_to=lambda s, other=other: s["condition"].where(s["condition"] == "baseline", other),
            )
            for level, (other, null) in names.items()
        ]
    )
    findings = findings_of(scores, factors={"sensors": {"both": {}, "emg": {}}})
    text = Page(page_of(findings)).text
    assert "1 condition must equal another one by the structure of the model." in text
    assert "difference in accuracy is 0." in text


def test_a_view_without_data_is_named():
    text = Page(page_of(paper(views=["layer-sweep", "ranking"]))).text
    assert "The view 'ranking' has nothing to show for this study." in text


def test_a_level_is_listed_with_its_settings_and_channels():
    levels = {"both": {}, "emg": {"cohort": {"modalities": ["emg"]}}}
    scores = by_factors({("both",): [0.9, 0.8], ("emg",): [0.7, 0.75]}, ["sensors"])
    findings = findings_of(scores, factors={"sensors": levels})
    findings.facts["modalities"] = [{"emg": 16, "acc": 3}] * 2 + [{"emg": 16}] * 2
    text = Page(page_of(findings)).text
    assert "both; emg {cohort: {modalities: [emg]}}" in text
    assert "16 emg, 3 acc, 40 samples each at 20 Hz; 16 emg, 40 samples" in text


# --- what a stranger adds ---------------------------------------------------------------------------------


class WorstSubject(View):
    name = "worst-subject"
    captions = {"worst": "A caption of a stranger."}

    def shows(self, findings):
        return True

    def tables(self, findings):
        worst = findings.scores.groupby("condition")["accuracy"].min().map("{:.3f}".format)
        return {"The worst of all": worst.rename_axis("Condition").reset_index(name="Lowest")}

    def figures(self, findings):
        return {"worst": Figure((2, 1))}


@pytest.fixture
def stranger():
    yield VIEWS.add("worst-subject", WorstSubject())
    VIEWS._known.pop("worst-subject")


@pytest.mark.parametrize("views", [None, ["worst-subject"]])
def test_a_strangers_view_is_in_the_report(stranger, views):
    findings = findings_of(tidy(baseline=[0.9, 0.8], cut=[0.5, 0.125]), views=views)
    page = Page(page_of(findings))
    assert "The worst of all" in page.text and "0.125" in page.text and "A caption of a stranger." in page.text
    assert ("Single conditions" in page.text) is (views is None)


def test_a_strangers_view_is_gone_with_its_registration():
    assert "worst-subject" not in VIEWS


def test_a_view_chooses_its_section_of_the_report(monkeypatch):
    class LastLosses(View):
        name, section = "last-losses", "training"

        def shows(self, findings):
            return True

        def tables(self, findings):
            return {"Last losses": pd.DataFrame({"Fit": ["a"], "Loss": ["0.5"]})}

    monkeypatch.setitem(VIEWS._known, "last-losses", LastLosses())
    text = Page(page_of(findings_of(tidy(baseline=[0.9], cut=[0.5]), views=["last-losses"]))).text
    assert text.rindex("Training") < text.index("Last losses") < text.index("How to read these numbers")


# --- leakage between training and test --------------------------------------------------------------------


def test_leakage_adds_folds_once_whatever_the_number_of_seeds():
    values = {(seed,): [0.9, 0.8] for seed in ("0", "1", "2")}
    scores = by_factors(values, ["seed"]).assign(fit=lambda s: s["seed"] + s["subject"])
    entries = [leakage(f"{seed}{subject}", n=20, subject=5) for seed in "012" for subject in ("s0", "s1")]
    findings = findings_of(scores, factors={"seed": 3}, leakage=entries)
    (report,) = leakage_by_cohort(findings).values()
    assert (report.n_folds, report.n_test, report.shared["subject"]) == (2, 40, 10)
    assert "10 of 40 test trials come from a subject who is also in the training set." in leakage_sentences(findings)


def test_levels_with_equal_leakage_share_one_sentence():
    levels = {"both": {}, "emg": {}, "far": {}}
    scores = by_factors({(level,): [0.9] for level in levels}, ["sensors"]).assign(fit=lambda s: s["sensors"])
    entries = [leakage("both", subject=10), leakage("emg", subject=10), leakage("far", subject=0)]
    findings = findings_of(scores, factors={"sensors": levels}, leakage=entries)
    assert list(leakage_by_cohort(findings)) == ["sensors: both; sensors: emg", "sensors: far"]
    sentences = leakage_sentences(findings)
    assert "sensors: far — None of the 10 test trials come from a subject who is also in the training set." in sentences
    table = leakage_table(findings)
    assert list(table["levels"].unique()) == ["sensors: both; sensors: emg", "sensors: far"]
    shared = table[table["of"] == "subject"].set_index("levels")["value"]
    assert shared.to_list() == [1.0, 0.0]
    alike = findings_of(scores, factors={"sensors": levels}, leakage=[leakage(level, subject=1) for level in levels])
    assert list(leakage_by_cohort(alike)) == [""] and "levels" not in leakage_table(alike)


def test_the_training_repetitions_are_listed_where_the_study_names_only_the_tested_ones():
    for split, listed in (
        ({"by": "repetition", "test": [2]}, True),
        ({"by": "repetition", "train": [1], "test": [2]}, False),
    ):
        findings = findings_of(tidy(baseline=[0.9, 0.8], cut=[0.5, 0.4]), split=split)
        findings.facts["train_repetitions"] = [[1, 3, 4], [1, 3]]
        text = Page(page_of(findings)).text
        assert ("training repetitions1, 3, 4 or 1, 3" in text) == listed


def test_a_study_that_chooses_channels_says_which_channels_the_linear_classifier_receives():
    before = {"decodability": ({"modality": "emg", "before": 0.5, "during": 0.9, "chance": 0.1, "n_test": 10},)}
    entries = [leakage("s0") | before | {"pre_onset_s": 0.6}]
    channels = {"dataset": "simulated", "channels": {"emg": [0, 1], "acc": "all"}}
    scores = tidy(baseline=[0.9])
    said = "A model may receive only a part of the channels that the linear classifier receives."
    assert said in leakage_sentences(findings_of(scores, leakage=entries, cohort=channels))
    assert said not in leakage_sentences(findings_of(scores, leakage=entries))


def test_the_page_is_made_for_light_dark_and_paper(html):
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_the_same_study_gives_the_same_page(html):
    assert page_of(paper(question="Which layers?")) == html


def test_a_shipped_study_is_run_by_its_name_and_a_changed_one_from_its_file():
    shipped = StudySpec.load("quickstart")
    changed = shipped.model_copy(update={"split": shipped.split.model_copy(update={"test": (2,)})})
    assert (_named(shipped), _named(changed)) == ("quickstart", "spec.yaml")
