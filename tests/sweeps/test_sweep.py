import math

import numpy as np
import pytest
import torch

from emg_lens.analysis.cost import model_costs
from emg_lens.analysis.shift import activation_shift
from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeError, cross_modal, cut, flow, unimodal
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.models.registry import build_model
from emg_lens.sweeps.conditions import Condition, head_masks, layer_masks
from emg_lens.sweeps.engine import audit, sweep
from emg_lens.validation import ArgumentError

EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}


@pytest.fixture(scope="module")
def model() -> HookedBiosignalEncoder:
    torch.manual_seed(0)
    config = IsoNetConfig({"emg": 4, "acc": 3}, 10, 6, d_model=32, n_heads=4, n_layers=5, d_mlp=16)
    return IsoNet(config).eval()


@pytest.fixture(scope="module")
def x(model) -> torch.Tensor:
    return 3 * model.example_input(12)


def test_every_condition_equals_a_plain_hooked_run(model, x):
    conditions = layer_masks(EDGES, 5) + head_masks(EDGES, 5, 4)
    result = sweep(model, x, conditions)
    for condition in conditions:
        expected = model.run_with_hooks(x, fwd_hooks=cut(model, condition.edges))
        assert (result.logits[condition.name] - expected).abs().max() < 1e-5, condition.name
    assert (result.logits["baseline"] - model(x)).abs().max() < 1e-5


def test_the_six_identities_of_table_3_hold(model, x):
    logits = sweep(model, x, layer_masks(EDGES, 5)).logits
    for kind in EDGES:
        for a, b in [
            ("individual/L5", None),
            ("from_beginning/L5", "from_beginning/L4"),
            ("from_end/L4", "individual/L4"),
            ("from_beginning/L1", "individual/L1"),
            ("from_end/L5", "individual/L5"),
            ("from_end/L1", "from_beginning/L5"),
        ]:
            left, right = logits[f"{kind}/{a}"], logits[f"{kind}/{b}" if b else "baseline"]
            assert (left - right).abs().max() <= 1e-5, (kind, a, b)
        assert (logits[f"{kind}/individual/L2"] - logits["baseline"]).abs().max() > 1e-3


def test_the_audit_knows_19_distinct_conditions_among_the_31(model):
    from emg_lens.sweeps.conditions import with_baseline

    found = audit(model, with_baseline(layer_masks(EDGES, 5)))
    assert len(found) == 31
    assert found["equivalent_to"].nunique() == 19
    nulls = set(found[found["structural_null"]]["condition"]) - {"baseline"}
    assert nulls == {f"{k}/{m}/L5" for k in EDGES for m in ("individual", "from_end")}
    whole = found.set_index("condition").loc["unimodal/from_beginning/L5"]
    assert whole["edges_cut"] == 5 * 4 * (16 + 9)
    assert whole["live_edges_cut"] == 4 * 4 * (16 + 9)


def test_the_audit_reports_changes_equivalences_and_fully_cut_rows(model, x):
    everything = Condition("all", unimodal() | cross_modal() | flow("cls", "emg") | flow("cls", "acc"))
    audit = sweep(model, x, [*layer_masks(EDGES, 5), everything]).audit.set_index("condition")
    assert audit.loc["unimodal/individual/L5", "max_abs_delta_logit"] < 1e-5
    assert audit.loc["unimodal/individual/L2", "max_abs_delta_logit"] > 1e-3
    assert audit.loc["unimodal/from_end/L1", "equivalent_to"] == "unimodal/from_beginning/L4"
    assert (audit["equivalence_error"] <= 1e-5).all()
    assert audit.loc["all", "rows_fully_cut"] == 5 * 4 * 7
    assert audit.loc["unimodal/individual/L1", "rows_fully_cut"] == 0


def test_accuracy_is_that_of_the_argmax_and_delta_is_the_papers(model, x):
    result = sweep(model, x, layer_masks(EDGES, 5))
    y = model(x).argmax(-1)
    y[:3] = (y[:3] + 1) % 6
    table = result.accuracy(y).set_index("condition")
    assert table.loc["baseline", "accuracy"] == pytest.approx(9 / 12)
    row = table.loc["unimodal/from_beginning/L3"]
    expected = np.mean((result.logits["unimodal/from_beginning/L3"].argmax(-1) == y).numpy())
    assert row["accuracy"] == pytest.approx(expected)
    assert row["delta_percent"] == pytest.approx(100 * (expected - 0.75) / 0.75)
    assert row["layer"] == 2 and row["mode"] == "from_beginning"


def test_labels_of_another_length_are_refused(model, x):
    with pytest.raises(ValueError, match=r"expected one class index for each of 12 trials"):
        sweep(model, x, []).accuracy(torch.zeros(5))


