"""`TorchModel`: a torch module in a model that studies fit, cut, save and load."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from emg_lens import Condition, TokenLayout, TrainingRecipe, attribute, cross_modal, cutting, fit, flow, sweep, unimodal
from emg_lens.analysis import check_model
from emg_lens.data import Batch
from emg_lens.hooks import DeadHookError
from emg_lens.lens import SignalConfig
from emg_lens.lens.model_outputs import OutputError
from emg_lens.models import TorchModel
from emg_lens.sweeps import SweepError
from emg_lens.validation import ArgumentError

SIZES = {"modalities": {"emg": 4, "acc": 3}, "n_samples": 20, "n_classes": 5}


class Net(nn.Module):
    def __init__(self, cfg, routed=False):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed, self.encoder = nn.Linear(cfg.n_samples, 16), nn.TransformerEncoder(layer, 2)
        self.cls, self.head = nn.Parameter(torch.randn(1, 1, 16)), nn.Linear(16, cfg.n_classes)
        self.mixed = nn.Conv1d(16, 16, 3, padding=1) if routed else None

    def forward(self, x, mask=None):
        tokens = torch.cat([self.cls.expand(len(x), 1, -1), self.embed(x)], 1)
        tokens = self.encoder(tokens, mask)
        if self.mixed is not None:
            tokens = self.mixed(tokens.transpose(1, 2)).transpose(1, 2)
        return self.head(tokens[:, 0]), tokens


@dataclass
class NetConfig(SignalConfig):
    routed: bool = False


class Own(TorchModel):
    def __init__(self, config: NetConfig):
        layout = TokenLayout.channels(config.modalities, cls=True)
        super().__init__(config, Net(config, config.routed), layout, output=lambda o: o[0])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Own(NetConfig(**SIZES)).eval()


@pytest.mark.parametrize("edges", [cross_modal(), unimodal(), flow("acc", "cls") | flow("acc", "emg")])
def test_a_cut_is_the_mask_of_the_module_itself(model, edges):
    x = model.example_input(6)
    net = model.adapted.original_model
    mask = edges.mask(model.layout, 2, 2)[0, 0]
    expected = net(x, mask)[0]
    with cutting(model, edges):
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    result = sweep(model, x, [Condition("cut", edges)])
    torch.testing.assert_close(result.logits["cut"], expected.detach(), atol=1e-5, rtol=1e-5)
    assert (expected - net(x)[0]).abs().max() > 1e-4


def test_a_saved_model_and_a_copy_give_the_same_outputs_and_cuts(model, tmp_path):
    x = model.example_input(6)
    model.save_pretrained(tmp_path)
    wanted = sweep(model, x, [Condition("cut", cross_modal())]).logits
    for other in (Own.from_pretrained(tmp_path), copy.deepcopy(model)):
        found = sweep(other, x, [Condition("cut", cross_modal())]).logits
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        with torch.no_grad():
            other.adapted.original_model.head.bias += 1
        assert torch.equal(model(x), wanted["baseline"]) or (model(x) - wanted["baseline"]).abs().max() < 1e-6


def test_a_fitted_model_is_checked_attributed_and_has_its_layout(model):
    torch.manual_seed(0)
    x, y = torch.randn(60, 7, 20), torch.arange(60) % 3
    x[torch.arange(60), y] += 2
    history = fit(model, Batch(x, y), TrainingRecipe(epochs=15, batch_size=20, lr=0.01))
    assert history["accuracy"].iloc[-1] > 0.9
    scores = attribute(model, x, y, by="modality").table["score"]
    options = {"layout": model.layout, "output": lambda o: o[0]}
    of_module = attribute(model.adapted, x, y, by="modality", **options).table["score"]
    assert scores.to_numpy() == pytest.approx(of_module.to_numpy(), abs=1e-5) and scores.abs().max() > 0.1
    assert check_model(model, x[:4]).passed
    assert model.layout.names[0] == "cls" and (model.cfg.n_layers, model.cfg.n_heads) == (2, 2)


def test_another_route_between_tokens_is_refused_until_it_is_allowed():
    model = Own(NetConfig(**SIZES, routed=True)).eval()
    x = model.example_input(6)
    with pytest.raises(DeadHookError, match="influence each other through mixed"), cutting(model, cross_modal()):
        model(x)
    with pytest.raises(SweepError, match="through mixed"):
        sweep(model, x, [Condition("cut", cross_modal())])
    model.allow_routes = True
    assert sweep(model, x, [Condition("cut", cross_modal())]).logits["cut"].isfinite().all()


def test_what_is_no_model_of_a_study_is_refused_in_one_line():
    class Translator(TorchModel):
        def __init__(self, config: NetConfig):
            super().__init__(config, Translation())

    class Translation(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.net = nn.Linear(20, 16), nn.Transformer(16, 2, 1, 1, 16, batch_first=True)

        def forward(self, x):
            return self.net(self.embed(x), self.embed(x)[:, :2])

    class Tuple(TorchModel):
        def __init__(self, config: NetConfig):
            super().__init__(config, Net(config))

    class Flat(TorchModel):
        def __init__(self, config: NetConfig):
            super().__init__(config, nn.Flatten())

    with pytest.raises(ArgumentError, match="an encoder and a decoder"):
        Translator(NetConfig(**SIZES))
    with pytest.raises(DeadHookError, match="no attention"):
        Flat(NetConfig(**SIZES))
    with pytest.raises(OutputError, match=r"Net returns a tuple .*output=lambda o: o\[0\]"):
        Tuple(NetConfig(**SIZES)).eval()(torch.randn(2, 7, 20))
