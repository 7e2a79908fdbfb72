"""`emg-lens run`."""

from pathlib import Path
from typing import Annotated

import typer

from emg_lens.commands import terminal
from emg_lens.commands.options import DataOption, OutOption


def run(
    name: Annotated[str, typer.Argument(help="Name of a study, or a study file (.yaml).")],
    data: DataOption = None,
    out_folder: OutOption = Path("runs"),
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Number of parallel fits; default: one per core.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Device: cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Run a study, or resume a stopped run.

    Example: emg-lens run isonet-table3-db5 --data ~/ninapro_db5
    """
    from emg_lens.studies.runner import run_study
    from emg_lens.studies.spec.study_spec import StudySpec

    result = run_study(StudySpec.load(name), data, out_folder, jobs, device, console=terminal.err)
    terminal.print_result(result)
