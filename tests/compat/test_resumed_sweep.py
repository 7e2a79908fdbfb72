"""A sweep over a TransformerLens model that is interrupted and resumed on another copy of the model."""

import pytest
import torch
from zoo.tiny_models import Specimen, zoo

from emg_lens.hooks import cross_modal, flow
from emg_lens.hooks.model_inputs import call, example_inputs
from emg_lens.sweeps import Condition, sweep

pytestmark = pytest.mark.filterwarnings("ignore")
CONDITIONS = [Condition(str(layer), (cross_modal() | flow("emg", "cls")).at(layers=layer)) for layer in (0, 1)]


@pytest.mark.parametrize("specimen", zoo(), ids=lambda specimen: specimen.name)
def test_a_resumed_sweep_gives_the_same_bits_and_repeats_no_forward(specimen: Specimen, tmp_path):
    x = example_inputs(specimen.build(), len(specimen.layout), batch=5)
    assert isinstance(x, torch.Tensor)
    options = {"layout": specimen.layout, "batch_size": 3}
    expected = sweep(specimen.build(), x, CONDITIONS, **options).logits

    class Stop(Exception):
        pass

    seen = []

    def stop(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == 4:  # one condition of the second micro-batch
            raise Stop

    path, model = tmp_path / "a.safetensors", specimen.build()
    call(model, x)  # bridges put hooks of their own on themselves as they first run
    with pytest.raises(Stop):
        sweep(model, x, CONDITIONS, checkpoint=path, on_progress=stop, **options)
    after: list[float] = []
    result = sweep(specimen.build(), x, CONDITIONS, checkpoint=path, on_progress=after.append, **options)
    assert len(seen) + len(after) - 1 == 6 and after[0] == seen[-1]
    assert all(torch.equal(result.logits[name], logits) for name, logits in expected.items())
