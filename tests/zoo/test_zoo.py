"""Cuts of every kind of model that the installed TransformerLens can build, compared with independent computations."""

import math
import warnings
from functools import cache
from random import Random

import pytest
import torch
from reference import reference
from toy import RandomEdges, hooks_left
from zoo.compatibility import table
from zoo.masked_by_hand import MaskedByHand
from zoo.tiny_models import Specimen, _sizes, families, installed_version, output_tensor, zoo

from emg_lens.hooks import DeadHookError, cross_modal, cut, cut_mlp, cutting, every, flow, positions, replace
from emg_lens.hooks.deletion import Deletion
from emg_lens.hooks.hook_points import PATTERN, at_path, attached_hook
from emg_lens.hooks.model_inputs import call, example_inputs
from emg_lens.hooks.verification.probe import find_intervention_point

pytestmark = pytest.mark.filterwarnings("ignore")
ZOO = zoo()
EDGES = cross_modal() | flow("emg", "cls").at(heads=1) | positions(dest=[5]).at(layers=1)
BUILT: dict[str, tuple] = {}
KINDS = {
    4: {"native", "BERT", "RoBERTa", "ViT", "AST", "Wav2Vec2", "HuBERT", "T5", "GPT-2", "Llama"},
    3: {"HookedTransformer", "HookedEncoder", "native", "BERT", "ViT", "AST", "HuBERT", "GPT-2", "Llama"},
}


@pytest.fixture(params=ZOO, ids=lambda specimen: specimen.name)
def specimen(request) -> Specimen:
    return request.param


def built(specimen: Specimen):
    """Model, layout and input, built once: every test must leave the model unchanged."""
    if specimen.name not in BUILT:
        model = specimen.build()
        BUILT[specimen.name] = model, specimen.layout, example_inputs(model, len(specimen.layout), batch=2)
    return BUILT[specimen.name]


def test_the_zoo_holds_every_kind_of_this_version():
    names = {specimen.name.split()[0].rstrip(",") for specimen in ZOO}
    assert names == KINDS[installed_version()[0]]


def test_cutting_is_verified_and_changes_the_output(specimen):
    model, layout = specimen.build(), specimen.layout
    x = example_inputs(model, len(layout), batch=2)
    with torch.no_grad():
        before = output_tensor(call(model, x))
        own = hooks_left(model)  # bridges put hooks of their own on themselves as they first run
        with cutting(model, EDGES, layout) as report:
            after = output_tensor(call(model, x))
        again = output_tensor(call(model, x))
    assert (after - before).abs().max() > 1e-3 and torch.equal(before, again)
    assert after.isfinite().all() and hooks_left(model) == own and report.routes == ()
    for entry in report.layers:
        assert entry.attention_left == 0 and 0 < entry.mass_removed < 1 and entry.trials == 2


def test_cutting_equals_an_independent_computation(specimen):
    model, layout, x = built(specimen)
    with torch.no_grad(), cutting(model, EDGES, layout):
        ours = output_tensor(call(model, x))
    theirs, _ = reference(specimen, model, x, EDGES)
    assert (ours - theirs).abs().max() <= 1e-5 * max(1, float(theirs.abs().max()))


def test_cut_gives_what_cutting_gives_or_refuses(specimen):
    model, layout, x = built(specimen)
    with torch.no_grad(), cutting(model, EDGES, layout) as report:
        expected = output_tensor(call(model, x))
    at_the_pattern = specimen.name.startswith("native") and installed_version()[0] >= 4
    if report.intervention_point == "attention_mask" and not at_the_pattern:
        with pytest.raises(DeadHookError, match="use: with cutting"):
            cut(model, EDGES, layout)
        return
    with torch.no_grad():
        ours = output_tensor(model.run_with_hooks(x, fwd_hooks=cut(model, EDGES, layout)))
    torch.testing.assert_close(ours, expected)


