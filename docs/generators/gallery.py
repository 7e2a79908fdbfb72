"""Make `docs/gallery.md` from the shipped study files, and from what our runs said (`docs/gallery`, `store_runs.py`).

The limits of a study follow from its keys.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docstrings import linked, page_title

from emg_lens.data.registry import describe_dataset
from emg_lens.models.registry import ARCHITECTURES
from emg_lens.studies.report.answers import LEVELS
from emg_lens.studies.report.terminal import MOST_LINES
from emg_lens.studies.report.view import VIEWS
from emg_lens.studies.spec.catalog_lookup import catalogue, catalogue_summary
from emg_lens.studies.spec.study_spec import StudySpec

DOCS = Path(__file__).resolve().parents[1]
SIZES = ("d_model", "n_layers", "d_mlp")
SPLITS = {
    "repetition": "how well a model works for new people: each model is trained and tested on the same people",
    "block": "how well a model works for new people: each model is trained and tested on the same people",
    "subject": "how well a model works for a person who is in its training data",
}
"""What the result of each kind of split does not show."""
OPENING = """# Gallery of studies

<!-- Made by `make docs` from studies/catalog/*.yaml and docs/gallery/*.json. Change these files, not this page.
docs/generators/store_runs.py writes docs/gallery from finished runs. -->

This page answers: which questions can I run with one command, what did our run say, and what does each study not
show? `emg-lens show NAME` prints the file of a study. `emg-lens run NAME --data FOLDER` runs it; studies of simulated
recordings need no folder. [Data sets](data-sets.md) describes the files of each folder, and [Shipped
studies](studies.md) the quality of the models.

We ran {n_run} of the {n_studies} studies. The sentences under **What our run says** are those of the report and the
terminal, word for word. Times are CPU minutes of a run on one core. The models of a study run side by side, so two
cores need about half of this time; `emg-lens list` shows that half, rounded up.
"""
OTHER_PAGES = ("gallery.md", "studies.md", "study-file.md", "study-reference.md", "structure.md", "extending.md")
"""Pages that name studies and have no results."""
GROUPS = ("No recordings needed", "Recordings needed", "Recordings and a GPU needed; not run by us")


def group_of(spec: StudySpec, time: str) -> str:
    """Return the group of a study."""
    return GROUPS[2 if time == "GPU" else 1 if describe_dataset(spec.cohort.dataset).needs_root else 0]


def data_name(spec: StudySpec) -> str:
    """Return the short name of a study's data set: the first words of its description."""
    name = re.split(r"[,:;(]", describe_dataset(spec.cohort.dataset).description)[0].strip()
    return name[0].upper() + name[1:]


def stored_run(name: str) -> dict[str, Any] | None:
    """Return what our run of a study says; None if there is no run."""
    file = DOCS / "gallery" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def time_of(run: Mapping[str, Any] | None) -> str:
    """Return the CPU minutes of a run as text."""
    return "–" if run is None else f"{run['cpu_minutes']:.3g}"


def models_of(spec: StudySpec) -> str:
    """Return the architectures of a study, and the settings of its first model, as text."""
    models = dict.fromkeys(one.model.summary() for _, one in spec.cells)
    names = list(dict.fromkeys(one.model.architecture for _, one in spec.cells))
    settings = {key: value for key, value in spec.model.settings.items() if value is not None}
    text = ", ".join(f"{key} {v}" if isinstance(v, int | float) else f"{key} `{v}`" for key, v in settings.items())
    more = f"; {len(models)} variants" if len(models) > 1 else ""
    return ", ".join(f"`{name}`" for name in names) + f" ({text or 'published sizes'}{more})"


def ablates(spec: StudySpec) -> bool:
    """Whether a study cuts or removes anything, at some level of its factors."""
    parts = [one.conditions for _, one in spec.cells]
    return any(one.layer_masks or one.head_masks or one.removals or one.extra for one in parts)


def controls_of(spec: StudySpec) -> list[str]:
    """Return the controls of a study's cuts and removals."""
    controls, masks = spec.conditions.controls, spec.conditions.layer_masks
    if controls is None or not ablates(spec):
        return []
    random = f"{controls.random_edges} size-matched random cuts or removals for each ablation"
    return [
        *[random] * bool(controls.random_edges),
        *["a cut of all edge sets together"] * bool(controls.superset and masks),
        *["each edge set cut with the path through CLS closed"] * bool(controls.cls_path_closed and masks),
    ]


def smaller_than_published(spec: StudySpec) -> str:
    """Return the sizes in which the first model is smaller than the published one, as text; empty if in none."""
    defaults, given = ARCHITECTURES[spec.model.architecture].settings, spec.model.settings
    smaller = [
        f"{key} {given[key]} instead of {defaults[key]}" for key in SIZES if given.get(key, 1e9) < defaults.get(key, 0)
    ]
    return ", ".join(smaller)


def limits_of(spec: StudySpec) -> list[str]:
    """Return what the results of a study do not show."""
    splits = dict.fromkeys(one.split.by for _, one in spec.cells)
    limits = [SPLITS[by] for by in splits] if not spec.cohort.dataset.startswith("simulated") else []
    if spec.cohort.dataset.startswith("simulated"):
        limits.append("anything about real recordings: the signals are simulated")
    if ablates(spec) and not controls_of(spec):
        limits.append("whether a drop is specific: there are no random controls")
    if smaller := smaller_than_published(spec):
        limits.append(f"what the published model does: this one is smaller ({smaller})")
    if spec.reference is not None:
        limits.append(
            "whether it reproduces the published numbers: the report prints them, but does not test against them"
        )
    return limits


def listed(title: str, items: list[str]) -> str:
    """Return a line with one item, or a list with several; empty without items."""
    if len(items) < 2:
        return "".join(f"* **{title}**: {item}.\n" for item in items)
    return f"* **{title}**:\n" + "".join(f"  * {item}\n" for item in items)


def verbatim(text: str) -> str:
    """Return a sentence of a report as Markdown that shows it letter by letter."""
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", text)


def said(title: str, texts: Sequence[str]) -> str:
    """Return the sentences on one question as the terminal shows them; empty without sentences."""
    more = [f"{len(texts) - MOST_LINES} more in the report."] if len(texts) > MOST_LINES else []
    lines = "".join(f"* {verbatim(text)}\n" for text in [*texts[:MOST_LINES], *more])
    return f"*{verbatim(title)}*\n\n{lines}\n" if texts else ""


def folded(title: str, content: str) -> str:
    """Return a closed part of a card."""
    return f"<details>\n<summary>{title}</summary>\n\n{content.strip()}\n\n</details>\n"


def our_run(name: str, spec: StudySpec, run: Mapping[str, Any] | None, why_not: str) -> str:
    """Return what our run of a study says: open the summary and the answers of its own analyses and levels."""
    if run is None:
        return f"**What our run says**: {why_not}.\n"
    numbers = f"{run['subjects']} subjects, {run['models']} models, {time_of(run)} CPU minutes"
    changed = " The settings of the study were changed after this run." * (run["digest"] != spec.digest())
    questions = list(run["answers"])
    main = {*questions[:1], LEVELS, *(one for _, view in VIEWS.items() for one in view.answers)}
    opened = [one for one in questions if one in main]
    figure = f"![Figure of our run of {name}](gallery/{name}.png)\n\n{verbatim(run['caption'])}"
    versions = ", ".join(f"{key} {text}" for key, text in run["versions"].items())
    closed = [
        said("Warnings", run["warnings"]),
        f"{figure}\n\n",
        *(said(one, run["answers"][one]) for one in questions if one not in opened),
        said("Quality of the models", run["quality"]),
        f"Versions: {verbatim(versions)}.",
    ]
    title = "Figure, other answers, and quality of the models"
    answers = "".join(said(one, run["answers"][one]) for one in opened)
    return f"**What our run says** ({numbers}).{changed}\n\n{answers}{folded(title, ''.join(closed))}"


def card(name: str, spec: StudySpec, why_not: str) -> str:
    """Return the entry of a study; `why_not` says why we did not run it."""
    run = stored_run(name)
    compared = [f"{factor} ({'; '.join(levels)})" for factor, levels in spec.factors.items() if len(levels) <= 8]
    pages = sorted(page.name for page in DOCS.glob("*.md") if page.name not in OTHER_PAGES)
    results = [page for page in pages if f"`{name}`" in (DOCS / page).read_text(encoding="utf-8")]
    lines = [
        listed("Data", [linked(describe_dataset(spec.cohort.dataset).description)]),
        listed("Models", [models_of(spec)]),
        listed("Compared", [", ".join(compared)] if compared else []),
        listed("Analyses", [", ".join(f"`{one}`" for one in spec.analyses)] if spec.analyses else []),
        listed("Controls", controls_of(spec) or (["none"] if ablates(spec) else [])),
        listed("Does not show", limits_of(spec)),
        listed("More", [", ".join(f"[{page_title(page)}]({page})" for page in results)] if results else []),
    ]
    question, _, design = linked(spec.question).rpartition("?")
    made = folded("Design, data, models, controls, limits", f"{design.strip()}\n\n{''.join(lines)}")
    return f"#### {name}\n\n**{spec.title}**\n\n{question}?\n\n{our_run(name, spec, run, why_not)}\n{made}"


def gallery() -> str:
    """Return the whole page."""
    specs = {name: StudySpec.load(name) for name in catalogue()}
    groups = {name: group_of(spec, catalogue_summary(name).time) for name, spec in specs.items()}
    ours = {spec.cohort.dataset for name, spec in specs.items() if groups[name] != GROUPS[2]}
    n_run = sum(stored_run(name) is not None for name in specs)
    parts = [OPENING.format(n_run=n_run, n_studies=len(specs))]
    for group in GROUPS:
        some = {name: spec for name, spec in specs.items() if groups[name] == group}
        order = sorted(some, key=lambda name: (some[name].cohort.dataset, name != "quickstart", name))
        rows = [
            f"| [{name}](#{name}) | {catalogue_summary(name).question} | {data_name(some[name])} |"
            f" {time_of(stored_run(name))} |"
            for name in order
        ]
        parts.append(
            f"## {group}\n\n| study | question | data | CPU minutes |\n|---|---|---|--:|\n" + "\n".join(rows) + "\n"
        )
        shown = ""
        for name in order:
            why_not = "not run by us yet"
            if group == GROUPS[2]:
                without = "" if some[name].cohort.dataset in ours else ", and we do not have these recordings"
                why_not = f"not run by us, because it needs a GPU{without}"
            if data_name(some[name]) != shown:
                shown = data_name(some[name])
                parts.append(f"### {shown}\n")
            parts.append(card(name, some[name], why_not))
    return "\n".join(parts)
