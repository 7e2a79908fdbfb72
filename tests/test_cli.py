"""The command line as a new user meets it, mistakes included: one line on stderr, exit code 2, nothing written."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.io import savemat
from tiny import TINY

from emg_lens import cli
from emg_lens.data.registry import DATASETS
from emg_lens.errors import EmgLensError
from emg_lens.io.stopping import STOPPED
from emg_lens.studies.result import StudyResult
from emg_lens.studies.spec.catalog_lookup import catalogue, catalogue_summary

DB5_LIKE = {
    "name": "mine",
    "title": "Mine",
    "cohort": {
        "dataset": "ninapro-db5",
        "segment": {"stop_s": 1.0},
    },
    "split": {"by": "repetition", "test": [2]},
    "model": {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 16},
    "training": {"epochs": 1, "anneal_epochs": 0},
}


@pytest.fixture(autouse=True)
def own_signals():
    """The command takes Ctrl-C for itself; pytest wants it back."""
    before = {number: signal.getsignal(number) for number in STOPPED.values()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line; returns exit code, stdout, stderr."""

    def run(*arguments: object, width: int = 200) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["emg-lens", *map(str, arguments)])
        monkeypatch.setattr(cli, "out", cli.Console(width=width))
        monkeypatch.setattr(cli, "err", cli.Console(stderr=True, width=width))
        with pytest.raises(SystemExit) as exit:
            cli.main()
        captured = capsys.readouterr()
        return exit.value.code or 0, captured.out, captured.err

    return run


def write_db5(folder: Path, **changes) -> Path:
    """A small NinaPro-like recording: 3 gestures, 2 repetitions, two seconds each."""
    rng = np.random.default_rng(0)
    rows, label, repetition = 400, [], []
    for r in (1, 2):
        for m in (1, 2, 3):
            label += [m] * rows + [0] * 100
            repetition += [r] * rows + [0] * 100
    n = len(label)
    content = {
        "emg": rng.normal(size=(n, 16)).astype("f4"),
        "acc": rng.normal(size=(n, 3)).astype("f4"),
        "restimulus": np.array(label, "i1")[:, None],
        "rerepetition": np.array(repetition, "i1")[:, None],
        "frequency": np.array([[200]], "u1"),
    } | changes
    folder.mkdir(exist_ok=True)
    savemat(folder / "S1_E1_A1.mat", {k: v for k, v in content.items() if v is not None})
    return folder


def write_spec(path: Path, **changes) -> Path:
    content = yaml.safe_load(yaml.safe_dump(DB5_LIKE))
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    path.write_text(yaml.safe_dump(content))
    return path


def one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("note:")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_study_of_the_users_own_files_runs(call, tmp_path):
    data = write_db5(tmp_path / "db5")
    code, out, _ = call(
        "run", write_spec(tmp_path / "mine.yaml"), "--data", data, "--out", tmp_path / "runs", "--jobs", 1
    )
    assert code == 0
    assert "Which sensor matters?" in out and "report.html" in out
    folder = next((tmp_path / "runs" / "mine").iterdir())
    code, again, _ = call("report", folder)
    assert code == 0 and "Which sensor matters?" in again
    assert StudyResult.load(folder).scores["subject"].unique().tolist() == ["S1"]


def test_list_groups_the_studies_one_a_line(call):
    code, out, _ = call("list")
    assert code == 0
    assert all(name in out for name in ("psl-myo", "trials", "pretrain-myo", "multimodal-mlp"))
    start, real, gpu = map(out.index, (cli.START, cli.REAL, cli.GPU))
    assert (
        start < out.index(" quickstart ") < real < out.index(" isonet-table3-db5 ") < gpu < out.index(" isonet-table3 ")
    )
    narrow = call("list", width=80)[1].splitlines()
    for name in catalogue():
        (line,) = [line for line in narrow if line.startswith(f"   {name} ")]
        assert all(part in line for part in catalogue_summary(name) if part != "GPU")


