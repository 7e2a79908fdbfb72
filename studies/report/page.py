"""The report of a study as one self-contained HTML page.

`render_report` combines the tables and figures of the views with the leakage report, the audit, the statistics and a
reading guide. Frame and style of the page are in `page.html`. User text is escaped.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import pandas as pd
import yaml

from emg_lens.studies.report.answers import answers_to_questions
from emg_lens.studies.report.equal_conditions import identities
from emg_lens.studies.report.guide import reading_guide
from emg_lens.studies.report.html_pieces import (
    MOST_ROWS,
    bullet_list,
    fact_list,
    figure_with_caption,
    folded_list,
    number_table,
    text_table,
)
from emg_lens.studies.report.leakage_section import leakage_sentences, leakage_table, training_repetitions
from emg_lens.studies.report.limits import warnings_of_split, what_is_not_shown
from emg_lens.studies.report.quality_sentences import compared_with_reference, quality_line, quality_warning
from emg_lens.studies.report.verdict_sentences import what_was_done
from emg_lens.studies.report.view import MAIN, VIEWS, View, views_of
from emg_lens.studies.report.wording import MODE_NAMES, metric_name, metric_words, value
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.results.quality import quality_of
from emg_lens.studies.spec.catalog_lookup import catalogue
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.conditions import BASELINE

SHORT_TITLES = {
    "Cohort and data": "Data",
    "Leakage between training and test": "Leakage",
    "Model and training": "Training",
    "What this study does not show": "Limits",
    "How to read these numbers": "Reading guide",
    "Statistics in full": "Statistics",
    "How to reproduce": "Reproduce",
}
"""Titles of sections in the bar of contents."""
MOST_LINES, MOST_WARNINGS = 4, 2
"""Lines of each kind on the first screen; further ones are folded."""
OF_A_FIT = {
    "fit": "fit",
    "n_train": "training trials",
    "n_test": "test trials",
    "n_test_repetitions": "test repetitions",
    "n_parameters": "parameters",
    "seconds": "seconds",
}
"""Facts of a fit in the table of all models, with their headings."""


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
    sections = {
        "Results": _results(findings, figures),
        "Cohort and data": bullet_list(record["warnings"], "warnings") + _cohort(findings),
        "Leakage between training and test": _leakage(findings),
        "Model and training": _training(findings, figures),
        "What this study does not show": bullet_list(what_is_not_shown(findings), "notes"),
        "How to read these numbers": fact_list(reading_guide(findings), "guide"),
        "Statistics in full": _statistics(findings),
        "Audit": _audit(findings),
        "How to reproduce": _reproduce(findings, environment, record),
    }
    sections = {title: content for title, content in sections.items() if content}
    page = Template((files("emg_lens.studies.report") / "page.html").read_text("utf-8"))
    return page.substitute(
        title=escape(study.title),
        question=f'<p class="question">{escape(study.question)}</p>' if study.question else "",
        contents="".join(f'<a href="#{_anchor(title)}">{SHORT_TITLES.get(title, title)}</a>' for title in sections),
        first=_first_screen(findings, figures),
        body="\n".join(f'<h2 id="{_anchor(title)}">{title}</h2>{content}' for title, content in sections.items()),
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


# --- sections ---------------------------------------------------------------------------------------------


def _first_screen(findings: Findings, figures: Mapping[str, Mapping[str, bytes]]) -> str:
    """Warnings, quality of the models, the answers, and the main figure."""
    warnings = [text for cell in findings.cells if (text := quality_warning(cell))]
    warned = folded_list(warnings, "warnings", MOST_WARNINGS)
    facts = {
        "subject": findings.scores["subject"].nunique(),
        "model": len(findings.facts),
        "condition": findings.scores["condition"].nunique() - 1,
    }
    size = [f"{n} {name}{'s' * (n != 1)}" for name, n in facts.items() if n]
    size.append(f"{_from_to(findings.facts['n_parameters'], '{:,}'.format)} parameters per model")
    answered = "".join(
        f"<h3>{escape(question)}</h3>{folded_list(texts, 'findings', MOST_LINES)}"
        for question, texts in answers_to_questions(findings).items()
    )
    text = f'{_quality(findings)}{answered}<p class="size">{" · ".join(size)}</p>'
    return f'{warned}<div class="first"><div>{text}</div>{_figures(VIEWS[MAIN], figures)}</div>'


def _quality(findings: Findings) -> str:
    """The quality of the models, and what else may contribute to it: one line per cell, or a table of many cells."""
    of_split = list(dict.fromkeys(text for cell in findings.cells for text in warnings_of_split(cell)))
    if len(findings.cells) <= MOST_WARNINGS:
        lines = [text for cell in findings.cells if (text := quality_line(cell))]
        return bullet_list([*lines, *of_split], "quality")
    metric = metric_name(findings.metric)
    known = [(cell, one) for cell in findings.cells if (one := quality_of(cell)) is not None]
    rows = [
        [", ".join(cell.levels.values()), *map(value, (one.test, one.reference, one.chance, one.train))]
        + [compared_with_reference(one)]
        for cell, one in known
    ]
    columns = [", ".join(findings.factors), metric, "Simple reference", "Chance", "On training trials"]
    table = pd.DataFrame(rows, columns=[*columns, "Compared with the reference"])
    return f"{text_table(table) if known else ''}{folded_list(of_split, 'quality', MOST_LINES)}"


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
    return f"{fact_list(facts)}{repairs}"


def _channels(facts: Mapping[str, Any]) -> str:
    channels = ", ".join(f"{n} {modality}" for modality, n in facts["modalities"].items())
    return f"{channels}, {facts['n_samples']} samples each at {facts['fs']:g} Hz"


def _leakage(findings: Findings) -> str:
    if not findings.leakage:
        return ""
    table = number_table(leakage_table(findings))
    sentences = bullet_list(leakage_sentences(findings), "notes")
    details = f"<details><summary>Leakage in numbers</summary>{table}</details>"
    return f"{sentences}{details}"


def _overrides(parts: Mapping[str, Any]) -> str:
    """Settings that a level overrides, as one line of YAML."""
    return f" {yaml.safe_dump(parts, default_flow_style=True, width=math.inf).strip()}" if parts else ""


def _results(findings: Findings, figures: Mapping[str, Mapping[str, bytes]]) -> str:
    parts, shown = [], views_of(findings)
    for name in findings.study.views or ():
        if name not in [view.name for view in shown]:
            parts.append(f'<p class="warning">{escape(f"The view {name!r} has nothing to show for this study.")}</p>')
    parts += [_tables_and_figures(view, findings, figures) for view in shown if view.section != "training"]
    return "".join(parts)


def _tables_and_figures(view: View, findings: Findings, figures: Mapping[str, Mapping[str, bytes]]) -> str:
    """A view's answers and first table, its figures, then its other tables; figures come before a long first table."""
    named = view.tables(findings)
    tables = [f"<h3>{escape(title)}</h3>{text_table(table)}" for title, table in named.items()]
    drawn = "" if view.name == MAIN else _figures(view, figures)
    answers = bullet_list(answers_to_questions(findings).get(view.question, ()), "findings")
    if named and len(next(iter(named.values()))) > MOST_ROWS:
        return "".join([answers, drawn, *tables])
    return "".join([answers, *tables[:1], drawn, *tables[1:]])


