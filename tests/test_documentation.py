"""README and docs: code runs, links lead somewhere, generated pages are current, and words are those of the field."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from page_code import run_alone
from PIL import Image
from typer.testing import CliRunner

from emg_lens.cli import app
from emg_lens.studies import Study, catalogue

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
READ_BY_PEOPLE = [
    *PAGES,
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    *sorted((ROOT / "studies/catalog").glob("*.yaml")),
    *sorted((ROOT / "emg_lens/training/pretraining/catalog").glob("*.yaml")),
]
NOT_ALONE = {
    "extending.md": "the blocks are the files of one package, which tests/test_extending.py installs and runs",
    **{f"clusters.md-{i}": "the block needs a cluster, or files that all its machines see" for i in range(1, 5)},
}
OTHER_LIBRARIES = ("braindecode", "timm")
"""Libraries of the models of other people, which only their own environment has."""
NEVER_RIGHT = ("told", "tells", "detour", "severed", "unread")
"""Words that the field does not use for what we mean: predicted, indirect path, permanently masked, masked, ..."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


PYTHON = {f"{page.name}-{i}": code for page in PAGES for i, code in enumerate(blocks(page, "python"), start=1)}
ALONE = [name for name in PYTHON if not {name, name.rpartition("-")[0]} & NOT_ALONE.keys()]
FAST = ("README.md", "own-data.md", "notebook-use.md")
"""Pages whose code `make test` runs; `make test-all` runs the code of all pages."""


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and most renderers make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def run(name: str) -> None:
    """Run a code block in a namespace of its own."""
    exec(compile(PYTHON[name], name, "exec"), {"__name__": "__main__"})


def check_study(folder: Path, study: str, data: str) -> str:
    (folder / "mine.yaml").write_text(study, encoding="utf-8")
    done = CliRunner().invoke(app, ["check", str(folder / "mine.yaml"), "--data", str(folder / data)])
    assert done.exit_code == 0, done.output
    return done.output


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one.rpartition("-")[0] not in FAST)) for one in ALONE]
)
def test_code_of_pages_runs_alone(name, tmp_path):
    done, printed = run_alone(PYTHON[name], name, tmp_path)
    missing = re.search(r"ModuleNotFoundError: No module named '(\w+)'", printed)
    if not done and missing and missing[1] in OTHER_LIBRARIES:
        pytest.skip(f"needs {missing[1]}: make test-zoo runs it")
    assert done, printed


@pytest.mark.parametrize("name", sorted(PYTHON.keys() - {*ALONE}))
def test_code_that_needs_more_than_itself_is_python(name):
    compile(PYTHON[name], name, "exec")


def test_pages_that_do_not_run_alone_have_code():
    others = PYTHON.keys() - {*ALONE}
    assert all(name in others or f"{name}-1" in others for name in NOT_ALONE)


def test_trials_of_the_readme_get_a_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("README.md-1")
    done = CliRunner().invoke(app, ["new", "--data", "mine.h5", "--out", "first"])
    assert done.exit_code == 0, done.output
    for study in ((tmp_path / "first" / "study.yaml").read_text(), blocks(ROOT / "docs/own-data.md", "yaml")[0]):
        assert "2 subjects, 2 models" in check_study(tmp_path, study, "mine.h5")


def test_described_folder_is_read_as_its_page_says(tmp_path):
    _, description, study = blocks(ROOT / "docs/own-data.md", "yaml")
    recordings, rng = tmp_path / "recordings", np.random.default_rng(0)
    for subject in ("ann", "ben"):
        (recordings / subject).mkdir(parents=True)
        for gesture in ("fist", "open"):
            for repetition in (1, 2, 3, 4):
                table = np.column_stack([np.arange(1500), rng.normal(size=(1500, 11))])
                header = ",".join(["t", *(f"emg{i}" for i in range(8)), "ax", "ay", "az"])
                file = recordings / subject / f"day1_{gesture}_{repetition}.csv"
                np.savetxt(file, table, "%.5f", delimiter=",", header=header, comments="")
    (recordings / "dataset.yaml").write_text(description, encoding="utf-8")
    assert "2 subjects, 2 models" in check_study(tmp_path, study, "recordings")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in NOT_ALONE], ids=lambda page: page.name)
