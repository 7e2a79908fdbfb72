import pytest

from emg_lens.data import DataError
from emg_lens.errors import EmgLensError
from emg_lens.registry import UnknownNameError


@pytest.mark.parametrize("kind", [EmgLensError, DataError, UnknownNameError])
def test_a_message_is_one_line_that_a_terminal_can_show(kind):
    message = str(kind("no file 'a\nb' in \x1b[31mred\x1b[0m\0, müller/筋電 [bold]x[/bold]"))
    assert message == "no file 'a b' in \\x1b[31mred\\x1b[0m\\x00, müller/筋電 [bold]x[/bold]"


def test_a_long_message_keeps_its_two_ends():
    message = str(DataError("begin " + "x" * 100_000 + " end"))
    assert message.startswith("begin xxx") and message.endswith("xxx end") and len(message) < 1600
    assert len(str(DataError("begin " + "\0" * 1400 + " end"))) < 1600  # each is printed as four characters