def _training(findings: Findings, figures: Mapping[str, Mapping[str, bytes]]) -> str:
    study = findings.study
    settings = {"model": study.model.summary(), "training": study.training.summary()}
    for factor, levels in study.factors.items():
        settings[f"factor {factor}"] = "; ".join(f"{level}{_overrides(parts)}" for level, parts in levels.items())
    shown = [view for view in views_of(findings) if view.section == "training"]
    drawn = "".join(_tables_and_figures(view, findings, figures) for view in shown)
    last = findings.curves.groupby("fit", sort=False).last().reset_index()
    table = findings.facts[list(OF_A_FIT)].merge(last.drop(columns=["epoch", "cls_weight", "lr"]), on="fit")
    table = number_table(table.rename(columns=lambda name: OF_A_FIT.get(name, name.replace("_", " "))))
    return f"{fact_list(settings)}{drawn}<details><summary>Every model</summary>{table}</details>"


def _statistics(findings: Findings) -> str:
    if not len(findings.tests_table):
        return ""
    table = number_table(_in_words(findings, findings.tests_table))
    return f"<details><summary>Every condition, every test, every correction</summary>{table}</details>"


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
        f"<p>{escape(verdict)}</p>{number_table(_in_words(findings, same)) if len(same) else ''}"
        f"<details><summary>Edges cut by each condition</summary>{number_table(_in_words(findings, table))}</details>"
    )


def _in_words(findings: Findings, table: pd.DataFrame) -> pd.DataFrame:
    """Replace the names of conditions, modes and columns by words."""
    names = {BASELINE: "baseline"}
    for cell in findings.cells:
        rows = cell.tests.to_dict("records")
        names |= {row["condition"]: what_was_done(row, cell).strip("“”") for row in rows}
    words = {"condition": names, "equal_to": names, "equivalent_to": names, "mode": MODE_NAMES}
    known = {name: table[name].map(lambda x, of=of: of.get(x, x)) for name, of in words.items() if name in table}
    return table.assign(**known).rename(columns=lambda name: str(name).replace("_", " "))


def _with_label(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The table with a first column for the levels of its cell, if the cell has any."""
    if cell.label:
        table.insert(0, "levels", cell.label)
    return table


def _reproduce(findings: Findings, environment: Mapping[str, str], record: Mapping[str, Any]) -> str:
    data = f" --data {record['folder']}" if record["folder"] else ""
    command = f"<pre><code>{escape(f'emg-lens run {_named(findings.study)}{data}')}</code></pre>"
    of_fits = [one for one in findings.facts.get("environment", ()) if isinstance(one, Mapping)] or [environment]
    plugins = _plugins(findings)
    hashes = {"study hash": findings.study.digest(), "data fingerprint": record["fingerprint"]}
    facts = {**_versions(of_fits), **plugins, **hashes}
    full = f"<pre><code>{escape(findings.study.to_yaml())}</code></pre>"
    details = f"<details><summary>The study in full (YAML)</summary>{full}</details>"
    differ = any({**one, "machine": ""} != {**of_fits[0], "machine": ""} for one in of_fits)
    differ = differ or any(" fits)" in versions for versions in plugins.values())
    warning = "<p>Fits were computed with different versions, so compare them with care.</p>" if differ else ""
    return f"{command}{warning}{fact_list(facts)}{details}"


def _plugins(findings: Findings) -> dict[str, str]:
    """Versions of each package of others, counted over the fits that use it."""
    of_fits = [one for one in findings.facts.get("plugins", ()) if isinstance(one, Mapping)]
    names = dict.fromkeys(name for one in of_fits for name in one)
    by_plugin = [_versions([{f"plug-in {name}": one[name]} for one in of_fits if name in one]) for name in names]
    return {name: text for versions in by_plugin for name, text in versions.items()}


def _versions(environments: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Versions and machine of the fits; where they differ, every one with its number of fits."""
    versions = {}
    for name in environments[0]:
        counts = Counter(str(one.get(name, "unknown")) for one in environments)
        shares = [f"{value} ({n} of {len(environments)} fits)" for value, n in counts.items()]
        versions[name] = ", ".join(counts if len(counts) == 1 else shares)
    return versions


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
