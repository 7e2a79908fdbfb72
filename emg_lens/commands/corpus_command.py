"""`emg-lens corpus`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from emg_lens.commands import terminal
from emg_lens.commands.options import PartsOption
from emg_lens.errors import printable


def corpus(
    name: Annotated[str, typer.Argument(help="Name of a pre-training, or its file (.yaml); its corpus is written.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the shards.")],
    data: PartsOption = None,
) -> None:
    """Write windows of data sets as shards for pre-training, one file per subject.

    Example: emg-lens corpus pretrain-myo --data ~/emg --out ~/corpora/myo
    """
    from emg_lens.data.corpus_writer import write_corpus
    from emg_lens.training.pretraining.spec import PretrainingSpec

    spec = PretrainingSpec.load(name)
    with terminal.err.status("writing windows"):
        table = write_corpus(spec.corpus.parts, data, out_folder)
    shown = Table("part", "subjects", "windows", "channels", "skipped (constant)")
    for part, rows in table.groupby("dataset", sort=False):
        sums = (len(rows), rows["windows"].sum(), rows["channels"].max(), rows["constant"].sum())
        shown.add_row(Text(printable(str(part))), *map(str, sums))
    terminal.out.print(shown)
