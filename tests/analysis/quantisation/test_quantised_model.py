"""Rounded weights and activations: grids by hand, twins by torch's parametrisation, and cuts on the copy."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune
from torch_layers import torch_encoder

from emg_lens import adapt, cross_modal, cut, cutting, every, layer_masks, sweep, unimodal
from emg_lens.analysis import quantised
from emg_lens.analysis.quantisation.grids import ActivationGrid, round_to_grid
from emg_lens.analysis.quantisation.matrices import find_matrices
from emg_lens.layout import TokenLayout
from emg_lens.lens.signals import ModelFileError
from emg_lens.models.registry import build_model
from emg_lens.validation import ArgumentError

SMALL = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 24}
BOTH = {"emg": 4, "acc": 3}


def built(name="isonet", **settings):
    torch.manual_seed(0)
    return build_model(name, modalities=BOTH, n_samples=40, n_classes=3, **{**SMALL, **settings}).eval()


MODELS = {
    "isonet": built(),
    "post-LN": built(norm="post"),
    "tinymyo": built("tinymyo", patch_samples=10),
    "time tokens": built(patch_samples=10, tokens="time"),
    "hierarchical": built("hierarchical", patch_samples=10, n_layers=3, n_fusion_layers=1),
    "multimodal-transformer": built("multimodal-transformer", patch_samples=10),
    "gestures": built("tinymyo-gestures"),
    "speech": built("tinymyo-speech", relative_reach=3),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def on_the_grid(model, levels=127):
    """Replace the matrices by whole numbers times a power of two; the largest whole number occurs in each output."""
    made, rng = copy.deepcopy(model), np.random.default_rng(0)
    for matrix in find_matrices(made)[0]:
        whole = torch.from_numpy(rng.integers(-levels, levels + 1, matrix.weight.shape)).float()
        for axis in matrix.axes:
            whole.movedim(axis, 0)[0] = whole.movedim(axis, 0)[0].sign() * 0 + levels
        matrix.weight.data = whole / 1024
    return made


# --- weights ----------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_a_model_on_the_grid_does_not_change(model, per):
    plain, x = on_the_grid(model), model.example_input(4)
    made = quantised(plain, per=per)
    assert torch.equal(made(x), plain(x))
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), plain.state_dict().values(), strict=True))


@every_model
@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_twice_is_rounding_once(model, bits):
    once = quantised(model, bits, per="channel")
    twice = quantised(once, bits, per="channel")
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))
    assert once.state_dict().keys() == model.state_dict().keys()
    changed = [name for name, value in once.named_parameters() if not torch.equal(value, model.get_parameter(name))]
    assert set(changed) == set(once.quantisation.rounded) and changed


class ByHand(nn.Module):
    """Rounding in numpy."""

    def __init__(self, levels, axes):
        super().__init__()
        self.levels, self.axes = levels, axes

    def forward(self, weight):
        values = weight.detach().numpy().astype(np.float64)
        scale = np.abs(values).max(axis=self.axes, keepdims=True) / self.levels
        return torch.from_numpy((np.rint(values / scale) * scale).astype(np.float32))


SUMMED = {"W_Q": (1,), "W_K": (1,), "W_V": (1,), "W_O": (0, 1), "W_in": (0,), "W_out": (0,), "W_E": (1,), "W_U": (0,)}
"""Axes of the matrices of an IsoNet, from TransformerLens's einsums."""


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize(("bits", "levels"), [(8, 127), (4, 7)])
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_a_parametrised_twin_gives_the_same_bits(norm, bits, levels, per):
    model = built(norm=norm)
    twin, x = copy.deepcopy(model), model.example_input(8)
    for part in list(twin.modules()):
        for name in [name for name, _ in part.named_parameters(recurse=False) if name in SUMMED]:
            parametrize.register_parametrization(part, name, ByHand(levels, SUMMED[name] if per == "channel" else None))
    made = quantised(model, bits, per=per)
    assert torch.equal(made(x), twin(x)) and not torch.equal(made(x), model(x))
    conditions = layer_masks({"uni": unimodal(), "cross": cross_modal()}, n_layers=2)
    ours, theirs = sweep(made, x, conditions).logits, sweep(twin, x, conditions, executor="loop").logits
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.sampled_from([(0,), (1,), (0, 1)]))
def test_the_rounding_error_is_at_most_half_a_step_and_torch_agrees(bits, seed, axes):
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32))
    rounded, scales = round_to_grid(values, bits, axes)
    assert ((rounded - values).abs() <= scales / 2 + 1e-6).all()
    assert torch.equal(rounded.abs().amax(axes), values.abs().amax(axes)), "the largest value is on the grid"
    top = 2 ** (bits - 1) - 1
    if len(axes) == 2:
        theirs = torch.fake_quantize_per_tensor_affine(values, float(scales), 0, -top, top)
    else:
        scale = scales.flatten().float()
        theirs = torch.fake_quantize_per_channel_affine(values, scale, torch.zeros(len(scale)), 1 - axes[0], -top, top)
    assert ((theirs - rounded).abs() <= scales * 1.001).all() and (theirs - rounded).abs().median() < 1e-6


