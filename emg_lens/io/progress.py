"""Progress of long work: bars with elapsed and remaining time in a terminal, otherwise a line of text now and then."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

LINE_SECONDS = 60
"""Seconds between two lines where the output is no terminal."""
BAR_WIDTH = 10
OTHER_COLUMNS = 56
"""Width of all columns except the name, for times below ten hours."""


class TimedProgress(Progress):
    """Progress bars. The first one shows its times; where there is no terminal, it is printed as a line a minute.

    Args:
        console: Where the bars are shown.

    Example:
        >>> from rich.console import Console
        >>> with TimedProgress(Console(quiet=True)) as progress:
        ...     bar = progress.add_task("3 fits", total=3)
        ...     progress.update(bar, completed=1)
    """

    def __init__(self, console: Console) -> None:
        name = Column(no_wrap=True, overflow="ellipsis", max_width=max(console.width - OTHER_COLUMNS, 12))
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=name),
            BarColumn(BAR_WIDTH),
            TextColumn("{task.percentage:>3.0f} %", table_column=Column(no_wrap=True)),
            _Times(table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            speed_estimate_period=600,  # seconds; fits report their progress unevenly
        )
        self._next_line = time.monotonic() + LINE_SECONDS

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a bar, as `rich.progress.Progress.update` does."""
        super().update(task_id, **changes)
        if self.console.is_terminal or time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + LINE_SECONDS
        first = self.tasks[0]
        text = f"{first.description}: {first.percentage:.0f} %, {times(first.elapsed, first.time_remaining)}"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Times(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(times(task.elapsed, task.time_remaining) if task.id == 0 else "")


def times(elapsed: float | None, left: float | None) -> str:
    """Write elapsed and remaining seconds.

    Example:
        >>> times(101, 847)
        'elapsed 1:41, about 14:07 left'
        >>> times(4000, None)
        'elapsed 1:06:40'
    """
    text = f"elapsed {_clock(elapsed or 0)}"
    return text if left is None else f"{text}, about {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
