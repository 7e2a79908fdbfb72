"""`emg-lens show`."""

import sys
from typing import Annotated

import typer
from rich.syntax import Syntax

from emg_lens.commands import terminal
from emg_lens.errors import EmgLensError


def show(
    name: Annotated[str, typer.Argument(help="Name of a study or pre-training, or a study file (.yaml).")],
) -> None:
    """Print a study or pre-training as YAML, with all defaults.

    Example: emg-lens show quickstart > mine.yaml
    """
    from emg_lens.studies.spec.study_spec import StudySpec
    from emg_lens.training.pretraining.spec import PretrainingSpec, shipped_pretrainings

    text = (PretrainingSpec if name in shipped_pretrainings() else StudySpec).load(name).to_yaml()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError as error:
        odd = text[error.start : error.end]
        raise EmgLensError(f"standard output cannot hold {odd!r} of this text; set PYTHONIOENCODING=utf-8") from None
    if terminal.out.is_terminal:
        terminal.out.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
    else:
        sys.stdout.write(text)
