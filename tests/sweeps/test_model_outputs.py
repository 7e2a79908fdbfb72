"""Models whose output is not one tensor: logits of Hugging Face, tuples, and functions of the user."""

import pytest
import torch
from torch import nn

from emg_lens import (
    Condition,
    IsoNet,
    IsoNetConfig,
    Replace,
    TokenLayout,
    adapt,
    attribute,
    cross_modal,
    cutting,
    find_circuit,
    flow,
    layer_masks,
    sweep,
    unimodal,
)
from emg_lens.analysis import check_model, compare_ablations, patch_paths
from emg_lens.io.checkpoint import CheckpointError
from emg_lens.lens.model_outputs import OutputError, output_tensor
from emg_lens.sweeps import SweepError

LAYOUT = TokenLayout.groups({"emg": range(6), "acc": range(6, 9)}, n_tokens=9)
CUTS = layer_masks({"cross": cross_modal(), "uni": unimodal()}, 2, modes=["individual"])


class Stranger(nn.Module):
    """An encoder that returns logits and features, in a container of the caller's choice."""

    def __init__(self, wrap=tuple):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.wrap = nn.Linear(16, 4), wrap

    def forward(self, x):
        features = self.encoder(x)
        return self.wrap([self.head(features.mean(1)), features])


X = torch.randn(6, 9, 16, generator=torch.Generator().manual_seed(1))
Y = torch.arange(6) % 4


def adapted(wrap):
    return adapt(Stranger(wrap).eval(), X[:2])


PLAIN = adapted(lambda parts: parts[0])
TUPLE = adapted(tuple)
KEYED = adapted(lambda parts: {"logits": parts[0], "features": parts[1]})


def first(returned):
    return returned[0]


@pytest.mark.parametrize(("model", "output"), [(TUPLE, first), (KEYED, None), (KEYED, lambda o: o["logits"])])
def test_every_analysis_gives_what_it_gives_for_the_plain_model(model, output):
    options, plain = {"layout": LAYOUT, "output": output}, {"layout": LAYOUT}
    conditions = [*CUTS, Condition("both", cross_modal() | unimodal().at(layers=0))]
    found, expected = sweep(model, X, conditions, **options), sweep(PLAIN, X, conditions, **plain)
    assert list(found.logits) == list(expected.logits)
    for name, logits in expected.logits.items():
        torch.testing.assert_close(found.logits[name], logits)
    with cutting(model, cross_modal(), layout=LAYOUT):
        direct = output_tensor(model, model(X), output, len(X))
    every = sweep(model, X, [Condition("all", cross_modal())], **options).logits["all"]
    torch.testing.assert_close(every, direct.detach())
    for method in ("cut", "shared_gates"):
        scores = attribute(model, X, Y, by="modality", method=method, **options).table["score"]
        of_plain = attribute(PLAIN, X, Y, by="modality", method=method, **plain).table["score"]
        assert scores.to_numpy() == pytest.approx(of_plain.to_numpy(), abs=1e-5)
    circuits = [
        find_circuit(m, X, PLAIN(X).argmax(1), by="modality", limit=2, metric="log_prob", **o)
        for m, o in ((model, options), (PLAIN, plain))
    ]
    assert circuits[0].routes == circuits[1].routes
    assert str(check_model(model, X, output=output)) == str(check_model(PLAIN, X))


@pytest.mark.parametrize("executor", ["auto", "tree", "loop"])
def test_a_function_of_the_outputs_works_with_every_executor(executor):
    model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, 20, 5, d_model=16, n_heads=2, n_layers=2, d_mlp=8)).eval()
    x = model.example_input(30)
    conditions = [
        *CUTS,
        Condition("zero", Replace("acc")),
        Condition("resid", Replace("acc", at="blocks.0.hook_resid_pre")),
    ]
    whole = sweep(model, x, conditions, executor=executor, batch_size=11)
    part = sweep(model, x, conditions, executor=executor, batch_size=11, output=lambda o: 2 * o[:, :3])
    assert part.executor == whole.executor
    for name, logits in whole.logits.items():
        torch.testing.assert_close(part.logits[name], 2 * logits[:, :3])