@pytest.mark.parametrize(
    ("command", "suggestion"),
    [
        (("run", "quikstart"), "quickstart"),
        (("show", "isonet-tabel3"), "isonet-table3"),
        (("pretrain", "pretrain-mio"), "pretrain-myo"),
        (("data", "ninapro-bd5"), "ninapro-db5"),
        (("cost", "tinymio"), "tinymyo"),
        (("cost", "tinymyo", "--set", "d_modle=8"), "d_model"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(call, command, suggestion):
    code, _, err = call(*command)
    assert code == 2 and f"did you mean '{suggestion}'?" in one_line(err)


@pytest.mark.parametrize(
    ("changes", "suggestion"),
    [
        ({"model": {"architecture": "isonett"}}, "isonet"),
        ({"cohort__dataset": "simulate"}, "simulated"),
        ({"views": ["layer-swep"]}, "layer-sweep"),
        ({"analyses": ["shfit"]}, "shift"),
        (
            {"reference": {"source": "x", "rows": [{"condition": "unimodel/individual/L1", "value": 0.5}]}},
            "unimodal/individual/L1",
        ),
    ],
)
def test_an_unknown_name_in_a_study_file_gets_a_suggestion(call, tmp_path, changes, suggestion):
    spec = write_spec(tmp_path / "mine.yaml", **changes)
    code, _, err = call("check", spec, "--data", write_db5(tmp_path / "db5"))
    assert code == 2 and f"did you mean '{suggestion}" in one_line(err)


def test_show_prints_a_file_that_loads_again(call, tmp_path):
    code, out, _ = call("show", "planted-route")
    assert code == 0
    (tmp_path / "copy.yaml").write_text(out)
    assert call("check", tmp_path / "copy.yaml")[0] == 0


def test_check_reads_any_data_set_that_needs_no_folder(call, monkeypatch, tmp_path):
    made_up = replace(DATASETS["simulated"], name="made-up")
    monkeypatch.setitem(DATASETS._known, "made-up", made_up)
    content = yaml.safe_load(TINY)
    content["cohort"]["dataset"] = "made-up"
    content["conditions"] = {"layer_masks": None}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    code, out, _ = call("check", tmp_path / "mine.yaml")
    assert code == 0 and "The study is valid: 3 subjects, 3 models to train." in out


def test_check_tells_what_the_loader_noted(call, tmp_path):
    spec, data = write_spec(tmp_path / "mine.yaml"), write_db5(tmp_path / "db5")
    code, out, err = call("check", spec, "--data", data)
    assert code == 0 and "valid" in out and err.count("50 Hz assumed") == 1
    assert "note: 6 repetitions, expected 72: is the file complete?" in err


def test_check_accepts_the_papers_study_although_its_data_are_not_here(call):
    code, out, _ = call("check", "isonet-table3")
    assert code == 0 and "isonet, d_model 512" in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"architecture": "isonett"}}, "did you mean 'isonet'"),
        ({"model": {"dmodel": 64}}, "no setting 'dmodel'; did you mean 'd_model'"),
        ({"model": {"d_model": 64, "n_heads": 7}}, "d_model=64 is not a multiple of n_heads=7"),
        ({"views": ["layer-swep"]}, "did you mean 'layer-sweep'"),
    ],
)
def test_check_without_recordings_checks_all_that_needs_none(call, tmp_path, changes, message):
    code, _, err = call("check", write_spec(tmp_path / "wrong.yaml", **changes))
    assert code == 2 and message in one_line(err)
    code, out, err = call("check", write_spec(tmp_path / "right.yaml"))
    assert code == 0 and not err and "Not checked without recordings: subjects, gestures, " in out


def test_data_summarises_a_folder(call, tmp_path):
    code, out, _ = call("data", "ninapro-db5", write_db5(tmp_path / "db5"))
    assert code == 0
    assert "Signals of all subjects: emg 16 x 200 Hz, acc 3 x 200 Hz (sensor: 50 Hz)" in out
    assert re.search(r"gestures.*repetition numbers.*repetitions", out)
    assert re.search(r"S1\s.*\s3\s.*\s2\s.*\s6\s", out)


