"""Studies of an encoder with its own forward method, about which nothing is declared, and of a torch module."""

from dataclasses import dataclass

import pytest
import yaml
from tiny import TINY
from torch import nn

from emg_lens.lens.config import EncoderConfig, SignalConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.registry import ARCHITECTURES, Architecture
from emg_lens.models.torch_modules import TorchModel
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.study import Study


@dataclass
class ScaledConfig(EncoderConfig):
    model_name = "scaled-encoder"


class ScaledEncoder(HookedBiosignalEncoder):
    def __init__(self, config: ScaledConfig) -> None:
        super().__init__(config)

    def forward(self, input, *args, **kwargs):
        return 2 * super().forward(input, *args, **kwargs)


@pytest.fixture
def scaled(monkeypatch):
    entry = Architecture("scaled-encoder", ScaledConfig, ScaledEncoder)
    monkeypatch.setattr(ARCHITECTURES, "_known", {**ARCHITECTURES._known, entry.name: entry})


def test_a_model_with_its_own_forward_method_is_swept_by_the_loop(scaled, tmp_path):
    content = yaml.safe_load(TINY)
    content["model"] = {"architecture": "scaled-encoder", "d_model": 8, "n_heads": 2, "n_layers": 2, "d_mlp": 8}
    content["conditions"]["layer_masks"] = {"modes": ["individual"]}
    result = Study.parse(yaml.safe_dump(content)).run(out=tmp_path, jobs=1)
    assert set(result.facts["executor"]) == {"loop"}
    assert {"unimodal/individual/L1", "ACC masked"} <= set(result.scores["condition"])


class SevenOutputs(nn.Module):
    """A model that ignores the number of classes."""

    def __init__(self, config):
        super().__init__()
        self.embed, self.head = nn.Linear(config.n_samples, 8), nn.Linear(8, 7)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = self.embed(x)
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))


@dataclass
class SevenConfig(SignalConfig):
    model_name = "seven"


class Seven(TorchModel):
    def __init__(self, config: SevenConfig) -> None:
        super().__init__(config, SevenOutputs(config))


def test_a_model_with_another_number_of_outputs_than_classes_is_refused_before_it_is_fitted(monkeypatch, tmp_path):
    entry = Architecture("seven", SevenConfig, Seven)
    monkeypatch.setattr(ARCHITECTURES, "_known", {**ARCHITECTURES._known, entry.name: entry})
    content = yaml.safe_load(TINY)
    content |= {"model": {"architecture": "seven"}, "conditions": {"layer_masks": {"modes": ["individual"]}}}
    message = r"model 'seven' returns \[7\] for each trial; expected \[4\]: make as many outputs as config.n_classes"
    with pytest.raises(StudyError, match=message):
        Study.parse(yaml.safe_dump(content)).run(out=tmp_path, jobs=1)
