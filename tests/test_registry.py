"""Registries: objects of this package and of other packages, by name."""

import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import EntryPoint
from traceback import format_exception

import pytest
import torch

from emg_lens import registry
from emg_lens.data.registry import DATASETS, DataSet
from emg_lens.data.sources.simulated.simulation import SIMULATED
from emg_lens.registry import PluginError, PluginWarning, Registry, UnknownNameError, plugins_at_fault

PLUGINS = {
    "raising.py": "raise RuntimeError('no such library')",
    "leaving.py": "import sys; sys.exit('goodbye')",
    "wrong.py": "THING = 3",
    "whole.py": """
        from emg_lens.data.registry import DataSet
        def load(*, subjects=None):
            return iter(())
        THING = DataSet("whole", load, "a data set of another package")
    """,
}
GROUPS = {
    "datasets": "emg_lens.data.registry:DATASETS",
    "models": "emg_lens.models.registry:ARCHITECTURES",
    "interventions": "emg_lens.hooks.interventions:INTERVENTIONS",
    "objectives": "emg_lens.training.objectives:OBJECTIVES",
    "metrics": "emg_lens.scoring.metrics:METRICS",
    "fit_analyses": "emg_lens.analysis.fit_analysis:FIT_ANALYSES",
    "attribution_methods": "emg_lens.analysis.attribution.methods:METHODS",
    "recognisers": "emg_lens.decoding.recognisers:RECOGNISERS",
    "views": "emg_lens.studies.report.view:VIEWS",
    "vocoders": "emg_lens.decoding.vocoders:VOCODERS",
}


@pytest.fixture
def registry_and_searches(monkeypatch):
    """A registry with one registered object and one entry point, and the list of searches for entry points."""
    searches = []

    def offered(group: str) -> list[EntryPoint]:
        searches.append(group)
        return [EntryPoint("root", "math:sqrt", group)]

    monkeypatch.setattr(registry, "entry_points", offered)
    objects = Registry[object]("thing", f"tests.{id(searches)}", object)
    objects.add("ours", len)
    return objects, searches


def test_installed_packages_are_searched_once(registry_and_searches):
    objects, searches = registry_and_searches
    for _ in range(50):
        assert objects["root"](4.0) == 2.0 and objects["ours"] is len
        assert "root" in objects and "ours" in objects and objects.names() == tuple(objects) == ("ours", "root")
    assert len(searches) == 1


@pytest.mark.parametrize("name", ["rot", "", None, ["root"], 3])
def test_an_unknown_name_is_refused_with_the_known_names(registry_and_searches, name):
    objects, _ = registry_and_searches
    assert name not in objects
    with pytest.raises(UnknownNameError, match="known: ours, root"):
        objects[name]


@pytest.mark.parametrize("name", ["", None, 3, ["a"], "a\nb"])
def test_only_a_name_can_be_registered(registry_and_searches, name):
    objects, _ = registry_and_searches
    with pytest.raises(ValueError, match="expected"):
        objects.add(name, len)


@pytest.mark.parametrize("kind, things", [(int, [3]), (type[int], [int, bool])])
def test_only_objects_of_its_kind_are_registered(kind, things):
    objects = Registry("number", f"tests.{kind}", kind)
    for i, thing in enumerate(things):
        assert objects.add(f"{i}", thing) is thing
    for odd in ("x", None, 2.5, str, *([] if kind is not int else [int]), *([3] if kind is not int else [])):
        with pytest.raises(ValueError, match="number 'odd' is .*; expected .*int"):
            objects.add("odd", odd)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder that holds an installed package with broken plug-ins of every kind, and one with a shipped name."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, code in PLUGINS.items():
        (folder / name).write_text(textwrap.dedent(code))
    info = folder / "my_lab-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 0.1\n")
    lines = []
    for group in GROUPS:
        lines += [
            f"[emg_lens.{group}]",
            "a-raising = raising:THING",
            "a-leaving = leaving:THING",
            "a-wrong = wrong:THING",
        ]
        lines += ["a-missing = nowhere_at_all:THING", "a-lacking = wrong:OTHER"]
        lines += ["whole = whole:THING", "simulated = whole:THING"] if group == "datasets" else []
        lines += ["isonet = wrong:THING"] if group == "models" else []
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run(lab, *arguments):
    """Run Python where the package is installed."""
    environment = {"PYTHONPATH": str(lab), "PATH": "/usr/bin", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=lab)


def test_a_list_reports_broken_plug_ins_by_name_and_shows_all_others(lab):
    done = run(lab, "-m", "emg_lens", "list")
    assert done.returncode == 0, done.stderr
    assert "whole" in done.stdout and "a data set of another package" in done.stdout and "quickstart" in done.stdout
    notes = [line for line in done.stderr.splitlines() if line.strip()]
    for name in ("a-raising", "a-leaving", "a-wrong", "a-missing", "a-lacking", "simulated"):
        assert sum(f"data set {name!r} of the package my-lab" in line for line in notes) == 1, done.stderr
    assert sum("model 'isonet' of the package my-lab" in line for line in notes) == 1
    assert len(notes) == 7 and all(line.startswith("note: ") for line in notes)
    assert sum(line.split()[:1] == ["simulated"] for line in done.stdout.splitlines()) == 1
    assert "\n simulated:" in done.stdout
    assert SIMULATED.description[:40] in done.stdout