def test_one_outlier_spoils_its_tensor_and_only_its_channel():
    torch.manual_seed(0)
    layer = nn.Linear(50, 20, bias=False)
    layer.weight.data[3] *= 1000
    x = torch.randn(200, 50)
    others = [row for row in range(20) if row != 3]
    error = {
        per: ((quantised(layer, per=per)(x) - layer(x))[:, others].norm() / layer(x)[:, others].norm()).item()
        for per in ("tensor", "channel")
    }
    assert error["tensor"] > 0.9 and error["channel"] < 0.01


@pytest.mark.parametrize("executor", ["auto", "loop"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_cuts_on_the_copy_equal_masked_torch_layers_with_weights_rounded_by_hand(norm, executor):
    model = built(norm=norm)
    made, plain, x = quantised(model, 4), copy.deepcopy(model), model.example_input(6)
    for part in plain.modules():
        for name in SUMMED.keys() & part._parameters.keys():
            part._parameters[name].data = ByHand(7, None)(part._parameters[name])
    conditions = layer_masks({"uni": unimodal(), "cross": cross_modal()}, n_layers=2)
    result = sweep(made, x, conditions, executor=executor)
    layers = [torch_encoder([block], norm == "pre").layers[0].eval() for block in plain.blocks]
    for condition in conditions:
        masks = condition.edges.mask(made.layout, 2, 2)[:, 0]
        with torch.no_grad():
            resid = plain.residual_in(x)
            for layer, mask in zip(layers, masks, strict=True):
                resid = layer(resid, src_mask=mask)
            expected = plain.head(plain.ln_final(resid))
        assert torch.allclose(result.logits[condition.name], expected, atol=1e-5), condition.name


def test_an_adapted_model_and_plain_torch_modules():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x, layout = torch.randn(2, 4, 8), TokenLayout.groups({"emg": [0, 1], "acc": [2, 3]}, n_tokens=4)
    adapted = adapt(model, x)
    before = adapted(x)
    made = quantised(adapted)
    assert torch.equal(adapted(x), before) and not torch.equal(made(x), before)
    weight = model.layers[0].self_attn.in_proj_weight.detach().numpy().astype(np.float64)
    by_hand = [np.rint(p / np.abs(p).max() * 127) * np.abs(p).max() / 127 for p in np.split(weight, 3)]
    ours = made.original_model.layers[0].self_attn.in_proj_weight.detach().numpy()
    np.testing.assert_allclose(ours, np.concatenate(by_hand), atol=1e-7)
    with cutting(made, cross_modal(), layout=layout) as report:
        cut_output = made(x)
    assert report.layers[0].edges_cut == 16 and not torch.equal(cut_output, made(x))
    moved = x.clone()
    moved[:, 2:] += 1
    with cutting(made, cross_modal(), layout=layout):
        assert torch.equal(made(moved)[:, :2], cut_output[:, :2])
    mixed = nn.Sequential(nn.Conv1d(3, 4, 5), nn.Flatten(), nn.LazyLinear(6))
    mixed(torch.randn(1, 3, 9))
    assert quantised(mixed).quantisation.rounded == ("0.weight", "2.weight")
    assert quantised(nn.LSTM(3, 4)).quantisation.rounded == ("weight_ih_l0", "weight_hh_l0")
    for cell in (nn.LSTMCell(3, 4), nn.GRUCell(3, 4), nn.RNNCell(3, 4)):
        assert quantised(cell).quantisation.rounded == ("weight_ih", "weight_hh")


@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 2])
def test_outputs_of_transposed_convolutions_have_scales_of_their_own(kind, groups):
    """A channel of the output is that of the layer with a single row of weights, rounded alone."""
    torch.manual_seed(0)
    layer = kind(4, 6, 3, groups=groups, bias=False)
    made = quantised(layer, 3, per="channel")
    signals = torch.randn(2, 4, *[5] * (layer.weight.ndim - 2))
    for channel in range(6):
        group, place = divmod(channel, 6 // groups)
        alone = copy.deepcopy(layer)
        rows = slice(group * 4 // groups, (group + 1) * 4 // groups)
        kept = alone.weight.data[rows, place].clone()
        alone.weight.data.zero_()
        alone.weight.data[rows, place] = ByHand(3, None)(kept)
        assert torch.allclose(made(signals)[:, channel], alone(signals)[:, channel], atol=1e-6)
    (matrix,) = find_matrices(layer)[0]
    assert matrix.n_scales("channel") == 6 and matrix.n_scales("tensor") == 1
    by_tensor = quantised(layer, 3).weight
    assert torch.allclose(by_tensor, ByHand(3, None)(layer.weight))


class Scaled(nn.Module):
    """A matrix that its module declares, and one that nobody does."""

    weight_inputs = {"W": (0,)}

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(3, 2))
        self.inner = nn.ParameterList([torch.randn(2, 2)])


def test_a_module_of_a_stranger_declares_its_matrices():
    made = quantised(Scaled())
    assert made.quantisation.rounded == ("W",) and made.quantisation.kept == ("inner.0",)


# --- activations ------------------------------------------------------------------------------------------


def hooks_that_round(model, reference, bits):
    """The same rounding by hooks on a plain model; scales from the largest absolute value over `reference`."""
    top, names = 2 ** (bits - 1) - 1, ("hook_q", "hook_k", "hook_v", "hook_rot_q", "hook_rot_k", "hook_z", "hook_post")
    places = [name for name in model.hook_dict if name.endswith(names)]
    norms = {name: part for name, part in model.named_modules() if type(part).__name__ == "LayerNorm"}
    largest, handles = {}, []

    def rounded(name, value):
        if name not in done:
            largest[name] = max(largest.get(name, 0.0), float(value.abs().max()))
            return value
        scale = largest[name] / top
        return torch.clamp(torch.round(value / scale), -top, top) * scale

    done = set()
    for name in places:
        model.hook_dict[name].add_hook(lambda value, hook, name=name: rounded(name, value))
    for name, part in norms.items():
        handles.append(part.register_forward_hook(lambda _, __, out, name=name: rounded(name, out)))
    with torch.no_grad():
        model(reference)
    done.update(largest)
    return model


@pytest.mark.parametrize("name", ["isonet", "post-LN", "tinymyo"])
def test_activations_are_those_of_rounding_hooks_on_a_plain_model(name):
    model, x = MODELS[name], MODELS[name].example_input(32)
    made = quantised(model, None, activations=8, calibration=x[:16])
    twin = hooks_that_round(copy.deepcopy(model), x[:16], 8)
    with torch.no_grad():
        # A value next to the border between two steps may be rounded to either, because sums differ in the last digit.
        difference = (made(x) - twin(x)).abs()
        assert difference.median() < 1e-5 and difference.max() < (made(x) - model(x)).abs().max()
        assert not torch.equal(made(x), model(x))


@every_model
def test_more_bits_come_closer_and_every_cut_holds(model):
    x = model.example_input(16)
    errors = [
        (quantised(model, bits, activations=bits, calibration=x)(x) - model(x)).abs().mean().item()
        for bits in (4, 8, 12)
    ]
    assert errors[0] > 4 * errors[1] > 16 * errors[2] > 0
    made = quantised(model, 8, activations=8, softmax="integer", calibration=x)
    edges = every() if model.layout.stages else unimodal()
    with torch.no_grad():
        with cutting(made, edges, layout=made.layout) as report:
            inside = made(x)
        by_hooks = made.run_with_hooks(x, fwd_hooks=cut(made, edges))
    assert torch.equal(inside, by_hooks)
    assert all(entry.attention_left == 0 for entry in report.layers)
    if not made.layout.stages:  # without unimodal edges, no other token of the modality reaches a token's last layer
        last, others = made.cfg.n_layers - 1, made.layout.positions("emg")[1:]
        with torch.no_grad(), cutting(made, edges.at(layers=last), layout=made.layout):
            resid = made(x, stop_at_layer=last)
            before = made(resid, start_at_layer=last, stop_at_layer=last + 1)
            resid[:, others] += 10
            after = made(resid, start_at_layer=last, stop_at_layer=last + 1)
        assert torch.equal(before[:, made.layout.positions("emg")[0]], after[:, made.layout.positions("emg")[0]])
    n_layers = made.cfg.n_layers
    result = sweep(made, x, layer_masks({"cut": edges}, n_layers=n_layers))
    assert torch.allclose(result.logits["baseline"], made(x), atol=1e-6)
    loop = sweep(made, x, layer_masks({"cut": edges}, n_layers=n_layers), executor="loop")
    assert all(torch.allclose(result.logits[name], loop.logits[name], atol=1e-5) for name in loop.logits)


def test_hooks_read_rounded_values_and_gradients_pass():
    model = built()
    x = model.example_input(16)
    made = quantised(model, 8, activations=4, softmax="integer", calibration=x)
    with torch.no_grad():
        _, cache = made.run_with_cache(x)
    for name in ("q", "k", "v", "z"):
        assert len(cache[name, 0].unique()) <= 15, "-7 to 7"
    assert len(cache["post", 0].unique()) <= 15
    assert (255 * cache["pattern", 0] - (255 * cache["pattern", 0]).round()).abs().max() < 1e-4
    given_input = x.clone().requires_grad_()
    made(given_input)[:, 0].sum().backward()
    plain_input = x.clone().requires_grad_()
    model(plain_input)[:, 0].sum().backward()
    assert given_input.grad.abs().max() > 0 and given_input.grad.isfinite().all()
    fine = quantised(model, 16, activations=16, calibration=x)
    fine_input = x.clone().requires_grad_()
    fine(fine_input)[:, 0].sum().backward()
    assert (fine_input.grad - plain_input.grad).norm() < 1e-2 * plain_input.grad.norm()


def test_saving_keeps_rounded_weights_and_refuses_what_a_file_cannot_hold(tmp_path):
    model = built()
    x = model.example_input(4)
    made = quantised(model, 4)
    made.save_pretrained(tmp_path / "weights")
    assert torch.equal(type(model).from_pretrained(tmp_path / "weights")(x), made(x))
    with pytest.raises(ModelFileError, match="would not contain the integer softmax of this model"):
        quantised(model, softmax="integer").save_pretrained(tmp_path / "softmax")
    again = copy.deepcopy(quantised(model, activations=8, softmax="integer", calibration=x))
    assert again.quantisation.activations == 8 and torch.isfinite(again(x)).all()


def broken(name, value):
    model = built()
    model.get_parameter(name).data.view(-1)[0] = value
    return model


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("blocks.0.ln1.w", torch.nan, "blocks.0.ln1.hook_normalized"),
        ("embed.cls", torch.nan, "blocks.0.attn.hook_q"),
        ("blocks.1.mlp.b_in", torch.inf, "blocks.1.mlp.hook_post"),
        ("blocks.0.attn.b_Q", torch.nan, "blocks.0.attn.hook_q"),
    ],
)
def test_activations_that_are_not_finite_are_refused(name, value, place):
    model = broken(name, value)
    with pytest.raises(ArgumentError, match=f"{place} is NaN or infinite for some calibration trials"):
        quantised(model, activations=8, calibration=model.example_input(300))


