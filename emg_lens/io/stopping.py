"""Stop a command when Ctrl-C or `kill` asks for it."""

import signal
import sys
from typing import NoReturn

STOPPED = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}
"""Exit codes after Ctrl-C and `kill`, by the convention of shells."""


def stop_on_signals() -> None:
    """Stop when one of these signals comes."""
    for number in STOPPED.values():
        signal.signal(number, _stop)


def _stop(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    """Exit after workers have stopped and the terminal is restored; a second signal exits at once."""
    stop_at_once()
    sys.exit(128 + number)


def stop_again(ignored: object) -> None:
    """Repeat a stop that was raised in a finalizer or callback, where Python ignores exceptions."""
    if not isinstance(stop := getattr(ignored, "exc_value", None), SystemExit):
        sys.__unraisablehook__(ignored)  # pyright: ignore[reportArgumentType]
        return

    def again(*_: object) -> NoReturn:
        raise stop

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, 0.05)


def stop_at_once() -> None:
    """Let a further signal end the process at once."""
    for number in STOPPED.values():
        signal.signal(number, signal.SIG_DFL)