def test_cutting_every_edge_leaves_finite_outputs_and_no_attention(specimen):
    model, layout, x = built(specimen)
    with torch.no_grad(), cutting(model, every(), layout) as report:
        out = output_tensor(call(model, x))
    assert out.isfinite().all()
    assert [entry.rows_fully_cut for entry in report.layers] == [12, 12]
    assert [entry.mass_removed for entry in report.layers] == pytest.approx([1, 1], abs=1e-5)


def test_a_token_that_attends_to_nothing_gets_a_zero_attention_output(specimen):
    model, layout, x = built(specimen)
    seen = []
    z = at_path(model, f"{find_intervention_point(model, layout).paths[0]}.hook_z")
    with (
        torch.no_grad(),
        cutting(model, positions(dest=[1, 4]).at(layers=0), layout),
        attached_hook(z, lambda t, hook: seen.append(t.flatten(2))),
    ):
        call(model, x)
    assert (seen[0][:, [1, 4]] == 0).all() and (seen[0][:, [0, 2, 3, 5]].abs().amax(-1) > 1e-3).all()


def test_edges_that_the_causal_mask_forbids_are_reported_as_dead(specimen):
    model, layout, x = built(specimen)
    with torch.no_grad(), cutting(model, flow("acc", "emg").at(layers=0, heads=0), layout) as report:
        call(model, x)
    causal = specimen.name.split()[0] in ("GPT-2", "Llama") or "causal" in specimen.name
    assert report.layers[0].already_dead == (4 if causal else 0)
    assert (report.mass_removed == 0) == causal


