"""`check_model` as users call it: registered models, arguments, errors, and a model that stays as it is."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from emg_lens import adapt, build_model
from emg_lens.analysis import MODEL_CHECKS, ModelCheck, check_model
from emg_lens.analysis.model_checks.check_report import judged
from emg_lens.analysis.model_checks.probed_model import ULPS, outputs_of
from emg_lens.models import architecture, architecture_names
from emg_lens.registry import UnknownNameError
from emg_lens.validation import ArgumentError

SIZES = {"d_model": 24, "n_heads": 3, "n_layers": 2, "d_mlp": 16, "d_hidden": 16, "d_fused": 8, "n_lstm_layers": 2}
"""Settings of small models, for the models that have them."""
OTHER = {"hierarchical": {"n_fusion_layers": 1}}


def small(name: str, **changes):
    data = {"modalities": {"emg": 3, "acc": 2}, "n_samples": 80, "n_classes": 4}
    sizes = {key: value for key, value in SIZES.items() if key in architecture(name).settings}
    torch.manual_seed(0)
    return build_model(name, **data, **sizes | OTHER.get(name, {}) | changes)


# --- our models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", architecture_names())
def test_registered_models_pass(name):
    model = small(name).eval()
    report = check_model(model, model.example_input(3))
    assert report.passed, report
    numbers = report.table.set_index("check")["number"]
    assert numbers["batch size"] < ULPS * torch.finfo(torch.float32).eps / 5  # far from the limit
    assert numbers["input matters"] > 0.01


def test_what_is_known_of_registered_models_is_reported():
    gestures = small("tinymyo-gestures").eval()
    table = check_model(gestures, gestures.example_input(2)).table.set_index("check")
    assert (
        "the last 9 of 80 samples are less than one step" in table["sentence"]["inert input"]
    )  # 6 steps of 10, and 21
    assert table["verdict"]["causal"] == "pass" and table["number"]["causal"] == 0
    speech = small("tinymyo-speech", train_positions=False).eval()
    sentence = check_model(speech, speech.example_input(2)).findings["trained parameters"].sentence
    assert "W_rel" in sentence and "frozen" in sentence


def test_an_untrained_model_with_dropout_must_be_set_to_evaluation():
    model = small("isonet", dropout=0.3)
    assert model.training
    report = check_model(model, model.example_input(3))
    assert report.failed == ["repeatable"] and "call model.eval() first" in report.findings["repeatable"].sentence
    assert model.training
    assert check_model(small("isonet", dropout=0.3).eval(), model.example_input(3)).passed


def test_a_modality_that_nobody_reads_is_inert():
    """With every edge from ACC cut in every layer, ACC tokens do not reach CLS."""
    model = small("isonet", masked_edges="flow('acc', 'cls') | flow('acc', 'emg')").eval()
    report = check_model(model, model.example_input(3))
    assert set(report.failed) == {"inert input", "inert tokens"}
    assert "2 of 5 channels (3, 4)" in report.findings["inert input"].sentence
    assert report.findings["inert tokens"].number == 2
    assert "(acc.0, acc.1)" in report.findings["inert tokens"].sentence


def test_cls_without_a_reader_is_inert():
    model = small("isonet", readout="mean", masked_edges="flow('cls', 'emg') | flow('cls', 'acc')").eval()
    report = check_model(model, model.example_input(3))
    assert report.failed == ["inert tokens"] and "(cls)" in report.findings["inert tokens"].sentence


def test_the_model_is_not_changed():
    for model in (small("tinymyo-speech"), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(400), nn.Linear(400, 2))):
        x = torch.randn(3, 5, 80)
        x.requires_grad_()
        outputs_of(model(x)).sum().backward()
        parameters = dict(model.named_parameters())
        gradients = {name: None if one.grad is None else one.grad.clone() for name, one in parameters.items()}
        state, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
        random, kept = torch.get_rng_state(), x.detach().clone()
        check_model(model, x.detach())
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert [part.training for part in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), random) and torch.equal(x, kept)
        for name, one in model.named_parameters():
            assert one.requires_grad == parameters[name].requires_grad
            assert (one.grad is None) == (gradients[name] is None)
            assert one.grad is None or torch.equal(one.grad, gradients[name])
        assert not [hook for part in model.modules() for hook in part._forward_hooks]


class Counts(nn.Linear):
    """Puts other tensors in place of its buffers."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.last = self.calls + 1, x
        return super().forward(x)


