"""docs/extending.md, taken at its word: its blocks become a package outside the tree, which emg-lens then uses."""

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emg_lens.data import Batch
from emg_lens.data.preprocessing import Recipe, preprocess
from emg_lens.data.sources.simulated.simulation import Simulation, simulate

CUTS = [(mode, layer) for mode in ("individual", "from_end") for layer in (1, 2)]
PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
BLOCKS = dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
"""File name -> content, of every block that begins with a file's name."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A folder on the import path that holds `my_lab` as an installer leaves it: the package and its entry points."""
    folder = tmp_path_factory.mktemp("lab")
    for name, content in BLOCKS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    project = tomllib.loads(BLOCKS["pyproject.toml"])["project"]
    info = folder / "my_lab-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    (info / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "\n".join(f"{n} = {place}" for n, place in points.items()) for group, points in groups
        )
    )
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Three simulated subjects in the format of the page's data set."""
    folder = tmp_path_factory.mktemp("recordings")
    simulation = Simulation(
        n_subjects=3, n_repetitions=3, emg_channels=4, acc_channels=3, emg_classes=2, acc_classes=2, joint_classes=1,
        trials_per_class=4, rest_s=0.5,
    )  # fmt: skip
    for recording in simulate(simulation):
        recording = preprocess(recording, Recipe(fs=100))
        columns = {
            f"{modality}{i + 1}": signal.data[:, i]
            for modality, signal in recording.signals.items()
            for i in range(signal.data.shape[1])
        }
        table = pd.DataFrame({**columns, "label": recording.label, "repetition": recording.repetition})
        table.to_csv(folder / f"P{recording.subject}.csv", index=False)
    return folder


def test_the_page_names_all_fields_of_a_batch():
    named = re.findall(r"^\| `(\w+)` \|", PAGE.read_text().split("## 6. ")[1].split("```")[0], re.MULTILINE)
    assert named == [field.name for field in fields(Batch)]


def run(lab: Path, *command: str, cwd: Path | None = None) -> str:
    """What a fresh process prints that finds `my_lab` on its path."""
    environment = {**os.environ, "PYTHONPATH": str(lab)}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=cwd or lab)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(lab: Path, code: str) -> dict:
    """What `code` leaves in `found`."""
    return json.loads(run(lab, "-c", f"found = {{}}\n{code}\nimport json; print(json.dumps(found))").splitlines()[-1])


def test_the_page_has_a_file_for_every_entry_point_and_no_other():
    points = tomllib.loads(BLOCKS["pyproject.toml"])["project"]["entry-points"]
    files = {place.split(":")[0].replace(".", "/") + ".py" for group in points.values() for place in group.values()}
    assert files == {name for name in BLOCKS if name.endswith(".py")}
    assert len(files) == 12 and len(points) == 10


@pytest.mark.parametrize("name", [name for name in BLOCKS if name.endswith(".py")])
def test_every_example_is_short(name):
    assert len(BLOCKS[name].splitlines()) < (55 if name == "my_lab/envelope.py" else 40)


def test_names_are_found_without_importing_anything_of_the_package(lab):
    found = python(
        lab,
        """
import sys
from emg_lens.data.registry import DATASETS
from emg_lens.hooks.interventions import INTERVENTIONS
from emg_lens.models.registry import ARCHITECTURES
from emg_lens.scoring.metrics import METRICS
from emg_lens.training.objectives import OBJECTIVES
from emg_lens.studies.report.view import VIEWS
registries = [ARCHITECTURES, DATASETS, INTERVENTIONS, OBJECTIVES, METRICS, VIEWS]
names = ["conv-net", "csv-folder", "reverse", "focal", "top2_accuracy", "worst-subject"]
found["listed"] = [name in registry.names() for registry, name in zip(registries, names)]
found["imported"] = [m for m in sys.modules if m.startswith("my_lab")]
found["named"] = [getattr(registry[name], "name", name) for registry, name in zip(registries, names)]
""",
    )
    assert all(found["listed"]) and not found["imported"]
    assert found["named"] == ["conv-net", "csv-folder", "reverse", "focal", "top2_accuracy", "worst-subject"]


