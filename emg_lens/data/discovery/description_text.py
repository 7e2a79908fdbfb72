"""The text of a `dataset.yaml` and of a first study, with comments."""

import json
from collections.abc import Mapping, Sequence
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
    for key, value in description.items():
        if key in ("signals", "label") and isinstance(value, Mapping):
            lines += _block(key, value, comments)
        else:
            lines.append(commented(f"{key}: {on_one_line(value)}", comments.get(key, "")))
    return "\n".join(lines) + "\n"


def _block(key: str, value: Mapping[str, Any], comments: Mapping[str, str]) -> Sequence[str]:
    lines = [commented(f"{key}:", comments.get(key, ""))]
    for name, inner in value.items():
        comment = comments.get(f"{key}.{name}", "")
        if name == "classes":
            lines.append(commented("  classes:", comment))
            lines += [f"    {on_one_line(one)}: {on_one_line(of)}" for one, of in inner.items()]
        else:
            lines.append(commented(f"  {name}: {on_one_line(inner)}", comment))
    return lines


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
