"""Compare finished runs with a reference run: their models, and what each ablation does to them."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from emg_lens.errors import did_you_mean
from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.comparison.comparison_tables import ComparisonTables
from emg_lens.studies.comparison.difference_tests import drop_differences, model_difference, with_corrections
from emg_lens.studies.comparison.pairing import ComparedCell, ComparisonError, pair_cells
from emg_lens.studies.comparison.sentences import answers_of
from emg_lens.studies.comparison.trial_identity import data_identity, trial_identities
from emg_lens.studies.result import StudyResult
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.spec.condition_spec import HEAD
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.conditions import MODES
from emg_lens.validation import checked, short

if TYPE_CHECKING:  # matplotlib is imported only where figures are made
    from matplotlib.figure import Figure

PARTLY = ("name", "title", "question", "views", "reference")
"""Keys of a study that do not decide its numbers."""


class RunComparison(ComparisonTables):
    """The differences between runs and a reference run: tables, sentences, files. `compare_runs` makes it."""

    def __str__(self) -> str:
        """Return the answers as sentences, one line each."""
        return "\n".join(answers_of(self))

    def figure(self) -> "Figure":
        """Draw the metric of every subject in each run, and the differences of the drops with their intervals."""
        from emg_lens.studies.comparison.files import comparison_figure

        return comparison_figure(self)

    def write(self, folder: str | Path) -> list[Path]:
        """Write `models.csv`, `ablations.csv`, `subjects.csv`, `answers.txt`, and the figure as svg, png and pdf.

        Raises:
            ComparisonError: The folder cannot be written.
        """
        from emg_lens.studies.comparison.files import write_comparison

        return write_comparison(self, Path(folder).expanduser())


@checked
def compare_runs(*runs: str | Path | StudyResult, metric: str | None = None) -> RunComparison:
    """Compare finished runs with the first one, over subjects.

    Runs are paired by subject if they were tested on the same repetitions of the same recordings; `RunComparison.notes`
    give the reason if they cannot be paired. Levels of factors are compared with the same levels. A run without factors
    is compared with every level of the other.

    Args:
        *runs: Folders of runs, or results. The first one is the reference.
        metric: A metric that all runs have; default: the compared metric of the reference.

    Returns:
        Differences of the models and of the drops under each shared ablation, with paired Student t intervals (Welch's
        if the runs are not paired), p values, and corrections for the number of comparisons.

    Raises:
        ComparisonError: Fewer than two runs, no shared metric, other classes, or factors that do not match.
        RunFolderError, StudyError: A folder is no run's folder, or a file is damaged.

    Example:
        Two very small studies that differ in the number of epochs.

        >>> from emg_lens import Study
        >>> from emg_lens.studies import compare_runs
        >>> text = '''
        ... name: short
        ... title: A small study
        ... cohort:
        ...   dataset: simulated
        ...   options: {simulation: {n_subjects: 2, emg_classes: 2, acc_classes: 1, n_repetitions: 2}}
        ...   recipe: {fs: 50}
        ... split: {by: repetition, test: [2]}
        ... model: {d_model: 8, n_heads: 2, n_layers: 1, d_mlp: 8}
        ... training: {epochs: 1}
        ... conditions: {layer_masks: null, controls: null, removals: {by: [mean]}}
        ... '''
        >>> longer = text.replace("name: short", "name: longer").replace("epochs: 1", "epochs: 2")
        >>> runs = [Study.parse(one).run(out="runs", jobs=1) for one in (text, longer)]
        >>> done = compare_runs(*runs)
        >>> done.settings.to_dict("records")
        [{'run': 'longer', 'setting': 'training.epochs', 'reference': '1', 'other': '2'}]
        >>> done.notes["longer", ""][0]
        'Paired by subject: 2 subjects, the same 16 test trials.'
        >>> done.ablations["condition"].tolist()
        ['EMG set to its mean', 'ACC set to its mean']
    """
    if len(runs) < 2:  # noqa: PLR2004
        raise ComparisonError(f"{len(runs)} run given; expected two or more: the reference first")
    results = [one if isinstance(one, StudyResult) else StudyResult.load(one) for one in runs]
    names = _names(results)
    metric = _shared_metric(results, names, metric)
    results = [replace(one, metrics=(metric, *(m for m in one.metrics if m != metric))) for one in results]
    cells = [_compared_cells(name, one) for name, one in zip(names, results, strict=True)]
    first = cells[0][0].cell
    spec, models, ablations, subjects, notes = results[0].study.statistics, [], [], [], {}
    for others in cells[1:]:
        for reference, other in _matched(cells[0], others):
            pair, level = pair_cells(reference, other), other.cell.label or reference.cell.label
            about = {"run": other.run, "level": level}
            notes[other.run, level] = pair.notes
            sizes = (spec, first.is_fraction, first.lower_is_better, first.metric_range[1])
            models.append(model_difference(pair, *sizes).assign(**about))
            drops = _with_tags(drop_differences(pair, *sizes), reference.cell, other.cell)
            ablations.append(with_corrections(drops, spec, spec.family).assign(**about))
            subjects += [_tidy(pair.reference, reference.run, level), _tidy(pair.other, other.run, level)]
    table = pd.concat(models, ignore_index=True).assign(condition=lambda rows: [f"m{i}" for i in rows.index])
    corrected = [with_corrections(rows, spec, "all") for _, rows in table.groupby("level", sort=False)]
    unit = "pp" if first.is_fraction else METRICS[metric].unit if metric in METRICS else ""
    return RunComparison(
        reference=names[0],
        metric=metric,
        unit=unit,
        lower_is_better=first.lower_is_better,
        statistics=spec,
        models=_first_columns(pd.concat(corrected, ignore_index=True).drop(columns="condition"), "run", "level"),
        ablations=_first_columns(pd.concat(ablations, ignore_index=True), "run", "level", "condition"),
        subjects=pd.concat(subjects, ignore_index=True).drop_duplicates(ignore_index=True),
        notes=notes,
        settings=_differing_settings(results, names),
    )


def _names(results: Sequence[StudyResult]) -> list[str]:
    """Name each run: by its study, with the hash or a number where runs share the name of the study."""
    names = [one.study.name for one in results]
    for more in ([one.folder.name for one in results], range(1, len(results) + 1)):
        shared = {name for name, n in Counter(names).items() if n > 1}
        names = [
            f"{one.study.name} ({m})" if n in shared else n for one, n, m in zip(results, names, more, strict=True)
        ]
    return names


def _shared_metric(results: Sequence[StudyResult], names: Sequence[str], metric: str | None) -> str:
    metric = metric or results[0].metric
    for name, one in zip(names, results, strict=True):
        if metric not in one.metrics:
            known = [known for known in results[0].metrics if all(known in other.metrics for other in results)]
            hint = did_you_mean(metric, known)
            raise ComparisonError(
                f"{name} has no metric {short(metric)}; {hint}metrics of all runs: {', '.join(known) or 'none'}"
            )
    return metric


def _compared_cells(name: str, result: StudyResult) -> list[ComparedCell]:
    trials = trial_identities(result)
    specs = result.study.cells
    outputs = {facts["fit"]: tuple(facts["outputs"]) for facts in result.facts.to_dict("records")}
    cells = []
    for cell in result.cells:
        rows = trials[trials["fit"].isin(cell.scores["fit"])]
        spec = next(spec for levels, spec in specs if all(levels[f] == level for f, level in cell.levels.items()))
        described = {row["condition"]: _definition(row, spec) for row in cell.tests.to_dict("records")}
        cells.append(
            ComparedCell(name, cell, rows, data_identity(result, spec), outputs[rows["fit"].iloc[0]], described)
        )
    return cells


def _definition(row: Mapping[str, Any], spec: StudySpec) -> str:
    """Describe a condition, so that conditions with one name but other edges are not compared."""
    conditions, edges = spec.conditions, str(row.get("edges", ""))
    if row.get("mode") in MODES and conditions.layer_masks is not None:
        return str((conditions.layer_masks.edges or {}).get(edges, f"{edges} by default"))
    if row.get("mode") == HEAD and conditions.head_masks is not None:
        return str(conditions.head_masks.edges.get(edges, edges))
    single = [one for one in conditions.extra if one.name == row["condition"]]
    return single[0].model_dump_json(exclude={"sees"}) if single else f"{row['condition']} by {row.get('by')}"


def _matched(
    references: Sequence[ComparedCell], others: Sequence[ComparedCell]
) -> list[tuple[ComparedCell, ComparedCell]]:
    """Pair the cells of two runs: with the same levels, or a single cell with every cell."""
    if len(references) == 1 or len(others) == 1:
        return [(mine, theirs) for mine in references for theirs in others]
    by_levels = {tuple(sorted(one.cell.levels.items())): one for one in references}
    matches = [(by_levels.get(tuple(sorted(one.cell.levels.items()))), one) for one in others]
    found = [(mine, theirs) for mine, theirs in matches if mine is not None]
    if not found:
        labels = [", ".join(one.cell.label for one in cells[:2]) for cells in (references, others)]
        raise ComparisonError(
            f"{others[0].run} and {references[0].run} share no level ({labels[1]}, ...; {labels[0]}, ...); compare runs"
            " with the same factors, or one run without factors"
        )
    return found


def _with_tags(table: pd.DataFrame, reference: Cell, other: Cell) -> pd.DataFrame:
    """Add what the families need: the mode, and nulls and equal conditions that both runs have."""
    mine, theirs = ([cell.rows[name] for name in table["condition"]] for cell in (reference, other))
    both = list(zip(mine, theirs, strict=True))
    equal = [a["equivalent_to"] if a["equivalent_to"] == b["equivalent_to"] else a["condition"] for a, b in both]
    nulls = [bool(a["structural_null"] and b["structural_null"]) for a, b in both]
    return table.assign(mode=[str(a.get("mode", "")) for a in mine], structural_null=nulls, equivalent_to=equal)


def _tidy(values: pd.DataFrame, run: str, level: str) -> pd.DataFrame:
    rows = values.rename_axis(columns="condition").stack().rename("value").reset_index()
    return rows.assign(run=run, level=level)[["run", "level", "subject", "condition", "value"]]


def _first_columns(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    return table[[*names, *(column for column in table if column not in names)]]


def _differing_settings(results: Sequence[StudyResult], names: Sequence[str]) -> pd.DataFrame:
    flat = [_flat(json.loads(one.study.model_dump_json(exclude=set(PARTLY)))) for one in results]
    rows = [
        {"run": name, "setting": key, "reference": flat[0].get(key, ""), "other": own.get(key, "")}
        for name, own in zip(names[1:], flat[1:], strict=True)
        for key in dict.fromkeys([*flat[0], *own])
        if flat[0].get(key, "") != own.get(key, "")
    ]
    return pd.DataFrame(rows, columns=["run", "setting", "reference", "other"])


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings without the empty ones: `{"training.epochs": "45"}`."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None and value != {}:
            flat[f"{prefix}{key}"] = re.sub(r'^"|"$', "", json.dumps(value))
    return flat
