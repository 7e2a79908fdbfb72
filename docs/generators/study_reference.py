"""Make `docs/study-reference.md` from the classes that read study files: keys, types, defaults and meanings.

Types and limits come from pydantic's JSON schema, and meanings from the docstrings of the same classes.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from docstrings import attributes, first_sentence, introduction, linked
from pydantic import BaseModel

from emg_lens.analysis.fit_analysis import FIT_ANALYSES
from emg_lens.data.registry import DATASETS
from emg_lens.data.sources.description import FolderDescription
from emg_lens.hooks.intervention_base import INTERVENTIONS
from emg_lens.models.registry import ARCHITECTURES
from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.report.view import VIEWS
from emg_lens.studies.spec.factors import read_factors
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.training.objectives import OBJECTIVES

TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
VARIANT = ("by", "step")
"""Keys that choose one of several forms."""
PATHS = {"cohort.recipe.signals.NAME[]": "cohort.recipe.signals.NAME", "cohort.channels.NAME.NAME": "cohort.channels"}
"""Titles that are shorter than the place of a part in the file."""
OPENING = """# Study file: every key

<!-- Made by `make docs` from the classes that read study files. Change their docstrings, not this page. -->

This page answers: which keys can a study file and a `dataset.yaml` have, and what are their defaults? [Write a study
file](study-file.md) explains them with an example. `emg-lens check` reports an unknown key or an invalid value.

* A bold key is required. All others have the default that the table shows; `null` means that nothing is set.
* NAME stands for a name that you choose, such as a sensor or a group of channels.
* `emg-lens list` prints the names of data sets and models, and `emg-lens show NAME` a shipped study.
"""


def cell(text: str) -> str:
    """Return a docstring's text for a cell of a table."""
    return linked(text.replace("\n", " ").replace("|", "\\|"))


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines) + "\n"


def type_words(schema: dict[str, Any], places: dict[str, str]) -> str:
    """Return a type in words: `list of whole numbers`, `number (> 0)`, a link to the part of the page.

    Args:
        schema: JSON schema of the type.
        places: Heading of each definition.
    """
    if "$ref" in schema:
        return f"[keys](#{slug(places[schema['$ref'].rpartition('/')[2]])})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(type_words(one, places) for one in options))
    kind = schema.get("type")
    if kind == "array":
        inner = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        size = f" of {n}" if (n := schema.get("minItems")) and n == schema.get("maxItems") else ""
        return f"list{size} ({type_words(inner, places)})"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"names → {type_words(inner, places)}" if isinstance(inner, dict) and inner else "keys and values"
    limits = ", ".join(f"{sign} {schema[key]:g}" for key, sign in LIMITS.items() if abs(schema.get(key, 1e99)) < 2**31)
    return TYPES.get(str(kind), "anything") + (f" ({limits})" if limits else "")


