"""Progress of fits that run in other processes or on other machines, through small files next to their folders."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from emg_lens.errors import printable
from emg_lens.io.files import replacing
from emg_lens.io.os_errors import check_regular
from emg_lens.io.progress import TimedProgress

POLL_SECONDS = 0.3
WRITE_SECONDS = 0.1
"""Shortest time between two writes of a progress file; files on a network file system are slow."""


def print_note(console: Console, text: str) -> None:
    """Print a note for the user."""
    console.print("[yellow]note:[/yellow]", end=" ")
    console.print(printable(text), highlight=False, soft_wrap=True, markup=False)


def progress_writer(*folders: Path) -> Callable[[float], None]:
    """Return the function that a worker calls with the finished fraction of the fits of these folders."""
    written = -WRITE_SECONDS

    def write(fraction: float) -> None:
        nonlocal written
        now = time.monotonic()
        if now - written < WRITE_SECONDS:
            return
        written = now
        for folder in folders:
            # Whatever another user has put in its place, a link or a pipe, is replaced. A full disk stops no fit here.
            with suppress(OSError), replacing(_progress_file(folder), flush=False) as partial:
                partial.write_text(f"{fraction:.4f}")

    return write


@contextmanager
def progress_bars(console: Console, folders: Mapping[str, Path]) -> Iterator[None]:
    """Show the finished fraction of each running fit and of all fits together.

    Args:
        console: Where the bars are shown.
        folders: Name of each fit that is to be run -> its folder.
    """
    if not folders:
        yield
        return
    stop = threading.Event()
    with TimedProgress(console) as progress:
        total = progress.add_task(_finished(0, len(folders)), total=len(folders))
        bars = {name: progress.add_task(printable(name), total=1.0, visible=False) for name in folders}

        def poll() -> None:
            done = dict.fromkeys(folders, 0.0)
            while not stop.wait(POLL_SECONDS):
                for name, folder in folders.items():
                    if done[name] == 1:
                        continue
                    fraction = _fraction(folder, done[name])
                    if fraction or done[name]:
                        progress.update(bars[name], completed=fraction, visible=0 < fraction < 1)
                    done[name] = fraction
                finished = sum(fraction == 1 for fraction in done.values())
                progress.update(total, completed=sum(done.values()), description=_finished(finished, len(done)))

        watcher = threading.Thread(target=poll, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def _finished(n: int, of: int) -> str:
    return f"{n} of {of} fit{'s' * (of != 1)} finished"


def _progress_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.progress")


def _fraction(folder: Path, before: float) -> float:
    if folder.exists():
        return 1.0
    try:
        check_regular(_progress_file(folder))
        return float(_progress_file(folder).read_text())
    except (OSError, ValueError):
        return before
