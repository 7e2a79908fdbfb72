"""The house: which room imports which, what modules and names are called, how long files are, what they cite.

Read from the syntax trees alone, so imports inside functions and under TYPE_CHECKING count like any other.
"""

import ast
import re
import runpy
import sys
import tomllib
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"emg_lens.hooks": ROOT / "hooks", "emg_lens.studies": ROOT / "studies", "emg_lens": ROOT / "emg_lens"}
"""Package -> its folder; `hooks/` and `studies/` are installed under `emg_lens`."""

FLOORS = (
    ("errors", "layout", "memory", "registry", "tables", "transformer_lens_imports", "validation"),
    ("io", "scoring"),
    ("data", "hooks"),
    ("decoding", "lens", "plotting"),
    ("models",),
    ("training",),
    ("sweeps",),
    ("analysis",),
    ("studies",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""Rooms from the ground up. A room imports from below; rooms of one floor leave each other alone."""
STUDY_FLOORS = ("statistics", "spec", "fits", "runs", "results", "report", "", "comparison")
"""The rooms of `studies`, from the ground up; "" are the files at its top level."""
GROUND = FLOORS[0]
"""Single modules, which may use each other."""

MOST_LINES = 400

SHARED_NAMES = {
    "load": ("emg_lens.data.sources.", "emg_lens.data.storage"),
    "find": ("emg_lens.data.sources.",),
    "read": ("emg_lens.data.sources.",),
}
"""Public names that several modules may define, and how those modules' names begin. Of a data set's source: what the
registry calls, and nobody else."""


def _folder_modules(package: str, folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return found


MODULES = {name: path for package, folder in FOLDERS.items() for name, path in _folder_modules(package, folder).items()}
STUBS = {name: path.with_suffix(".pyi") for name, path in MODULES.items() if path.with_suffix(".pyi").is_file()}
TEXTS = sorted(
    path
    for pattern in ("*.md", "*.toml", "Makefile", "docs/*.md", "notebooks/*.ipynb", "tests/**/*.py", "*/**/*.yaml")
    for path in ROOT.glob(pattern)
    if not {"build", ".venv", ".venv-tl3", ".venv-zoo", "runs"} & set(path.relative_to(ROOT).parts)
) + [*MODULES.values(), *STUBS.values()]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def homes(package: str) -> dict[str, str]:
    """Where a lazy package finds each of its public names, by its stub."""
    found = {}
    for node in tree(STUBS[package]).body if package in STUBS else []:
        if isinstance(node, ast.ImportFrom):
            source = f"{package}.{node.module}" if node.module else package
            found |= {
                alias.name: f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source
                for alias in node.names
            }
    return found


def target(module: str, name: str) -> str:
    """The module that `from module import name` needs."""
    if f"{module}.{name}" in MODULES:
        return f"{module}.{name}"
    home = homes(module).get(name, module)
    return home if home in (module, f"{module}.{name}") else target(home, name)


@cache
def imports(module: str) -> frozenset[str]:
    """The package's modules that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            found |= {target(node.module, alias.name) for alias in node.names}
    return frozenset(found - {module})


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def defined(module: str) -> set[str]:
    """Functions and classes at the top of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree(MODULES[module]).body if isinstance(node, kinds)}


def type_names(module: str) -> set[str]:
    """Types that are named at the top of a module: `Edges = Bool[...]`."""
    assigned = [node.targets[0] for node in tree(MODULES[module]).body if isinstance(node, ast.Assign)]
    return {name.id for name in assigned if isinstance(name, ast.Name) and re.match("[A-Z][a-z]", name.id)}


# --- imports ----------------------------------------------------------------------------------------------


def test_every_room_has_a_floor():
    known = {name for floor in FLOORS for name in floor}
    assert {room(module) for module in MODULES} - {""} <= known


def test_the_reader_of_imports_sees_through_packages_functions_and_type_checking():
    assert "emg_lens.hooks.cuts" in imports("emg_lens.hooks.edge_interventions")  # inside a function
    assert target("emg_lens", "cross_modal") == "emg_lens.hooks.edges"  # two stubs away
    assert target("emg_lens.hooks", "parse") == "emg_lens.hooks.parse"


def test_arrows_run_downwards_only():
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    wrong = []
    for module in MODULES:
        here = room(module)
        for other in imports(module):
            there = room(other)
            if here == there or (here in GROUND and there in GROUND):
                continue
            if not here or not there or floor_of[there] >= floor_of[here]:
                wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(sorted(wrong))


def study_room(module: str) -> str | None:
    """The room of `studies` that a module is in; "" is its top level."""
    parts = module.split(".")
    if parts[:2] != ["emg_lens", "studies"] or len(parts) == 2:
        return None
    return parts[2] if len(parts) > 3 or parts[2] in STUDY_FLOORS else ""


def test_rooms_of_studies_import_downwards_only():
    wrong = []
    for module in MODULES:
        here = study_room(module)
        for other in imports(module) if here is not None else ():
            there = study_room(other)
            if there is not None and here != there and STUDY_FLOORS.index(there) >= STUDY_FLOORS.index(here):
                wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(sorted(wrong))


def test_the_top_level_of_studies_stays_small():
    files = [path.name for path in (ROOT / "studies").iterdir() if path.suffix in (".py", ".pyi")]
    assert len(files) <= 8, files


def test_there_is_no_circle():
    try:
        TopologicalSorter({module: imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


# --- names ------------------------------------------------------------------------------------------------


def test_no_module_is_named_like_what_it_holds():
    assert not [module for module in MODULES if module.rpartition(".")[2] in defined(module)]


def test_no_public_name_hides_a_module_of_its_package():
    for package in STUBS:
        hidden = [name for name, home in homes(package).items() if f"{package}.{name}" in MODULES.keys() - {home}]
        assert not hidden, f"{package}: {hidden}"


def test_no_two_things_share_a_name():
    owners = defaultdict(list)
    for module in MODULES:
        for name in defined(module) | type_names(module):
            if not name.startswith("_"):
                owners[name].append(module)
    shared = {
        name: modules
        for name, modules in owners.items()
        if len(modules) > 1 and not all(m.startswith(SHARED_NAMES.get(name, ())) for m in modules)
    }
    assert not shared, "\n".join(f"{name}: {', '.join(modules)}" for name, modules in shared.items())


@pytest.mark.parametrize("package", STUBS)
def test_every_name_of_a_stub_can_be_imported(package):
    found, listed = import_module(package), []
    for node in tree(STUBS[package]).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed = ast.literal_eval(node.value)
    assert sorted(listed) == sorted(homes(package)), package
    assert set(found.__all__) == set(listed)
    for name in listed:
        assert getattr(found, name) is getattr(import_module(homes(package)[name]), name, found.__dict__.get(name))


# --- files ------------------------------------------------------------------------------------------------


def test_no_file_is_long():
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES.values()}
    long = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MOST_LINES}
    assert not long, long


# --- citations --------------------------------------------------------------------------------------------

ABSENT = re.compile("|".join(("fact" + " sheet", "field" + " survey", "DE" + "SIGN")))
CITED = re.compile(r"docs/([\w-]+\.md)`?((?:(?:,| and| to|, and|;)? ?§§?\d+(?:\.\d+)*)*)")


@cache
def running_text(path: Path) -> str:
    """A file's text on one line, without the marks of comments that wrap."""
    return re.sub(r"\s*\n[\s#>]*", " ", path.read_text())


@cache
def sections(page: str) -> frozenset[str]:
    """Numbers of a page's headings: `"2"` of `## 2. Data sets`, `"2.1"` of `### 2.1 Rates`."""
    headings = re.findall(r"^#+ (\d+(?:\.\d+)*)\.? ", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert len(headings) == len(set(headings)), f"docs/{page} numbers a section twice"
    return frozenset(headings)


def test_nothing_cites_a_page_that_is_not_in_the_repository():
    absent = [f"{path.relative_to(ROOT)}: {found[0]}" for path in TEXTS if (found := ABSENT.search(running_text(path)))]
    assert not absent, "\n".join(absent)


def test_every_cited_page_and_section_exists():
    missing = []
    for path in TEXTS:
        for page, numbers in CITED.findall(running_text(path)):
            if not (ROOT / "docs" / page).is_file():
                missing.append(f"{path.relative_to(ROOT)}: docs/{page}")
                continue
            wanted = set(re.findall(r"\d+(?:\.\d+)*", numbers))
            missing += [f"{path.relative_to(ROOT)}: docs/{page} §{n}" for n in sorted(wanted - sections(page))]
    assert not missing, "\n".join(missing)


def test_every_link_between_pages_leads_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_every_library_that_is_imported_is_declared_and_the_other_way_round():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for_users = [line for extra in ("deploy", "mne", "speech") for line in extras[extra]]
    needed, optional = ({_distribution(line) for line in lines} for lines in (project["dependencies"], for_users))
    imported = {
        _distribution(MODULE_OF.get(top, top))
        for module in MODULES
        for node in ast.walk(tree(MODULES[module]))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([one.name for one in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if (top := name.partition(".")[0]) not in {*sys.stdlib_module_names, "emg_lens", ""}
    }
    assert imported <= needed | optional
    assert needed <= imported


MODULE_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml", "flashlight": "flashlight-text", "pydantic_core": "pydantic"}
"""Module -> its distribution, or the one that brings it with a fixed version."""


def _distribution(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


@pytest.fixture
def setup_arguments(monkeypatch) -> dict:
    """What setup.py passes to setuptools."""
    passed = {}
    monkeypatch.setattr("setuptools.setup", passed.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return passed


def test_a_wheel_holds_every_package(setup_arguments):
    tops = {"emg_lens": "emg_lens", "hooks": "emg_lens.hooks", "studies": "emg_lens.studies"}
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / top).parts])
        for top, name in tops.items()
        for path in (ROOT / top).rglob("*.py")
    }
    assert sorted(setup_arguments["packages"]) == sorted(found)


def test_a_wheel_holds_every_file_that_is_not_python():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]

    def folder(package: str) -> Path:
        for moved, place in settings["package-dir"].items():
            package = re.sub(rf"^{re.escape(moved)}\b", place, package)
        return ROOT / package.replace(".", "/")

    data = settings["package-data"]
    held = {path for pattern in data.pop("*") for path in ROOT.glob(f"*/**/{pattern}")}
    held |= {path for package in data for pattern in data[package] for path in folder(package).glob(pattern)}
    files = {path for top in ("emg_lens", "hooks", "studies") for path in (ROOT / top).rglob("*.*") if path.is_file()}
    left_out = {str(path) for path in files - held if path.suffix not in (".py", ".pyc")}
    assert not left_out, f"add to package-data in pyproject.toml: {sorted(left_out)}"


def test_the_description_of_a_wheel_has_no_links_into_the_repository(setup_arguments):
    description = setup_arguments["long_description"]
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]*)\)", description))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall("^#.*", description, re.M) == re.findall("^#.*", readme, re.M)