def test_the_data_set_is_read(lab, recordings):
    found = python(
        lab,
        f"""
from emg_lens.data import Recipe, Segment, load_trials, subjects
found["subjects"] = subjects("csv-folder", {str(recordings)!r})
segment = Segment(start_s=0.2, stop_s=1.8)
trials = load_trials("csv-folder", {str(recordings)!r}, Recipe(fs=50), segment, subjects=["P02"])
found.update(shape=trials.x.shape, classes=trials.n_classes, modalities=trials.modalities, notes=trials.notes)
""",
    )
    assert found["subjects"] == ["P01", "P02", "P03"]
    assert found["shape"] == [3 * 4 * 4, 7, 80] and found["classes"] == 4
    assert found["modalities"] == {"emg": 4, "acc": 3}
    assert "emg and acc taken as simultaneous" in found["notes"]


def test_the_attribution_method_is_found_by_its_name(lab):
    found = python(
        lab,
        """
from emg_lens.analysis import METHODS, attribute, benchmark_attribution, compiled_encoder
task = compiled_encoder("single", n_trials=4)
result = attribute(task.model, task.x, task.y, method="gradient-size")
found.update(listed="gradient-size" in METHODS.names(), score_is=result.audit["score_is"])
found["least"] = float(result.table["score"].min())
found["variants"] = len(benchmark_attribution(["gradient-size"], ["single"], [0], curves=False))
""",
    )
    assert found["listed"] and found["variants"] == 1
    assert found["score_is"] == "size of the gradient of the margin"
    assert found["least"] >= 0


def test_the_check_of_models_runs_with_those_of_the_package(lab):
    found = python(
        lab,
        """
import torch
from emg_lens.analysis import check_model
small, x = torch.nn.Linear(8, 2), torch.randn(4, 8)
large = torch.nn.Sequential(small, torch.nn.Hardtanh(-1000, 1000))
found["all"] = "moderate-outputs" in check_model(small, x).findings
with torch.no_grad():
    small.weight.mul_(1e4)
found["failed"] = check_model(large, x, checks=["moderate-outputs", "batch size"]).failed
""",
    )
    assert found == {"all": True, "failed": ["moderate-outputs"]}


def test_the_vocoder_keeps_the_loudness_of_a_frame(lab):
    found = python(
        lab,
        """
import torch
from emg_lens.data import MelSettings
from emg_lens.decoding import VOCODERS
mel = torch.cat([torch.full((100, 80), -3.0), torch.full((100, 80), -1.0)])
audio = VOCODERS["loudness"](seed=1).audio(mel, MelSettings())
found["length"] = len(audio)
found["ratio"] = float(audio[len(audio) // 2 :].std() / audio[: len(audio) // 2].std())
""",
    )
    assert found["length"] == 200 * 256
    assert found["ratio"] == pytest.approx(np.exp(2), rel=0.05)


def test_the_model_is_built_fitted_with_the_objective_hooked_saved_and_loaded(lab, tmp_path):
    found = python(
        lab,
        f"""
import numpy as np, torch, torch.nn.functional as F
from emg_lens import TrainingRecipe, build_model, fit
from emg_lens.data import Batch
from emg_lens.training.objectives import OBJECTIVES
torch.manual_seed(0)
model = build_model("conv-net", modalities={{"emg": 2, "acc": 1}}, n_samples=20, n_classes=3, n_filters=8)
x, y = torch.randn(60, 3, 20), torch.arange(60) % 3
x[torch.arange(60), y] += 1
recipe = TrainingRecipe(epochs=20, batch_size=20, lr=0.01)
history = fit(model, Batch(x, y), recipe, objective="focal")
found["history"] = history[["loss", "accuracy"]].to_dict("list")
torch.set_grad_enabled(False)
logits = model(x)
p = F.softmax(logits, 1)[torch.arange(60), y]
wanted = (1 - p) ** 2 * F.cross_entropy(logits, y, reduction="none")
found["loss_error"] = float((OBJECTIVES["focal"].losses(logits, y, recipe) - wanted).abs().max())
changed = model.run_with_hooks(x, fwd_hooks=[("hook_features", lambda t, hook: 0 * t)])
found["hook_error"] = float((changed - model.classifier.bias).abs().max())
model.save_pretrained({str(tmp_path)!r})
found["load_error"] = float((type(model).from_pretrained({str(tmp_path)!r})(x) - logits).abs().max())
""",
    )
    assert found["history"]["loss"][-1] < 0.5 * found["history"]["loss"][0]
    assert found["history"]["accuracy"][-1] > 0.9
    assert found["loss_error"] < 1e-6 and found["hook_error"] == 0 and found["load_error"] == 0


