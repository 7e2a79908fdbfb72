"""`Study`: a study file that runs."""

from pathlib import Path

from emg_lens.studies.result import StudyResult
from emg_lens.studies.runs.execution import run_study
from emg_lens.studies.spec.study_spec import StudySpec


class Study(StudySpec):
    """A whole study. `Study.load("quickstart").run()` is all it takes."""

    def run(
        self,
        data: str | Path | None = None,
        out: str | Path = "runs",
        jobs: int | None = None,
        device: str = "cpu",
    ) -> StudyResult:
        """Run the study, or continue it: see `emg_lens.studies.runs.execution.run_study`."""
        return run_study(self, data, out, jobs, device)
