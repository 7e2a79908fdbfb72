"""The text of a `dataset.yaml` and of a first study, with comments."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from emg_lens.errors import printable

WIDTH = 46
"""Column of the comments."""
LONGEST = 110
_LINE_ENDS = str.maketrans({end: f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"})


def on_one_line(value: Any) -> str:
    """A value of a YAML file on one line; 200.0 is written as 200."""
    text = yaml.safe_dump(_short(value), default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("\n...").strip()
    if len(text.splitlines()) < 2:
        return text
    return json.dumps(_short(value), ensure_ascii=False).translate(_LINE_ENDS)  # JSON is YAML, with \n as two letters


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_short(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def described_text(description: Mapping[str, Any], comments: Mapping[str, str], root: Path) -> str:
    """The text of a `dataset.yaml`."""
    lines = [
        f"# How to read the recordings in {printable(root.name)}. Written by emg-lens new: correct what is wrong.",
        "# ASSUMED marks what the files do not say. All keys: docs/data-sets.md, section 2.8.",
    ]
    lines += yaml_lines(description, comments, ("signals", "label", "label.classes"))
    return "\n".join(lines) + "\n"


def yaml_lines(
    content: Mapping[str, Any], comments: Mapping[str, str], opened: Collection[str], above: Sequence[str] = ()
) -> Iterator[str]:
    """The lines of a YAML file, with comments.

    Args:
        content: The content.
        comments: A comment for each entry, by its path such as `cohort.segment`.
        opened: Paths of the entries whose inner entries have lines of their own; others stand on one line.
        above: The keys above `content`.
    """
    for key, value in content.items():
        path = ".".join([*above, str(key)])
        line, comment = f"{'  ' * len(above)}{on_one_line(key)}:", comments.get(path, "")
        if path in opened and isinstance(value, Mapping):
            yield commented(line, comment)
            yield from yaml_lines(value, comments, opened, [*above, str(key)])
        else:
            yield commented(f"{line} {on_one_line(value)}", comment)


def commented(line: str, comment: str) -> str:
    """A line with a comment after it, or above it if both are long."""
    if not comment:
        return line
    comment = printable(comment)
    if len(line) > WIDTH and len(line) + len(comment) > LONGEST:
        return f"{line[: len(line) - len(line.lstrip())]}# {comment}:\n{line}"
    return f"{line.ljust(WIDTH)}  # {comment}"


def between(low: float, high: float) -> str:
    """A range of numbers; one number if both are the same."""
    first, last = f"{low:.3g}", f"{high:.3g}"
    return first if first == last else f"{first} to {last}"