def value_text(value: Any) -> str:
    """Return a default as YAML would have it, on one line; long defaults are those of the part's own keys."""
    if isinstance(value, dict) and len(value) > 1:
        return "its defaults"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def parts_of(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the name of each definition that a type refers to."""
    if "$ref" in schema:
        yield path, schema["$ref"].rpartition("/")[2]
    for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from parts_of(one, path)
    if isinstance(schema.get("items"), dict):
        yield from parts_of(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from parts_of(schema["additionalProperties"], f"{path}.NAME")


def classes_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pydantic classes that an annotation names, and those of their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for hint in get_type_hints(annotation).values():
            yield from classes_in(hint)
    for inner in (*getattr(annotation, "__args__", ()), *getattr(annotation, "__metadata__", ())):
        yield from classes_in(inner) if inner is not annotation else ()


def keys_table(properties: dict[str, Any], kind: type[BaseModel], places: dict[str, str], required: list[str]) -> str:
    """Return the table of the keys of one part of a file."""
    known = attributes(kind)
    for name, info in kind.model_fields.items():
        known.setdefault(str(info.alias or name), known.get(name) or info.description or "")
    rows = []
    for name, one in properties.items():
        if name in VARIANT and "const" in one:
            rows.append((f"**`{name}`**", type_words(one, places), "", "Chooses this form."))
            continue
        if not known.get(name) and f"`{name}`" not in introduction(kind):
            raise ValueError(f"{kind.__name__}: the docstring does not describe {name!r}; add it under Attributes")
        shown = f"**`{name}`**" if name in required else f"`{name}`"
        default = value_text(one["default"]) if "default" in one else ""
        rows.append((shown, type_words(one, places), default, known.get(name, "")))
    return table(("key", "type", "default", "meaning"), rows)


def slug(heading: str) -> str:
    """Return the anchor of a heading, as code hosts and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def places_of(root: type[BaseModel], schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the name, the heading and the schema of each part of a file, outer parts first."""
    definitions = schema.get("$defs", {})
    todo, done = [("", root.__name__, schema)], set()
    while todo:
        path, name, one = todo.pop(0)
        if name in done:
            continue
        done.add(name)
        properties = one.get("properties", {})
        chosen = next(
            (f"{key}: {properties[key]['const']}" for key in VARIANT if "const" in properties.get(key, {})), ""
        )
        yield name, f"`{PATHS.get(path, path)}`" + (f": `{{{chosen}}}`" if chosen else ""), one
        found = [
            (place, inner, definitions[inner])
            for key, of in properties.items()
            for place, inner in parts_of(of, f"{path}.{key}".lstrip("."))
        ]
        todo = found + todo


def sections(root: type[BaseModel], title: str, level: str) -> Iterator[str]:
    """Yield the part of the page for each part of a file, the outer ones first; `level`: marks of inner headings."""
    schema, classes = root.model_json_schema(), {kind.__name__: kind for kind in classes_in(root)}
    parts = list(places_of(root, schema))
    places = {name: heading for name, heading, _ in parts}
    for name, heading, one in parts:
        marks = "##" if name == root.__name__ else "###" if "." in heading else level
        keys = keys_table(one.get("properties", {}), classes[name], places, one.get("required", []))
        words = linked(introduction(classes[name]))
        yield f"{marks} {title if name == root.__name__ else heading}\n\n{words}\n\n{keys}"
        if name == "StudySpec":
            yield f"## `factors`\n\n{introduction(read_factors).partition(chr(10))[2].strip()}\n"


def interventions() -> str:
    """Return the section on the interventions of a condition."""
    parts = [
        "## Interventions of a condition\n\nOne entry of `conditions.extra` has a name and one or more of these keys.\n"
    ]
    for key, kind in sorted(INTERVENTIONS.items()):
        first, *others = fields(kind)
        known = attributes(kind)
        rows = [(f"**`{key}`**", "", known.get(first.name, "An edge expression."))]
        rows += [
            (f"`{one.name}`", "" if one.default is MISSING else value_text(one.default), known.get(one.name, ""))
            for one in others
        ]
        parts.append(f"### `{key}`\n\n{first_sentence(kind)}\n\n" + table(("key", "default", "meaning"), rows))
    return "\n".join(parts)


def architectures() -> str:
    """Return the section on the further keys of `model`, for each architecture."""
    parts = ["## Architectures: further keys of `model`\n"]
    for name, one in sorted(ARCHITECTURES.items()):
        known = attributes(one.config) | {
            key: text for key, text in attributes(one.model).items() if key in one.settings
        }
        rows = [(f"`{key}`", value_text(default), known.get(key, "")) for key, default in one.settings.items()]
        absent = [row[0] for row in rows if not row[2]]
        if absent:
            raise ValueError(f"{one.config.__name__}: the docstring does not describe {', '.join(absent)}")
        parts.append(f"### `{name}`\n\n{first_sentence(one.model)}\n\n" + table(("key", "default", "meaning"), rows))
    return "\n".join(parts)


def names() -> str:
    """Return the section on names that a study can choose."""
    data = [
        (f"`{name}`", ", ".join(f"`{o}`" for o in one.options), one.description)
        for name, one in sorted(DATASETS.items())
    ]
    measures = [(f"`{name}`", one.kind, one.better, one.unit) for name, one in sorted(METRICS.items())]
    kinds = {"Objectives": OBJECTIVES, "Analyses": FIT_ANALYSES, "Views": VIEWS}
    parts = [
        "## Names\n",
        "### Data sets\n\n" + table(("name", "options", "recordings"), data),
        "### Metrics\n\n" + table(("name", "of", "better", "unit"), measures),
    ]
    for title, registry in kinds.items():
        rows = [(f"`{name}`", first_sentence(type(one))) for name, one in sorted(registry.items())]
        parts.append(f"### {title}\n\n" + table(("name", "what it does"), rows))
    return "\n".join(parts)


def study_reference() -> str:
    """Return the whole page."""
    parts = [OPENING, *sections(StudySpec, "The file", "##"), interventions(), architectures(), names()]
    parts += list(sections(FolderDescription, "`dataset.yaml`: a described folder", "###"))
    return "\n".join(part.rstrip() + "\n" for part in parts)
