"""Everything that runs a model, on a GPU: the numbers are those of the CPU. Skipped where torch finds no GPU.

`EMG_LENS_TEST_DEVICE=cpu` runs the file without one, so that it can be edited anywhere.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from emg_lens import (
    Condition,
    CutMLP,
    MeanEdges,
    Replace,
    ResampleEdges,
    Shuffle,
    TokenLayout,
    TrainingRecipe,
    adapt,
    attention_view,
    attribute,
    cross_modal,
    cut,
    cut_mlp,
    cutting,
    find_circuit,
    fit,
    flow,
    gate_edges,
    layer_masks,
    modality_mass,
    sweep,
    unimodal,
)
from emg_lens.analysis import (
    METHODS,
    IntegerSoftmax,
    activation_shift,
    check_model,
    compare_ablations,
    compiled_encoder,
    direct_effects,
    export_onnx,
    gap_curve,
    masked_errors,
    patch_paths,
    profile,
    quantised,
    quantised_edges,
    readout_vectors,
)
from emg_lens.data import Batch
from emg_lens.models import build_model
from emg_lens.studies import Study
from emg_lens.training import PretrainingRecipe, fit_cohort, pretrain

DEVICE = os.environ.get("EMG_LENS_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
pytestmark = pytest.mark.skipif(not DEVICE, reason="no GPU")

EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}
TWO = {"emg": 4, "acc": 3}
SMALL = {"d_model": 16, "n_heads": 2, "n_layers": 3, "d_mlp": 16}
MODELS: dict[str, dict[str, Any]] = {
    "isonet": {"modalities": TWO, **SMALL},
    "hierarchical": {"modalities": TWO},
    "multimodal-transformer": {"modalities": TWO},
    "multimodal-mlp": {"modalities": TWO},
    "tinymyo": {"modalities": {"emg": 4}, "n_layers": 2},
    "tinymyo-gestures": {"modalities": {"emg": 3}, "n_samples": 60, "kernel_samples": 9, "stride": 5, **SMALL},
    "tinymyo-speech": {"modalities": {"emg": 3}, "n_samples": 61, "relative_reach": 6, **SMALL},
    "lstm-gestures": {"modalities": {"emg": 4}, "n_samples": 400},
}


@pytest.fixture(autouse=True)
def _full_precision():
    """No TF32, so that a GPU rounds like a CPU."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def made(name: str = "isonet", **changes: Any):
    """A model on the CPU, and the same on the device."""
    torch.manual_seed(0)
    model = build_model(name, **{"n_samples": 40, "n_classes": 5, **MODELS[name], **changes}).eval()
    return model, copy.deepcopy(model).to(DEVICE)


def on_device(value: Any) -> bool:
    """Whether the first tensor in a value lies on the device."""
    return value.device.type == torch.device(DEVICE).type


def assert_same(found: Any, expected: Any, atol: float = 2e-4) -> None:
    """Compare tensors, tables and mappings of them."""
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=atol)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key], atol)
    else:
        torch.testing.assert_close(torch.as_tensor(found).cpu(), torch.as_tensor(expected), rtol=1e-3, atol=atol)


def both(run: Callable[[Any, Tensor], Any], name: str = "isonet", batch: int = 6, atol: float = 2e-4, **changes: Any):
    """Run a function of a model and an input on the CPU and on the device, and compare. Returns the second result."""
    model, there = made(name, **changes)
    x = model.example_input(batch, seed=1)
    expected, found = run(model, x), run(there, x.to(DEVICE))
    assert_same(found, expected, atol)
    return found


# --- models, cuts and sweeps ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_forward(name):
    with torch.no_grad():
        assert on_device(both(lambda model, x: model(x), name))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("multimodal-mlp", "lstm-gestures")])