def test_cutting_works_with_run_with_cache_and_nests(specimen):
    model, layout, x = built(specimen)
    with torch.no_grad():
        expected, _ = reference(specimen, model, x, cross_modal() | flow("cls", "emg"))
        with cutting(model, cross_modal(), layout), cutting(model, flow("cls", "emg"), layout):
            out, _ = model.run_with_cache(x)
    torch.testing.assert_close(output_tensor(out), expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_finite_under_a_cut_with_empty_rows(specimen):
    model, layout, x = built(specimen)
    with cutting(model, positions(dest=[0]) | cross_modal(), layout):
        output_tensor(call(model, x)).square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    model.zero_grad(set_to_none=True)


def test_values_can_be_replaced_and_mlps_cut(specimen):
    model, layout, x = built(specimen)
    elsewhere = {"T5": "encoder_blocks.0.hook_resid_pre", "HookedEncoder": "hook_full_embed"}
    at = elsewhere.get(specimen.name.split()[0], "hook_embed")
    with torch.no_grad():
        plain = output_tensor(model.run_with_hooks(x, fwd_hooks=[]))
        for hooks in (
            replace(model, "acc", at=at, layout=layout),
            replace(model, "acc", "mean", at, layout, reference=x),
            replace(model, "acc", "permute", at, layout),
            cut_mlp(model, "emg", layout=layout),
        ):
            edited = output_tensor(model.run_with_hooks(x, fwd_hooks=hooks))
            assert edited.isfinite().all() and (edited - plain).abs().max() > 1e-4


@pytest.mark.skipif(installed_version()[0] < 4, reason="the MLP of BERT bridges fires no hook_out before 4.0")
def test_relayed_hook_points_of_a_bridge_have_an_effect():
    specimen = next(s for s in ZOO if s.name == "BERT bridge, sdpa")
    model = specimen.build()
    assert replace(model, "acc", at="blocks.0.mlp.hook_out", layout=specimen.layout)


def test_an_embedding_hook_that_never_fires_is_refused():
    for specimen in ZOO:
        if specimen.name.startswith("T5"):
            model, layout, _ = built(specimen)
            with pytest.raises(DeadHookError, match="hook_embed does not fire"):
                replace(model, "acc", layout=layout)


def test_cut_mlp_cuts_the_output_of_the_second_linear_map(specimen):
    model, layout, x = built(specimen)
    stack = find_intervention_point(model, layout).paths[0].split(".")[0]
    seen = []
    hooks = cut_mlp(model, "emg", 0, layout)
    block = {}
    for key, name in (("out", f"{stack}.0.hook_mlp_out"), ("after", f"{stack}.1.hook_resid_pre")):
        with torch.no_grad():
            for variant, extra in (("plain", []), ("cut", hooks)):
                seen.clear()
                keep = (name, lambda t, hook: seen.append(t.clone()))
                model.run_with_hooks(x, fwd_hooks=[*extra, keep])
                block[key, variant] = seen[0]
    assert (block["out", "cut"][:, [1, 2]] == 0).all()
    assert torch.equal(block["out", "cut"][:, [0, 3, 4, 5]], block["out", "plain"][:, [0, 3, 4, 5]])
    moved = (block["after", "cut"] - block["after", "plain"]).abs().amax((0, 2))
    assert (moved[[1, 2]] > 1e-4).all() and (moved[[0, 3, 4, 5]] == 0).all()


@pytest.mark.parametrize("part", range(len(ZOO)), ids=lambda part: ZOO[part].name)
def test_fuzz_the_report_and_the_output_agree_with_independent_computations(part):
    """Two hundred random edge sets, distributed over the zoo."""
    specimen = ZOO[part]
    model, layout, x = built(specimen)
    draw = RandomEdges(Random(part), layout, 2, 2)
    done = 0
    while done < -(-200 // len(ZOO)):
        edges, meant = draw.draw(2)
        if not meant:
            continue
        done += 1
        with torch.no_grad(), cutting(model, edges, layout) as report:
            ours = output_tensor(call(model, x))
        theirs, held = reference(specimen, model, x, edges)
        assert (ours - theirs).abs().max() <= 1e-4 * max(1, float(theirs.abs().max())), str(edges)
        assert held.keys() == {entry.layer for entry in report.layers}
        for entry in report.layers:
            assert entry.mass_removed == pytest.approx(held[entry.layer], abs=1e-5), str(edges)
            assert entry.edges_cut == sum(edge[0] == entry.layer for edge in meant), str(edges)


def test_half_precision_bridges_can_be_cut():
    specimen = next(s for s in ZOO if s.name == "GPT-2 bridge, sdpa")
    model, layout = specimen.build().to(torch.bfloat16), specimen.layout
    x = example_inputs(model, 6, batch=2)
    with torch.no_grad(), cutting(model, EDGES, layout) as report:
        out = output_tensor(call(model, x))
    assert out.dtype == torch.bfloat16 and out.isfinite().all() and report.mass_removed > 0


def test_compatibility_mode_is_tested_again():
    specimen = next(s for s in ZOO if s.name == "GPT-2 bridge, eager")
    model, layout = specimen.build(), specimen.layout
    assert find_intervention_point(model, layout).strict
    model.enable_compatibility_mode()
    x = example_inputs(model, 6, batch=2)
    with torch.no_grad(), cutting(model, EDGES, layout) as report:
        assert output_tensor(call(model, x)).isfinite().all()
    assert report.intervention_point == "scores"


@cache
def measured():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return table().set_index("model")


@pytest.mark.slow
def test_the_table_has_every_model_and_its_cuts_equal_those_in_the_plain_models():
    """The purpose of the package: -inf in the scores hook often has no effect on wrapped models."""
    assert list(measured().index) == [specimen.name for specimen in [*ZOO, *families()]]
    cut_ones = measured()[measured()["intervention_point"] != "refused"]
    assert (cut_ones["attention_left"] == 0).all() and (cut_ones["max_delta"] > 0.01).all()
    for specimen in [*ZOO, *families()]:
        if specimen.name in cut_ones.index:
            off = cut_ones["off_reference"][specimen.name]
            assert off < 1e-5 if specimen.has_plain_model else math.isnan(off), specimen.name
    for name, row in cut_ones.iterrows():
        if row["intervention_point"] == "scores" or row["cut"] == "cutting":
            assert (row["plain_hook_delta"] > 0) == (row["intervention_point"] == "scores"), name


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("Mamba bridge, eager", "has no attention that can be cut: none of its hook points is named hook_pattern"),
        ("ALBERT adapted, eager", "computes 2 attentions in one forward"),
        ("FNet adapted, eager", "has no attention that can be edited"),
    ],
)
def test_the_table_says_why_a_model_is_refused(model, message):
    if model not in measured().index:
        assert installed_version()[0] < 4, "this version of TransformerLens has no bridge for it"
        return
    assert measured()["intervention_point"][model] == "refused" and message in measured()["refusal"][model]
    assert (measured()["intervention_point"] == "refused").sum() <= 3