def test_nan_stays_nan():
    model = built()
    x = model.example_input(4)
    made = quantised(model, activations=8, calibration=x)
    assert made(torch.where(torch.arange(4)[:, None, None] == 1, torch.nan, x)).isnan().all(1).tolist() == [0, 1, 0, 0]
    for largest in (0.0, 2.0):
        grid = ActivationGrid(8, "hook_z")
        grid(torch.tensor([0.0, largest]))
        grid.measures = False
        assert grid(torch.tensor([torch.nan, 0.0, 5.0])).nan_to_num(-1).tolist() == pytest.approx([-1, 0, largest])


# --- refusals ---------------------------------------------------------------------------------------------


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(3)


def declaring(weight_inputs):
    made = Scaled()
    made.weight_inputs = weight_inputs
    return made


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: quantised(m, None), "round nothing"),
        (lambda m, x: quantised(m, 1), "bits=1; expected .* greater than or equal to 2"),
        (lambda m, x: quantised(m, per="row"), "per='row'; expected 'tensor'"),
        (lambda m, x: quantised(m, activations=8), "activations=8 needs calibration="),
        (lambda m, x: quantised(m, calibration=x), "give activations=8, or leave it out"),
        (lambda m, x: quantised(m, activations=8, calibration=x * torch.nan), "calibration has NaN .* in 4 trials"),
        (lambda m, x: quantised(quantised(m, softmax="integer")), "call quantised on the original model"),
        (lambda m, x: quantised(Norms()), "Norms has no matrix that can be rounded"),
        (lambda m, x: quantised(nn.Linear(2, 2).half()), "weight is torch.float16; expected torch.float32"),
        (lambda m, x: quantised(nn.Linear(2, 2), softmax="integer"), "Linear has no attention of our encoders"),
        (lambda m, x: quantised(m, activations=8, calibration=torch.tensor(1.0)), "activations=8 needs calibration="),
        (lambda m, x: quantised(m, activations=8, calibration=x.half()), "input is torch.float16 and the model"),
        (lambda m, x: quantised(nn.Sequential(nn.LazyLinear(3))), "0.weight of this LazyLinear has no shape yet"),
        (lambda m, x: quantised(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))), "by a parametrisation"),
        (lambda m, x: quantised(nn.utils.spectral_norm(nn.Linear(2, 2))), "by a parametrisation"),
        (lambda m, x: quantised(prune.random_unstructured(nn.Linear(2, 2), "weight", 0.5)), "by a parametrisation"),
        (lambda m, x: quantised(declaring({"W": (2,)})), r"declares W: \(2,\), and W has 2 axes"),
        (lambda m, x: quantised(declaring({"W": ()})), r"declares W: \(\), and W has 2 axes"),
        (lambda m, x: quantised(declaring({"V": (0,)})), "and V is not one of its parameters; expected names"),
        (lambda m, x: quantised(declaring({"W": 0})), r"weight_inputs of Scaled\['W'\]=0; expected a list"),
        (lambda m, x: quantised(declaring("W")), "weight_inputs of Scaled='W'; expected a mapping"),
    ],
)
def test_what_cannot_be_quantised_is_one_line(call, message):
    model = built()
    with pytest.raises(ArgumentError, match=message) as error:
        call(model, model.example_input(4))
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_and_unknown_parts_are_refused():
    broken = built()
    broken.blocks[0].mlp.W_in.data[0, 0] = torch.inf
    with pytest.raises(ArgumentError, match=r"blocks.0.mlp.W_in has NaN or infinite values"):
        quantised(broken)

    class OwnAttention(type(broken.blocks[0].attn)):
        pass

    own = built()
    own.blocks[1].attn.__class__ = OwnAttention
    with pytest.raises(ArgumentError, match="OwnAttention is a subclass of our part whose arithmetic is not known"):
        quantised(own, softmax="integer")
    quantised(own)
