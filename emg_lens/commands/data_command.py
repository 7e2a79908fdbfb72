"""`emg-lens data`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from emg_lens.commands import terminal
from emg_lens.errors import printable


def data(
    dataset: Annotated[str, typer.Argument(help="Name of a data set (emg-lens list).")],
    folder: Annotated[
        Path | None, typer.Argument(help="Folder or file of the data set; not needed for simulated cohorts.")
    ] = None,
) -> None:
    """Summarise a data folder: subjects, gestures, sampling rates, repairs.

    Example: emg-lens data ninapro-db5 ~/ninapro_db5
    """
    from emg_lens.data.summary import summarise

    with terminal.err.status(escape(printable(f"reading {dataset}"))):
        table, notes = summarise(dataset, folder)
    terminal.print_table(table.drop(columns="signals"))
    if table["signals"].nunique() == 1:
        terminal.say(f"Signals of all subjects: {table['signals'].iloc[0]}")
    else:
        terminal.print_table(table[["subject", "signals"]])
    for note, count in notes.items():
        terminal.say(f"note ({count} of {table['recordings'].sum()} recordings): {note}")
