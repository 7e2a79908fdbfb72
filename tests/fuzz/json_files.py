"""Fuzz of EPN-612: one JSON document per person."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import test_epn612
from changes import as_json, changed_document, pick
from loaders import Specimen, attempt, bytes_changed, specimens
from numpy.random import Generator
from verdicts import Target

PATH = "trainingJSON/user1/user1.json"


def prepare_epn(folder: Path) -> list[Specimen]:
    """Make twelve samples of a person."""
    test_epn612.write(folder / "epn", repetitions=1)
    return [specimens("epn-612", PATH, [(folder / "epn" / PATH).read_bytes()], folder)]


def json_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Change bytes, or one value at any depth."""
    if rng.random() < 0.35:
        return bytes_changed(specimen, rng, path)
    document, words = changed_inside(json.loads(specimen.files[0]), rng)
    path.write_text(as_json(document, rng))
    return words, False


def changed_inside(document: Any, rng: Generator) -> tuple[Any, str]:
    """Change the document at a random depth, because most of its values are samples."""
    holder, steps = {"it": document}, ["it"]
    inside = document
    for _ in range(int(rng.integers(0, 4))):
        keys = (
            list(inside) if isinstance(inside, dict) else list(range(len(inside))) if isinstance(inside, list) else []
        )
        if not keys:
            break
        steps.append(pick(rng, keys))
        inside = inside[steps[-1]]
    new, words = changed_document(inside, rng)
    place: Any = holder
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = new
    return holder["it"], f"{'.'.join(map(str, steps[1:]))}: {words}"


TARGETS = (Target("epn-612", prepare_epn, partial(attempt, json_changed)),)
