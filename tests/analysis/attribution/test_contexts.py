"""Random contexts: compared with the exact weighted regression over all contexts."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from emg_lens import build_model, cut, edges_from_mask
from emg_lens.analysis import attribute
from emg_lens.analysis.attribution.methods.contexts import RandomContexts
from emg_lens.errors import EmgLensError
from emg_lens.hooks import flow, unimodal

GROUPS = {
    "first: acc → emg": flow("acc", "emg").at(layers=0),
    "first: emg → acc": flow("emg", "acc").at(layers=0),
    "first: own": unimodal().at(layers=0),
    "first: → cls": (flow("emg", "cls") | flow("acc", "cls")).at(layers=0),
    "last: emg → cls": flow("emg", "cls").at(layers=1),
    "last: acc → cls": flow("acc", "cls").at(layers=1),
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 16}
    built = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=3, **sizes).eval()
    for name, parameter in built.named_parameters():
        if name.split(".")[-1] in ("W_Q", "W_K", "W_V", "W_O"):
            parameter.data *= 3  # strong attention, so that cuts have large effects
    return built


@pytest.fixture(scope="module")
def trials(model):
    return model.example_input(8), torch.arange(8) % 3


def margins(model, x, y, edges):
    with torch.no_grad():
        logits = model.run_with_hooks(x, fwd_hooks=[] if edges is None else cut(model, edges)).double()
    own = logits[torch.arange(len(y)), y]
    logits[torch.arange(len(y)), y] = -torch.inf
    return (own - logits.amax(-1)).numpy()


def test_scores_are_those_of_the_exact_regression(model, trials):
    x, y = trials
    contexts = np.array(list(itertools.product([False, True], repeat=len(GROUPS))))
    masks = [edges.mask(model.layout, 2, 2).numpy() & ~np.eye(6, dtype=bool) for edges in GROUPS.values()]
    values = []
    for kept in contexts:
        removed = np.any([mask for mask, keep in zip(masks, kept, strict=True) if not keep], axis=0)
        values.append(margins(model, x, y, edges_from_mask(removed) if removed.any() else None))
    n_kept = contexts.sum(1)
    weights = 0.7**n_kept * 0.3 ** (len(GROUPS) - n_kept)
    exact = LinearRegression().fit(contexts, np.array(values), sample_weight=weights)
    result = attribute(model, x, y, by=GROUPS, method=RandomContexts(runs=1500, keep=0.7))
    residual = np.array(values) - exact.predict(contexts)
    spread = np.sqrt((weights[:, None] * residual**2).sum(0) / 1500 / 0.7 / 0.3)
    assert np.abs(exact.coef_).max() > 20 * spread.max()  # the effects are much larger than the error
    assert (np.abs(result.trial_scores - exact.coef_) < 5 * spread[:, None] + 1e-3 * np.abs(exact.coef_)).all()
    assert result.audit["forward_passes"] == 1500


def test_the_seed_decides_the_scores(model, trials):
    first, again, other = (
        attribute(model, *trials, by="modality", method=RandomContexts(runs=40, seed=seed)).trial_scores
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_more_groups_than_runs(model, trials):
    result = attribute(model, *trials, by="head", method=RandomContexts(runs=60))
    assert len(result.table) > 60
    single = attribute(model, *trials, by="head", method="cut")
    assert np.isfinite(result.trial_scores).all()
    assert np.corrcoef(result.table["score"], single.table["score"])[0, 1] > 0.3


@pytest.mark.parametrize("wrong", [{"runs": 1}, {"keep": 1.0}, {"keep": 0.0}, {"runs": 2.5}, {"seed": -1}])
def test_wrong_settings(wrong):
    with pytest.raises(EmgLensError, match=next(iter(wrong))):
        RandomContexts(**wrong)
