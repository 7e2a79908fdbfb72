"""Progress of long work, in a terminal and in a file."""

from io import StringIO

import pytest
from rich.console import Console

from emg_lens.io import progress as module
from emg_lens.io.progress import TimedProgress, times


@pytest.mark.parametrize("width", [80, 100])
def test_a_bar_fits_the_terminal_and_shows_its_times(width, monkeypatch):
    monkeypatch.setattr(module, "times", lambda *_: "elapsed 1:06:40, about 14:07:10 left")
    console = Console(file=StringIO(), force_terminal=True, width=width)
    progress = TimedProgress(console)
    progress.add_task("12 of 100 fits finished", total=100, completed=12.5)
    progress.add_task("a long name of a level · another long name of a level · S1", total=1, completed=0.5)
    with console.capture() as shown:
        console.print(progress.get_renderable())
    first, second = Console(no_color=True, width=500).render_str(shown.get()).plain.splitlines()
    assert "12 of 100 fits finished" in first and "12 %" in first and "about 14:07:10 left" in first
    assert "50 %" in second and "elapsed" not in second and "…" in second


def test_a_file_gets_a_line_of_the_first_bar(monkeypatch):
    monkeypatch.setattr(module, "LINE_SECONDS", 0)
    file = StringIO()
    with TimedProgress(Console(file=file, width=80)) as progress:
        bar = progress.add_task("1 of 4 fits finished", total=4)
        progress.update(bar, completed=1)
    assert file.getvalue().strip() == "1 of 4 fits finished: 25 %, elapsed 0:00"


def test_times_are_clock_times():
    assert times(101, 847) == "elapsed 1:41, about 14:07 left"
    assert times(4000, None) == "elapsed 1:06:40"
