"""Readout vectors give the logits, neighbours agree with scikit-learn, and the map separates clusters."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from emg_lens.analysis import neighbour_fractions, readout_map, readout_vectors
from emg_lens.models.registry import build_model
from emg_lens.validation import ArgumentError

SMALL = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_mlp": 16}


@pytest.mark.parametrize(
    ("name", "settings", "n_values", "head"),
    [
        ("isonet", SMALL, 16, lambda m, v: m.unembed(v)),
        ("tinymyo", {**SMALL, "patch_samples": 10}, 2 * 16, lambda m, v: m.unembed(v.view(len(v), 2, 16))),
        ("multimodal-mlp", {"d_hidden": 8, "d_fused": 6}, 6, lambda m, v: m.classifier(v)),
    ],
)
def test_the_head_maps_the_readout_vectors_to_the_logits(name, settings, n_values, head):
    model = build_model(name, modalities={"emg": 2}, n_samples=20, n_classes=3, **settings).train()
    x = torch.randn(300, 2, 20, generator=torch.Generator().manual_seed(0))
    vectors = readout_vectors(model, x)
    assert vectors.shape == (300, n_values) and model.training
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(head(model, torch.from_numpy(vectors)), model(x))


def test_a_model_without_a_known_head_is_refused():
    with pytest.raises(ArgumentError, match="Linear does not declare its head"):
        readout_vectors(torch.nn.Linear(3, 2), torch.zeros(1, 1, 3))


def test_neighbours_agree_with_scikit_learn_and_are_of_other_repetitions():
    rng = np.random.default_rng(0)
    labels, repetition_id = np.repeat([0, 1, 2], 60), np.arange(180) // 3
    vectors = rng.normal(size=(180, 4)).astype(np.float32) + labels[:, None]
    near, expected = neighbour_fractions(vectors, labels, repetition_id, n_neighbours=7)
    places = NearestNeighbors(n_neighbors=10).fit(vectors).kneighbors(vectors, return_distance=False)
    for trial, row in enumerate(places):
        others = [k for k in row if repetition_id[k] != repetition_id[trial]][:7]
        assert near[trial] == pytest.approx(np.mean(labels[others] == labels[trial]))
    assert expected == pytest.approx(57 / 177)
    with pytest.raises(ArgumentError, match="n_neighbours=178, but a trial has only 177"):
        neighbour_fractions(vectors, labels, repetition_id, n_neighbours=178)


def test_the_map_separates_clusters_and_is_reproducible():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    vectors = (rng.normal(size=(80, 70)) + 8 * labels[:, None]).astype(np.float32)
    points = readout_map(vectors)
    assert points.shape == (80, 2)
    near, _ = neighbour_fractions(points, labels, n_neighbours=5)
    assert near.min() == 1.0
    np.testing.assert_array_equal(points, readout_map(vectors))
    with pytest.raises(ArgumentError, match="at least 4 trials"):
        readout_map(vectors[:3])