def test_a_plug_in_never_replaces_what_is_shipped_and_never_stops_others(lab):
    code = """
import importlib, sys, warnings
from emg_lens.errors import EmgLensError
from emg_lens.registry import PluginError
groups = {groups}
for place in groups.values():
    module, name = place.split(":")
    registry = getattr(importlib.import_module(module), name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        items = dict(registry.items())
    broken = [n for n in registry.names() if n.startswith("a-")]
    assert len(broken) == 5 and not set(broken) & set(items), name
    assert all(sum(repr(n) in str(w.message) for w in caught) == 1 for n in broken), [str(w.message) for w in caught]
    assert set(items) == set(registry.names()) - set(broken)
    for n in broken:
        try:
            registry[n]
        except PluginError as error:
            assert "my-lab" in str(error) and repr(n) in str(error) and "a-wrong" not in n or "expected" in str(error)
        else:
            raise AssertionError(n)
from emg_lens.data.registry import describe_dataset
from emg_lens.data.sources.simulated.simulation import SIMULATED
assert describe_dataset("simulated") is SIMULATED
""".replace("{groups}", repr(GROUPS))
    done = run(lab, "-c", code)
    assert done.returncode == 0, done.stderr


def test_a_shipped_name_cannot_be_registered_again():
    assert DATASETS.add("simulated", SIMULATED) is SIMULATED
    with pytest.raises(ValueError, match="'simulated' is already registered"):
        DATASETS.add("simulated", DataSet("simulated", lambda *, subjects=None: iter(()), "mine"))


def test_of_two_packages_with_one_name_the_first_by_its_name_is_used(monkeypatch):
    class Distribution:
        def __init__(self, name):
            self.name = name

    points = [EntryPoint("root", "math:sqrt", "g"), EntryPoint("root", "math:exp", "g")]
    for point, name in zip(points, ("b-lab", "a-lab"), strict=True):
        vars(point).update(dist=Distribution(name))
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    objects = Registry[object]("thing", "tests.two", object)
    with pytest.warns(PluginWarning, match="thing 'root' of the package b-lab is not used.*a-lab"):
        assert objects["root"](0.0) == 1.0


def test_a_stop_while_a_plug_in_is_imported_stops(tmp_path, monkeypatch):
    (tmp_path / "stopped_plug_in.py").write_text("raise SystemExit(130)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("a", "stopped_plug_in:THING", group)])
    objects = Registry[object]("thing", "tests.stopped", object)
    with pytest.raises(SystemExit), warnings.catch_warnings():
        dict(objects.items())
    with pytest.raises(PluginError), monkeypatch.context() as here:
        here.setattr("sys.path", [])
        objects["a"]


LATE = """
from emg_lens.data import DataSet

def load(*, subjects=None):
    yield {}["no such key"]

def wrong(*, subjects=None):
    return None

DATA, OTHER = DataSet("late", load, "fails when it is read"), DataSet("wrong", wrong, "returns nothing")
"""


def test_a_plug_in_that_fails_when_it_is_used_is_named_in_one_line(tmp_path):
    (tmp_path / "late_lab").mkdir()
    (tmp_path / "late_lab" / "__init__.py").write_text("")
    (tmp_path / "late_lab" / "readers.py").write_text(LATE)
    info = tmp_path / "late_lab-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late-lab\nVersion: 0.1\n")
    places = "late = late_lab.readers:DATA\nwrong = late_lab.readers:OTHER"
    (info / "entry_points.txt").write_text(f"[emg_lens.datasets]\n{places}\n")
    late, wrong = (run(tmp_path, "-m", "emg_lens", "data", name) for name in ("late", "wrong"))
    assert late.returncode == wrong.returncode == 2
    assert len(late.stderr.strip().splitlines()) == len(wrong.stderr.strip().splitlines()) == 1, late.stderr
    assert "'late', 'wrong' of the package late-lab failed (KeyError: 'no such key')" in late.stderr
    assert "the loader of data set 'wrong' returned None; expected recordings" in wrong.stderr
    with_trace = run(tmp_path, "-m", "emg_lens", "--debug", "data", "late")
    assert with_trace.returncode == 1 and "Traceback" in with_trace.stderr and "readers.py" in with_trace.stderr


def test_a_failure_in_a_worker_process_or_in_torch_is_one_of_the_plug_in(tmp_path, monkeypatch):
    (tmp_path / "late_file.py").write_text(
        "import torch\n\ndef broken(n):\n    return torch.zeros(n) @ torch.zeros(n + 1)\n"
    )
    point = EntryPoint("late", "late_file:broken", "emg_lens.models")
    monkeypatch.setattr("emg_lens.registry._plugins", lambda: (point,))
    monkeypatch.syspath_prepend(str(tmp_path))
    import late_file

    for call in (
        lambda: late_file.broken(3),
        lambda: one_process(late_file.broken, 3),
        lambda: torch.zeros(2) @ torch.zeros(3),
    ):
        with pytest.raises(RuntimeError) as caught:
            call()
        named = plugins_at_fault(caught.value)
        assert named == (
            "plug-in 'late' of the package ?" if "late_file" in "".join(format_exception(caught.value)) else ""
        )


def one_process(function, argument):
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(function, argument).result()
