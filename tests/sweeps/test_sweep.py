import numpy as np
import pytest
import torch

from emg_lens.hooks import EdgeError, cross_modal, cut, flow, unimodal
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps.conditions import Condition, head_masks, layer_masks
from emg_lens.sweeps.engine import audit, sweep

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
    with pytest.raises(ValueError, match=r"got \[5\] labels for 12 trials"):
        sweep(model, x, []).accuracy(torch.zeros(5))


def test_the_model_is_left_as_it_was(model, x):
    model.train()
    try:
        sweep(model, x, layer_masks(EDGES, 5)[:2])
        assert model.training
        assert not any(p.fwd_hooks for p in model.hook_points())
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
        (unimodal().at(layers=7), "layer 7 does not exist"),
        (unimodal() & cross_modal(), "no edge"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(model, x, edges, message):
    with pytest.raises(EdgeError, match=message):
        sweep(model, x, [Condition("wrong", edges)])