def test_the_model_is_left_as_it_was(model, x):
    model.train()
    try:
        sweep(model, x, layer_masks(EDGES, 5)[:2])
        assert model.training
        assert not any(p.fwd_hooks for p in model.hook_points())
    finally:
        model.eval()


def test_every_part_of_the_model_keeps_its_mode(model, x):
    model.train()
    model.blocks[0].eval()  # frozen in the middle of a training
    before = [part.training for part in model.modules()]
    try:
        for call in (
            lambda: sweep(model, x, []),
            lambda: activation_shift(model, x, []),
            lambda: model_costs({"it": model}, seconds=0.001),
        ):
            call()
            assert [part.training for part in model.modules()] == before
    finally:
        model.eval()


def test_the_batch_size_does_not_matter(model, x):
    whole = sweep(model, x, layer_masks(EDGES, 5)[:4])
    parts = sweep(model, x, layer_masks(EDGES, 5)[:4], batch_size=5)
    for name, logits in whole.logits.items():
        assert (parts.logits[name] - logits).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (flow("eng", "cls"), "unknown group or token 'eng'"),
        (unimodal().at(layers=7), "unknown layer 7"),
        (unimodal() & cross_modal(), "no edge"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(model, x, edges, message):
    with pytest.raises(EdgeError, match=message):
        sweep(model, x, [Condition("wrong", edges)])


@pytest.mark.parametrize("y", [*([wrong] * 12 for wrong in (math.nan, 0.5, -1, 99, True, "a")), "a", None])
def test_labels_that_are_no_classes_are_refused(model, x, y):
    with pytest.raises(EmgLensError, match="y"):
        sweep(model, x, []).accuracy(y)


@pytest.mark.parametrize(
    "given",
    [
        {"x": None},
        {"x": np.zeros((12, 7, 10), np.float32)},
        {"x": torch.full((12, 7, 10), math.nan)},
        {"x": torch.zeros(0, 7, 10)},
        {"x": torch.zeros(12, 7, 10, dtype=torch.float64)},
        {"x": torch.zeros(12, 7, 10, dtype=torch.complex64)},
        {"x": torch.zeros(12, 7, 10, dtype=torch.int64)},
        {"x": torch.tensor(1.0)},
        {"model": None},
        {"model": torch.nn.Linear(2, 2)},
        {"conditions": None},
        {"conditions": cross_modal()},
        {"conditions": [cross_modal()]},
        {"conditions": "cross_modal()"},
        {"reference": torch.full((12, 7, 10), math.inf)},
        {"reference": np.zeros((12, 7, 10))},
        {"executor": ["loop"]},
        {"batch_size": True},
        {"batch_size": 0},
        {"on_progress": 3},
        {"checkpoint": 3},
        {"layout": "emg"},
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(model, x, given):
    with pytest.raises(EmgLensError) as error:
        sweep(**{"model": model, "x": x, "conditions": [Condition("cut", cross_modal())], **given})
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "make",
    [
        lambda: layer_masks(cross_modal(), 2),
        lambda: layer_masks({"a": "cross_modal()"}, 2),
        lambda: layer_masks({1: cross_modal()}, 2),
        lambda: layer_masks({"": cross_modal()}, 2),
        lambda: layer_masks({}, 2),
        lambda: layer_masks(EDGES, -1),
        lambda: layer_masks(EDGES, 2.5),
        lambda: layer_masks(EDGES, 10**9),
        lambda: layer_masks(EDGES, 2, modes="individual"),
        lambda: layer_masks(EDGES, 2, modes=[]),
        lambda: layer_masks(EDGES, 2, modes=["individual", "individual"]),
        lambda: head_masks(None, 2, 2),
        lambda: head_masks(EDGES, 2, "2"),
        lambda: head_masks(EDGES, 10**4, 10**4),
        lambda: Condition("a", cross_modal(), tags=3),
        lambda: Condition("a", cross_modal(), tags=["a"]),
        lambda: Condition("a", cross_modal(), tags={1: 2}),
    ],
)
def test_what_is_no_condition_is_refused_at_once(make):
    with pytest.raises(EmgLensError) as error:
        make()
    assert len(str(error.value)) < 400


def test_accuracy_of_a_sequence_of_outputs_is_refused_in_one_line():
    model = build_model("tinymyo-gestures", modalities={"emg": 2}, n_samples=60, n_classes=3, d_model=12, d_mlp=8)
    result = sweep(model.eval(), model.example_input(4), [])
    with pytest.raises(ArgumentError, match=r"outputs have shape \[4, 4, 3\]; accuracy needs class logits") as error:
        result.accuracy(torch.zeros(4, dtype=torch.int64))
    assert "\n" not in str(error.value)
