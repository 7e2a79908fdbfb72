"""`emg-lens new`."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from emg_lens.commands import terminal
from emg_lens.errors import printable

WRITABLE = 0o222
"""Permissions to write. Without them nothing is written, even where the system would let an administrator do it."""


def new(
    data: Annotated[Path, typer.Option("--data", help="Folder or file of your recordings.")],
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for dataset.yaml and study.yaml; default: that of the data.")
    ] = None,
    fs: Annotated[
        float | None, typer.Option("--fs", min=0, help="Sampling rate of the EMG (Hz), where the files do not say it.")
    ] = None,
    as_: Annotated[
        str | None, typer.Option("--as", help="Data set that reads the files; folder: describe them in dataset.yaml.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace study.yaml. A dataset.yaml stays and is used: delete it for a new one."),
    ] = False,
) -> None:
    r"""Look at your recordings, and write a description of them and a first study.

    Reads text tables, MATLAB, HDF5, NumPy and JSON files, and with pip install 'emg-lens\[mne]' also EDF, BDF and
    others. Prints what it sees and what it assumes.

    Example: emg-lens new --data ~/my_recordings
    """
    from emg_lens.data.discovery.proposal import (
        described_proposal,
        existing_description,
        recognised,
        rejected_description,
        with_study,
    )
    from emg_lens.data.recording import DataError
    from emg_lens.data.sources.described import DESCRIBED, DESCRIPTION
    from emg_lens.data.sources.trial_file import TRIAL_FILE

    data = data.expanduser()
    root = data.parent if data.is_file() else data
    folder = (root if out_folder is None else out_folder).expanduser()
    described, study_file = folder / DESCRIPTION, folder / "study.yaml"
    if not data.exists():
        raise DataError(f"{data} does not exist; give the folder or file of your recordings")
    if folder.is_dir() and not (folder.stat().st_mode & WRITABLE and os.access(folder, os.W_OK)):
        raise DataError(f"{folder} is read-only; give another folder with --out")
    if study_file.exists() and not force:
        raise DataError(f"{study_file} exists; delete it, or give --force to replace it, or another folder with --out")
    dataset = as_ or (DESCRIBED.name if described.exists() else recognised(data))
    if fs is not None and dataset != DESCRIBED.name:
        raise DataError(f"--fs {fs:g}: the loader of {dataset} has the sampling rate; leave --fs out")
    if fs is not None and described.exists():
        raise DataError(
            f"--fs {fs:g}: {described} exists and states the sampling rate; correct fs there, or delete the file"
        )
    written, options = [study_file], {}
    if dataset != DESCRIBED.name:
        proposal = with_study(dataset, data, data.resolve().stem, {}, _progress)
        if as_ is None and dataset != TRIAL_FILE.name:
            own = f"These are the files of {dataset}, which has a loader of its own: it is used."
            terminal.say(f"{own} --as folder describes them instead.")
    else:
        options = {} if folder.resolve() == root.resolve() else {"description": str(described.resolve())}
        if described.exists():
            found = existing_description(described)
        else:
            found = described_proposal(data, fs, _progress, _ask_rate)
            _write(described, found.description)
            written.insert(0, described)
        try:
            proposal = with_study(dataset, root, data.resolve().stem, options, _progress, found)
        except DataError as error:
            raise rejected_description(described, error) from None
    assert proposal.study is not None
    command = f"emg-lens run {quote(str(study_file))} --data {quote(str(proposal.root))}"
    _write(study_file, proposal.study.text(command))
    for title, lines in (("What it is", proposal.seen), ("Assumed", proposal.assumed), ("Suspicious", proposal.odd)):
        if lines:
            terminal.say(f"{title}:")
            _say_long(f"  - {line}" for line in dict.fromkeys(lines))
    files = " and ".join(map(str, written))
    terminal.say(f"Written: {files}. Read the comments there, and correct what is wrong. Then:")
    if data.is_file() and proposal.root != data:
        terminal.say(f"(--data is the folder of {data.name}, because {DESCRIPTION} describes a folder.)")
    _say_long(f"  {one}" for one in (command.replace(" run ", " check ", 1), command))


def _say_long(lines: Iterable[str]) -> None:
    """Print lines with their spaces in front, as long as they are."""
    for line in lines:
        text = line.lstrip()
        indent = line[: len(line) - len(text)]
        terminal.out.print(f"{indent}{printable(text)}", highlight=False, markup=False, soft_wrap=True)


def _ask_rate(guess: float) -> float:
    """Ask for the sampling rate if there is a person to answer; otherwise the guess stays, with a note."""
    if not (sys.stdin.isatty() and terminal.err.is_terminal):
        return guess
    question = "The files do not say the sampling rate. Samples of the EMG per second (Hz)"
    return typer.prompt(question, default=guess, type=float, err=True)


def _write(path: Path, text: str) -> None:
    from emg_lens.data.recording import DataError
    from emg_lens.io.files import write_text

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); give another folder with --out") from None


def _progress(what: str, items: Iterable[Any], n: int) -> Iterator[Any]:
    """Return the items, and show a bar meanwhile."""
    from emg_lens.io.progress import TimedProgress

    with TimedProgress(terminal.err) as progress:
        bar = progress.add_task(what, total=n or None)
        for item in items:
            yield item
            progress.update(bar, advance=1)
