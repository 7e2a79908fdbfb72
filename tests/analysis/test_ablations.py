"""The three ablations of an edge set in one table, compared with plain hooks and scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import sem

from emg_lens.analysis.ablations import compare_ablations
from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeError, adapt, cross_modal, cut, every, flow, mean_edges, resample_edges
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps import SweepError


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = HookedBiosignalEncoder(EncoderConfig({"emg": 3, "acc": 2}, 6, 3, d_model=8, n_heads=2, n_layers=2, d_mlp=8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.8)
    return model.eval()


@pytest.fixture(scope="module")
def trials(model):
    return model.example_input(9), torch.arange(9) % 3, model.example_input(7) * 2 + 1


EDGES = {
    "fusion": cross_modal(),
    "last, from EMG": flow("emg", "cls").at(layers=1),
    "constant": flow("cls", "emg").at(layers=0),
    "dead": flow("acc", "emg").at(layers=1),
}


@torch.no_grad()
def test_the_table_has_the_changes_that_plain_hooks_give(model, trials):
    x, y, reference = trials
    table = compare_ablations(model, x, y, EDGES, reference, seed=4).set_index(["edges", "ablation"])
    assert len(table) == 3 * len(EDGES)

    def margins(logits):
        own = logits[range(9), y]
        logits[range(9), y] = -np.inf
        return (own - logits.max(1).values).double().numpy()

    clean = margins(model(x))
    for name, edges in EDGES.items():
        hooks = {
            "deletion": cut(model, edges),
            "mean": mean_edges(model, edges, reference=reference),
            "resample": resample_edges(model, edges, reference=reference, seed=4),
        }
        for ablation, own in hooks.items():
            values, row = margins(model.run_with_hooks(x, fwd_hooks=own)), table.loc[name, ablation]
            assert row["metric"] == pytest.approx(values.mean(), abs=1e-5)
            assert row["change"] == pytest.approx((values - clean).mean(), abs=1e-5)
            assert row["standard_error"] == pytest.approx(sem(values - clean), abs=1e-5)
            assert row["structural_null"] == (name == "dead")
    fusion = table.loc["fusion", "change"]
    assert fusion.nunique() == 3 and (fusion.abs() > 2e-4).all()


def test_replaced_values_keep_what_is_constant_and_a_deletion_does_not(model, trials):
    x, y, reference = trials
    table = compare_ablations(model, x, y, EDGES, reference).set_index(["edges", "ablation"])["change"].abs()
    assert table["constant", "deletion"] > 2e-4
    assert table["constant", "mean"] < 1e-5 and table["constant", "resample"] < 1e-5
    assert (table["dead"] == 0).all()


def test_a_metric_may_be_a_function_or_a_name(model, trials):
    x, y, reference = trials
    correct = lambda logits, y: (logits.argmax(-1) == y).double()  # noqa: E731
    edges = {"all": every()}
    table = compare_ablations(model, x, y, edges, reference, metric=correct).set_index("ablation")
    with torch.no_grad():
        expected = correct(model.run_with_hooks(x, fwd_hooks=cut(model, every())), y).mean()
        clean = correct(model(x), y).mean()
    assert table["metric"]["deletion"] == pytest.approx(float(expected))
    assert table["change"]["deletion"] == pytest.approx(float(expected - clean))
    log_prob = compare_ablations(model, x, y, edges, reference, metric="log_prob")
    assert (log_prob["metric"] < 0).all()
    alone = compare_ablations(model, x[:1], y[:1], edges, reference)
    assert alone["standard_error"].isna().all() and alone["change"].notna().all()


def test_what_is_refused(model, trials):
    x, y, reference = trials
    with pytest.raises(EdgeError, match="edges is empty; expected edge sets by name"):
        compare_ablations(model, x, y, {}, reference)
    with pytest.raises(EmgLensError, match="metric='auc'; expected one of"):
        compare_ablations(model, x, y, EDGES, reference, metric="auc")
    with pytest.raises(EmgLensError, match="class index"):
        compare_ablations(model, x, y + 3, EDGES, reference)
    with pytest.raises(EmgLensError, match="y=1 is a single number; expected one target per trial"):
        compare_ablations(model, x, torch.tensor(1), EDGES, reference)
    with pytest.raises(EdgeError, match="selects no edge|layers"):
        compare_ablations(model, x, y, {"one": every().at(layers=5)}, reference)
    plain = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 1).eval()
    tokens, layout = torch.randn(2, 5, 8), TokenLayout.groups({"emg": [0, 1], "acc": [2, 3]}, n_tokens=5)
    with pytest.raises(SweepError, match="hook_v"):
        compare_ablations(adapt(plain, tokens), tokens, y[:2], {"one": every()}, tokens, layout=layout)
