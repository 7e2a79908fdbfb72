"""Options that several commands have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder or file of the data set; not needed for simulated cohorts.")
]
PartsOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder that contains the folders of the corpus; not needed for simulated data."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for runs.")]
SettingsOption = Annotated[
    list[str], typer.Option("--set", help="Setting of the model, such as d_model=64; may be repeated.")
]


def settings_by_name(texts: Sequence[str]) -> dict[str, Any]:
    """Parse the values of `--set`: `["d_model=64"]` is `{"d_model": 64}`."""
    return dict(map(_setting, texts))


def _setting(text: str) -> tuple[str, Any]:
    """Parse `"d_model=64"` into name and value."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r}; expected NAME=VALUE, such as d_model=64", param_hint="--set")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise typer.BadParameter(f"{text!r}; {value!r} is not a valid YAML value", param_hint="--set") from None
