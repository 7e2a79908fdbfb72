"""`emg-lens compare`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from emg_lens.commands import terminal
from emg_lens.errors import printable


def compare_(
    runs: Annotated[list[Path], typer.Argument(help="Folders or archives (.zip) of runs; the first is the reference.")],
    metric: Annotated[
        str | None, typer.Option("--metric", help="Metric to compare; default: the first of the reference run.")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for models.csv, ablations.csv, subjects.csv and the figure.")
    ] = None,
) -> None:
    """Compare the models and ablations of finished runs, paired by subject where the test trials are the same.

    The first line is the answer.

    Example: emg-lens compare runs/isonet-table3-db5/0123456789 runs/hierarchical-db5/9876543210
    """
    from emg_lens.studies.comparison.files import drop_table
    from emg_lens.studies.comparison.run_comparison import compare_runs
    from emg_lens.studies.comparison.sentences import answers_of
    from emg_lens.studies.report.terminal import FittedTable
    from emg_lens.studies.sharing import opened_runs

    with terminal.err.status("reading the runs"), opened_runs(runs) as folders:
        done = compare_runs(*folders, metric=metric)
    for k, line in enumerate(answers_of(done)):
        terminal.out.print(Text(printable(line), "bold" if k == 0 else ""), soft_wrap=True)
    if len(done.ablations):
        whole = f"{out_folder / 'ablations.csv'}" if out_folder is not None else "ablations.csv of --out FOLDER"
        terminal.out.print(FittedTable(drop_table(done), "Differences of the drops", printable(whole)))
    if out_folder is not None:
        for path in done.write(out_folder):
            terminal.say(str(path))
