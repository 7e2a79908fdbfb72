import base64
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from table3 import paper_scores, with_extras

from emg_lens.studies.report.figures import study_figures, to_svg
from emg_lens.studies.report.page import READING_GUIDE, ReportContext, render_report
from emg_lens.studies.statistics.comparison import StatisticsSpec, compare, power_warnings

SPEC = StatisticsSpec(n_bootstrap=100)
VOID = {"meta", "img", "br", "hr", "link", "input"}


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


def context(**changes) -> ReportContext:
    scores = with_extras(paper_scores(12), joint=0.8)
    tests = compare(scores, SPEC, chance=1 / 17)
    parts = {"title": "A study", "scores": scores, "tests": tests, "statistics": SPEC}
    return ReportContext(**(parts | changes))


def full() -> ReportContext:
    figure = Figure((3, 2))
    figure.subplots().plot([1, 0])
    plain = context()
    return context(
        question="Which layers?",
        warnings=power_warnings(4, [10], SPEC),
        cohort={"Data set": "NinaPro DB2"},
        notes=["subject 3: one repetition is missing"],
        settings={"Model": "IsoNet, 5 layers"},
        spec_yaml="name: isonet-table3\n",
        n_parameters=5_921_041,
        training=pd.DataFrame({"subject": ["s1"], "loss": [0.0123456], "done": [True]}),
        figures={n: to_svg(f) for n, f in {**study_figures(plain.scores, plain.tests), "training": figure}.items()},
        environment={"torch": "2.13.0"},
        command="emg-lens run isonet-table3",
    )


@pytest.fixture(scope="module")
def html():
    return render_report(full())


def test_the_page_is_well_formed_and_has_every_section(html):
    page = Page(html)
    assert page.tags.count("h1") == 1 and page.tags.count("img") == 4
    headings = "Cohort and data, Study, Training, Results, How to read these numbers, Statistics in full, Audit"
    for heading in [*headings.split(", "), "How to reproduce"]:
        assert f"<h2>{heading}</h2>" in html
    written = ["Which layers?", "NinaPro DB2", "one repetition is missing", "IsoNet, 5 layers", "2.13.0"]
    written += ["name: isonet-table3", "emg-lens run isonet-table3", "cannot be significant"]
    for shown in [*written, "5,921,041", "0.01235", "joint", "0.800"]:
        assert shown in page.text, shown


def test_the_page_loads_nothing_and_runs_nothing(html):
    page = Page(html)
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "srcset", "action"):
            assert value.startswith("data:image/svg+xml;base64,")
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
    assert "in any subject's accuracy is 0." in text
    assert "Live layers cut" in text and "Single layers against all layers" in text


def test_the_summary_says_what_all_layers_cost_with_interval_and_stars():
    made = context()
    row = made.tests.set_index("condition").loc["cross_modal/from_beginning/L5"]
    sentence = f"Cross-modal edges cut in every layer: −{-row['difference_pp']:.1f} pp [95 % CI −"
    assert sentence in Page(render_report(made)).text


def test_every_word_of_the_reading_guide_is_on_the_page(html):
    text = Page(html).text
    assert all(name in text and words in text for name, words in READING_GUIDE.items())
    for must in ("share of a signal", "separate interventions", "off-distribution", "self-repair"):
        assert must in text


def test_whatever_a_user_writes_is_shown_and_never_obeyed():
    evil = "<script>alert('x')</script>\"&$title${x}"
    scores = with_extras(paper_scores(3), **{evil: 0.5})
    page = Page(
        render_report(
            ReportContext(
                title=evil,
                scores=scores,
                tests=compare(scores, SPEC),
                statistics=SPEC,
                question=evil,
                warnings=[evil],
                cohort={evil: evil},
                notes=[evil],
                settings={evil: evil},
                spec_yaml=evil,
                training=pd.DataFrame({evil: [evil]}),
                figures={evil: to_svg(Figure((2, 2)))},
                environment={evil: evil},
                command=evil,
            )
        )
    )
    assert "script" not in page.tags
    assert page.text.count(evil) >= 15


def test_a_report_needs_no_more_than_scores_and_tests():
    text = Page(render_report(context())).text
    for absent in ("Cohort and data", "Training", "How to reproduce"):
        assert absent not in text
    assert "Results" in text and "Statistics in full" in text


def test_a_report_of_extra_conditions_only_or_without_audit_is_made_too():
    scores = with_extras(paper_scores(3).query("condition == 'baseline'"), joint=np.nan)
    bare = scores[["subject", "condition", "accuracy"]]
    for table in (scores, bare):
        text = Page(render_report(ReportContext("x", table, compare(table, SPEC), SPEC))).text
        assert "Extra conditions" in text and "Layer by layer" not in text
    assert "Audit" not in text


def test_one_subject_makes_a_report_without_intervals():
    scores = paper_scores(1)
    text = Page(render_report(ReportContext("x", scores, compare(scores, SPEC), SPEC))).text
    assert "nan" not in text.lower().replace("finance", "") and "95 % CI" not in text


def test_the_page_is_made_for_light_dark_and_paper(html):
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_the_same_study_gives_the_same_page(html):
    assert render_report(full()) == html
