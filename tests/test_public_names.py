"""`import emg_lens`: light, complete, and the same for the interpreter as for a type checker."""

import os
import subprocess
import sys
from importlib import import_module
from time import perf_counter

import pytest

import emg_lens

HEAVY = ("torch", "transformer_lens", "transformers", "pandas", "matplotlib", "huggingface_hub")


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", emg_lens.__all__)
def test_every_public_name_is_there(name):
    assert getattr(emg_lens, name) is getattr(emg_lens, name)
    assert name in dir(emg_lens)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="emg_lens.*IsoNett"):
        emg_lens.IsoNett  # noqa: B018
    with pytest.raises(ImportError):
        exec("from emg_lens import IsoNett")
    with pytest.raises(AttributeError, match="emg_lens.studies.*sweeep"):
        emg_lens.studies.sweeep  # noqa: B018


def test_the_import_loads_nothing_heavy_and_a_star_import_gets_all():
    loaded = run("import sys, emg_lens; print(*sorted(sys.modules))").split()
    assert not set(HEAVY) & set(loaded)
    assert (
        run("from emg_lens import *; print(unimodal('emg') | flow('emg', 'cls'))")
        == "unimodal('emg') | flow('emg', 'cls')"
    )
    assert run("import emg_lens; print(emg_lens.hooks.flow is emg_lens.flow)") == "True"


def test_data_and_layouts_come_without_transformerlens():
    loaded = run(
        "import sys; from emg_lens import TokenLayout, TrialSet, load_dataset; print(*sorted(sys.modules))"
    ).split()
    assert "transformer_lens" not in loaded and "transformers" not in loaded


@pytest.mark.skipif("CI" in os.environ, reason="a timing")
def test_the_import_takes_less_than_half_again_as_long_as_torch():
    times: dict[str, list[float]] = {"emg_lens": [], "torch": []}
    for _ in range(2):
        for name in times:
            start = perf_counter()
            run(f"import {name}")
            times[name].append(perf_counter() - start)
    assert min(times["emg_lens"]) < 1.5 * min(times["torch"])


def test_help_waits_for_nothing_heavy():
    code = "import sys; sys.argv[1:] = ['run', '--help']; from emg_lens import cli; cli.main()"
    wrapped = f"import atexit, sys; atexit.register(lambda: print(*sorted(sys.modules))); {code}"
    printed = run(wrapped)
    assert "Number of parallel fits" in printed
    assert not set(HEAVY) & set(printed.splitlines()[-1].split())


def test_workers_that_fit_models_do_not_wait_for_figures_and_statistics():
    loaded = set(run("import sys, emg_lens.studies.fits.fit_execution; print(*sorted(sys.modules))").split())
    assert "emg_lens.training.fitting" in loaded
    assert not {"matplotlib", "statsmodels", "scipy.stats", "scipy.signal", "scipy.spatial"} & loaded


@pytest.mark.parametrize(
    "code",
    [
        "import emg_lens.studies.runner",
        "from emg_lens import Study; Study.load('quickstart').check()",
        "from emg_lens import cross_modal; cross_modal('emg', 'acc') | cross_modal().at(layers=2)",
    ],
)
def test_studies_and_edge_sets_do_not_wait_for_models(code):
    loaded = set(run(f"import sys; {code}; print(*sorted(sys.modules))").split())
    assert not {"torch", "transformer_lens", "matplotlib"} & loaded


@pytest.mark.parametrize("module", ["emg_lens.sweep", "emg_lens.hooks.cut", "emg_lens.fit"])
def test_a_function_is_not_also_a_module(module):
    with pytest.raises(ModuleNotFoundError):
        import_module(module)
    package, _, name = module.rpartition(".")
    assert callable(getattr(import_module(package), name))
