"""Read YAML that holds only mappings, lists, text, numbers, true and false, more strictly than YAML itself.

A key may occur only once. Keys are text as written (`007` is not 7; `null` and `yes` are names), and dates are text.
References that would expand to too many values are refused.
"""

import os
from pathlib import Path
from typing import Any

import yaml

from emg_lens.errors import EmgLensError
from emg_lens.validation import short

LONGEST = 1_000_000
"""Largest number of characters of a file."""
MOST_VALUES, DEEPEST = 100_000, 40
"""Largest number of values after references are expanded, and deepest nesting."""
PREFIX = "tag:yaml.org,2002:"
TEXT, MERGE = f"{PREFIX}str", f"{PREFIX}merge"
PLAIN = {f"{PREFIX}{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge")}


class YAMLTextError(EmgLensError, ValueError):
    """Text that is not valid YAML, or too large; the message is one line."""


def read_yaml(text: str) -> Any:
    """Read the content of a YAML text.

    Raises:
        YAMLTextError: It is not YAML, has a duplicate key or a tag, or is too long, too deep, or expands too much.
    """
    if len(text) > LONGEST:
        raise YAMLTextError(f"has {len(text)} characters; at most {LONGEST} are allowed")
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is None:
            return None
        _Reading().check(root, 0)
        return yaml.SafeLoader("").construct_document(root)
    except RecursionError:
        raise YAMLTextError(f"is nested deeper than {DEEPEST}") from None
    except YAMLTextError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, OverflowError) as error:
        raise YAMLTextError(f"is not valid YAML: {' '.join(str(error).split())}") from None


def read_mapping(text: str, source: str, expected: str) -> dict[Any, Any]:
    """Read a YAML text that must be a mapping.

    Args:
        text: The YAML.
        source: Path or name of the text; every message begins with it.
        expected: Some of the expected keys, for the message.
    """
    try:
        content = read_yaml(text)
    except YAMLTextError as error:
        raise YAMLTextError(f"{source} {error}") from None
    if not isinstance(content, dict):
        kind = "nothing" if content is None else f"a {type(content).__name__}"
        raise YAMLTextError(f"{source} holds {kind}; expected keys such as {expected}")
    return content


def text_of_file(path: Path, what: str) -> str:
    """Read the text of a file.

    Args:
        path: The file.
        what: What the file describes, for messages: "study".
    """
    start = f"cannot read {what} {str(path)!r}:"
    if not os.path.isfile(path):
        raise YAMLTextError(f"{start} there is no such file")
    try:
        if path.stat().st_size > 4 * LONGEST:
            raise YAMLTextError(f"{start} it has {path.stat().st_size} bytes; at most {4 * LONGEST} are allowed")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise YAMLTextError(f"{start} {error}") from None


class _Reading:
    """One pass over the nodes. A node with several references is counted several times."""

    def __init__(self) -> None:
        self.n_values = 0

    def check(self, node: yaml.Node, depth: int) -> None:
        self.n_values += 1
        line = node.start_mark.line + 1
        if self.n_values > MOST_VALUES:
            raise YAMLTextError(f"expands to more than {MOST_VALUES} values (line {line}); use fewer references")
        if depth > DEEPEST:
            raise YAMLTextError(f"is nested deeper than {DEEPEST} (line {line})")
        if node.tag not in PLAIN:
            raise YAMLTextError(f"has the tag {short(node.tag)} in line {line}; tags are not allowed, leave it out")
        if node.tag == f"{PREFIX}timestamp":
            node.tag = TEXT
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        for part in node.value if isinstance(node, yaml.CollectionNode) else ():
            for one in part if isinstance(part, tuple) else (part,):
                self.check(one, depth + 1)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Check that keys are text and occur once."""
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YAMLTextError(f"has a key in line {line} that is a list or a mapping; expected text")
            if key.tag == MERGE:
                continue
            if key.value in seen:
                raise YAMLTextError(f"has the key {short(key.value)} twice, again in line {line}; keep one")
            seen.add(key.value)
            key.tag = TEXT
