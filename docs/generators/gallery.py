"""Make `docs/gallery.md` from the shipped study files: question, figure, data, models, controls, limits and time.

A figure is shown if `docs/<study>.png` exists. The limits follow from the keys of a study.
"""

from pathlib import Path

from docstrings import linked

from emg_lens.data.registry import describe_dataset
from emg_lens.models.registry import ARCHITECTURES
from emg_lens.studies.spec.catalog_lookup import catalogue, catalogue_summary
from emg_lens.studies.spec.study_spec import StudySpec

DOCS = Path(__file__).resolve().parents[1]
SIZES = ("d_model", "n_layers", "d_mlp")
SPLITS = {
    "repetition": "how well a model works for new people: each model is trained and tested on the same people",
    "block": "how well a model works for new people: each model is trained and tested on the same people",
    "subject": "how well a model works that was trained on the person who uses it",
}
"""What the result of each kind of split does not show."""
OPENING = """# Gallery of studies

<!-- Made by `make docs` from studies/catalog/*.yaml. Change these files, not this page. -->

This page answers: which questions can I run with one command, what are the controls, and what does each study not
show? `emg-lens show NAME` prints the file of a study. `emg-lens run NAME --data FOLDER` runs it; studies of simulated
recordings need no folder. [Data sets](data-sets.md) describes the files that each folder has, and [Shipped
studies](studies.md) the quality of the models. Times are those of two CPU cores, where they were measured.
"""
TIMES = {"minutes": "some minutes (not measured)", "GPU": ""}
OTHER_PAGES = ("gallery.md", "studies.md", "study-file.md", "study-reference.md", "structure.md", "extending.md")
"""Pages that name studies and have no results."""
GROUPS = ("No recordings needed", "Recordings needed", "Recordings and a GPU needed; not run by us")


def group_of(spec: StudySpec, time: str) -> str:
    """Return the group of a study."""
    return GROUPS[2 if time == "GPU" else 1 if describe_dataset(spec.cohort.dataset).needs_root else 0]


def models_of(spec: StudySpec) -> str:
    """Return the architectures of a study, and the settings of its first model, as text."""
    models = dict.fromkeys(one.model.summary() for _, one in spec.cells)
    names = list(dict.fromkeys(one.model.architecture for _, one in spec.cells))
    settings = {key: value for key, value in spec.model.settings.items() if value is not None}
    text = ", ".join(f"{key} {v}" if isinstance(v, int | float) else f"{key} `{v}`" for key, v in settings.items())
    more = f"; {len(models)} variants" if len(models) > 1 else ""
    return ", ".join(f"`{name}`" for name in names) + (f" ({text}{more})" if text or more else "")


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
        limits.append("whether it reproduces the published numbers, which are shown and used in no test")
    return limits


def listed(title: str, items: list[str]) -> str:
    """Return a line with one item, or a list with several; empty without items."""
    if len(items) < 2:
        return "".join(f"* **{title}**: {item}.\n" for item in items)
    return f"* **{title}**:\n" + "".join(f"  * {item}\n" for item in items)


def card(name: str, spec: StudySpec, pages: dict[str, str]) -> str:
    """Return the entry of a study."""
    time = catalogue_summary(name).time
    compared = [f"{factor} ({', '.join(levels)})" for factor, levels in spec.factors.items() if len(levels) <= 8]
    results = [f"[{pages[page]}]({page})" for page in pages if f"`{name}`" in (DOCS / page).read_text(encoding="utf-8")]
    figure = f"![Main figure of {name}]({name}.png)\n\n" if (DOCS / f"{name}.png").is_file() else ""
    lines = [
        listed("Data", [linked(describe_dataset(spec.cohort.dataset).description)]),
        listed("Models", [models_of(spec)]),
        listed("Compared", [", ".join(compared)] if compared else []),
        listed("Analyses", [", ".join(f"`{one}`" for one in spec.analyses)] if spec.analyses else []),
        listed("Controls", controls_of(spec) or (["none"] if ablates(spec) else [])),
        listed("Does not show", limits_of(spec)),
        listed("Time", [TIMES.get(time, time)] if TIMES.get(time, time) else []),
        listed("More", [", ".join(results)] if results else []),
    ]
    return f"### {name}\n\n**{spec.title}**\n\n{linked(spec.question)}\n\n{figure}{''.join(lines)}"


def gallery() -> str:
    """Return the whole page."""
    specs = {name: StudySpec.load(name) for name in catalogue()}
    titles = {page.name: page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for page in DOCS.glob("*.md")}
    pages = {name: titles[name] for name in sorted(titles) if name not in OTHER_PAGES}
    parts = [OPENING]
    for group in GROUPS:
        some = {name: spec for name, spec in specs.items() if group_of(spec, catalogue_summary(name).time) == group}
        order = sorted(some, key=lambda name: (some[name].cohort.dataset, name != "quickstart", name))
        rows = [f"| [{name}](#{name}) | {catalogue_summary(name).question} |" for name in order]
        parts += [f"## {group}\n\n| study | question |\n|---|---|\n" + "\n".join(rows) + "\n"]
        parts += [card(name, some[name], pages) for name in order]
    return "\n".join(parts)
