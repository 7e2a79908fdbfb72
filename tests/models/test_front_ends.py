"""Causal attention and the front ends of the fine-tuned models, against torch's own layers."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_layers import torch_encoder

from emg_lens.data import Batch
from emg_lens.errors import EmgLensError
from emg_lens.hooks import cross_modal, cut, cutting, lag
from emg_lens.lens.config import EncoderConfig
from emg_lens.models import HookedBiosignalEncoder, SequenceConfig, SequenceEncoder, TinyMyoSpeech, build_model
from emg_lens.models.bridge import to_bridge
from emg_lens.models.encoder import count_parameters
from emg_lens.models.registry import ModelError, architecture
from emg_lens.sweeps import Condition, audit, sweep
from emg_lens.training import TrainingRecipe, fit

SMALL = {"d_model": 12, "n_heads": 2, "n_layers": 3, "d_mlp": 16}
GESTURES = {"modalities": {"emg": 3}, "n_samples": 60, "n_classes": 4, "kernel_samples": 9, "stride": 5}
SPEECH = {"modalities": {"emg": 3}, "n_samples": 61, "n_classes": 5, "relative_reach": 6}
GADDY = {"d_model": 768, "n_layers": 6, "n_heads": 8, "d_mlp": 3072, "act_fn": "relu", "qkv_bias": False}
CAUSAL = {"attention_dir": "causal", "patch_samples": 5, "readout": "each", "cls_token": False}


def shaken(model):
    """In double precision, no weight and no running statistic at its initial zero or one."""
    model = model.eval().double()
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                b.add_(0.3 * torch.rand_like(b))
    return model


def make(name: str, **changes):
    torch.manual_seed(0)
    base = GESTURES if name == "tinymyo-gestures" else SPEECH
    return shaken(build_model(name, **{**base, **SMALL, **changes}))


def encoder(**changes) -> HookedBiosignalEncoder:
    torch.manual_seed(0)
    made = {"modalities": {"emg": 2, "acc": 1}, "n_samples": 20, "n_classes": 4, **SMALL, **CAUSAL, **changes}
    return shaken(HookedBiosignalEncoder(EncoderConfig(**made)))


def inputs(model, batch: int = 2) -> torch.Tensor:
    return 20 * model.example_input(batch, seed=1).double()


def both_paths(model, x):
    """The fused path, and the one that is taken where a hook listens."""
    return model(x), model.run_with_hooks(x, fwd_hooks=[(lambda n: n.endswith("hook_attn_scores"), lambda t, hook: t)])


# --- causal attention -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_causal_attention_equals_torchs_with_a_causal_mask(norm):
    model = encoder(positions="none", norm=norm, modalities={"emg": 1}, n_samples=35)
    x = inputs(model)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    with torch.no_grad():
        stream = torch_encoder(model.blocks, norm == "pre")(model.embed(x), mask=mask)
        expected = model.unembed(model.ln_final(stream))
        for found in both_paths(model, x):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(
    time=st.integers(0, 3), seed=st.integers(0, 99), positions=st.sampled_from(["learned", "rotary_time", "relative"])
)
def test_what_comes_later_changes_nothing_before_it(time, seed, positions):
    model = encoder(positions=positions)
    x = inputs(model)
    later = x.clone()
    later[..., 5 * time :] += 5 * torch.randn(x[..., 5 * time :].shape, generator=torch.Generator().manual_seed(seed))
    moved = (model(later) - model(x)).abs().amax((0, 2))  # [pos]
    patch = torch.tensor(model.layout.patch)
    assert moved[patch < time].sum() == 0 and (moved[patch >= time] > 1e-6).all()


def test_cls_of_a_causal_model_reads_all_and_is_read_by_none():
    model = encoder(cls_token=True, readout="cls")
    permanent_mask = model.permanent_mask()[0, 0]
    assert not permanent_mask[0].any() and permanent_mask[1:, 0].all()
    assert (
        not permanent_mask[1, 1] and not permanent_mask[1, 5] and permanent_mask[1, 6] and not permanent_mask[2, 5]
    )  # emg.0.p0 reads emg.1.p0


@pytest.mark.parametrize("name", ["hierarchical", "multimodal-transformer"])
def test_models_of_several_stages_can_be_causal(name):
    model = build_model(
        name, modalities={"emg": 2, "acc": 1}, n_samples=20, n_classes=3, patch_samples=5, d_model=12, n_heads=2,
        d_mlp=16, attention_dir="causal",
    ).eval()  # fmt: skip
    _, cache = model.run_with_cache(model.example_input(2))
    patch = torch.tensor(model.layout.patch)
    for stage in model.layout.stages:
        at = patch[list(stage.positions)]
        forbidden = (at[:, None] >= 0) & ((at[None, :] < 0) | (at[None, :] > at[:, None]))
        for k in range(len(stage.layers)):
            pattern = cache[f"stages.{stage.name}.blocks.{k}.attn.hook_pattern"]
            assert (pattern[..., forbidden] == 0).all() and (pattern[..., ~forbidden] > 0).all()


def test_edges_that_a_causal_model_does_not_have_are_not_there_to_be_cut():
    model = encoder(modalities={"emg": 1}, n_samples=35)
    x = inputs(model)
    table = audit(
        model, [Condition("future", lag(-6, -1)), Condition("past", lag(1, 6)), Condition("both", ~lag(0, 0))]
    )
    rows = table.set_index("condition")
    assert rows.edges_cut.to_dict() == {"future": 0, "past": 126, "both": 126}  # 3 layers, 2 heads, 21 pairs
    assert rows.structural_null.to_dict() == {"future": True, "past": False, "both": False}
    assert rows.equivalent_to["both"] == "past"
    with cutting(model, lag(-6, -1)) as report:
        torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)
    assert all(entry.already_dead == 2 * 21 for entry in report.layers) and report.mass_removed == 0


@pytest.mark.parametrize("patch", [None, 20])
def test_causal_needs_times(patch):
    with pytest.raises(
        EmgLensError, match="n_samples=20 gives 1 time step; attention_dir='causal' needs two or more: set patch_s"
    ):
        encoder(patch_samples=patch)


# --- the two models ---------------------------------------------------------------------------------------


def test_gestures_equal_torchs_own_layers():
    """Rotation is left out, torch has none; tests/models/tinymyo/test_tinymyo.py checks it by complex numbers."""
    model = make("tinymyo-gestures", positions="none")
    x, made = inputs(model), model.embed.front_ends[0]
    assert len(model.layout) == 11 and model.layout.names[:2] == ("emg.p0", "emg.p1")
    with torch.no_grad():
        conv = nn.functional.conv1d(64 * x / (32 + x.abs()), made.conv.weight, made.conv.bias, stride=5)
        tokens = F.layer_norm(F.gelu(conv).mT, (12,), made.norm.weight, made.norm.bias)
        mask = nn.Transformer.generate_square_subsequent_mask(11, dtype=torch.float64)
        stream = torch_encoder(model.blocks, True)(tokens, mask=mask)
        stream = F.layer_norm(stream, (12,), model.ln_final.w, model.ln_final.b)
        expected = stream @ model.unembed.W_U + model.unembed.b_U
        for found in both_paths(model, x):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("front_end", ["compressed", "residual"])
def test_the_samples_of_each_step_are_where_the_grid_says(front_end):
    model = make("tinymyo-gestures", front_end=front_end, n_samples=120)
    first, every = model.cfg.step_grid
    after = 3 * (2**model.cfg.n_halvings - 1) if front_end == "residual" else 0
    tokens, x = model.embed(inputs(model, 1)), inputs(model, 1)
    for sample in range(120):
        later = x.clone()
        later[..., sample] += 10
        moved = ((model.embed(later) - tokens).abs().amax((0, 2)) > 1e-12).nonzero().ravel()
        last_used = first + every * torch.arange(len(model.layout)) + after
        expected = (last_used >= sample).nonzero()[0].item() if (last_used >= sample).any() else None
        assert (moved[0].item() if len(moved) else None) == expected
    assert len(range(first, 120, every)) == len(model.layout)


@settings(max_examples=15, deadline=None)
@given(step=st.integers(0, 10), seed=st.integers(0, 99))
def test_no_output_depends_on_samples_after_its_step(step, seed):
    model = make("tinymyo-gestures")
    x = inputs(model)
    after = 5 * step + 9  # a step reads nine samples
    later = x.clone()
    later[..., after:] += 50 * torch.randn(x[..., after:].shape, generator=torch.Generator().manual_seed(seed))
    moved = (model(later) - model(x)).abs().amax((0, 2))
    assert moved[: step + 1].sum() == 0 and (step > 9 or (moved[step + 1 :] > 1e-6).all())


@pytest.mark.parametrize("act_fn", ["gelu", "relu"])
def test_speech_equals_torchs_own_layers(act_fn):
    model = make("tinymyo-speech", act_fn=act_fn, relative_reach=8)
    x, made = inputs(model), model.embed.front_ends[0]
    theirs = nn.Sequential()
    for block in made.blocks:
        n_in, n_out = block.conv1.in_channels, block.conv1.out_channels
        inner = nn.Sequential(
            nn.Conv1d(n_in, n_out, 3, 2, 1), nn.BatchNorm1d(n_out), nn.ReLU() if act_fn == "relu" else nn.GELU(),
            nn.Conv1d(n_out, n_out, 3, 1, 1), nn.BatchNorm1d(n_out),
        )  # fmt: skip
        outer = nn.Sequential(nn.Conv1d(n_in, n_out, 1, 2), nn.BatchNorm1d(n_out))
        inner.double(), outer.double()
        for name, part in (("conv1", inner[0]), ("norm1", inner[1]), ("conv2", inner[3]), ("norm2", inner[4])):
            part.load_state_dict(getattr(block, name).state_dict())
        outer[0].load_state_dict(block.shortcut.state_dict())
        outer[1].load_state_dict(block.norm3.state_dict())
        theirs.append(nn.ModuleList([inner, outer]))
    theirs = theirs.eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.relative.W_rel.zero_()  # torch has none; test_relative_positions.py checks them
        hidden = x
        for inner, outer in theirs:
            hidden = getattr(F, act_fn)(inner(hidden) + outer(hidden))
        assert hidden.shape == (2, 12, 8) == (2, 12, len(model.layout))  # 61 -> 31 -> 16 -> 8
        stream = torch_encoder(model.blocks)(hidden.mT @ made.linear.weight.T + made.linear.bias)
        expected = stream @ model.unembed.W_U + model.unembed.b_U
        for found in both_paths(model, x):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_sizes_are_the_published_ones():
    gestures = build_model("tinymyo-gestures", modalities={"emg": 16}, n_samples=16000, n_classes=9)
    assert count_parameters(gestures) == 3_626_121 and gestures.cfg.n_ctx == 1598
    data = {"modalities": {"emg": 8}, "n_samples": 1040}
    for n_outputs, published in ((128, 4_564_352), (38, 4_546_982)):  # 80 mel bands and 48 phones; 37 characters, blank
        speech = build_model("tinymyo-speech", **data, n_classes=n_outputs)
        assert count_parameters(speech) == published and speech.cfg.n_ctx == 130
    for n_outputs, published in ((128, 54.19), (38, 54.12)):  # Gaddy & Klein
        larger = build_model("tinymyo-speech", **data, n_classes=n_outputs, **GADDY)
        assert round(count_parameters(larger) / 1e6, 2) == published


@pytest.mark.parametrize("name", ["tinymyo-gestures", "tinymyo-speech"])
def test_initial_weights_can_be_normal_as_in_the_published_code(name):
    sizes = {"modalities": {"emg": 8}, "n_samples": 400, "n_classes": 48, "n_layers": 2}
    model = build_model(name, **sizes, initial_weights="normal")
    plain = ("norm", "conv", "shortcut", "W_rel", "ln1", "ln2", "ln_final", "embed.front_ends.0.blocks")
    maps = {n: p for n, p in model.named_parameters() if not any(part in n for part in plain)}
    assert len(maps) == 2 * 12 + 2 + 2 * (name == "tinymyo-speech")
    for key, value in maps.items():
        is_bias = key.split(".")[-1].startswith("b")
        assert value.std().item() == pytest.approx(0 if is_bias else 0.02, rel=0.05), key


@pytest.mark.parametrize("name", ["tinymyo-gestures", "tinymyo-speech"])
def test_cuts_and_sweeps_equal_blocks_that_never_had_the_edges(name):
    model = make(name)
    x, edges = inputs(model), lag(2, 4).at(layers=[0, 2])
    permanent_mask = make(name, masked_edges=str(edges))
    permanent_mask.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = permanent_mask(x)
        assert (expected - model(x)).abs().max() > 1e-3
        found = [model.run_with_hooks(x, fwd_hooks=cut(model, edges))]
        with cutting(model, edges):
            found.append(model(x))
    result = sweep(model, x, [Condition("near past", edges), Condition("with the future", edges | lag(-3, -1))])
    found.append(result.logits["near past"])
    for one in found:
        torch.testing.assert_close(torch.as_tensor(one), expected, rtol=0, atol=1e-6)
    causal = name == "tinymyo-gestures"
    same = result.audit.set_index("condition").equivalent_to["with the future"] == "near past"
    assert same == causal
    if causal:
        with pytest.raises(EmgLensError, match="'future'. cut only edges that this .* never had .it is causal"):
            sweep(model, x, [Condition("future", lag(-3, -1))])
    with pytest.raises(EmgLensError, match="needs at least two modalities"):
        cut(model, cross_modal())  # all channels are in one token


def test_the_parts_can_be_put_together_otherwise():
    """Two modalities, a residual front end, causal pre-LN blocks, relative positions, one output a trial."""
    cfg = SequenceConfig(
        modalities={"emg": 2, "acc": 3}, n_samples=32, n_classes=3, front_end="residual", attention_dir="causal",
        positions="relative", readout="mean", **SMALL,
    )  # fmt: skip
    model = shaken(SequenceEncoder(cfg))
    x = inputs(model)
    assert model(x).shape == (2, 3) and model.layout.modalities == ("emg", "acc") and len(model.layout) == 8
    with cutting(model, cross_modal()) as report:
        model(x)
    assert report.mass_removed > 0


def test_a_saved_model_is_the_same_again(tmp_path):
    model = make("tinymyo-speech")
    model.save_pretrained(tmp_path)
    again = TinyMyoSpeech.from_pretrained(tmp_path).double()
    assert again.cfg == dataclasses.replace(model.cfg)
    torch.testing.assert_close(again(inputs(model)), model(inputs(model)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_blocks_of_a_published_file_are_taken(tmp_path, ending):
    torch.manual_seed(3)
    source = build_model("tinymyo", modalities={"emg": 2}, n_samples=40, n_classes=3, **SMALL)
    with torch.no_grad():
        for p in source.parameters():
            p.add_(torch.randn_like(p))
    source.save_published(tmp_path / f"w.{ending}", "model." if ending == "ckpt" else "")
    for name, last_norm in (("tinymyo-gestures", True), ("tinymyo-speech", False)):
        model = make(name).float()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        report = model.take_blocks(tmp_path / f"w.{ending}")
        for key, value in model.state_dict().items():
            taken = key.startswith("blocks.") and "W_rel" not in key or key.startswith("ln_final")
            assert torch.equal(value, source.state_dict()[key] if taken else before[key]), key
            assert (key in report.fresh) != taken
        assert ("norm.weight" in report.taken) == last_norm == ("norm.weight" not in report.left)
        assert "model_head.classifier.weight" in report.left and len(report.taken) == 3 * 12 + 2 * last_norm
        assert ("post-LN" in repr(report)) != last_norm and model.blocks_report is report


def test_blocks_of_other_sizes_are_refused_and_change_nothing(tmp_path):
    source = build_model("tinymyo", modalities={"emg": 2}, n_samples=40, n_classes=3, **{**SMALL, "d_mlp": 20})
    source.save_published(tmp_path / "w.safetensors")
    for changes, match in (({}, "fc1.weight has shape .20, 12."), ({"n_layers": 2}, "has 3 blocks.*expected 2 blocks")):
        model = make("tinymyo-gestures", **changes).float()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(EmgLensError, match=match):
            model.take_blocks(tmp_path / "w.safetensors")
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"n_samples": 8, "attention_dir": "bidirectional"},
            "too short for one time step",
        ),
        ({"patch_samples": 5}, "with a front end, expected tokens='time'"),
        ({"cls_token": True}, "with a front end, expected tokens='time'"),
        ({"mask_token": True}, "with a front end, expected tokens='time'"),
        ({"n_samples": 12}, "gives 1 time step; attention_dir='causal' needs"),
        ({"front_end": "other"}, "front_end"),
        ({"n_halvings": 21}, "n_halvings"),
        ({"stride": 0}, "stride"),
        ({"compression_midpoint": 0.0}, "compression_midpoint"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, match):
    with pytest.raises(EmgLensError, match=match):
        make("tinymyo-gestures", **changes)


def test_what_needs_one_output_a_trial_says_so():
    model = make("tinymyo-gestures").float()
    x = inputs(model).float()
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(EmgLensError, match="readout='each' gives logits for every token"):
        model(x, return_type="loss", labels=labels)
    with pytest.raises(EmgLensError, match="one target per trial; build the model with readout='mean'"):
        fit(model, Batch(x, labels), TrainingRecipe(epochs=1))
    with pytest.raises(EmgLensError, match="has no mask token"):
        model(x, masked=torch.zeros(2, 11, dtype=torch.bool))


@pytest.mark.parametrize("name", ["tinymyo-gestures", "tinymyo-speech"])
def test_a_model_of_time_steps_has_no_default_objective_and_can_be_bridged(name):
    with pytest.raises(ModelError, match=f"model '{name}' gives an output at every time step .* name one") as error:
        _ = architecture(name).default_objective
    assert "\n" not in str(error.value)
    model = make(name)
    x = model.example_input(2).double()
    with pytest.raises(EmgLensError, match="readout='each'"):  # the objective that these models inherited before
        fit(model, Batch(x, torch.zeros(2, dtype=torch.int64)), TrainingRecipe(epochs=1), objective="classification")
    bridge = to_bridge(model)
    torch.testing.assert_close(bridge(x), model(x))
    pattern = bridge.run_with_cache(x)[1]["blocks.0.attn.hook_pattern"].sum(-1)
    torch.testing.assert_close(pattern, torch.ones_like(pattern))
