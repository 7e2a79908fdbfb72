"""A finished study: its findings, read from the run's folder, and everything that is written from them."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from emg_lens.data.leakage import Leakage
from emg_lens.data.sources.simulated.simulation import Simulation, expected_accuracy
from emg_lens.errors import printable
from emg_lens.io.csv_tables import to_csv
from emg_lens.io.files import write_text
from emg_lens.io.seals import check_seal
from emg_lens.studies.fits.fit_store import (
    check_fit,
    naming_the_damaged,
    read_csv,
    read_facts,
    read_outputs,
    read_scores,
)
from emg_lens.studies.report.table_formats import to_latex, to_markdown, to_rich
from emg_lens.studies.report.view import views_of
from emg_lens.studies.results.class_factors import PREFIX
from emg_lens.studies.results.findings import Findings
from emg_lens.studies.runs.manifest import read_record, read_spec
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.conditions import BASELINE

if TYPE_CHECKING:  # imported where figures are drawn: workers that fit models need not wait for matplotlib
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class StudyResult(Findings):
    """A finished study.

    Attributes:
        folder: The run's folder.
        folders: Folder of each fit, in the order of `facts`.
    """

    folder: Path = field(default=Path())
    folders: tuple[Path, ...] = field(default=(), repr=False)

    @classmethod
    def load(cls, folder: str | Path) -> "StudyResult":
        """Read a run's folder; fits that are not finished are left out.

        Raises:
            StudyError: Not a run's folder, one without any finished fit, or a damaged file.
        """
        folder = Path(folder).expanduser()
        study, fits = read_spec(folder), finished_fits(folder)
        if not fits:
            raise StudyError(f"no fit of {str(folder)!r} is finished; run the study to continue it")
        return cls.collect(study, folder, fits)

    @classmethod
    def collect(cls, study: StudySpec, folder: Path, fits: Sequence[str]) -> "StudyResult":
        """Gather the finished fits' files, in this order.

        Raises:
            StudyError: A file is missing or damaged.
        """
        folders = [folder / "fits" / name for name in fits]
        facts, scores, curves, nested, shift, leakage, tags = [], [], [], [], [], [], {}
        metrics = study.metrics or ()
        for part in folders:
            check_fit(part)
            with naming_the_damaged(part):
                facts.append(read_facts(part))
                metrics = metrics or tuple(facts[0]["metrics"])
                levels = facts[-1]["levels"]
                found = with_expectations(read_scores(part, metrics), study.at(levels), facts[-1]["modalities"])
                scores.append(found.assign(fit=part.name, **{name: levels[name] for name in study.factors}))
                curves.append(read_csv(part / "fit.csv").assign(fit=part.name))
                if (part / "superset_ablations.csv").exists():  # runs of former versions have no controls
                    nested.append(read_csv(part / "superset_ablations.csv").assign(fit=part.name))
                    shift.append(read_csv(part / "shift.csv").assign(fit=part.name))
                if (part / "leakage.json").exists():
                    leakage.append({**Leakage.from_dict(read_facts(part, "leakage.json")).to_dict(), "fit": part.name})
                about = list(read_csv(part / "conditions.csv").columns)
                tags |= dict.fromkeys(about[1 : about.index("edges_cut")])
        scores = pd.concat(scores, ignore_index=True)
        if "control" in scores and "of" not in scores:
            scores["of"] = None  # no control is of one cut: all edge sets cut together alone
        is_control = scores["control"].notna() if "control" in scores else pd.Series(False, scores.index)
        tags = [tag for tag in tags if tag not in ("control", "of", "draw")]
        return cls(
            study=study,
            scores=_ordered(scores[~is_control].reset_index(drop=True), study, tags, metrics),
            controls=_ordered(scores[is_control], study, ["control", "of"], metrics),
            nested=pd.concat(nested, ignore_index=True) if nested else pd.DataFrame(),
            shift=pd.concat(shift, ignore_index=True) if shift else pd.DataFrame(),
            facts=pd.DataFrame(facts).assign(
                fit=[p.name for p in folders],
                **{name: [f["levels"][name] for f in facts] for name in study.factors},
            ),
            curves=pd.concat(curves, ignore_index=True),
            leakage=leakage,
            metrics=tuple(metrics),
            tags=tuple(tags),
            folder=folder,
            folders=tuple(folders),
        )

    # --- what is in it ------------------------------------------------------------------------------------

    def tests(self) -> pd.DataFrame:
        """Every condition against the baseline: see `emg_lens.studies.statistics.compare`."""
        return self.tests_table.copy()

    def predictions(self, condition: str = BASELINE) -> pd.DataFrame:
        """Outputs of every fit under a condition: one row a tested trial.

        Returns:
            fit, subject, repetition, movement, `target` (or one `target_` column each), and one `output_` column each.

        Raises:
            StudyError: No fit has such a condition, or a file is damaged.
        """
        parts = []
        for folder, facts in zip(self.folders, self.facts.to_dict("records"), strict=True):
            names = read_csv(folder / "conditions.csv")["condition"].tolist()
            if condition not in names:
                continue
            outputs, targets = read_outputs(folder)
            table = read_csv(folder / "trials.csv")
            table.insert(0, "fit", folder.name)
            if targets.ndim == 1:
                table["target"] = targets
            else:
                table[[f"target_{name}" for name in facts["outputs"]]] = targets
            table[[f"output_{name}" for name in facts["outputs"]]] = outputs[names.index(condition)]
            parts.append(table)
        if not parts:
            known = ", ".join(self.scores["condition"].unique()[:8])
            raise StudyError(f"no condition {condition!r} in this study; it has {known}, ...")
        return pd.concat(parts, ignore_index=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables of all views, as text cells, by title."""
        return {title: table for view in views_of(self) for title, table in view.tables(self).items()}

    def table(self) -> pd.DataFrame:
        """The first table of the report."""
        return next(iter(self.tables().values()))

    def figures(self) -> "dict[str, Figure]":
        """The figures of all views, by name."""
        return {name: figure for drawn in self._drawn().values() for name, figure in drawn.items()}

    def report(self) -> str:
        """The self-contained HTML report."""
        from emg_lens.studies.report.figures import to_svg

        return self._page({v: {name: to_svg(f) for name, f in drawn.items()} for v, drawn in self._drawn().items()})

    def write(self) -> None:
        """Write scores.csv, table.{csv,md,tex}, figures/ and report.html into the run's folder.

        Raises:
            StudyError: The folder cannot be written to, or a file of it is damaged.
        """
        from emg_lens.studies.report.figures import save_figures

        try:
            write_text(self.folder / "scores.csv", to_csv(self.scores))
            if len(self.controls):
                write_text(self.folder / "controls.csv", to_csv(self.controls))
            self._write_tables()
            svgs = {view: save_figures(drawn, self.folder / "figures") for view, drawn in self._drawn().items()}
            write_text(self.folder / "report.html", self._page(svgs))
        except OSError as error:
            raise StudyError(f"cannot write to {str(self.folder)!r}: {error.strerror}") from None

    def terminal(self) -> list[RenderableType]:
        """What the command line prints: tables, and where the rest is."""
        shown = [(title, table) for view in views_of(self) for title, table in view.headline(self).items()]
        parts: list[RenderableType] = [Text(printable(self.study.title))] if shown else []
        parts += [to_rich(table, title) for title, table in shown]
        where = [f"figures  {self.folder / 'figures'}", f"report   {self.folder / 'report.html'}"]
        parts.append(Text("\n".join(map(printable, where))))
        return parts

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

    def _drawn(self) -> "dict[str, Mapping[str, Figure]]":
        drawn = {view.name: view.figures(self) for view in views_of(self)}
        names = Counter(name for figures in drawn.values() for name in figures)
        doubled = [name for name, count in names.items() if count > 1]
        if doubled:
            raise StudyError(f"two views draw a figure {doubled[0]!r}; one would overwrite the other: leave one out")
        return drawn

    def _page(self, svgs: Mapping[str, Mapping[str, bytes]]) -> str:
        from emg_lens.studies.report.page import render_report

        return render_report(self, svgs, self._environment(), read_record(self.folder))

    def _environment(self) -> dict[str, Any]:
        try:
            check_seal(self.folder / "environment.json")
            found = json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))
            return {name: value for name, value in found.items() if name != "checksum"}
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise StudyError(
                f"{self.folder / 'environment.json'} cannot be read ({error}); run the study again"
            ) from None


