"""`Study`: a study file that can be run."""

from pathlib import Path

from emg_lens.studies.result import StudyResult
from emg_lens.studies.runner import run_study
from emg_lens.studies.spec.study_spec import StudySpec


class Study(StudySpec):
    """An ablation study: recordings, model, training, conditions and statistics, as its file describes them.

    `Study.load` reads a shipped study or a file, `Study.parse` a text, and `run` gives a `StudyResult`. The attributes
    are the keys of the file (`emg_lens.studies.spec.study_spec.StudySpec`).

    Example:
        >>> from emg_lens import Study
        >>> study = Study.load("quickstart")
        >>> study.cohort.dataset, study.model.architecture, study.fit_analyses
        ('simulated', 'isonet', ('shift', 'superset-ablations'))
        >>> [one.name for one in study.conditions.extra]
        ['EMG masked', 'ACC masked']
    """

    def run(
        self,
        data: str | Path | None = None,
        out: str | Path = "runs",
        jobs: int | None = None,
        device: str = "cpu",
    ) -> StudyResult:
        """Run the study, or resume it, and write its tables, figures and report.

        Args:
            data: Folder of the data set; None for simulated cohorts.
            out: Folder of all runs. This run is in `<out>/<name>/<hash of the study>`.
            jobs: Number of fits at a time; default one a processor core. The numbers do not depend on it.
            device: A torch device. An accelerator runs fits of one architecture at once.

        Raises:
            StudyError: The study does not fit the data or the machine. Nothing has been written.
            UnknownNameError: A view, model, objective or metric is unknown. Nothing has been written.
            DataError: A recording is missing or damaged. Nothing has been written.
            RunFolderError: The run's folder belongs to another run, is damaged, or cannot be written.
            BusyError: Another process runs this study in this folder.
        """
        return run_study(self, data, out, jobs, device)