def test_study_files_on_pages_are_valid(page):
    for text in blocks(page, "yaml"):
        if {"name", "cohort"} <= yaml.safe_load(text).keys():
            Study.parse(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_exist(page):
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", READ_BY_PEOPLE, ids=lambda page: page.name)
def test_pages_use_the_words_of_the_field(page):
    wrong = re.findall(rf"(?i)\b(?:{'|'.join(NEVER_RIGHT)})\b.*", page.read_text(encoding="utf-8"))
    assert not wrong, wrong


def test_code_uses_the_words_of_the_field():
    never = re.compile(rf"(?i)\b(?:{'|'.join(NEVER_RIGHT)})\b")
    code = [path for room in ("emg_lens", "hooks", "studies") for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(code) > 100
    assert not [f"{path.name}: {word}" for path in code for word in never.findall(path.read_text(encoding="utf-8"))]


def test_every_shipped_study_is_listed():
    headings = anchors(ROOT / "docs/gallery.md")
    assert set(catalogue()) <= headings


def test_generated_pages_are_current():
    done = subprocess.run([sys.executable, ROOT / "docs/generators", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_extra_is_explained():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    explained = (ROOT / "docs/install.md").read_text(encoding="utf-8").partition("## Extras")[2]
    assert not [name for name in extras if f"`{name}`" not in explained]


def navigation() -> list[str]:
    """Pages in the order of the site's navigation."""
    trees = re.findall(r"^```{toctree}\n(.*?)^```", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.M | re.S)
    lines = [line for tree in trees for line in tree.splitlines() if line and not line.startswith((":", "api/"))]
    return [re.sub(r".*<(.*)>", r"\1", line) for line in lines]


def test_every_page_and_notebook_is_in_the_navigation_once():
    notebooks = [f"../notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")]
    others = [f"../{path.stem}" for path in ROOT.glob("*.md")]
    pages = [page.stem for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]
    assert sorted(navigation()) == sorted(notebooks + others + pages)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_one_title_and_says_what_it_answers(page):
    text = page.read_text(encoding="utf-8")
    outside = re.sub(r"^(```+).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    (title,) = re.findall(r"^# (.*)", outside, re.MULTILINE)
    assert title not in re.findall(r"^##+ (?:\d+\. )?(.*)", outside, re.MULTILINE)
    assert page.name in ("README.md", "index.md") or re.search(r"\b(This page answers|These pages answer):", text)


def test_the_quickstart_page_quotes_the_answers_of_the_readme():
    quote = re.search(r"^> Model accuracy .*?(?=^(?!>))", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert quote[0] in (ROOT / "docs/quickstart.md").read_text(encoding="utf-8")


SEARCHED = {
    "my folder is not read": "troubleshooting.md",
    "folder is not read": "troubleshooting.md",
    "p value": "statistics.md",
    "significance": "statistics.md",
    "cut": "cuts.md",
    "which sensor matters": "controls.md",
    "verdict": "controls.md",
    "not shown": "controls.md",
    "random control": "controls.md",
    "my data": "own-data.md",
}
"""What a reader searches -> the page that answers it. The search puts main index entries first."""


@pytest.mark.parametrize("phrase", SEARCHED)
def test_the_search_has_an_entry_for_a_question(phrase):
    text = (ROOT / "docs" / SEARCHED[phrase]).read_text(encoding="utf-8")
    entries = re.search(r"^```{index} (.*)", text, re.MULTILINE)[1]
    assert f"! {phrase}" in entries.split(", ")


@pytest.mark.slow
def test_a_second_build_keeps_the_entries_of_the_search_and_images_open_their_files(tmp_path):
    pytest.importorskip("furo")
    command = re.search(r"sphinx-build (.*) -c docs \. build/site$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    pages = tmp_path / "docs"
    pages.mkdir()
    (tmp_path / "README.md").write_text("# A\n", encoding="utf-8")
    Image.new("RGB", (4, 4)).save(pages / "figure.png")
    page = """# Page\n
```{index} ! p value\n```\n
![A figure](figure.png)\n
```{glossary}\nedge\n  A link.\n```\n"""
    (pages / "page.md").write_text(page, encoding="utf-8")
    (pages / "index.md").write_text("# Start\n\n```{toctree}\npage\nother\n```\n", encoding="utf-8")
    for text in ("# Other\n", "# Other\n\nMore.\n"):
        (pages / "other.md").write_text(text, encoding="utf-8")
        settings = ["-c", str(ROOT / "docs"), "-D", "include_patterns=docs/*.md", str(tmp_path), str(tmp_path / "site")]
        made = [sys.executable, "-m", "sphinx", *command.split(), *settings]
        done = subprocess.run(made, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        index = (tmp_path / "site/searchindex.js").read_text(encoding="utf-8")
        entries = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))["indexentries"]
        assert {name: places[0][2] for name, places in entries.items()} == {"p value": True, "edge": True}
    html = (tmp_path / "site/docs/page.html").read_text(encoding="utf-8")
    assert re.search(r'<a class="reference internal[^>]*href="\.\./_images/figure\.png"><img', html)


def test_every_name_that_a_user_can_choose_is_in_the_pages():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    names = {name for group, points in groups.items() if group.startswith("emg_lens.") for name in points}
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    absent = names - {*re.findall(r"`([\w-]+)`", text), *re.findall(r'\["([\w-]+)"\]', text)}
    assert len(names) > 60 and not absent


def test_every_page_is_reached_from_the_readme():
    reached, todo = {ROOT / "docs/index.md"}, [README]
    while todo:
        page = todo.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
            todo += [(page.parent / link).resolve() for link in links]
    assert not set(PAGES) - reached