def test_reassigned_buffers_are_restored():
    model = Counts().eval()
    calls = model.calls
    report = check_model(model, torch.randn(4, 3))
    assert model.calls is calls and calls == 0 and model.last is None
    assert report.failed == ["repeatable"]
    assert report.findings["repeatable"].sentence.startswith("a run changes calls")


def test_a_model_that_changes_its_input_does_not_change_the_given_trials():
    class Centres(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            x -= x.mean(-1, keepdim=True)
            return super().forward(x)

    x = torch.randn(4, 3)
    kept = x.clone()
    report = check_model(Centres(3, 2).eval(), x)
    assert torch.equal(x, kept) and report.failed == ["repeatable"]
    assert report.findings["repeatable"].sentence == "a run changes its input in place in evaluation mode"


# --- other models -----------------------------------------------------------------------------------------


class Linear(nn.Module):
    """[batch, channel, time] -> [batch, class], reading some channels and samples."""

    def __init__(self, read: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.map = read, nn.Linear(read.numel(), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.map((x * self.read).flatten(1))


@given(st.sets(st.integers(0, 3)), st.sets(st.integers(0, 8)))
def test_inert_channels_and_samples_are_counted(channels, samples):
    read = torch.ones(4, 9)
    read[sorted(channels)] = 0
    read[:, sorted(samples)] = 0
    found = check_model(Linear(read).eval(), torch.randn(2, 4, 9), checks=["inert input"]).findings["inert input"]
    everything = len(channels) == 4 or len(samples) == 9
    assert found.number == (13 if everything else len(channels) + len(samples)), found.sentence
    assert (found.verdict == "pass") == (not channels and not samples)


def test_a_gradient_of_zero_alone_does_not_make_an_input_inert():
    class Rounds(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x * 8).round())

    assert check_model(Rounds(torch.ones(4, 9)).eval(), torch.randn(2, 4, 9), checks=["inert input"]).passed


def test_whole_numbers_as_input():
    class Words(nn.Module):
        def __init__(self, read: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.read, self.embed, self.head = read, nn.Embedding(20, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x[:, : self.read]).cumsum(1))

    words = torch.randint(0, 20, (4, 7), generator=torch.Generator().manual_seed(0))
    assert check_model(Words(7).eval(), words).passed
    report = check_model(Words(5).eval(), words)
    assert report.failed == ["inert input"] and "2 of 7 samples (5, 6)" in report.findings["inert input"].sentence


def test_an_adapted_model_and_dictionaries_of_outputs():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = adapt(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(2, 6, 8))
    assert check_model(model, torch.randn(3, 6, 8), time_axis=1).passed

    class Named(Linear):
        def forward(self, x: Tensor) -> dict[str, object]:  # pyright: ignore
            return {"n": len(x), "logits": super().forward(x), "hidden": x}

    assert check_model(Named(torch.ones(4, 9)).eval(), torch.randn(2, 4, 9)).passed


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model = Linear(torch.ones(4, 9, dtype=dtype)).to(dtype).eval()
    assert check_model(model, torch.randn(3, 4, 9).to(dtype)).passed


def test_targets_and_losses():
    model, x = Linear(torch.ones(4, 9)).eval(), torch.randn(3, 4, 9)
    assert check_model(model, x, torch.tensor([0, 2, 1])).passed
    assert check_model(model, x, torch.randn(3, 3)).passed
    first = check_model(model, x, "unused", loss=lambda outputs, y: outputs[:, 0].square().sum())
    assert first.passed
    with pytest.raises(ArgumentError, match=r"y has shape \[2\].*expected classes \[3\]"):
        check_model(model, x, torch.tensor([0, 1]))
    with pytest.raises(ArgumentError, match=r"y=\['a', 'b', 'a'\]; expected whole numbers or floats"):
        check_model(model, x, ["a", "b", "a"])
    for wrong in (7, -1):
        with pytest.raises(ArgumentError, match=rf"y has classes .*{wrong}.* 3 outputs; expected classes from 0 to 2"):
            check_model(model, x, torch.tensor([0, 2, wrong]))
    assert check_model(model, x, torch.tensor([0, 2, -100])).passed

    class TwoHeads(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach() * 1.0 + self.map.bias

    found = check_model(TwoHeads(torch.ones(4, 9)).eval(), x).findings["trained parameters"]
    assert (
        found.verdict == "fail"
        and found.sentence == "training does not change map.weight (108 values) without gradient"
    )


def test_dropout_may_hide_a_parameter_in_one_step():
    """The layer is skipped in half of the steps; eight steps and a seed reach it."""

    class Skips(Linear):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return (
                out if not self.training or torch.rand(()) < 0.5 else out.detach() * torch.ones(3, requires_grad=True)
            )

    assert check_model(Skips(torch.ones(4, 9)).eval(), torch.randn(3, 4, 9), checks=["trained parameters"]).passed


def test_a_model_that_refuses_one_trial_fails():
    class Refuses(Linear):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 1:
                raise RuntimeError("at least\ntwo trials")
            return super().forward(x)

    report = check_model(Refuses(torch.ones(4, 9)).eval(), torch.randn(3, 4, 9), checks=["batch size", "repeatable"])
    assert report.failed == ["batch size"]
    assert report.findings["batch size"].sentence == "the model raises RuntimeError: at least two trials"


def test_outputs_of_another_shape():
    class Flattens(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flatten()[: 3 * len(x) - 1]

    report = check_model(Flattens(torch.ones(4, 9)).eval(), torch.randn(3, 4, 9), checks=["batch size", "trial order"])
    assert report.failed == ["batch size", "trial order"]


def test_one_trial_is_enough_for_the_other_checks():
    verdicts = check_model(Linear(torch.ones(4, 9)).eval(), torch.randn(1, 4, 9)).table.set_index("check")["verdict"]
    assert set(verdicts[["batch size", "trial order", "call order"]]) == {"not applicable"}
    assert verdicts["inert input"] == "pass"


# --- the report -------------------------------------------------------------------------------------------


def test_the_report_is_a_table_and_one_line_a_check():
    report = check_model(Linear(torch.ones(4, 9)).eval(), torch.randn(3, 4, 9))
    assert report.table.columns.tolist() == ["check", "verdict", "number", "sentence"]
    lines = repr(report).splitlines()
    assert lines[0] == "Linear, x [3, 4, 9]: 12 checks, none failed" and len(lines) == 13
    assert report.table["number"].notna().equals(report.table["verdict"] != "not applicable")


def test_checks_can_be_chosen_and_added(monkeypatch):
    monkeypatch.setitem(MODEL_CHECKS._known, "positive", ModelCheck(lambda probed: judged(False, -1, "negative")))
    model, x = Linear(torch.ones(4, 9)).eval(), torch.randn(3, 4, 9)
    assert check_model(model, x).failed == ["positive"]
    assert check_model(model, x, checks=["finite"]).table["check"].tolist() == ["finite"]
    with pytest.raises(UnknownNameError, match="unknown model check 'causality'; did you mean 'causal'"):
        check_model(model, x, checks=["causality"])


def test_a_model_that_does_not_run_is_one_line():
    with pytest.raises(ArgumentError, match=r"Linear does not run on x of shape \[3, 5\]: .*mat1"):
        check_model(nn.Linear(4, 2), torch.randn(3, 5))
    with pytest.raises(ArgumentError, match=r"expected at least one trial"):
        check_model(nn.Linear(4, 2), torch.randn(0, 4))

    model, x = Linear(torch.ones(4, 9)).eval(), torch.randn(3, 4, 9)
    for axis in (0, 3, -3):
        with pytest.raises(ArgumentError, match=rf"time_axis={axis} .*\[3, 4, 9\]; expected 1 to 2"):
            check_model(model, x, time_axis=axis)
    with pytest.raises(ArgumentError, match=r"step_axis=2 .*\[3, 3\]"):
        check_model(model, x, step_axis=2)

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    with pytest.raises(ArgumentError, match="returns NoneType; expected a tensor of floats"):
        check_model(Nothing(), torch.randn(3, 5))
