"""`emg-lens share`."""

from pathlib import Path
from typing import Annotated

import typer

from emg_lens.commands import terminal


def share(
    run: Annotated[Path, typer.Argument(help="Folder of a run (it contains spec.yaml).")],
    archive: Annotated[
        Path | None, typer.Option("--out", help="File to write, or to replace; default: STUDY-HASH.zip.")
    ] = None,
    models: Annotated[bool, typer.Option("--models", help="Also pack the weights of the models.")] = False,
) -> None:
    """Write a run as one zip file: results, report, tables, figures and model cards, without recordings.

    Paths of this machine are shortened to their last part. Others write the report again with: emg-lens report RUN.zip

    Example: emg-lens share runs/quickstart/0123456789 --out quickstart.zip
    """
    from emg_lens.io.progress import TimedProgress
    from emg_lens.studies.sharing import share_run

    with TimedProgress(terminal.err) as progress:
        bar = progress.add_task("sharing", total=1.0)
        path = share_run(run, archive, models=models, done=lambda part: progress.update(bar, completed=part))
    terminal.say(f"{path} ({path.stat().st_size / 2**20:.1f} MiB{', with models' if models else ''})")
