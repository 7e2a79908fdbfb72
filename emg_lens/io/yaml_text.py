"""Reading the YAML of a study or a description: mappings, lists, text, numbers, true and false, and nothing else.

Stricter than YAML where that keeps a file from saying something else than what was written: a key that is there twice
is refused, keys are text as they stand (`007` is not 7, `null` and `yes` are names), dates are text, and what unfolds
into more than such a file can hold is not unfolded.
"""

import os
from pathlib import Path
from typing import Any

import yaml

from emg_lens.errors import EmgLensError
from emg_lens.validation import short

LONGEST = 1_000_000
"""Letters of a file."""
MOST_VALUES, DEEPEST = 100_000, 40
"""Values that a file may unfold into, and how deep they may be nested."""
PREFIX = "tag:yaml.org,2002:"
TEXT, MERGE = f"{PREFIX}str", f"{PREFIX}merge"
PLAIN = {f"{PREFIX}{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge")}


class YAMLTextError(EmgLensError, ValueError):
    """Text that is no YAML, or more than such a file may hold; the message is one line."""


def read_yaml(text: str) -> Any:
    """What the text says.

    Raises:
        YAMLTextError: It is not YAML, has a key twice, a tag, or is too long, too deep, or unfolds into too much.
    """
    if len(text) > LONGEST:
        raise YAMLTextError(f"has {len(text)} letters; {LONGEST} at most are read")
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
    """The mapping that a text holds.

    Args:
        text: YAML.
        source: Where it stands; begins every message.
        expected: Some keys, for the message.

    Raises:
        YAMLTextError: As `read_yaml`, or the text holds something else than a mapping.
    """
    try:
        content = read_yaml(text)
    except YAMLTextError as error:
        raise YAMLTextError(f"{source} {error}") from None
    if not isinstance(content, dict):
        raise YAMLTextError(f"{source} holds {type(content).__name__}; expected keys such as {expected}")
    return content


def text_of_file(path: Path, what: str) -> str:
    """The text of a file that holds a `what` ("study").

    Raises:
        YAMLTextError: No such file, one that is too long to be one, or no UTF-8.
    """
    start = f"cannot read {what} {str(path)!r}:"
    if not os.path.isfile(path):
        raise YAMLTextError(f"{start} there is no such file")
    try:
        if path.stat().st_size > 4 * LONGEST:
            raise YAMLTextError(f"{start} {path.stat().st_size} bytes are more than a {what} has")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise YAMLTextError(f"{start} {error}") from None


class _Reading:
    """One pass over the nodes, each as often as it is referred to."""

    def __init__(self) -> None:
        self.n_values = 0

    def check(self, node: yaml.Node, depth: int) -> None:
        self.n_values += 1
        line = node.start_mark.line + 1
        if self.n_values > MOST_VALUES:
            raise YAMLTextError(f"unfolds into more than {MOST_VALUES} values (line {line}); write fewer references")
        if depth > DEEPEST:
            raise YAMLTextError(f"is nested deeper than {DEEPEST} (line {line})")
        if node.tag not in PLAIN:
            raise YAMLTextError(f"has the tag {short(node.tag)} in line {line}, which means nothing here; leave it out")
        if node.tag == f"{PREFIX}timestamp":
            node.tag = TEXT
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        for part in node.value if isinstance(node, yaml.CollectionNode) else ():
            for one in part if isinstance(part, tuple) else (part,):
                self.check(one, depth + 1)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Keys are text, each there once."""
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