def finished_fits(folder: Path) -> list[str]:
    """Names of a run's fits that are finished, in its order.

    Raises:
        StudyError: Its record is missing or damaged.
    """
    return [name for name in read_record(folder)["n_train"] if (folder / "fits" / name).is_dir()]


def with_expectations(scores: pd.DataFrame, spec: StudySpec, modalities: Collection[str]) -> pd.DataFrame:
    """A fit's scores with the accuracy that the simulation implies, of conditions that say what they `see`.

    No cut is expected to help: where the simulation implies as much as the measured baseline or more, that stands in
    its place, marked by `expected_is_baseline`.

    Args:
        scores: One row a subject and condition.
        spec: The study at the fit's levels.
        modalities: What its model hears.
    """
    sees = {e.name: e.sees for e in spec.conditions.extra if e.sees is not None}
    if sees and "accuracy" in scores:
        simulation = Simulation.model_validate(spec.cohort.options.get("simulation") or {})
        base = scores.loc[scores["condition"] == BASELINE].set_index("subject")["accuracy"]
        heard = {name: [m for m in seen if m in modalities] for name, seen in sees.items()}
        implied = {name: expected_accuracy(simulation, seen) for name, seen in heard.items()}
        best, expected = scores["subject"].map(base), scores["condition"].map(implied)
        scores = scores.assign(expected=expected.mask(expected >= best, best), expected_is_baseline=expected >= best)
    return scores


def _ordered(scores: pd.DataFrame, study: StudySpec, tags: list[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Columns as the documentation lists them; metrics that nobody asked for are left out of the table."""
    first = ["fit", "subject", *study.factors, "condition", *(t for t in tags if t in scores), *metrics]
    later = ["n_test", "n_repetitions", *(f"{metric}_chance" for metric in metrics), "expected", "expected_is_baseline"]
    later += [column for column in scores if column.startswith(PREFIX)]
    audit = list(scores.columns[list(scores.columns).index("edges_cut") :])
    known = [c for c in (*later, *audit) if c in scores and c not in first]
    return scores[[*first, *dict.fromkeys(known)]]