def test_the_encoder_has_the_declarations_of_its_base(lab):
    found = python(
        lab,
        """
import torch
from emg_lens import audit, build_model, layer_masks, sweep, unimodal
from emg_lens.analysis import model_costs
from emg_lens.sweeps.structure import reason_not_to_fold
sizes = dict(modalities={"emg": 3, "acc": 2}, n_samples=20, n_classes=4, d_model=16, n_heads=2, n_layers=3, d_mlp=8)
model = build_model("envelope", **sizes).eval()
x, conditions = model.example_input(20), layer_masks({"unimodal": unimodal()}, 3)
result, loop = sweep(model, x, conditions), sweep(model, x, conditions, executor="loop").logits
found["executor"], found["reason"] = result.executor, reason_not_to_fold(model)
found["error"] = max(float((result.logits[name] - loop[name]).abs().max()) for name in loop)
costs = model_costs({"it": model}, seconds=0.001).iloc[0]
found["flops"] = [int(costs["flops"]), int(costs["flops_formula"])]
""",
    )
    assert found["executor"] == "folded" and found["reason"] is None and found["error"] < 1e-5
    assert found["flops"][0] == found["flops"][1] > 0


def test_a_study_cuts_the_attention_of_a_plain_torch_encoder(lab, recordings, tmp_path):
    command = ("-m", "emg_lens", "run", str(lab / "attention.yaml"), "--data", str(recordings), "--jobs", "1")
    run(lab, *command, "--out", str(tmp_path), cwd=tmp_path)
    (folder,) = (path.parent for path in tmp_path.glob("my-encoder/*/spec.yaml"))
    scores = pd.read_csv(folder / "scores.csv")
    cuts = {f"{kind}/{mode}/L{layer}" for kind in ("unimodal", "cross_modal") for mode, layer in CUTS}
    assert {"baseline", "EMG removed", *cuts} <= set(scores["condition"])
    mean = scores.groupby("condition")["accuracy"].mean()
    assert mean["baseline"] > 0.4 and mean[[*cuts]].nunique() > 1  # chance is 0.25
    (saved, *_) = sorted(folder.rglob("model.safetensors"))
    found = python(
        lab,
        f"""
from my_lab.torch_encoder import TorchEncoder
from emg_lens import cross_modal, cutting
model = TorchEncoder.from_pretrained({str(saved.parent)!r})
x = model.example_input(4)
with cutting(model, cross_modal()) as report:
    cut = model(x)
found.update(layers=len(report.layers), left=max(one.attention_left for one in report.layers))
mask = cross_modal().mask(model.layout, 2, 4)[0, 0]
net = model.adapted.original_model
masked = net.encoder(__import__("torch").cat([net.cls.expand(4, 1, -1), net.embed(x)], 1), mask)
found["error"] = float((net.head(masked[:, 0]) - cut).abs().max())
""",
    )
    assert found["layers"] == 2 and found["left"] == 0 and found["error"] < 1e-5


