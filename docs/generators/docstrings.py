"""Read the parts of Google-style docstrings that the generated pages need."""

import inspect
import re
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]


@cache
def page_title(page: str) -> str:
    """Return the title of a page of `docs/`, such as `"statistics.md"`."""
    return (DOCS / page).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def first_sentence(thing: object) -> str:
    """Return the first paragraph of a docstring as one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def introduction(thing: object) -> str:
    """Return the docstring before its first section (`Attributes:`, `Args:`, ...), with its paragraphs."""
    text = re.split(r"^(?:Attributes|Args|Raises|Returns|Example|Examples):", inspect.getdoc(thing) or "", flags=re.M)
    paragraphs = [" ".join(part.split()) for part in text[0].strip().split("\n\n")]
    return "\n\n".join(paragraphs)


def attributes(kind: type) -> dict[str, str]:
    """Return the meaning of each attribute that a class or one of its bases describes, as one line each."""
    meanings: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        text = inspect.cleandoc(one.__dict__.get("__doc__") or "")
        section = re.search(r"^Attributes:\n((?:^(?: .*)?\n?)+)", text, re.M)
        for found in re.finditer(r"^    (\w+): (.*(?:\n(?:     .*|)$)*)", section[1] if section else "", re.M):
            meanings[found[1]] = " ".join(found[2].split())
    return meanings


def linked(text: str) -> str:
    """Return a docstring's text as Markdown: `null` for None, links with the titles of pages, no HTML."""
    pieces = re.split(r"(`[^`]*`)", re.sub(r"`None`|\bNone\b", "`null`", text))
    pieces[::2] = [re.sub(r"docs/([\w-]+\.md)", _link, one).replace("<", "&lt;") for one in pieces[::2]]
    return "".join(pieces)


def _link(found: re.Match[str]) -> str:
    return f"[{page_title(found[1])}]({found[1]})"