def test_a_cut_is_verified_and_equals_its_hooks(name):
    edges = flow("emg", "emg").at(layers=0) if len(MODELS[name]["modalities"]) == 1 else unimodal().at(layers=0)

    def run(model, x):
        with torch.no_grad(), cutting(model, edges) as report:
            inside = model(x)
        assert report.layers and all(row.edges_cut and row.attention_left == 0 for row in report.layers)
        hooked = model.run_with_hooks(x, fwd_hooks=cut(model, edges))
        assert (hooked - inside).abs().max() < 1e-4 < (model(x) - inside).abs().max()
        return inside.detach()

    both(run, name)


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_adapted_encoder(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    there, x = copy.deepcopy(encoder).to(DEVICE), torch.randn(4, 6, 16)
    layout = TokenLayout.channels({"emg": 4, "acc": 2}, cls=False)
    outputs = []
    for model, inputs in ((encoder, x), (there, x.to(DEVICE))):
        adapted = adapt(model, inputs[:1])
        with torch.no_grad(), cutting(adapted, cross_modal(), layout) as report:
            outputs.append(model(inputs))
        assert not report.routes
        result = sweep(adapted, inputs, [Condition("cut", cross_modal())], layout=layout)
        assert_same(result.logits["cut"], outputs[-1].cpu())
    assert_same(outputs[1], outputs[0])


@pytest.mark.parametrize("executor", ["auto", "loop", "tree"])
@pytest.mark.parametrize("name", ["isonet", "hierarchical", "tinymyo"])
def test_a_sweep(name, executor):
    one = len(MODELS[name]["modalities"]) == 1
    edges = {"own": flow("emg", "emg")} if one else {"unimodal": unimodal()}

    def run(model, x):
        return dict(sweep(model, x, layer_masks(edges, model.cfg.n_layers), executor=executor, batch_size=4).logits)

    both(run, name)


INTERVENTIONS = {
    "cut": cross_modal(),
    "mean edges": MeanEdges(cross_modal()),
    "resample": ResampleEdges(cross_modal()),
    "zero": Replace("emg"),
    "mean": Replace("emg", by="mean"),
    "permute": Replace("emg", by="permute"),
    "embed": Replace("emg", by="resample", at="hook_embed"),
    "order": Shuffle("emg"),
    "mlp": CutMLP("emg", layers=1),
}


@pytest.mark.parametrize("executor", ["auto", "loop"])
def test_a_sweep_with_interventions_of_all_kinds_and_a_reference(executor):
    conditions = [Condition(name, change) for name, change in INTERVENTIONS.items()]
    both(lambda model, x: dict(sweep(model, x, conditions, reference=x.flip(0), executor=executor).logits))


def test_a_sweep_resumes_from_its_checkpoint(tmp_path):
    _, model = made()
    x, conditions = model.example_input(8), layer_masks(EDGES, 3)

    def stop(fraction: float) -> None:
        if fraction > 0.4:
            raise KeyboardInterrupt

    whole = sweep(model, x.to(DEVICE), conditions, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, x, conditions, batch_size=2, checkpoint=tmp_path / "a.safetensors", on_progress=stop)
    for inputs in (x, x.to(DEVICE)):  # trials may stay on the CPU
        resumed = sweep(model, inputs, conditions, batch_size=2, checkpoint=tmp_path / "a.safetensors")
        assert all(torch.equal(resumed.logits[name], out) for name, out in whole.logits.items())


def test_a_sweep_keeps_logits_on_disk_or_gives_gradients(tmp_path):
    def run(model, x):
        stored = sweep(model, x, layer_masks(EDGES, 3), scratch=tmp_path)
        return {name: torch.as_tensor(np.asarray(out)) for name, out in stored.logits.items()}

    both(run)

    def gradient(model, x):
        x = x.clone().requires_grad_()
        sweep(model, x, [Condition("cut", cross_modal())], gradients=True).logits["cut"].sum().backward()
        return x.grad

    assert on_device(both(gradient))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sweep_and_a_cut_in_mixed_precision(dtype):
    _, model = made()
    x = model.example_input(6)
    with torch.autocast(torch.device(DEVICE).type, dtype), torch.no_grad():
        found = sweep(model, x, [Condition("cut", cross_modal())]).logits["cut"]
        with cutting(model, cross_modal()):
            inside = model(x)
    assert found.dtype == inside.dtype == dtype
    torch.testing.assert_close(found, inside.cpu(), atol=0.05, rtol=0.05)


def test_cuts_in_half_precision_and_with_tf32():
    for change in (lambda m: m.to(torch.bfloat16), lambda m: m.half()):
        _, model = made()
        x = model.example_input(6)
        model = change(model)
        x = x.to(next(model.parameters()).dtype)
        with torch.no_grad(), cutting(model, unimodal()):
            inside = model(x)
        assert (inside - model(x)).abs().max() > 1e-3
    _, model = made()
    torch.set_float32_matmul_precision("high")
    x = model.example_input(6)
    result = sweep(model, x, layer_masks(EDGES, 3), executor="tree", y=torch.arange(6) % 5)
    with torch.no_grad(), cutting(model, unimodal().at(layers=0)):
        torch.testing.assert_close(model(x).cpu(), result.logits["unimodal/individual/L1"], atol=0.02, rtol=0.02)


COMPILED = """
import sys
import torch
from emg_lens import build_model, cutting, unimodal
model = build_model("isonet", modalities={"emg": 4, "acc": 3}, n_samples=40, n_classes=5).eval().to(sys.argv[1])
x, compiled = model.example_input(6), torch.compile(model)
with torch.no_grad():
    before = compiled(x)
    with cutting(compiled, unimodal()):
        inside = compiled(x)
    with cutting(model, unimodal()):
        expected = model(x)
    torch.testing.assert_close(inside, expected, atol=1e-4, rtol=1e-3)
    assert (inside - before).abs().max() > 1e-3
    torch.testing.assert_close(compiled(x), before)
"""


def test_a_compiled_model(tmp_path):
    """In a process of its own, without the shape checks of the tests."""
    subprocess.run([sys.executable, "-c", COMPILED, DEVICE], check=True, timeout=240, cwd=tmp_path)


def test_gates_caches_and_pictures():
    def run(model, x):
        gates = torch.full((3, 2, 8, 8), 0.5, device=x.device, requires_grad=True)
        model.run_with_hooks(x, fwd_hooks=gate_edges(model, gates)).sum().backward()
        _, cache = model.run_with_cache(x)
        assert attention_view(cache, model.layout)._repr_html_()
        assert modality_mass(cache, model.layout)["mass"].notna().all()
        return {"gates": gates.grad, "pattern": cache["pattern", 0].detach(), "mlp": mlp_cut(model, x)}

    def mlp_cut(model, x):
        return model.run_with_hooks(x, fwd_hooks=cut_mlp(model, "emg", layers=0)).detach()

    both(run)


# --- analyses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_an_attribution(method):
    by: Any = {"emg": flow("emg", "cls"), "acc": flow("acc", "cls")} if method == "shapley" else "channel"
    y = torch.arange(6) % 5

    def run(model, x):
        return attribute(model, x, y if method == "cut" else y.to(x.device), method=method, by=by).trial_scores

    both(run)


def test_a_circuit_of_a_compiled_encoder():
    task = compiled_encoder("single", n_trials=16)
    rows = []
    for device in ("cpu", DEVICE):
        model = copy.deepcopy(task.model).to(device)
        x = task.x.to(device, next(model.parameters()).dtype)
        circuit = find_circuit(model, x, task.y.to(device), by="modality")
        rows.append(str(circuit))
    assert rows[0] == rows[1]


def test_paths_effects_shifts_and_readouts():
    y, path = torch.arange(6) % 5, [flow("emg", "acc").at(layers=0), flow("acc", "cls").at(layers=1)]
    both(lambda model, x: patch_paths(model, x, x.flip(0), path))
    both(lambda model, x: direct_effects(model, x, y))
    both(lambda model, x: activation_shift(model, x, [Condition("cut", cross_modal())]))
    both(lambda model, x: readout_vectors(model, x))


@pytest.mark.parametrize("softmax", ["float", "integer", IntegerSoftmax(sharpness=16)], ids=str)
def test_a_quantised_model(softmax):
    def run(model, x):
        with torch.no_grad():
            return quantised(model, 8, activations=8, softmax=softmax, calibration=x)(x)

    both(run, atol=0.2)  # a value beside a half rounds to either side
    both(lambda model, x: quantised_edges(quantised(model, 8, softmax="integer"), x), atol=0.05)


ON_THE_CPU = {
    "sweep": lambda m, x, y: sweep(m, x, [Condition("cut", cross_modal())], reference=x, y=y).to_frame(),
    "attribute": lambda m, x, y: attribute(m, x, y, by="modality").table,
    "find_circuit": lambda m, x, y: find_circuit(m, x, y, by="modality", all_routes=False).evaluate(x, y),
    "patch_paths": lambda m, x, y: patch_paths(m, x, x.flip(0), [cross_modal().at(layers=0)]),  # noqa: ARG005
    "direct_effects": direct_effects,
    "activation_shift": lambda m, x, y: activation_shift(m, x, [Condition("c", cross_modal())], reference=x),  # noqa: ARG005
    "readout_vectors": lambda m, x, y: readout_vectors(m, x),  # noqa: ARG005
    "profile": lambda m, x, y: profile(m, x, runs=30)[["macs", "weight_bytes"]],  # noqa: ARG005
    "compare_ablations": lambda m, x, y: compare_ablations(m, x, y, {"x": cross_modal()}, reference=x),
}


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_trials_may_stay_on_the_cpu(name):
    model, there = made()
    x = model.example_input(8, seed=1)
    y = model(x).argmax(1)
    assert_same(ON_THE_CPU[name](there, x, y), ON_THE_CPU[name](model, x, y))


def test_profiles_checks_and_onnx(tmp_path):
    _, model = made(d_model=16)
    x = model.example_input(6)
    table = profile(model, x, [Condition("cut", cross_modal())], runs=30)
    assert (table.filter(like="ms").to_numpy() > 0).all()
    report = check_model(model, x, torch.arange(6) % 5)
    assert report.passed, str(report)
    pytest.importorskip("onnxruntime")
    assert export_onnx(model, tmp_path / "model.onnx").largest_difference < 1e-3


def test_reconstruction():
    settings = {"n_classes": 0, "head": "reconstruction", "n_samples": 80, **SMALL, "patch_samples": 10}
    both(lambda model, x: masked_errors(model, x), "tinymyo", **settings)
    both(lambda model, x: gap_curve(model, x, [2, 5]), "tinymyo", **settings)


# --- training ---------------------------------------------------------------------------------------------

RECIPE = TrainingRecipe(epochs=3, batch_size=16, lr=1e-3, anneal_epochs=2, clip_norm=0.5, schedule="cosine")


def trials(n: int = 40, seed: int = 0) -> Batch:
    """Trials in which the channel with the largest mean is the class."""
    y = torch.arange(n) % 5
    x = torch.randn(n, 7, 40, generator=torch.Generator().manual_seed(seed))
    x[torch.arange(n), y] += 1.5
    return Batch(x, y)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """All parameters by name."""
    return {name: one.detach() for name, one in model.named_parameters()}


def test_a_fit():
    tables = []
    models = made()
    for model in models:
        tables.append(fit(model, trials(), RECIPE, held_out=trials(20, 1)))
    assert_same(tables[1], tables[0], 1e-3)
    assert_same(parameters(models[1]), parameters(models[0]), 1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_fit_has_the_bits_of_a_whole_one(tmp_path, dropout):
    path = tmp_path / "fit.safetensors"
    _, whole = made(dropout=dropout)
    _, part = made(dropout=dropout)
    _, fresh = made(dropout=dropout)
    fit(whole, trials(), RECIPE)
    fit(part, trials(), RECIPE, checkpoint=path, stop_after=2)
    fit(fresh, trials(), RECIPE, checkpoint=path)
    for name, one in parameters(fresh).items():
        torch.testing.assert_close(one, parameters(whole)[name], rtol=0, atol=0, msg=name)


def test_a_cohort_equals_single_fits():
    models = [made()[1].double() for _ in range(3)]
    batches = [Batch(b.x.double(), b.targets) for b in (trials(n, n) for n in (40, 33, 21))]
    alone = copy.deepcopy(models)
    tables = fit_cohort(models, batches, RECIPE, held_out=batches)
    for model, other, batch, table in zip(models, alone, batches, tables, strict=True):
        expected = fit(other, batch, RECIPE, held_out=batch)
        pd.testing.assert_frame_equal(table, expected, atol=1e-6)
        for name, one in parameters(model).items():
            torch.testing.assert_close(one, parameters(other)[name], rtol=0, atol=1e-8, msg=name)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_pretraining_and_its_continuation(tmp_path, precision):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from toy_pretraining import make_corpora, make_model

    AcceleratorState._reset_state(reset_partial_state=True)  # another precision
    on_cpu = torch.device(DEVICE).type == "cpu"
    recipe = PretrainingRecipe(
        epochs=3, batch_size=16, micro_batch=8, lr=3e-3, warmup_epochs=1, schedule="by step", clip_norm=1.0, seed=5
    )
    windows, validation = make_corpora()
    outputs = []
    for stops in ((None,), (7, None)):
        path = tmp_path / f"{len(stops)}.safetensors"
        for stop in stops:
            model = make_model(dropout=0.1)
            accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu)
            table = pretrain(
                model, windows, recipe, validation=validation, checkpoint=path, log_steps=2, stop_after=stop,
                accelerator=accelerator,
            )  # fmt: skip
        outputs.append((parameters(model), table))
    assert table["validation_masked"].dropna().iloc[-1] < table["validation_masked"].dropna().iloc[0]
    for name, one in outputs[0][0].items():
        assert on_device(one) and torch.equal(one, outputs[1][0][name]), name


# --- studies ----------------------------------------------------------------------------------------------


def test_a_study_gives_the_scores_of_the_cpu(tmp_path):
    study = Study.load(Path(__file__).with_name("smoke.yaml"))
    named = ["circuit", "flow", "head-roles", "shift", "quantisation", "superset-ablations"]
    study = study.model_copy(update={"analyses": tuple(named)})
    here, there = (study.run(out=tmp_path / device, device=device).scores for device in ("cpu", DEVICE))
    keys = ["fit", "condition"]
    assert here[keys].equals(there[keys])
    assert (here["accuracy"] - there["accuracy"]).abs().mean() < 0.02  # a trial beside the boundary may change sides