@pytest.mark.parametrize(
    ("kind", "edges", "padding"),
    [
        ("ModernBERT", ~positions(src=[4, 5]), None),  # the window of the first tokens ends before
        ("DistilBERT", ~positions(src=[0]), [0, 1, 1, 1, 1, 1]),
    ],
)
def test_a_row_left_with_edges_that_the_model_forbids_attends_to_nothing(kind, edges, padding):
    specimen = next(s for s in families() if s.kind == kind)
    model, x = specimen.build(), example_inputs(specimen.build(), 6, batch=2)
    options = {} if padding is None else {"attention_mask": torch.tensor([padding, [1] * 6])}
    kept = torch.tensor([padding or [1] * 6, [1] * 6], dtype=torch.bool)
    with torch.no_grad():
        with cutting(model, edges, specimen.layout) as report:
            ours = output_tensor(model(x, **options))
        expected = output_tensor(MaskedByHand(kind)(x, dict(enumerate(edges.mask(specimen.layout, 2, 2))), **options))
    torch.testing.assert_close(ours[kept], expected[kept])
    assert any(entry.rows_fully_cut for entry in report.layers)


def test_the_test_forward_restores_training_mode_in_unregistered_parts_of_a_bridge():
    specimen = next(s for s in ZOO if s.name == "BERT bridge, eager")
    model, by_hand = specimen.build().train(), MaskedByHand("BERT")
    by_hand.model.train()
    x, mask = example_inputs(model, 6, batch=2), cross_modal().mask(specimen.layout, 2, 2)
    with torch.no_grad():
        with cutting(model, cross_modal(), specimen.layout):
            torch.manual_seed(0)
            ours = output_tensor(call(model, x))
        torch.manual_seed(0)
        torch.testing.assert_close(ours, output_tensor(by_hand(x, dict(enumerate(mask)))))


def test_the_pattern_hook_of_a_wrapped_model_receives_the_cut_pattern():
    specimen = next(s for s in ZOO if s.name == "BERT bridge, eager")
    model, layout, x = built(specimen)
    seen = []
    with (
        torch.no_grad(),
        cutting(model, cross_modal(), layout),
        attached_hook(at_path(model, f"blocks.0.attn.{PATTERN}"), lambda p, hook: seen.append(p)),
    ):
        call(model, x)
    assert (seen[0][:, cross_modal().mask(layout, 2, 2)[0]] == 0).all()


def test_a_deletion_of_another_shape_names_the_hook_point():
    with pytest.raises(ValueError, match="blocks.0.attn has shape"):
        Deletion(torch.ones(1, 3, 3, dtype=torch.bool), "blocks.0.attn").scores(torch.zeros(1, 1, 4, 4))


if installed_version()[0] < 4:

    def test_the_encoder_of_a_hooked_encoder_decoder_can_be_cut():
        import transformer_lens

        torch.manual_seed(0)
        cfg = transformer_lens.HookedTransformerConfig(  # pyright: ignore
            **{**_sizes("bidirectional"), "act_fn": "relu"},
            positional_embedding_type="relative_positional_bias",
            relative_attention_max_distance=8,
            relative_attention_num_buckets=4,
            normalization_type="RMS",
        )
        model = transformer_lens.HookedEncoderDecoder(cfg)  # pyright: ignore
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        x = torch.randint(5, 20, (2, 6)), torch.randint(5, 20, (2, 4))
        before = call(model, x)
        with cutting(model, cross_modal(), ZOO[0].layout, inputs=x) as report:
            after = call(model, x)
        assert report.intervention_point == "scores" and report.mass_removed > 0 and not torch.equal(before, after)
