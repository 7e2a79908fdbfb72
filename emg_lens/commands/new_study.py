"""`emg-lens new`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from emg_lens.commands import terminal


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
    force: Annotated[bool, typer.Option("--force", help="Replace dataset.yaml and study.yaml.")] = False,
) -> None:
    """Look at your recordings, and write a description of them and a first study.

    Reads text tables, MATLAB, HDF5, NumPy and JSON files, and with pip install 'emg-lens\\[mne]' also EDF, BDF and
    others. Prints what it sees and what it assumes.

    Example: emg-lens new --data ~/my_recordings
    """
    from emg_lens.data.discovery.proposal import DataProposal, described_proposal, n_recordings, recognised, with_study
    from emg_lens.data.sources.described import DESCRIBED, DESCRIPTION

    data = data.expanduser()
    folder = (out_folder or (data.parent if data.is_file() else data)).expanduser()
    dataset = as_ or recognised(data)
    targets = [folder / "study.yaml", *([folder / DESCRIPTION] if dataset == DESCRIBED.name else [])]
    _refuse_to_replace([] if force else targets)
    if dataset != DESCRIBED.name:
        if as_ is None and dataset != "trials":
            terminal.say(f"These are the files of {dataset}, which has a loader of its own: it is used. --as folder describes them instead.")
        proposal, options = DataProposal(dataset, data), {}
        count = 0 if dataset == "trials" else n_recordings(dataset, data, {})
    else:
        proposal, layout = described_proposal(data, fs, _progress)
        options = {} if folder.resolve() == proposal.root.resolve() else {"description": str((folder / DESCRIPTION).resolve())}
        _write(folder / DESCRIPTION, proposal.description)
        count = len(layout.pattern.paths)
    with_study(proposal, data.resolve().stem, options, count, _progress)
    assert proposal.study is not None
    path = folder / "study.yaml"
    command = f"emg-lens run {quote(str(path))} --data {quote(str(proposal.root))}"
    _write(path, proposal.study.text(command))
    for title, lines in (("What it is", proposal.seen), ("Assumed", proposal.assumed), ("Suspicious", proposal.odd)):
        if lines:
            terminal.say(f"{title}:")
            for line in dict.fromkeys(lines):
                terminal.say(f"  - {line}")
    written = " and ".join(str(target) for target in reversed(targets))
    terminal.say(f"Written: {written}. Read the comments there, and correct what is wrong. Then:")
    terminal.say(f"  {command.replace(' run ', ' check ', 1)}")
    terminal.say(f"  {command}")


def _refuse_to_replace(targets: Iterable[Path]) -> None:
    from emg_lens.data.recording import DataError

    for target in targets:
        if target.exists():
            raise DataError(f"{target} exists; give another --out, or --force to replace it")


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
