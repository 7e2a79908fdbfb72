"""The multimodal MLP against the same layers of torch, and the surface that every registered model has."""

import pytest
import torch
from torch import nn

from emg_lens.models.encoder import count_parameters
from emg_lens.models.multimodal_mlp import MultimodalMLP, MultimodalMLPConfig
from emg_lens.models.registry import ModelError, build_model

SIZES = {"modalities": {"emg": 4, "acc": 3}, "n_samples": 8, "n_classes": 5}


def make(**changes) -> MultimodalMLP:
    torch.manual_seed(0)
    return MultimodalMLP(MultimodalMLPConfig(**{**SIZES, "d_hidden": 16, "d_fused": 12, **changes})).eval()


def test_it_is_the_paper_s_heads_side_by_side_and_a_classifier():
    model = make()
    x = model.example_input(6)
    layers = {name: (head.first, nn.ReLU(), head.second, nn.ReLU()) for name, head in model.heads.items()}
    seen = [
        nn.Sequential(*layers["emg"])(x[:, :4].reshape(6, 32)),
        nn.Sequential(*layers["acc"])(x[:, 4:].reshape(6, 24)),
    ]
    expected = nn.Sequential(model.fuse, nn.ReLU(), model.classifier)(torch.cat(seen, 1))
    torch.testing.assert_close(model(x), expected)
    assert model(x).shape == (6, 5)


def test_its_default_widths_are_200_and_its_size_is_that_on_paper():
    with torch.device("meta"):
        model = build_model("multimodal-mlp", modalities={"emg": 12, "acc": 36}, n_samples=50, n_classes=17)
    heads = sum(n * 50 * 200 + 200 + 200 * 200 + 200 for n in (12, 36))
    assert count_parameters(model, ["heads"]) == heads
    assert count_parameters(model) == heads + (400 * 200 + 200) + (200 * 17 + 17)


def test_modalities_meet_only_behind_their_heads():
    model = make()
    x = model.example_input(3)
    _, cache = model.run_with_cache(x)
    changed = x.clone()
    changed[:, 4:] += 1
    _, after = model.run_with_cache(changed)
    assert torch.equal(cache["heads.emg.hook_out"], after["heads.emg.hook_out"])
    assert not torch.equal(cache["heads.acc.hook_out"], after["heads.acc.hook_out"])
    assert not torch.equal(cache["hook_fused"], after["hook_fused"])


def test_hook_points_are_live():
    model = make()
    x, names = (
        model.example_input(2),
        ["heads.emg.hook_hidden", "heads.acc.hook_hidden", "heads.acc.hook_out", "hook_fused"],
    )
    for name in names:
        out = model.run_with_hooks(x, fwd_hooks=[(name, lambda value, hook: torch.zeros_like(value))])
        assert not torch.equal(out, model(x)), name
    silent = model.run_with_hooks(x, fwd_hooks=[("hook_fused", lambda value, hook: torch.zeros_like(value))])
    torch.testing.assert_close(silent, model.classifier.bias.expand(2, 5))


def test_it_has_the_attributes_of_every_model():
    model = make(class_names=list("abcde"))
    assert (model.cfg.n_layers, model.cfg.n_heads, model.auxiliary_parameters) == (0, 0, "")
    assert model.layout.names == ("emg.0", "emg.1", "emg.2", "emg.3", "acc.0", "acc.1", "acc.2")
    assert model.cfg.class_names == list("abcde")
    assert model.to(torch.float64).cfg.dtype == torch.float64


def test_saving_and_loading_gives_the_same_model(tmp_path):
    model = make(modalities={"zeta": 4, "acc": 3})
    model.save_pretrained(tmp_path)
    again = MultimodalMLP.from_pretrained(tmp_path)
    x = model.example_input(3)
    assert torch.equal(model(x), again(x)) and again.cfg == model.cfg and again.layout == model.layout
    card = (tmp_path / "README.md").read_text()
    assert "saved by emg-lens" in card and "library_name: emg-lens" in card and "pushed" not in card


def test_dropout_acts_in_training_alone():
    model = make(dropout=0.5)
    x = model.example_input(4)
    assert torch.equal(model(x), make()(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_hiden": 3}, "has no setting 'd_hiden'; did you mean 'd_hidden'. known: d_hidden, d_fused, dropout"),
        ({"d_fused": 0}, "d_fused=0; expected a number greater than 0"),
        ({"dropout": 1.0}, "dropout=1.0; expected a number less than 1"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(settings, message):
    with pytest.raises(ModelError, match=message) as error:
        build_model("multimodal-mlp", **SIZES, **settings)
    assert "\n" not in str(error.value)


def test_input_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"input has shape \[2, 6, 8\].*expected \[batch, 7 channels, 8 samples\]"):
        make()(torch.zeros(2, 6, 8))
