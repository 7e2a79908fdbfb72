"""`emg-lens report`."""

from pathlib import Path
from typing import Annotated

import typer

from emg_lens.commands import terminal
from emg_lens.commands.options import OutOption


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run (it contains spec.yaml), or archive (.zip) of one.")],
    out_folder: OutOption = Path("runs"),
) -> None:
    """Write tables, figures and report of a run again from its saved results.

    An archive of `emg-lens share` is first unpacked into OUT/STUDY/HASH.

    Example: emg-lens report runs/quickstart/0123456789
    """
    from emg_lens.studies.result import StudyResult, finished_fits
    from emg_lens.studies.sharing import is_archive, unpack_run

    if is_archive(folder):
        folder = unpack_run(folder, out_folder)
    n_read, result = -1, None
    while n_read < len(finished_fits(folder)):  # repeat if a fit finished in the meantime
        result = StudyResult.load(folder)
        result.write()
        n_read = len(result.folders)
    terminal.print_result(result)
