"""A study of an encoder with its own forward method, about which nothing is declared."""

from dataclasses import dataclass

import pytest
import yaml
from tiny import TINY

from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.registry import ARCHITECTURES, Architecture
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