def test_logits_of_hugging_face_are_found():
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    config = ViTConfig(**sizes, image_size=12, patch_size=4, num_channels=1, num_labels=3)
    x = torch.randn(4, 1, 12, 12)
    layout = TokenLayout.groups({"emg": range(1, 7), "acc": range(7, 10)}, n_tokens=10)
    classifier = adapt(ViTForImageClassification(config).eval())
    result = sweep(classifier, x, CUTS, layout=layout)
    assert result.logits["baseline"].shape == (4, 3)
    torch.testing.assert_close(result.logits["baseline"], classifier(x).logits.detach())
    with cutting(classifier, CUTS[0].edges, layout=layout):
        torch.testing.assert_close(result.logits[CUTS[0].name], classifier(x).logits.detach())
    headless = adapt(ViTModel(config).eval())
    with pytest.raises(
        OutputError, match=r"ViTModel returns a BaseModelOutputWithPooling with \.last_hidden_state \[2, 10, 16\]"
    ):
        sweep(headless, x, CUTS, layout=layout)
    pooled = sweep(headless, x, CUTS, layout=layout, output=lambda o: o.last_hidden_state.mean(1))
    assert pooled.logits["baseline"].shape == (4, 16)


def test_paths_and_ablations_of_our_own_models_take_a_function_too():
    model = IsoNet(IsoNetConfig({"emg": 3, "acc": 2}, 8, 4, d_model=8, n_heads=2, n_layers=2, d_mlp=8)).eval()
    x, y, path = model.example_input(6), torch.arange(6) % 2, [flow("emg", "cls").at(layers=1)]
    half = lambda o: o[:, :2]  # noqa: E731
    torch.testing.assert_close(
        patch_paths(model, x, x.flip(0), path, output=half), patch_paths(model, x, x.flip(0), path)[:, :2]
    )
    found = compare_ablations(model, x, y, {"all": cross_modal()}, model.example_input(9), output=half)
    cut = sweep(model, x, [Condition("all", cross_modal())]).logits["all"][:, :2]
    own, other = cut[range(6), y], cut[range(6), 1 - y]
    assert found["metric"][0] == pytest.approx(float((own - other).mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, r"Stranger returns a tuple with \[0\] \[2, 4\], \[1\] \[2, 9, 16\]; .* output=lambda o: o\[0\]$"),
        (lambda o: o.logits, r"output=\.\.\. raises AttributeError .*Stranger returns a tuple with"),
        (lambda o: o[1].flatten(0, 1), r"is \[18, 16\] .*expected floats \[2, \.\.\.\], one row per trial"),
        (lambda o: o[0].argmax(1), r"torch\.int64"),
        (lambda o: o, r"output=\.\.\. returned a tuple with"),
    ],
)
def test_outputs_that_do_not_fit_are_refused_in_one_line(output, message):
    for call in (
        lambda: sweep(TUPLE, X, CUTS, layout=LAYOUT, output=output),
        lambda: attribute(TUPLE, X, Y, layout=LAYOUT, output=output),
    ):
        with pytest.raises(OutputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value) and not isinstance(caught.value, SweepError)


def test_a_checkpoint_of_another_function_is_refused(tmp_path):
    path = tmp_path / "sweep.safetensors"
    sweep(TUPLE, X, CUTS, layout=LAYOUT, output=first, checkpoint=path)
    with pytest.raises(CheckpointError):
        sweep(TUPLE, X, CUTS, layout=LAYOUT, output=lambda o: o[0] + 1, checkpoint=path)
    again = sweep(TUPLE, X, CUTS, layout=LAYOUT, output=lambda o: o[0], checkpoint=path)
    torch.testing.assert_close(again.logits["baseline"], TUPLE(X)[0].detach())


def test_gradients_pass_through_the_function():
    x = X.clone().requires_grad_()
    result = sweep(TUPLE, x, CUTS[:1], layout=LAYOUT, output=first, gradients=True)
    (gradient,) = torch.autograd.grad(result.logits[CUTS[0].name].sum(), x)
    assert gradient.abs().sum() > 0
