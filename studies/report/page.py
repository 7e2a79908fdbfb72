"""The report of a study as one self-contained HTML page.

`render_report` combines the tables and figures of the views with the leakage report, the audit, the statistics and a
reading guide. Frame and style of the page are in `page.html`. User text is escaped.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import pandas as pd
import yaml

from emg_lens.studies.report.answers import answers_to_questions
from emg_lens.studies.report.equal_conditions import identities
from emg_lens.studies.report.guide import reading_guide
from emg_lens.studies.report.html_pieces import bullet_list, fact_list, figure_with_caption, number_table, text_table
from emg_lens.studies.report.leakage_section import leakage_sentences, leakage_table, training_repetitions
from emg_lens.studies.report.limits import what_is_not_shown
from emg_lens.studies.report.view import View, views_of
from emg_lens.studies.report.wording import metric_words, value
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.spec.catalog_lookup import catalogue
from emg_lens.studies.spec.study_spec import StudySpec


def render_report(
    findings: Findings,
    figures: Mapping[str, Mapping[str, bytes]],
    environment: Mapping[str, str],
    record: Mapping[str, Any],
) -> str:
    """Render the report as one HTML page without scripts or links: light and dark, printable.

    Args:
        findings: The study's numbers.
        figures: The svg of each figure, by name of the view and name of the figure.
        environment: Versions and machine.
        record: The run's record of its data: folder, fingerprint, warnings.
    """
    study = findings.study
    sections = (
        _summary(findings, record["warnings"]),
        _cohort(findings),
        _leakage(findings),
        _study(findings),
        _results(findings, figures),
        _limits(findings),
        _training(findings, figures),
        f"<h2>How to read these numbers</h2>{fact_list(reading_guide(findings.metric), 'guide')}",
        _statistics(findings),
        _audit(findings),
        _reproduce(findings, environment, record),
    )
    page = Template((files("emg_lens.studies.report") / "page.html").read_text("utf-8"))
    question = f'<p class="question">{escape(study.question)}</p>' if study.question else ""
    return page.substitute(title=escape(study.title), question=question, body="\n".join(s for s in sections if s))


# --- sections ---------------------------------------------------------------------------------------------


def _summary(findings: Findings, warnings: Iterable[str]) -> str:
    tiles = {
        "subjects": f"{findings.scores['subject'].nunique()}",
        "fits": f"{len(findings.facts)}",
        "conditions": f"{findings.scores['condition'].nunique() - 1}",
        f"{metric_words(findings.metric)}, unmasked": _from_to((cell.baseline for cell in findings.cells), value),
    }
    chances = [cell.chance for cell in findings.cells if cell.chance is not None]
    if chances:
        tiles["chance"] = _from_to(chances, value)
    tiles["parameters per model"] = _from_to(findings.facts["n_parameters"], "{:,}".format)
    items = "".join(f"<li><b>{escape(text)}</b><span>{escape(name)}</span></li>" for name, text in tiles.items())
    warned = "".join(f'<p class="warning">{escape(w)}</p>' for w in warnings)
    answers = answers_to_questions(findings)
    answered = [f"<h3>{escape(question)}</h3>{bullet_list(texts, 'findings')}" for question, texts in answers.items()]
    return f'<ul class="tiles">{items}</ul>{warned}{"".join(answered)}'


def _cohort(findings: Findings) -> str:
    split = {"by": findings.study.split.by, **findings.study.split.model_dump(mode="json", exclude_defaults=True)}
    facts = {
        "data set": "; ".join(dict.fromkeys(spec.cohort.dataset for _, spec in findings.study.cells)),
        "subjects": ", ".join(findings.scores["subject"].unique()),
        "channels": "; ".join(dict.fromkeys(_channels(row) for row in findings.facts.to_dict("records"))),
        "outputs": "; ".join(dict.fromkeys(", ".join(names) for names in findings.facts["outputs"])),
        "split": ", ".join(f"{key}: {given}" for key, given in split.items()),
    }
    facts |= training_repetitions(findings)
    notes = bullet_list(_shared_notes(findings.facts), "notes")
    repairs = f"<h3>Repairs and assumptions</h3>{notes}" if notes else ""
    return f"<h2>Cohort and data</h2>{fact_list(facts)}{repairs}"


def _channels(facts: Mapping[str, Any]) -> str:
    channels = ", ".join(f"{n} {modality}" for modality, n in facts["modalities"].items())
    return f"{channels}, {facts['n_samples']} samples each at {facts['fs']:g} Hz"


def _leakage(findings: Findings) -> str:
    if not findings.leakage:
        return ""
    table = number_table(leakage_table(findings))
    sentences = bullet_list(leakage_sentences(findings), "notes")
    details = f"<details><summary>Leakage in numbers</summary>{table}</details>"
    return f"<h2>Leakage between training and test</h2>{sentences}{details}"


def _study(findings: Findings) -> str:
    study = findings.study
    settings = {"model": study.model.summary(), "training": study.training.summary()}
    for factor, levels in study.factors.items():
        settings[f"factor {factor}"] = "; ".join(f"{level}{_overrides(parts)}" for level, parts in levels.items())
    full = f"<pre><code>{escape(study.to_yaml())}</code></pre>"
    details = f"<details><summary>The study in full (YAML)</summary>{full}</details>"
    return f"<h2>Study</h2>{fact_list(settings)}{details}"


def _overrides(parts: Mapping[str, Any]) -> str:
    """Settings that a level overrides, as one line of YAML."""
    return f" {yaml.safe_dump(parts, default_flow_style=True, width=math.inf).strip()}" if parts else ""


def _results(findings: Findings, figures: Mapping[str, Mapping[str, bytes]]) -> str:
    parts = ["<h2>Results</h2>"]
    shown = views_of(findings)
    for name in findings.study.views or ():
        if name not in [view.name for view in shown]:
            parts.append(f'<p class="warning">{escape(f"The view {name!r} has nothing to show for this study.")}</p>')
    parts += [_tables_and_figures(view, findings, figures) for view in shown if view.section != "training"]
    return "".join(parts)


def _limits(findings: Findings) -> str:
    return f"<h2>What this study does not show</h2>{bullet_list(what_is_not_shown(findings), 'notes')}"


def _tables_and_figures(view: View, findings: Findings, figures: Mapping[str, Mapping[str, bytes]]) -> str:
    """A view's first table, its figures, then its other tables."""
    tables = [f"<h3>{escape(title)}</h3>{text_table(table)}" for title, table in view.tables(findings).items()]
    return "".join([*tables[:1], _figures(view, figures), *tables[1:]])


