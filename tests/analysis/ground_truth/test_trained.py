"""Trained encoders with a forced bridge: their truth by cuts, and the circuits that are searched in them."""

import numpy as np
import pytest
import torch

from emg_lens.analysis import find_circuit
from emg_lens.analysis.ground_truth.trained import trained_encoder
from emg_lens.hooks import cut

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=range(4))
def task(request):
    return trained_encoder(request.param)


def mask_of(task, edges):
    return edges.mask(task.layout, task.model.cfg.n_layers, task.model.cfg.n_heads)


def accuracy(task, edges):
    with torch.no_grad():
        logits = task.model.run_with_hooks(task.x_test, fwd_hooks=cut(task.model, edges))
    return float((logits.argmax(1) == task.y_test).double().mean())


def test_the_model_learns_and_needs_the_bridge(task):
    assert task.accuracy >= 0.98
    assert accuracy(task, task.bridge) < 0.65
    assert accuracy(task, task.readout) < 0.65


def test_decoys_carry_no_information_about_the_label(task):
    """The same test trials with decoy channels of other trials have the same labels, and the same accuracy."""
    x = task.x_test.clone()
    order = np.random.default_rng(0).permutation(len(x))
    for channel in (1, 2, 4, 5):
        x[:, channel] = task.x_test[order, channel]
    with torch.no_grad():
        assert float((task.model(x).argmax(1) == task.y_test).double().mean()) >= 0.98


def test_the_circuit_has_the_bridge_and_no_decoy(task):
    circuit = find_circuit(task.model, task.x[:128], task.y[:128], by="channel")
    known = mask_of(task, task.bridge) | mask_of(task, task.readout)
    assert torch.equal(mask_of(task, circuit.union), known)
    assert not circuit.limit_hit


def test_only_with_dropout_in_training_the_circuit_keeps_the_margin():
    """Without it, the model never had inputs without decoys."""
    kept = []
    for dropout in (0.5, 0):
        task = trained_encoder(1, dropout=dropout)
        with torch.no_grad():
            full = task.model(task.x_test)
            alone = task.model.run_with_hooks(task.x_test, fwd_hooks=cut(task.model, task.decoys))
            none = task.model.run_with_hooks(task.x_test, fwd_hooks=cut(task.model, task.decoys | task.bridge))
        sign = 2 * task.y_test - 1
        margins = [float(((out[:, 1] - out[:, 0]) * sign).mean()) for out in (full, alone, none)]
        kept.append((margins[1] - margins[2]) / (margins[0] - margins[2]))
    assert kept[0] > 0.95 > 0.9 > kept[1]
