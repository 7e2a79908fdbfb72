"""The values of labels in a described folder, and names for them."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from emg_lens.data.discovery.folder_layout import FolderLayout
from emg_lens.data.files import natural_key
from emg_lens.data.recording import DataError
from emg_lens.data.sources.described import recordings_of
from emg_lens.data.sources.description import FolderDescription, LabelNumbers, value_name

REST_WORDS = ("rest", "relax", "relaxed", "idle", "none", "no gesture", "nogesture", "baseline", "")
MOST_CLASSES = 200
Progress = Callable[[str, Iterable[Any], int], Iterable[Any]]
"""`progress(what, items, number of items)` returns the items, and shows how many were taken."""


def name_classes(layout: FolderLayout, progress: Progress) -> None:
    """Write the values that the labels have into the description, each with a name, and say which mean rest."""
    label = layout.description.get("label")
    if label is None:
        return
    if "field" in label:
        values, rest = {value_name(value) for value in layout.pattern.values[label["field"]]}, []
    else:
        values = _values_inside(layout, progress)
        rest = [value for value in values if value == "0" or value.lower() in REST_WORDS]
    unlabelled = [value for value in values if value.startswith("-")]
    gestures = sorted(values - {*rest, *unlabelled}, key=natural_key)
    if len(gestures) > MOST_CLASSES:
        some = ", ".join(gestures[:3])
        raise DataError(
            f"{layout.root}: {len(gestures)} different labels ({some}, ...), expected {MOST_CLASSES} at most; describe"
            " the folder yourself (docs/own-data.md)"
        )
    number = all(value.isdigit() for value in gestures)
    label["classes"] = {_number(value): f"gesture {value}" if number else value for value in gestures}
    what = "write the names of your gestures here" if number else "value: name in reports"
    layout.comments["label.classes"] = what
    for kind, some in (("rest", rest), ("unlabelled", unlabelled)):
        if some:
            label[kind] = [_number(value) for value in some]
            layout.comments[f"label.{kind}"] = f"ASSUMED: means {kind}, which is no class"
            layout.assumed.append(f"the label {', '.join(map(repr, some))} means {kind}, which is no class")
    same: dict[str, list[str]] = {}
    for value in gestures:
        same.setdefault(re.sub(r"[\W_]+", "", value.casefold()), []).append(value)
    for alike in same.values():
        if len(alike) > 1 and not number:
            names = " and ".join(map(repr, alike))
            layout.odd.append(f"the labels {names} are {len(alike)} gestures: write them alike if they are one")
    layout.seen.append(f"{len(gestures)} gestures: {', '.join(gestures[:8])}{', ...' if len(gestures) > 8 else ''}")


def _number(value: str) -> int | str:
    return int(value) if value.lstrip("-").isdigit() else value


def _values_inside(layout: FolderLayout, progress: Progress) -> set[str]:
    """The different labels inside all files."""
    description = FolderDescription.from_content(plain(layout.description))
    every = [files for group in recordings_of(layout.root, description).values() for files in group]
    values: set[str] = set()
    part = description.label
    assert isinstance(part, LabelNumbers)
    for files in progress("reading labels", every, len(every)):
        found = np.unique(np.asarray(files.raw_values(part, "label")))
        if found.dtype.kind == "f" and (found == np.round(found)).all():
            found = found.astype(np.int64)
        values |= {value_name(value) for value in found.tolist()}
        files.forget()
    return values


def plain(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description with text for keys, as it is read from a file."""
    return {key: plain(value) if isinstance(value, Mapping) else value for key, value in description.items()}
