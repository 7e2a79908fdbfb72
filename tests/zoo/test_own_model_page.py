"""docs/own-model.md: what the page says about the outputs of its examples is what they print."""

import contextlib
import io
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import zoo.libraries.collection  # noqa: F401 - before transformers and braindecode: it imports torchvision

PAGE = Path(__file__).parents[2] / "docs/own-model.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def run(block: str) -> tuple[dict, str]:
    """What a block leaves behind, and what it prints."""
    names: dict = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block, PAGE.name, "exec"), names)
    return names, printed.getvalue()


def test_the_page_has_four_models_and_few_lines_from_model_to_sweep():
    assert len(BLOCKS) == 4
    for block in BLOCKS:
        after = block[block.index("adapted, layout") :].splitlines()
        assert len(after) <= 10


@pytest.mark.slow
def test_the_torch_encoder_needs_the_edges_to_cls_only():
    names, printed = run(BLOCKS[0])
    accuracy = names["result"].accuracy().set_index("condition")["accuracy"]
    assert accuracy["baseline"] > 0.95 and accuracy["EMG ↔ ACC"] > 0.9
    assert 0.4 < accuracy["ACC → CLS, EMG"] < 0.62 and 0.4 < accuracy["ACC → CLS"] < 0.7
    shown = TEXT[TEXT.index("SweepResult(") :].split("```")[0].splitlines()
    assert [line.split("  ")[1] for line in shown[1:]] == [
        line.split("  ")[1] for line in printed[printed.index("SweepResult(") :].splitlines()[1:]
    ]
    further = TEXT[TEXT.index("from emg_lens import attribute, find_circuit") :].split("```")[0]
    exec(further, names)


def test_a_vit_with_random_weights_attends_almost_equally():
    names, printed = run(BLOCKS[1])
    assert names["report"].mass_removed == pytest.approx(3 / 33 * 32 / 33, abs=0.01)  # no patch of CLS is cut
    assert "largest change of an output" in printed
    assert (names["result"].audit["max_abs_delta_logit"][1:] > 0).all()


@pytest.mark.skipif(find_spec("braindecode") is None, reason="needs braindecode: make test-zoo runs it")
@pytest.mark.filterwarnings("ignore")
def test_a_conformer_has_edges_between_times_only():
    names, _ = run(BLOCKS[2])
    assert names["report"].mass_removed == pytest.approx(0.63, abs=0.02)
    assert names["report"].layers[0].edges_cut == 4 * 462 == 1848
    assert 4 * 27 * 27 == 2916


@pytest.mark.skipif(find_spec("braindecode") is None, reason="needs braindecode: make test-zoo runs it")
@pytest.mark.filterwarnings("ignore")
def test_a_labram_needs_a_wrapper_that_gives_the_names_of_its_channels():
    names, printed = run(BLOCKS[3])
    assert "contains other channels before the first layer" in printed
    assert (names["result"].audit["max_abs_delta_logit"][1:] > 0).all()
    labram, x, given = names["labram"], names["x"], {"x": names["x"], "ch_names": names["model"].ch_names}
    with pytest.raises(ValueError, match="if it needs ch_names, wrap the model in a class that gives it"):
        names["adapt"](labram, x)
    with names["cutting"](names["adapt"](labram.eval(), given), names["same_channel"](), layout=names["layout"]):
        labram(**given)


@pytest.mark.skipif(find_spec("braindecode") is None, reason="needs braindecode: make test-zoo runs it")
@pytest.mark.filterwarnings("ignore")
def test_biot_is_refused():
    import torch
    from braindecode.models import BIOT

    from emg_lens import EmgLensError, TokenLayout, adapt, cutting, every

    model = BIOT(embed_dim=32, num_heads=4, num_layers=2, n_times=400, sfreq=200, n_chans=4, n_outputs=3).eval()
    x = torch.randn(2, 4, 400)
    with pytest.raises(EmgLensError, match=r"12 \w+ read 8 keys"):
        layout = TokenLayout.groups({"emg": range(12)}, n_tokens=12)
        with cutting(adapt(model, x), every(), layout=layout):
            model(x)
