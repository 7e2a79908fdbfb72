"""Edge dropout as a field of the recipe, against the context `edge_dropout` around a fit."""

import pytest
import torch
from toy_cohort import make_model, make_trials

from emg_lens import build_model, cross_modal
from emg_lens.data import Batch
from emg_lens.hooks import EdgeError, edge_dropout
from emg_lens.lens.points import has_hook
from emg_lens.training import TrainingRecipe, fit, fit_cohort
from emg_lens.validation import ArgumentError

DROPPED = {"edges": "cross_modal()", "p": 0.5}
RECIPE = TrainingRecipe(epochs=4, batch_size=32, lr=1e-3, anneal_epochs=2, edge_dropout=DROPPED)
WITHOUT = RECIPE.model_copy(update={"edge_dropout": None})
BATCH = Batch(*make_trials())


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_recipe_gives_the_weights_of_the_context():
    ours, around, without = make_model(0, 0.2), make_model(0, 0.2), make_model(0, 0.2)
    fit(ours, BATCH, RECIPE)
    with edge_dropout(around, cross_modal(), p=0.5):
        fit(around, BATCH, WITHOUT)
    fit(without, BATCH, WITHOUT)
    assert torch.equal(weights(ours), weights(around))
    assert not torch.allclose(weights(ours), weights(without), atol=1e-4)
    assert not any(has_hook(point) for point in ours.hook_dict.values())


def test_held_out_trials_have_all_edges_and_change_nothing():
    ours, alone = make_model(), make_model()
    history = fit(ours, BATCH, RECIPE, held_out=BATCH)
    fit(alone, BATCH, RECIPE)
    assert torch.equal(weights(ours), weights(alone))
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(ours(BATCH.x), BATCH.targets)
    assert history["held_out_loss"].iloc[-1] == pytest.approx(float(expected), abs=1e-5)


def test_a_resumed_fit_gives_the_same_bits(tmp_path):
    whole, parts = make_model(0, 0.2), make_model(0, 0.2)
    fit(whole, BATCH, RECIPE)
    fit(parts, BATCH, RECIPE, checkpoint=tmp_path / "fit", stop_after=2)
    for _ in range(2):  # the second call finds all epochs done
        resumed = make_model(0, 0.2)
        fit(resumed, BATCH, RECIPE, checkpoint=tmp_path / "fit")
        assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    ("edges", "fields", "message"),
    [
        ("flow('gyro', 'cls')", {}, "edge_dropout: .*gyro"),
        ("crossmodal()", {}, "edge_dropout: .*crossmodal"),
        ("none()", {}, "selects no edge; give other edges, or remove edge_dropout"),
        ("cross_modal()", {"masked_edges": "cross_modal()"}, "edge_dropout: .*selects no edge"),
    ],
)
def test_edges_that_change_nothing_are_refused(edges, fields, message):
    recipe = RECIPE.model_copy(update={"edge_dropout": RECIPE.edge_dropout.model_copy(update={"edges": edges})})
    with pytest.raises(EdgeError, match=message):
        fit(make_model(**fields), BATCH, recipe)


def test_models_without_attention_and_cohorts_are_refused():
    sizes = {"modalities": {"emg": 4, "acc": 3}, "n_samples": 8, "n_classes": 3}
    with pytest.raises(EdgeError, match="edge_dropout: MultimodalMLP has no attention"):
        fit(build_model("multimodal-mlp", **sizes), BATCH, RECIPE)
    with pytest.raises(ArgumentError, match="use fit"):
        fit_cohort([make_model(0), make_model(1)], [BATCH, BATCH], RECIPE)


def test_the_summary_names_the_edges():
    assert "cross_modal() cut in 50 % of the trials, seed 0" in RECIPE.summary()
    assert WITHOUT.summary() == TrainingRecipe(epochs=4, batch_size=32, lr=1e-3, anneal_epochs=2).summary()
