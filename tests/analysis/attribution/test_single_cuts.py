"""Single cuts: compared with `cut` hooks, one group after the other."""

import numpy as np
import pytest
import torch
from analysis.attribution.small_models import DATA, SIZES, hierarchical, isonet, margin_of, smooth, trials

from emg_lens import build_model, cross_modal, cut, flow
from emg_lens.analysis.attribution.run import attribute


@pytest.mark.parametrize("build", [isonet, smooth, hierarchical])
@pytest.mark.parametrize("by", ["modality", "channel"])
def test_a_score_is_the_drop_of_the_margin_with_the_group_cut(build, by):
    model = build()
    x, y = trials(model)
    found = attribute(model, x, y, method="cut", by=by)
    now = margin_of(model, x, y)
    groups = found.question.groups
    for number in np.random.default_rng(0).choice(len(groups), min(8, len(groups)), replace=False):
        edges = groups.edges(np.arange(len(groups)) == number)
        dropped = (now - margin_of(model, x, y, cut(model, edges))).detach()
        np.testing.assert_allclose(found.trial_scores[:, number], dropped.numpy(), atol=1e-5)
        assert found.table["score"][number] == pytest.approx(dropped.mean().item(), abs=1e-5)
        error = dropped.std().item() / len(x) ** 0.5
        assert found.table["standard_error"][number] == pytest.approx(error, abs=1e-5)


def test_a_modality_is_the_joint_cut_and_not_a_sum():
    model = isonet()
    x, y = trials(model)
    found = attribute(model, x, y, method="cut", by="modality").table.set_index("edge")
    joint = margin_of(model, x, y) - margin_of(model, x, y, cut(model, flow("emg", "cls").at(layers=[1])))
    assert found["score"]["L2 emg → cls"] == pytest.approx(joint.mean().item(), abs=1e-5)
    single = attribute(model, x, y, method="cut", by="channel").table
    summed = single[(single["layer"] == 1) & single["src"].str.startswith("emg")]["score"].sum()
    assert abs(summed - joint.mean().item()) > 1e-3


def test_named_groups_are_cut_as_they_are():
    model = hierarchical()
    x, y = trials(model)
    groups = {"fusion": cross_modal(), "read": flow("emg", "cls")}
    found = attribute(model, x, y, method="cut", by=groups)
    for number, edges in enumerate(groups.values()):
        dropped = margin_of(model, x, y) - margin_of(model, x, y, cut(model, edges))
        np.testing.assert_allclose(found.trial_scores[:, number], dropped.detach().numpy(), atol=1e-5)


def test_missing_edges_are_not_listed():
    """Permanently masked edges, and the future of a causal model."""
    torch.manual_seed(0)
    masked = build_model("isonet", **DATA, **SIZES, n_layers=2, masked_edges="cross_modal()").eval()
    x, y = trials(masked)
    pairs = attribute(masked, x, y, method="cut", by="modality").table
    assert ("emg", "acc") not in set(zip(pairs["dest"], pairs["src"], strict=True))
    causal = build_model("tinymyo", modalities={"emg": 2}, n_samples=12, patch_samples=4, n_classes=3, n_layers=1,
                         d_model=12, n_heads=2, d_mlp=8, attention_dir="causal").eval()  # fmt: skip
    found = attribute(causal, torch.randn(3, 2, 12), torch.arange(3), method="cut", by="head")
    patch = torch.tensor(causal.layout.patch)
    listed = found.top(len(found.table)).mask(causal.layout, 1, 2)[0].any(0)
    assert listed.any() and not (listed & (patch[None, :] > patch[:, None])).any()
