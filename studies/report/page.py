"""The report of a study: one HTML page that holds everything and loads nothing.

`render_report` puts together what the other modules made: tables, figures, statistics, audit, and what a
reader must know to read the numbers rightly (docs/protocol.md §8). The page's frame and style are `page.html`
beside this file. Everything that a user wrote is escaped.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.studies.report.figures import CAPTIONS, LEGEND_NAMES
from emg_lens.studies.report.tables import (
    identities,
    layer_conditions,
    layer_name,
    layout_additivity,
    layout_depth,
    layout_expected,
    layout_extras,
    layout_table3,
    to_html,
)
from emg_lens.studies.statistics.comparison import StatisticsSpec
from emg_lens.sweeps.conditions import BASELINE

NARROW_POINTS = 432
"""Figures of less width (six inches) fill half of the page."""

READING_GUIDE = {
    "Drop %": "Relative to the baseline's accuracy, as in the paper's Δ%. It is what one intervention costs,"
    " not the share of a signal that flows through the edges. Percentage points (pp) are absolute.",
    "Drops do not add up": "Cutting unimodal and cutting cross-modal edges are separate interventions on one"
    " model, each with the other kind intact. Their drops need not sum to anything; nor need single layers.",
    "A cut is a deletion": "Scores of cut edges become −∞ before the softmax, and the remaining attention is"
    " renormalised. The model was not trained that way: part of a drop may come from activations it has never"
    " met (off-distribution), rather than from information that is missing.",
    "Single layers are lower bounds": "Later layers can make up for what an earlier one lost (self-repair). A"
    " small drop from one layer does not show that the layer does nothing.",
    "Structural nulls": "Where no cut edge has a path to the readout, accuracy equals the baseline for any"
    " weights. Such a result says nothing about the layer.",
    "Granularity": "A subject's accuracy moves in steps of one test trial, 1 / (number of test trials). A"
    " smaller difference of means comes from few subjects who changed by a step.",
    "Which p": "Mann–Whitney, the paper's test, treats masked and unmasked accuracies as if they came from"
    " different people. Wilcoxon and the sign flip compare each subject with itself, as the study is"
    " designed. All of them, under three corrections, are in “Statistics in full”.",
    "What n is": "Subjects are the unit of analysis, with one trained model each. Trials and seeds do not"
    " count as subjects; other seeds and data sets are further sources of variation, unseen by these tests.",
}


@dataclass(frozen=True)
class ReportContext:
    """What a report is made of; what is left out is not shown.

    Attributes:
        title: The study's title.
        scores: Tidy scores, one row a subject and condition.
        tests: Result of `compare` on them.
        statistics: How they were compared.
        question: What the study asks.
        warnings: What the user was told before the run: significance out of reach, odd data.
        cohort: Facts about the data, name -> text: data set, channels, classes, repetitions.
        notes: One sentence for each repair or assumption made in reading the data.
        settings: The study in short, name -> text: model, training, conditions.
        spec_yaml: The study in full.
        n_parameters: Trainable parameters of a subject's model.
        training: One row a subject: trials, final loss, seconds, whatever is known.
        figures: Name -> svg; the names of `figures.CAPTIONS` get their captions, others their name.
        environment: Versions, machine, seed, hash of the spec.
        command: The command line that makes this report again.
    """

    title: str
    scores: pd.DataFrame = field(repr=False)
    tests: pd.DataFrame = field(repr=False)
    statistics: StatisticsSpec
    question: str = ""
    warnings: Sequence[str] = ()
    cohort: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    spec_yaml: str = field(default="", repr=False)
    n_parameters: int | None = None
    training: pd.DataFrame | None = field(default=None, repr=False)
    figures: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def render_report(context: ReportContext) -> str:
    """The report as one self-contained HTML page: light and dark, printable, without scripts or links."""
    sections = (
        _summary(context),
        _cohort(context),
        _study(context),
        _training(context),
        _results(context),
        _reading_guide(),
        _statistics(context),
        _audit(context),
        _reproduce(context),
    )
    page = Template((files("emg_lens.studies.report") / "page.html").read_text("utf-8"))
    question = f'<p class="question">{escape(context.question)}</p>' if context.question else ""
    return page.substitute(title=escape(context.title), question=question, body="\n".join(s for s in sections if s))


# --- sections ---------------------------------------------------------------------------------------------


def _summary(context: ReportContext) -> str:
    base = context.scores[context.scores["condition"] == BASELINE].groupby("subject")["accuracy"].mean()
    tests = context.tests
    tiles = {
        "subjects": f"{len(base)}",
        "conditions": f"{len(tests)}",
        "baseline accuracy": f"{base.mean():.3f}",
    }
    if "chance" in tests and tests["chance"].notna().any():
        tiles["chance"] = f"{tests['chance'].mean():.3f}"
    if context.n_parameters is not None:
        tiles["parameters a model"] = f"{context.n_parameters:,}"
    items = "".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for name, value in tiles.items())
    warnings = "".join(f'<p class="warning">{escape(w)}</p>' for w in context.warnings)
    findings = _list(_findings(tests, context.statistics), "findings")
    return f'<ul class="tiles">{items}</ul>{warnings}{findings}'


def _findings(tests: pd.DataFrame, spec: StatisticsSpec) -> list[str]:
    """One sentence for each edge type: what cutting it in every layer cost, and where one layer cost most."""
    masks = layer_conditions(tests)
    sentences = []
    for kind in masks["edges"].unique():
        rows = masks[(masks["edges"] == kind) & ~masks["structural_null"]]
        everywhere = rows[(rows["mode"] == "from_beginning") & (rows["layer"] == masks["layer"].max())]
        single = rows[rows["mode"] == "individual"].nsmallest(1, "difference_pp")
        costs = [f"in every layer: {_change(row, spec)}" for row in everywhere.itertuples()]
        for row in single.itertuples():
            costs.append(f"among single layers most at {layer_name(row.layer)}: {_change(row, spec)}")
        if costs:
            name = LEGEND_NAMES.get(kind, f"{kind} cut")
            sentences.append(f"{name[:1].upper()}{name[1:]} {'; '.join(costs)}.")
    return sentences


def _change(row: Any, spec: StatisticsSpec) -> str:
    interval = (
        ""
        if np.isnan(row.ci_low_pp)
        else f" [{100 * spec.confidence:g} % CI {row.ci_low_pp:.1f}, {row.ci_high_pp:.1f}]"
    )
    return f"{row.difference_pp:+.1f} pp{interval} {row.stars}".replace("-", "−")


def _cohort(context: ReportContext) -> str:
    notes = _list(context.notes, "notes")
    if not context.cohort and not notes:
        return ""
    repairs = f"<h3>Repairs and assumptions</h3>{notes}" if notes else ""
    return f"<h2>Cohort and data</h2>{_facts(context.cohort)}{repairs}"


def _study(context: ReportContext) -> str:
    if not context.settings and not context.spec_yaml:
        return ""
    full = f"<pre><code>{escape(context.spec_yaml)}</code></pre>"
    details = f"<details><summary>The study in full (YAML)</summary>{full}</details>" if context.spec_yaml else ""
    return f"<h2>Study</h2>{_facts(context.settings)}{details}"


def _training(context: ReportContext) -> str:
    figure = "".join(_figure(n, f) for n, f in context.figures.items() if n == "training")
    if context.training is None and not figure:
        return ""
    table = "" if context.training is None else _numbers(context.training)
    folded = f"<details><summary>Every subject</summary>{table}</details>" if table else ""
    return f"<h2>Training</h2>{figure}{folded}"


def _results(context: ReportContext) -> str:
    scores, tests, spec = context.scores, context.tests, context.statistics
    parts = ["<h2>Results</h2>"]
    if len(layer_conditions(tests)):
        parts.append(f"<h3>Layer by layer</h3>{_table(layout_table3(scores, tests, spec))}")
    optional = {
        "Extra conditions": layout_extras(tests, spec),
        "Measured and expected": layout_expected(tests, spec),
        "By number of layers cut": layout_depth(tests),
        "Single layers against all layers": layout_additivity(tests),
    }
    figures = "".join(_figure(name, f) for name, f in context.figures.items() if name != "training")
    tables = [f"<h3>{title}</h3>{_table(t)}" for title, t in optional.items() if t is not None]
    return "".join([*parts, *tables[:1], figures, *tables[1:]])


def _reading_guide() -> str:
    return f"<h2>How to read these numbers</h2>{_facts(READING_GUIDE, 'guide')}"


def _statistics(context: ReportContext) -> str:
    return (
        "<h2>Statistics in full</h2><details><summary>Every condition, every test, every correction</summary>"
        f"{_numbers(context.tests)}</details>"
    )


def _audit(context: ReportContext) -> str:
    columns = ["edges_cut", "live_edges_cut", "rows_fully_cut", "max_abs_delta_logit", "structural_null"]
    table = context.tests[["condition", *(c for c in columns if c in context.tests)]]
    same = identities(context.scores)
    if not len(same) and table["edges_cut"].isna().all():
        return ""
    worst = same["max_abs_difference"].max() if len(same) else 0.0
    verdict = (
        f"{len(same)} conditions must equal another one by the structure of the model;"
        f" the largest difference in any subject's accuracy is {worst:g}."
        if len(same)
        else "No condition is a structural null, and no two cut the same live edges."
    )
    return (
        f"<h2>Audit</h2><p>{escape(verdict)}</p>{_numbers(same) if len(same) else ''}"
        f"<details><summary>What every condition cuts</summary>{_numbers(table)}</details>"
    )


def _reproduce(context: ReportContext) -> str:
    if not context.command and not context.environment:
        return ""
    command = f"<pre><code>{escape(context.command)}</code></pre>" if context.command else ""
    return f"<h2>How to reproduce</h2>{command}{_facts(context.environment)}"


# --- pieces of HTML ---------------------------------------------------------------------------------------


def _table(table: pd.DataFrame) -> str:
    """A table of text with its footnotes."""
    notes = _list(table.attrs.get("notes", ()), "notes")
    return f'<div class="scroll">{to_html(table)}</div>{notes}'


def _numbers(table: pd.DataFrame) -> str:
    """A table of numbers, four significant digits; columns of words stand flush left."""
    words = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    return f'<div class="scroll">{to_html(table.map(_short), left=words)}</div>'


def _short(value: Any) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(name: str, svg: bytes) -> str:
    caption = escape(CAPTIONS.get(name, name))
    width = re.search(rb'width="([\d.]+)pt"', svg)
    narrow = ' class="narrow"' if width and float(width[1]) < NARROW_POINTS else ""
    image = f'<img alt="{caption}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">'
    return f"<figure{narrow}>{image}<figcaption>{caption}</figcaption></figure>"


def _list(items: Iterable[str], style: str) -> str:
    entries = "".join(f"<li>{escape(str(item))}</li>" for item in items)
    return f'<ul class="{style}">{entries}</ul>' if entries else ""


def _facts(facts: Mapping[str, object], style: str = "facts") -> str:
    entries = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f'<dl class="{style}">{entries}</dl>' if entries else ""