def bad_nan(tmp_path):
    data = write_db5(tmp_path / "db5")
    emg = np.random.default_rng(0).normal(size=(3000, 16)).astype("f4")
    emg[5, 3] = np.nan
    return write_db5(data, emg=emg)


def truncated(tmp_path):
    data = write_db5(tmp_path / "db5")
    file = data / "S1_E1_A1.mat"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return data


def short_labels(tmp_path):
    return write_db5(tmp_path / "db5", restimulus=np.ones((2000, 1), "i1"))


def missing_class(tmp_path):
    label = np.tile(
        np.r_[np.full(400, 1), np.zeros(100), np.full(400, 2), np.zeros(100), np.full(400, 3), np.zeros(100)], 2
    )
    label[2500:2900] = 0  # gesture 3 has no second repetition
    return write_db5(tmp_path / "db5", restimulus=label.astype("i1")[:, None])


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (lambda t: t / "nowhere", {}, "nowhere"),
        (lambda t: t, {}, r"expected ninapro-db5 files S<n>.*found mine\.yaml"),
        (truncated, {}, "S1_E1_A1.mat"),
        (lambda t: write_db5(t / "db5", restimulus=None), {}, "restimulus"),
        (bad_nan, {}, "emg.*NaN|NaN.*emg"),
        (short_labels, {}, "restimulus.*2000|shorter"),
        (missing_class, {}, "fold S1 has training trials of middle flexion, but no test trial"),
        (
            lambda t: write_db5(t / "db5"),
            {"conditions__extra": [{"name": "x", "edges": "flow('eng', 'cls')"}]},
            "'eng'",
        ),
        (
            lambda t: write_db5(t / "db5"),
            {"conditions__extra": [{"name": "x", "edges": "unimodal('emgg')"}]},
            r"unknown modality 'emgg'.*\['emg', 'acc'\]",
        ),
        (
            lambda t: write_db5(t / "db5"),
            {"conditions__extra": [{"name": "x", "edges": "unimodal().at(layers=7)"}]},
            "unknown layer 7; the model has layers 0 to 1",
        ),
        (lambda t: write_db5(t / "db5"), {"training__epoch": 3}, "training.epoch is not a known key"),
        (lambda t: write_db5(t / "db5"), {"cohort__options": {"exercise": 1}}, "no option 'exercise'"),
        (lambda t: write_db5(t / "db5"), {"cohort__subjects": [9]}, "9"),
        (lambda t: write_db5(t / "db5"), {"cohort__modalities": ["emg", "gyro"]}, "unknown modality 'gyro'"),
        (lambda t: write_db5(t / "db5"), {"cohort__segment": {"stop_s": 60.0}}, "60"),
        (lambda t: write_db5(t / "db5"), {"model__n_heads": 3}, "is not a multiple of n_heads=3"),
        (
            lambda t: write_db5(t / "db5"),
            {"conditions__extra": [{"name": "x", "edges": "unimodal() & cross_modal()"}]},
            r"conditions \['x'\] cut no edge",
        ),
    ],
)
def test_a_mistake_is_one_line_exit_2_and_nothing_written(call, tmp_path, data, changes, message):
    spec = write_spec(tmp_path / "mine.yaml", **changes)
    code, out, err = call("run", spec, "--data", data(tmp_path), "--out", tmp_path / "runs", "--jobs", 1)
    assert code == 2 and out == ""
    assert re.search(message, one_line(err)), err
    assert not (tmp_path / "runs").exists()


def test_an_output_folder_that_cannot_be_written_is_named(call, tmp_path):
    (tmp_path / "file").write_text("in the way")
    data = write_db5(tmp_path / "db5")
    code, _, err = call("run", write_spec(tmp_path / "m.yaml"), "--data", data, "--out", tmp_path / "file", "--jobs", 1)
    assert code == 2
    assert "cannot write to" in one_line(err) and "--out" in err


