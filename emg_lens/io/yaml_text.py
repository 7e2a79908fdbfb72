"""Read YAML that holds only mappings, lists, text, numbers, true and false, more strictly than YAML itself.

A key may occur only once. Keys are text as written (`007` is not 7; `null` and `yes` are names), and dates are text.
References that would expand to too many values are refused.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any

import yaml

from emg_lens.errors import EmgLensError
from emg_lens.validation import short

MOST_VALUES, DEEPEST = 100_000, 40
"""Largest number of values after references are expanded, and deepest nesting."""
PREFIX = "tag:yaml.org,2002:"
TEXT, MERGE = f"{PREFIX}str", f"{PREFIX}merge"
PLAIN = {f"{PREFIX}{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge")}


class YAMLTextError(EmgLensError, ValueError):
    """Text that is not valid YAML, or expands to too much; the message is one line."""


def read_yaml(text: str) -> Any:
    """Read the content of a YAML text.

    Raises:
        YAMLTextError: It is not YAML, has a duplicate key or a tag, is too deep, or expands too much.
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is None:
            return None
        _check(root, 0, count(1))
        return yaml.SafeLoader("").construct_document(root)
    except RecursionError:
        raise YAMLTextError(f"is nested deeper than {DEEPEST}") from None
    except YAMLTextError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, OverflowError) as error:
        raise YAMLTextError(f"is not valid YAML: {' '.join(str(error).split())}") from None


def _check(node: yaml.Node, depth: int, n_values: Iterator[int]) -> None:
    """Check a node and all below it. A node with several references is counted several times."""
    line = node.start_mark.line + 1
    if next(n_values) > MOST_VALUES:
        raise YAMLTextError(f"expands to more than {MOST_VALUES} values (line {line}); use fewer references")
    if depth > DEEPEST:
        raise YAMLTextError(f"is nested deeper than {DEEPEST} (line {line})")
    if node.tag not in PLAIN:
        raise YAMLTextError(f"has the tag {short(node.tag)} in line {line}; tags are not allowed, leave it out")
    if node.tag == f"{PREFIX}timestamp":
        node.tag = TEXT
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    for part in node.value if isinstance(node, yaml.CollectionNode) else ():
        for one in part if isinstance(part, tuple) else (part,):
            _check(one, depth + 1, n_values)


def _check_keys(node: yaml.MappingNode) -> None:
    """Check that keys occur once, and make them text."""
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