def _training(findings: Findings, figures: Mapping[str, Mapping[str, bytes]]) -> str:
    shown = [view for view in views_of(findings) if view.section == "training"]
    drawn = "".join(_tables_and_figures(view, findings, figures) for view in shown)
    last = findings.curves.groupby("fit", sort=False).last().reset_index()
    columns = ["fit", "n_train", "n_test", "n_test_repetitions", "n_parameters", "executor", "seconds"]
    table = findings.facts[columns].merge(last.drop(columns=["epoch", "cls_weight", "lr"]), on="fit")
    return f"<h2>Training</h2>{drawn}<details><summary>Every fit</summary>{number_table(table)}</details>"


def _statistics(findings: Findings) -> str:
    return (
        "<h2>Statistics in full</h2><details><summary>Every condition, every test, every correction</summary>"
        f"{number_table(findings.tests_table)}</details>"
    )


def _audit(findings: Findings) -> str:
    columns = ["condition", "edges_cut", "live_edges_cut", "rows_fully_cut", "max_abs_delta_logit", "structural_null"]
    table = findings.tests_table[[*findings.factors, *columns]]
    if not len(table):
        return ""
    same = pd.concat([_with_label(identities(c.scores, findings.metric), c) for c in findings.cells], ignore_index=True)
    worst = same["max_abs_difference"].max() if len(same) else 0.0
    verdict = (
        f"{len(same)} condition{'s' * (len(same) != 1)} must equal another one by the structure of the model."
        f" The largest difference in {metric_words(findings.metric)} is {worst:g}."
        if len(same)
        else "No condition is a structural null, and no two conditions cut the same live edges."
    )
    return (
        f"<h2>Audit</h2><p>{escape(verdict)}</p>{number_table(same) if len(same) else ''}"
        f"<details><summary>Edges cut by each condition</summary>{number_table(table)}</details>"
    )


def _with_label(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The table with a first column for the levels of its cell, if the cell has any."""
    if cell.label:
        table.insert(0, "levels", cell.label)
    return table


def _reproduce(findings: Findings, environment: Mapping[str, str], record: Mapping[str, Any]) -> str:
    data = f" --data {record['folder']}" if record["folder"] else ""
    command = f"<pre><code>{escape(f'emg-lens run {_named(findings.study)}{data}')}</code></pre>"
    facts = {**environment, "study hash": findings.study.digest(), "data fingerprint": record["fingerprint"]}
    return f"<h2>How to reproduce</h2>{command}{fact_list(facts)}"


def _named(study: StudySpec) -> str:
    """The study's argument for `emg-lens run`: the name of an unchanged shipped study, else the run folder's file."""
    shipped = study.name in catalogue() and StudySpec.load(study.name).digest() == study.digest()
    return study.name if shipped else "spec.yaml"


def _from_to(numbers: Iterable[float], written: Callable[[float], str]) -> str:
    """Smallest and largest number as text; one number if both have the same text."""
    numbers = list(numbers)
    return " to ".join(dict.fromkeys((written(min(numbers)), written(max(numbers)))))


def _shared_notes(facts: pd.DataFrame) -> list[str]:
    """Every note once, with the number of fits that it concerns if not all."""
    counts = Counter(note for notes in facts["notes"] for note in dict.fromkeys(notes))
    return [note if n == len(facts) else f"{note} ({n} of {len(facts)} fits)" for note, n in counts.items()]


def _figures(view: View, figures: Mapping[str, Mapping[str, bytes]]) -> str:
    """A view's figures with their captions."""
    shown = []
    for name, svg in figures.get(view.name, {}).items():
        caption = next((text for start, text in view.captions.items() if name.startswith(start)), name)
        label = name.partition(" · ")[2]
        shown.append(figure_with_caption(f"{label}. {caption}" if label else caption, svg))
    return "".join(shown)
