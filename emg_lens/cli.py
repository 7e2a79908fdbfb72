"""The command line `emg-lens` (also `python -m emg_lens`): run `emg-lens --help` for its commands."""

import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from platform import python_version
from typing import Annotated, Any

try:
    import typer
    from rich.markup import escape

    from emg_lens.commands import terminal
    from emg_lens.commands.check_command import check
    from emg_lens.commands.compare_command import compare_
    from emg_lens.commands.corpus_command import corpus
    from emg_lens.commands.cost_command import cost
    from emg_lens.commands.data_command import data
    from emg_lens.commands.export_command import export
    from emg_lens.commands.list_command import GPU, REAL, START, list_
    from emg_lens.commands.new_study import new
    from emg_lens.commands.pretrain_command import pretrain_
    from emg_lens.commands.probe_command import probe
    from emg_lens.commands.report_command import report
    from emg_lens.commands.run_command import run
    from emg_lens.commands.share_command import share
    from emg_lens.commands.show_command import show
    from emg_lens.commands.terminal import PIPE_WIDTH, Console, err, out
    from emg_lens.errors import EmgLensError, printable
    from emg_lens.io.os_errors import remedy
    from emg_lens.io.stopping import STOPPED, stop_again, stop_at_once, stop_on_signals
    from emg_lens.io.terminal import flush_or_drop, open_standard_streams
except KeyboardInterrupt:  # before `main` handles signals
    sys.exit(128 + signal.SIGINT)

__all__ = ["GPU", "PIPE_WIDTH", "REAL", "START", "Console", "app", "err", "main", "out"]

COMMANDS = (list_, show, new, check, run, report, compare_, share, data, corpus, cost, probe, export, pretrain_)
"""All commands, in the order of `emg-lens --help`."""

app = typer.Typer(
    name="emg-lens",
    help="Cut attention connections in a multimodal biosignal transformer and measure how much accuracy falls."
    " Example: emg-lens run quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(asked: bool) -> None:
    """Print the versions that a bug report needs, and stop."""
    if asked:
        out.print(f"emg-lens {version('emg-lens')}, Python {python_version()}, torch {version('torch')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
    version_: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Ablation studies of multimodal biosignal encoders."""


for command in COMMANDS:
    app.command(command.__name__.rstrip("_"))(command)


def main() -> None:
    """Run the command line. User errors print one line and exit with code 2; Ctrl-C also prints one line."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]  # allowed anywhere in the command
    terminal.out, terminal.err = out, err  # a caller may have set others
    stop_on_signals()
    hook_before, sys.unraisablehook = sys.unraisablehook, stop_again
    show_before, warnings.showwarning = warnings.showwarning, partial(_show_warning, warnings.showwarning)
    if open_standard_streams():
        err.print("note: standard output is closed, so nothing is printed there")
    try:
        try:
            app()
        finally:
            flush_or_drop()
    except BrokenPipeError:  # `emg-lens list | head -1`
        sys.exit(1)
    except (EmgLensError, OSError) as error:
        if debug:
            raise
        text = str(error)
        if not isinstance(error, EmgLensError):  # of the operating system: a full disk, too many open files
            text = f"{error}; {remedy(error, 'run again with --debug to see where')}"
        _print_error(text)
        sys.exit(2)
    except Exception as error:
        from emg_lens.registry import plugins_at_fault

        plugins = plugins_at_fault(error)
        if debug or not plugins:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _print_error(f"{plugins} failed ({reason}); report it to its authors, or run again with --debug to see where")
        sys.exit(2)
    except SystemExit as exit_:
        if exit_.code in STOPPED:
            err.print("stopped; run the same command again to resume")
        raise
    finally:
        stop_at_once()
        sys.unraisablehook, warnings.showwarning = hook_before, show_before


def _print_error(text: str) -> None:
    err.print(f"[bold red]error:[/bold red] {escape(printable(text))}", highlight=False, soft_wrap=True)


def _show_warning(show: Callable[..., None], message: object, category: type[Warning], *place: Any) -> None:
    """Print a warning about a plug-in as a note, and others as Python does."""
    from emg_lens.registry import PluginWarning
    from emg_lens.studies.runs.progress import print_note

    if issubclass(category, PluginWarning):
        print_note(err, str(message))
    else:
        show(message, category, *place)
