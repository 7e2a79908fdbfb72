"""Fuzz of study files: damaged files of the catalogue and of the tests."""

import json
from pathlib import Path
from typing import Any

import yaml
from changes import ODD, changed_bytes, changed_document, pick
from numpy.random import Generator
from tiny import TINY
from verdicts import Content, SilentlyWrong, Target, Verdict, judge

from emg_lens.errors import EmgLensError
from emg_lens.studies.spec.catalog_lookup import catalogue, catalogue_text
from emg_lens.studies.spec.study_spec import StudySpec

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
FILE = "study.yaml"
TEXTS = (
    "", "\n", "x", "[]", "- a", "1", "null", "{", "%YAML 9.9\n---\n", "---\n---\n", "\x00",
    "!!python/object/apply:os.system ['true']", "name: !!binary x", "[" * 20_000, "{a: " * 20_000, "- " * 20_000,
    BOMB, "&a [*a]", "name: &a\n  <<: *a\n", "? [a]\n: b", "<<: x", "name: " + "9" * 5000, "name: 2020-13-45",
    "1: 2", "~: 1", "name: ! x", "'", "\t", "﻿name: x", "a: b: c", "!!set {a, b}", "name: 0o99999999999",
    "name: " + "1:" * 4000 + "1", "!!timestamp 2001-99-99", "!!float x", "!!int x", "!!bool x",
)  # fmt: skip
VALUES = (
    "{}", "[]", "null", "1e300", "-1", ".nan", ".inf", "''", "x", "[x, x]", "{a: 1}", "true",
    "99999999999999999999999", "!!python/name:os.system ''", "2020-01-01", "!!binary AAAA", "!!set {a}", "*x",
    "[[[]]]", "'[red]'", "'../x'", "NA", "=1+1", "{1: 2}", "{[a]: 1}", "-0.0", "100000000",
)  # fmt: skip
GIANTS = (
    {"factors": {"seed": 10**9}},
    {"factors": {f"f{i}": {"a": {}, "b": {}} for i in range(30)}},
    {"conditions": {"controls": {"random_edges": 10**9}}},
    {"cohort": {"dataset": "simulated", "options": {"simulation": {"n_subjects": 10**9}}}},
    {"name": "x" * 5000},
    {"conditions": {"layer_masks": {"modes": []}}},
    {"metrics": []},
    {"model": {"d_model": 10**12}},
    {"split": {"by": "block", "folds": 10**9}},
)


def prepare(folder: Path) -> list[tuple[str, Content]]:
    """Return valid texts with their studies."""
    texts = [TINY, *(catalogue_text(name) for name in catalogue())]
    return [(text, read(text, folder / FILE)[0]) for text in texts]


def read(text: str | bytes, path: Path) -> tuple[Content, set[str]]:
    """Read the study at every level; its own YAML must give the same study."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    spec = StudySpec.load(path)
    try:
        spec.check()
    except EmgLensError as error:
        raise type(error)(f"{path.name}: {error}") from None  # which knows no file
    for _, cell in spec.cells:
        cell.digest()
    written = StudySpec.parse(spec.to_yaml())
    if written != spec or written.digest() != spec.digest():
        raise SilentlyWrong("the text that is written means something else")
    return {"study": spec.digest()}, set()


def attempt(made: list[tuple[str, Content]], rng: Generator, folder: Path) -> Verdict:
    """Run one case."""
    (text, expected), chance, must_refuse = pick(rng, made), rng.random(), False
    if chance < 0.25:
        text, words = changed_bytes(text.encode(), rng)
    elif chance < 0.3:
        text = words = pick(rng, TEXTS)
        must_refuse = True
    elif chance < 0.4:
        text, words = doubled_key(text, rng)
        must_refuse = True
    elif chance < 0.55:
        text, words = line_changed(text, rng)
    elif chance < 0.6:
        document = {**yaml.safe_load(text), **pick(rng, GIANTS)}
        text, words = yaml.safe_dump(document), "giant"
    else:
        text, words = document_changed(text, rng)
    path = folder / FILE
    return judge(lambda: read(text, path), (expected, set()), words[:90], names=[FILE], must_refuse=must_refuse)


def doubled_key(text: str, rng: Generator) -> tuple[str, str]:
    """Write a key twice."""
    if rng.random() < 0.3:
        return text.replace("epochs:", "epochs: 7, epochs:", 1), "epochs twice"
    lines = [line for line in text.split("\n") if ":" in line and line[:1].isalpha()]
    key = pick(rng, lines).split(":")[0]
    return f"{text}\n{key}: {pick(rng, VALUES[:4])}\n", f"{key} twice"


def line_changed(text: str, rng: Generator) -> tuple[str, str]:
    """Change the value, indentation or position of a line."""
    lines = text.split("\n")
    row = int(rng.integers(len(lines)))
    key, colon, _ = lines[row].partition(":")
    match pick(rng, ("value", "value", "value", "indent", "drop", "double", "tab")):
        case "value" if colon:
            lines[row] = f"{key}: {pick(rng, VALUES)}"
        case "indent":
            lines[row] = "  " + lines[row]
        case "tab":
            lines[row] = "\t" + lines[row]
        case "double":
            lines.insert(row, lines[row])
        case _:
            del lines[row]
    return "\n".join(lines), f"line {row + 1}: {lines[min(row, len(lines) - 1)]}"


def document_changed(text: str, rng: Generator) -> tuple[str, str]:
    """Give one or two values another type."""
    document: Any = yaml.safe_load(text)
    words = []
    for _ in range(int(rng.integers(1, 3))):
        document, what = changed_document(document, rng) if isinstance(document, dict) else (pick(rng, ODD), "all")
        words.append(what)
    try:
        return yaml.safe_dump(document, allow_unicode=True), ", ".join(words)
    except RecursionError:  # two values that were nested, one in the other
        return json.dumps(document), ", ".join(words)


TARGETS = (Target("studies", prepare, attempt),)