def test_a_forgotten_data_folder_is_asked_for(call, tmp_path):
    code, _, err = call("run", write_spec(tmp_path / "m.yaml"), "--out", tmp_path / "runs")
    assert code == 2 and "needs a folder" in one_line(err)


def test_an_unknown_device_is_one_line(call, tmp_path):
    (tmp_path / "t.yaml").write_text(TINY)
    code, _, err = call("run", tmp_path / "t.yaml", "--out", tmp_path / "runs", "--device", "quantum")
    assert code == 2 and "'quantum' cannot be used" in one_line(err)


def test_debug_shows_the_traceback(monkeypatch):
    from emg_lens.studies.spec.errors import StudyError

    monkeypatch.setattr(sys, "argv", ["emg-lens", "run", "quikstart", "--debug"])
    with pytest.raises(StudyError):
        cli.main()


def test_errors_that_a_user_can_mend_are_one_line_whatever_their_class(monkeypatch, capsys):
    def fail() -> None:
        raise type("Special", (EmgLensError,), {})("two\nlines [red]in brackets[/red]")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "argv", ["emg-lens", "list"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    found = one_line(capsys.readouterr().err)
    assert stop.value.code == 2 and found == "error: two lines [red]in brackets[/red]"


def test_every_exception_class_derives_from_the_common_base():
    """Every exception class of the package derives from `EmgLensError`, so that the command line prints one line."""
    import pkgutil

    import emg_lens

    for module in pkgutil.walk_packages(emg_lens.__path__, "emg_lens."):
        if module.name.endswith("__main__"):
            continue
        for thing in vars(import_module(module.name)).values():
            is_error = isinstance(thing, type) and issubclass(thing, Exception) and not issubclass(thing, Warning)
            if is_error and thing.__module__ == module.name:
                assert issubclass(thing, EmgLensError), thing


def test_help_has_an_example_for_every_command(call):
    for command in ("list", "show", "check", "run", "report", "compare", "share", "data", "corpus", "cost", "pretrain"):
        code, out, _ = call(command, "--help")
        assert code == 0 and f"emg-lens {command}" in " ".join(out.split())


def test_python_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "emg_lens", "run", "quikstart"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown study 'quikstart'")


def test_list_needs_no_torch():
    code = "import sys; from emg_lens.cli import list_; list_(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_ctrl_c_while_python_imports_is_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "emg_lens", "list"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_cost_prints_one_row_per_size_and_explains_settings(call):
    small = ["--set", "d_model=16", "--set", "n_heads=2", "--set", "n_layers=1", "--set", "d_mlp=16"]
    code, out, _ = call("cost", "isonet", "tinymyo", "--channels", 4, "--samples", 40, "--samples", 80, *small)
    assert code == 0 and [f"{name}, 4 x {n}" in out for name in ("isonet", "tinymyo") for n in (40, 80)] == [True] * 4
    assert "INT8 (MiB)" in out and " L1 " in out
    code, _, err = call("cost", "tinymyo", "--set", "modalities=3")
    assert code == 2 and "has no setting 'modalities'" in err
    for wrong in ("d_model", "d_model=["):
        code, _, err = call("cost", "tinymyo", "--set", wrong)
        assert code == 2 and "--set" in err and "Traceback" not in err


FINALIZED = """
import os, signal, sys, time
from emg_lens import cli

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)

def app():
    Last()
    time.sleep(30)
    sys.exit("went on")

cli.app = app
cli.main()
"""


def test_a_stop_in_code_whose_errors_python_passes_over_is_a_stop():
    done = subprocess.run([sys.executable, "-c", FINALIZED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 143 and done.stderr == "stopped; run the same command again to resume\n"


def test_version_names_what_a_bug_report_needs(call):
    code, printed, _ = call("--version")
    assert code == 0 and re.fullmatch(r"emg-lens \S+, Python 3\.\d+\.\d+\S*, torch \S+\n", printed)
    citation = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text())
    assert printed.startswith(f"emg-lens {citation['version']}")
