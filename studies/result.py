"""The result of a study: read from the folder of a run, and written as tables, figures and report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from emg_lens.data.leakage import Leakage
from emg_lens.errors import did_you_mean, printable
from emg_lens.io.csv_tables import to_csv
from emg_lens.io.files import write_text
from emg_lens.io.run_folder import ENVIRONMENT, read_facts_of_run
from emg_lens.scoring.class_factors import PREFIX
from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.fits.fit_store import (
    MODEL_CARD,
    TRAIN,
    WEIGHTS,
    check_fit,
    damaged_fit_errors,
    read_analyses,
    read_csv,
    read_facts,
    read_outputs,
    read_quality,
    read_scores,
)
from emg_lens.studies.report.model_card import model_cards
from emg_lens.studies.report.table_formats import to_latex, to_markdown
from emg_lens.studies.report.terminal import terminal_parts
from emg_lens.studies.report.verdict_sentences import verdict_table
from emg_lens.studies.report.view import views_of
from emg_lens.studies.results.expectations import with_expectations
from emg_lens.studies.results.findings import Findings, quality_columns
from emg_lens.studies.runs.run_files import read_record, read_spec
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.conditions import BASELINE
from emg_lens.tables import WholeTable
from emg_lens.validation import short

if TYPE_CHECKING:  # matplotlib is imported only where figures are made
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class StudyResult(Findings):
    """The result of a study: scores, comparisons, tables, figures and report.

    `Study.run` returns it, and `StudyResult.load` reads it from the folder of a run.

    Attributes:
        folder: The run's folder.
        folders: Folder of each fit, in the order of `facts`.

    Example:
        A very small study: two simulated subjects, one layer, one epoch.

        >>> from emg_lens import Study
        >>> study = Study.parse('''
        ... name: small
        ... title: A small study
        ... cohort:
        ...   dataset: simulated
        ...   options: {simulation: {n_subjects: 2, emg_classes: 2, acc_classes: 1, joint_classes: 1, n_repetitions: 2}}
        ...   recipe: {fs: 50}
        ... split: {by: repetition, test: [2]}
        ... model: {d_model: 8, n_heads: 2, n_layers: 1, d_mlp: 8}
        ... training: {epochs: 1}
        ... conditions: {layer_masks: {modes: [individual]}, removals: null, controls: null}
        ... views: [layer-sweep]
        ... ''')
        >>> result = study.run(out="runs", jobs=1)
        >>> result.scores.groupby("condition").size().to_dict()
        {'baseline': 2, 'cross_modal/individual/L1': 2, 'unimodal/individual/L1': 2}
        >>> list(result.tables())
        ['Layer by layer']
    """

    folder: Path = field(default=Path())
    folders: tuple[Path, ...] = field(default=(), repr=False)

    @classmethod
    def load(cls, folder: str | Path) -> "StudyResult":
        """Read the folder of a run, without the fits that are not finished.

        Args:
            folder: The run's folder, `<out>/<name>/<hash>`.

        Raises:
            RunFolderError: This is not a run's folder, or one of its files is damaged.
            StudyError: No fit is finished, or a file of a fit is damaged.
        """
        folder = Path(folder).expanduser()
        study, fits = read_spec(folder), finished_fits(folder)
        if not fits:
            raise StudyError(f"no fit in {str(folder)!r} is finished; run the study again to resume it")
        return cls.collect(study, folder, fits)

    @classmethod
    def collect(cls, study: StudySpec, folder: Path, fits: Sequence[str]) -> "StudyResult":
        """Read the files of finished fits.

        Args:
            study: The study.
            folder: The run's folder.
            fits: Names of the fits' folders, in the order of the result.

        Raises:
            StudyError: A file is missing or damaged.
        """
        folders = [folder / "fits" / name for name in fits]
        facts, scores, curves, leakage, tags = [], [], [], [], {}
        analyses: dict[str, list[pd.DataFrame]] = {}
        metrics = study.metrics or ()
        for part in folders:
            check_fit(part)
            with damaged_fit_errors(part):
                facts.append(read_facts(part))
                metrics = metrics or tuple(facts[0]["metrics"])
                levels = facts[-1]["levels"]
                of_fit = with_expectations(read_scores(part, metrics), study.at(levels), facts[-1]["modalities"])
                of_fit = of_fit.join(read_quality(part, metrics[0], of_fit["subject"].unique()), on="subject")
                scores.append(of_fit.assign(fit=part.name, **{name: levels[name] for name in study.factors}))
                curves.append(read_csv(part / "fit.csv").assign(fit=part.name))
                for name, table in read_analyses(part).items():
                    analyses.setdefault(name, []).append(table.assign(fit=part.name))
                if (part / "leakage.json").exists():
                    leakage.append({**Leakage.from_dict(read_facts(part, "leakage.json")).to_dict(), "fit": part.name})
                about = list(read_csv(part / "conditions.csv").columns)
                tags |= dict.fromkeys(about[1 : about.index("edges_cut")])
        scores = pd.concat(scores, ignore_index=True)
        if "control" in scores and "of" not in scores:
            scores["of"] = None  # the only control cuts all edge sets together, which controls no single condition
        is_control = scores["control"].notna() if "control" in scores else pd.Series(False, scores.index)
        tags = [tag for tag in tags if tag not in ("control", "of", "random_cut")]
        return cls(
            study=study,
            scores=_ordered(scores[~is_control].reset_index(drop=True), study, tags, metrics),
            controls=_ordered(scores[is_control], study, ["control", "of"], metrics),
            analyses={name: pd.concat(tables, ignore_index=True) for name, tables in analyses.items()},
            facts=pd.DataFrame(facts).assign(
                fit=[part.name for part in folders],
                **{name: [of_fit["levels"][name] for of_fit in facts] for name in study.factors},
            ),
            curves=pd.concat(curves, ignore_index=True),
            leakage=leakage,
            metrics=tuple(metrics),
            tags=tuple(tags),
            folder=folder,
            folders=tuple(folders),
        )

    # --- numbers, tables and figures ----------------------------------------------------------------------

    def tests(self) -> pd.DataFrame:
        """Return the comparison of every condition with the baseline (`emg_lens.studies.statistics.compare`)."""
        return WholeTable(self.tests_table)

    def verdicts(self) -> pd.DataFrame:
        """Return the verdict on every distinct ablation (docs/controls.md §8.1).

        Returns:
            One row per ablation. Columns: the compared factors, `condition`, `verdict` (`shown`, `not shown`,
            `no control`, `no interval`), `drop` with the ends `low` and `high` of its interval in `unit` (positive =
            worse; pp: percentage points), `p` (corrected p of the study's test against the baseline), `p_random`
            (family-wise p against the random controls), `controls`, and the `sentence` of the report.

        Example:
            >>> from emg_lens import Study
            >>> study = Study.parse('''
            ... name: small
            ... title: A small study
            ... cohort:
            ...   dataset: simulated
            ...   options: {simulation: {n_subjects: 1, emg_classes: 2, acc_classes: 1, n_repetitions: 2}}
            ...   recipe: {fs: 50}
            ... split: {by: repetition, test: [2]}
            ... model: {d_model: 8, n_heads: 2, n_layers: 1, d_mlp: 8}
            ... training: {epochs: 1}
            ... conditions: {layer_masks: null, controls: null, removals: {by: [mean]}}
            ... ''')
            >>> study.run(out="runs", jobs=1).verdicts()[["condition", "verdict"]].values.tolist()
            [['EMG set to its mean', 'no interval'], ['ACC set to its mean', 'no interval']]
        """
        return WholeTable(verdict_table(self))

    def quality(self) -> pd.DataFrame:
        """Return the compared metric of the models next to chance and to a simple reference (docs/statistics.md §5.7).

        Returns:
            One row a fit, averaged over its test subjects. The last rows, with `fit="mean"`, are the means over all
            subjects, one for each combination of levels that the study compares. Columns: fit, one for each factor,
            `chance`, `reference` (a linear model on mean and log-variance of every channel), `reference_<modality>`
            (the same on one modality), `test` and `train` (the unmasked model on its test and training trials).

        Example:
            Two simulated subjects, and a model that is trained for one epoch only. It is no better than chance, while a
            linear model on the same trials is.

            >>> from emg_lens import Study
            >>> study = Study.parse('''
            ... name: short-training
            ... title: A model that is trained for too short a time
            ... cohort:
            ...   dataset: simulated
            ...   options: {simulation: {n_subjects: 2, emg_classes: 2, acc_classes: 1, joint_classes: 1}}
            ...   recipe: {fs: 50}
            ... split: {by: repetition, test: [4, 5, 6]}
            ... model: {d_model: 8, n_heads: 2, n_layers: 1, d_mlp: 8}
            ... training: {epochs: 1}
            ... conditions: {layer_masks: null}
            ... ''')
            >>> result = study.run(out="runs", jobs=1)
            >>> print(result.quality().round(2).to_string(index=False))
             fit  chance  reference  reference_emg  reference_acc  test  train
              01     0.5       0.83           0.67           0.67  0.17   0.17
              02     0.5       0.83           1.00           0.33  0.83   0.17
            mean     0.5       0.83           0.83           0.50  0.50   0.17
        """
        rows, factors = self.quality_table, list(self.study.factors)
        numbers = [column for column in rows if column not in ("fit", "subject", *factors)]
        by_fit = rows.groupby(["fit", *factors], sort=False, as_index=False)[numbers].mean()
        means = [
            {"fit": "mean", **cell.levels, **cell.quality.groupby("subject")[numbers].mean().mean()}
            for cell in self.cells
        ]
        return WholeTable(pd.concat([by_fit, pd.DataFrame(means)], ignore_index=True))

    def predictions(self, condition: str = BASELINE) -> pd.DataFrame:
        """Return the outputs of all models for the test trials under one condition.

        Args:
            condition: Name of the condition.

        Returns:
            One row a test trial, with the columns fit, subject, repetition, repetition_id, `target` (for a regression
            one column `target_<name>` each), and one column `output_<name>` for each output.

        Raises:
            StudyError: No fit has this condition, or a file is damaged.
        """
        parts = []
        facts_of = {str(facts["fit"]): facts for facts in self.facts.to_dict("records")}
        for fit, (table, outputs, targets) in self.outputs(condition).items():
            facts = facts_of[fit]
            if outputs.ndim > 2:
                raise StudyError(
                    f"the outputs for a trial are {list(outputs.shape[1:])}, which is no row of a table; read them with"
                    f" outputs({condition!r})"
                )
            table.insert(0, "fit", fit)
            if METRICS[self.metric].kind == "classes":
                table["target"] = targets
            else:
                table[[f"target_{name}" for name in facts["outputs"]]] = targets
            table[[f"output_{name}" for name in facts["outputs"]]] = outputs
            parts.append(table)
        return pd.concat(parts, ignore_index=True)

    def outputs(self, condition: str = BASELINE) -> "dict[str, tuple[pd.DataFrame, np.ndarray, np.ndarray]]":
        """Return the outputs of all models for the test trials under one condition, as arrays.

        Args:
            condition: Name of the condition.

        Returns:
            By the name of each fit: one row a test trial (subject, repetition, repetition_id), the outputs
            `[trial, ...]` and the targets `[trial, ...]`.

        Raises:
            StudyError: No fit has this condition, or a file is damaged.
        """
        parts = {}
        for folder in self.folders:
            names = read_csv(folder / "conditions.csv")["condition"].tolist()
            if condition in names:
                outputs, targets = read_outputs(folder)
                parts[folder.name] = read_csv(folder / "trials.csv"), outputs[names.index(condition)], targets
        if not parts:
            known = list(dict.fromkeys([*self.scores["condition"], *self.controls.get("condition", ())]))
            shown = ", ".join(known[:8]) + f" and {len(known) - 8} more" * (len(known) > 8)
            raise StudyError(
                f"no fit has the condition {short(condition)}; {did_you_mean(condition, known)}known: {shown}"
            )
        return parts

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables of all views with text cells, by title."""
        return {title: table for view in views_of(self) for title, table in view.tables(self).items()}

    def table(self) -> pd.DataFrame:
        """Return the first table of the report."""
        return next(iter(self.tables().values()))

    def figures(self) -> "dict[str, Figure]":
        """Return the figures of all views, by name."""
        return {name: figure for figures in self._figures().values() for name, figure in figures.items()}

    def report(self) -> str:
        """Return the report as one HTML page."""
        from emg_lens.plotting.saving import to_svg

        svgs = {
            view: {name: to_svg(figure) for name, figure in figures.items()}
            for view, figures in self._figures().items()
        }
        return self._page(svgs)

    def write(self) -> None:
        """Write scores.csv, table.{csv,md,tex}, figures/, report.html and the card of each model into the run's folder.

        Raises:
            StudyError: The folder cannot be written, or one of its files is damaged.
        """
        from emg_lens.plotting.saving import save_figures

        try:
            write_text(self.folder / "scores.csv", to_csv(self.scores))
            if len(self.controls):
                write_text(self.folder / "controls.csv", to_csv(self.controls))
            self._write_tables()
            svgs = {view: save_figures(figures, self.folder / "figures") for view, figures in self._figures().items()}
            write_text(self.folder / "report.html", self._page(svgs))
            has_weights = all((folder / WEIGHTS).is_file() for folder in self.folders)
            for fit, card in model_cards(self, read_record(self.folder).get("licence", ""), has_weights).items():
                path = self.folder / "fits" / fit / MODEL_CARD
                if not path.is_file() or path.read_bytes() != card.encode():
                    write_text(path, card)
        except OSError as error:
            raise StudyError(f"cannot write to {str(self.folder)!r}: {error.strerror}") from None

    def terminal(self) -> list[RenderableType]:
        """Return what the command line prints: quality, answers, the main table, and the paths of the other results."""
        names = {"tables": "table.md", "figures": "figures", "report": "report.html"}
        paths = [f"{what:<8} {printable(str(self.folder / name))}" for what, name in names.items()]
        return [*terminal_parts(self), Text("\n".join(paths))]

    def _write_tables(self) -> None:
        tables = self.tables()
        texts = {
            "table.csv": to_csv(self.tests_table),
            "table.md": "\n".join(to_markdown(table, name) for name, table in tables.items()),
            "table.tex": "\n".join(to_latex(table, name) for name, table in tables.items()),
        }
        if len(self.level_tests):
            texts["levels.csv"] = to_csv(self.level_tests)
        for name, text in texts.items():
            write_text(self.folder / name, text)

    def _figures(self) -> "dict[str, Mapping[str, Figure]]":
        figures = {view.name: view.figures(self) for view in views_of(self)}
        counts = Counter(name for of_view in figures.values() for name in of_view)
        shared = [name for name, count in counts.items() if count > 1]
        if shared:
            raise StudyError(f"two views have a figure {shared[0]!r}, which would be one file; leave one view out")
        return figures

    def _page(self, svgs: Mapping[str, Mapping[str, bytes]]) -> str:
        from emg_lens.studies.report.page import render_report

        page = render_report(self, svgs, read_facts_of_run(self.folder, ENVIRONMENT, {}), read_record(self.folder))
        return page.encode(errors="backslashreplace").decode()  # the name of a data folder may not be UTF-8


def finished_fits(folder: Path) -> list[str]:
    """Return the names of the finished fits of a run, in the order of the study.

    Raises:
        RunFolderError: The record of the run is missing or damaged.
    """
    return [name for name in read_record(folder)["n_train"] if (folder / "fits" / name).is_dir()]


def _ordered(scores: pd.DataFrame, study: StudySpec, tags: list[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Order the columns as documented, and leave out metrics that the study does not name."""
    first = ["fit", "subject", *study.factors, "condition", *(t for t in tags if t in scores), *metrics]
    later = ["n_test", "n_repetitions", *(f"{metric}_chance" for metric in metrics), "expected", "expected_is_baseline"]
    later += [*quality_columns(scores), TRAIN]
    later += [column for column in scores if column.startswith(PREFIX)]
    audit = list(scores.columns[list(scores.columns).index("edges_cut") :])
    known = [c for c in (*later, *audit) if c in scores and c not in first]
    return scores[[*first, *dict.fromkeys(known)]]