def test_the_intervention_is_read_from_a_study_file_s_key_and_does_what_it_says(lab):
    found = python(
        lab,
        """
import torch
from emg_lens import Condition, EdgeCut, IsoNet, IsoNetConfig, build_model, sweep, unimodal
from emg_lens.hooks.interventions import read_interventions
reverse, = read_interventions({"reverse": "emg"})
conditions = [Condition("backwards", reverse), Condition("both", (reverse, EdgeCut(unimodal())))]
x = torch.randn(4, 3, 20)
backwards = torch.cat([x[:, :2].flip(2), x[:, 2:]], 1)
torch.manual_seed(0)
net = build_model("conv-net", modalities={"emg": 2, "acc": 1}, n_samples=20, n_classes=3).eval()
encoder = IsoNet(IsoNetConfig({"emg": 2, "acc": 1}, 20, 3, d_model=16, n_heads=2, n_layers=2, d_mlp=8)).eval()
with torch.no_grad():
    with reverse.applied(net, net.layout):
        found["inside"] = float((net(x) - net.classifier(net.filters(backwards).relu().mean(2))).abs().max())
    found["by_sweep"] = float((sweep(net, x, conditions[:1]).logits["backwards"] - net(backwards)).abs().max())
    result = sweep(encoder, x, conditions)
    found["encoder"] = float((result.logits["backwards"] - encoder(backwards)).abs().max())
    expected = sweep(encoder, backwards, [Condition("cut", unimodal())]).logits["cut"]
    found["both"] = float((result.logits["both"] - expected).abs().max())
    found["moved"] = float((net(x) - net(backwards)).abs().max())
found["text"] = str(reverse)
""",
    )
    assert found["moved"] > 1e-3 and found["text"] == "Reversed('emg')"
    assert max(found[name] for name in ("inside", "by_sweep", "encoder", "both")) < 1e-5


def test_the_metric_is_scikit_learn_s(lab):
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(50, 5)), rng.integers(0, 5, 50)
    found = python(
        lab,
        f"""
import numpy as np
from emg_lens.scoring.metrics import measure
found.update(measure(["top2_accuracy"], np.array({logits.tolist()}), np.array({y.tolist()})))
""",
    )
    top_k_accuracy_score = pytest.importorskip("sklearn.metrics").top_k_accuracy_score
    assert found["top2_accuracy"] == pytest.approx(top_k_accuracy_score(y, logits, k=2, labels=range(5)))


def test_the_study_runs_with_all_of_them(lab, recordings, tmp_path):
    command = ("-m", "emg_lens", "run", str(lab / "study.yaml"), "--data", str(recordings), "--jobs", "1")
    run(lab, *command, "--out", str(tmp_path), cwd=tmp_path)
    (folder,) = (path.parent for path in tmp_path.glob("my-study/*/spec.yaml"))
    scores = pd.read_csv(folder / "scores.csv")
    removed = {f"{sensor} {how}" for sensor in ("EMG", "ACC") for how in ("removed", "set to its mean")}
    assert set(scores["condition"]) == {"baseline", "EMG backwards", "ACC backwards", "ACC zeroed", *removed}
    assert set(scores["subject"]) == {"P01", "P02", "P03"}
    assert {"accuracy", "top2_accuracy", "log_prob"} <= set(scores)
    assert (scores["top2_accuracy"] >= scores["accuracy"]).all()
    mean = scores.groupby("condition")["accuracy"].mean()
    assert mean["baseline"] > 0.6 > mean["ACC zeroed"]
    confidence = pd.concat(pd.read_csv(path) for path in folder.rglob("analyses/confidence.csv"))
    assert confidence["confidence"].between(0.25, 1).all() and set(confidence["condition"]) >= set(scores["condition"])
    report = (folder / "report.html").read_text()
    assert "Worst subject" in report
    for condition, values in scores.pivot(index="subject", columns="condition", values="accuracy").items():
        cells = rf"{condition}\W.*?{values.idxmin()}\W.*?{values.min():.3f}"
        assert re.search(cells, report[report.index("Worst subject") :], re.DOTALL), condition
