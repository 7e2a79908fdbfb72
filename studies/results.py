"""What a study found: scores of all subjects, and everything that is derived from them."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import RenderableType

from emg_lens.io.files import write_text
from emg_lens.studies.report.table_formats import to_rich
from emg_lens.studies.report.tables import layout_extras, layout_table3, save_tables
from emg_lens.studies.spec import Study, StudyError
from emg_lens.studies.statistics.comparison import compare

if TYPE_CHECKING:  # imported where figures are drawn: workers that fit models need not wait for matplotlib
    from matplotlib.figure import Figure

RECORD = "data.json"
"""What a run's folder knows of the data: where they were, their fingerprint, and the plan."""


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        study: The study.
        folder: The run's folder.
        scores: Tidy, one row a subject and condition: accuracy, tags and audit.
        subjects: One row a subject: parameters, trials, classes, seconds, notes.
        fits: Training histories, one row a subject and epoch.
    """

    study: Study
    folder: Path
    scores: pd.DataFrame
    subjects: pd.DataFrame
    fits: pd.DataFrame

    @classmethod
    def load(cls, folder: str | Path) -> "StudyResult":
        """Read a run's folder; subjects that are not finished are left out.

        Raises:
            StudyError: Not a run's folder, or one without any finished subject.
        """
        folder = Path(folder).expanduser()
        if not (folder / "spec.yaml").is_file():
            raise StudyError(f"{str(folder)!r} is not a run's folder: it holds no spec.yaml")
        study = Study.load(folder / "spec.yaml")
        subjects = sorted(f.parent.name for f in (folder / "subjects").glob("*/scores.csv"))
        if not subjects:
            raise StudyError(f"no subject of {str(folder)!r} is finished; run the study to continue it")
        return cls.collect(study, folder, subjects)

    @classmethod
    def collect(cls, study: Study, folder: Path, subjects: list[str] | tuple[str, ...]) -> "StudyResult":
        """Gather the finished subjects' files, in this order."""
        parts = [folder / "subjects" / s for s in subjects]
        scores = [_read_scores(part / "scores.csv") for part in parts]
        facts = [json.loads((part / "subject.json").read_text()) for part in parts]
        fits = [pd.read_csv(part / "fit.csv").assign(subject=s) for s, part in zip(subjects, parts, strict=True)]
        return cls(
            study,
            folder,
            pd.concat(scores, ignore_index=True),
            pd.DataFrame(facts),
            pd.concat(fits, ignore_index=True),
        )

    @cached_property
    def _tests(self) -> pd.DataFrame:
        return compare(self.scores, self.study.statistics)

    def tests(self) -> pd.DataFrame:
        """Every condition against the baseline: see `emg_lens.studies.statistics.comparison.compare`."""
        return self._tests.copy()

    def table(self) -> pd.DataFrame:
        """Table 3 of the IsoNet paper, as text cells."""
        return layout_table3(self.scores, self._tests, self.study.statistics)

    def figures(self) -> "dict[str, Figure]":
        """Figures by name."""
        from emg_lens.studies.report.figures import figure_training, study_figures

        return {**study_figures(self.scores, self._tests), "training": figure_training(self.fits)}

    def report(self) -> str:
        """The self-contained HTML report."""
        from emg_lens.studies.report.figures import to_svg

        return self._report({name: to_svg(figure) for name, figure in self.figures().items()})

    def _report(self, svgs: Mapping[str, bytes]) -> str:
        from emg_lens.studies.report.page import ReportContext, render_report

        study, subjects = self.study, self.subjects
        last = self.fits.groupby("subject", sort=False).last()
        training = subjects[["subject", "n_train", "n_test", "n_test_movements", "seconds"]].assign(
            classes=subjects["classes"].map(len),
            final_loss=last.loc[subjects["subject"], "loss"].to_numpy(),
            train_accuracy=last.loc[subjects["subject"], "accuracy"].to_numpy(),
        )
        environment = json.loads((self.folder / "environment.json").read_text())
        record = json.loads((self.folder / RECORD).read_text())
        data = f" --data {record['folder']}" if record["folder"] else ""
        first = subjects.iloc[0]
        channels = ", ".join(f"{n} {modality}" for modality, n in first["modalities"].items())
        context = ReportContext(
            title=study.title,
            question=study.question,
            scores=self.scores,
            tests=self._tests,
            statistics=study.statistics,
            warnings=record["warnings"],
            cohort={
                "data set": study.cohort.dataset,
                "subjects": ", ".join(subjects["subject"]),
                "channels": f"{channels}; {first['n_samples']} samples each at {first['fs']:g} Hz",
                "classes": ", ".join(first["classes"]),
                "test repetitions": ", ".join(map(str, study.cohort.test_repetitions)),
            },
            notes=_shared_notes(subjects),
            settings={"model": study.model.summary(), "training": study.training.summary()},
            spec_yaml=study.to_yaml(),
            n_parameters=int(first["n_parameters"]),
            training=training,
            figures=svgs,
            environment={
                **environment,
                "study hash": study.digest(),
                "data fingerprint": record["fingerprint"],
            },
            command=f"emg-lens run {study.name}{data}",
        )
        return render_report(context)

    def write(self) -> None:
        """Write scores.csv, table.{csv,md,tex}, figures/ and report.html into the run's folder.

        Raises:
            StudyError: The folder cannot be written to.
        """
        from emg_lens.studies.report.figures import save_figures

        try:
            write_text(self.folder / "scores.csv", self.scores.to_csv(index=False))
            save_tables(self.folder, self.scores, self._tests, self.study.statistics, self.study.title)
            paths = save_figures(self.figures(), self.folder / "figures")
            svgs = {path.stem: path.read_bytes() for path in paths if path.suffix == ".svg"}
            write_text(self.folder / "report.html", self._report(svgs))
        except OSError as error:
            raise StudyError(f"cannot write to {str(self.folder)!r}: {error.strerror}") from None

    def terminal(self) -> list[RenderableType]:
        """What the command line prints: tables, and where the rest is."""
        extras = layout_extras(self._tests, self.study.statistics)
        parts: list[RenderableType] = []
        if self.study.conditions.layer_masks is not None:
            parts.append(to_rich(self.table(), self.study.title))
        if extras is not None:
            parts.append(to_rich(extras, "Extra conditions" if parts else self.study.title))
        parts.append(f"figures  {self.folder / 'figures'}\nreport   {self.folder / 'report.html'}")
        return parts


def _shared_notes(subjects: pd.DataFrame) -> list[str]:
    """Every note once, with how many subjects it concerns where not all."""
    counts = Counter(note for notes in subjects["notes"] for note in dict.fromkeys(notes))
    return [note if n == len(subjects) else f"{note} ({n} of {len(subjects)} subjects)" for note, n in counts.items()]


def _read_scores(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype={"subject": str})
    table["mode"] = table["mode"].fillna("")
    return table
