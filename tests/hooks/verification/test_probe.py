import gc
import weakref

import pytest
import torch
import transformers
from torch import nn
from toy import Toy, hooks_left, intervention_point
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge.sources import build_bridge_from_module
from zoo.architectures import TinyArchitecture
from zoo.tiny_models import wrapped_model

from emg_lens.hooks import DeadHookError, EdgeError, adapt, cross_modal, cut, cutting, every
from emg_lens.hooks.model_inputs import example_inputs
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})


def test_the_scores_hook_is_preferred():
    assert intervention_point(Toy(LAYOUT)) == "scores"
    assert not find_intervention_point(Toy(LAYOUT), LAYOUT).strict


def test_a_model_with_nan_in_rows_without_edges_is_strict():
    assert find_intervention_point(Toy(LAYOUT, zero_nan=False), LAYOUT).strict


def test_hooks_without_effect_are_recognised_although_they_fire():
    assert intervention_point(Toy(LAYOUT, live=False)) == "attention_mask"


def test_one_layer_without_a_working_hook_is_refused():
    toy = Toy(LAYOUT)
    toy.blocks[2].attn.live = False
    assert intervention_point(toy) == "attention_mask"


def test_only_hooks_use_the_pattern_where_the_scores_have_no_effect():
    toy = Toy(LAYOUT, live="pattern")
    assert find_intervention_point(toy, LAYOUT, hooks_only=True).name == "pattern"
    assert intervention_point(toy) == "attention_mask"


def test_attention_without_a_torch_function_is_an_error():
    toy = Toy(LAYOUT, live=False, std=0.2)
    for block in toy.blocks:
        block.attn.hook_z.forward = torch.nn.Identity().forward
        block.attn.forward = hand_written_softmax(block.attn)
    with pytest.raises(DeadHookError, match="no intervention point cuts the attention of Toy") as refusal:
        intervention_point(toy)
    reasons = str(refusal.value)
    assert (
        "attention_mask: in layer 0 (blocks.0.attn) it calls neither softmax nor scaled_dot_product_attention"
        in reasons
    )
    assert "scores: in layer 0 (blocks.0.attn) its hook point does not fire" in reasons


def hand_written_softmax(attention):
    def forward(x):
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in attention.qkv(x).chunk(3, -1))
        weights = (q @ k.transpose(-1, -2)).exp()
        attention.hook_pattern(weights / weights.sum(-1, keepdim=True))
        return attention.out((weights / weights.sum(-1, keepdim=True) @ v).transpose(1, 2).flatten(2))

    return forward


def test_saturated_attention_is_tested_correctly():
    assert intervention_point(Toy(LAYOUT, std=0.8)) == "scores"
    assert intervention_point(Toy(LAYOUT, std=0.8, live=False)) == "attention_mask"


@pytest.mark.parametrize("n_channels", [1, 2])
def test_one_or_two_tokens_are_enough(n_channels):
    layout = TokenLayout.channels({"emg": n_channels}, cls=False)
    assert intervention_point(Toy(layout)) == "scores"


def test_the_test_runs_once_and_again_after_a_change_of_settings():
    encoder = HookedBiosignalEncoder(EncoderConfig({"emg": 2, "acc": 2}, n_samples=8, n_classes=2, d_model=8))
    runs = []
    encoder.register_forward_pre_hook(lambda *_: runs.append(1))
    intervention_point(encoder), intervention_point(encoder)
    once = len(runs)
    encoder.set_use_split_qkv_input(True)
    intervention_point(encoder)
    assert once > 0 and len(runs) == 2 * once


def test_the_test_forward_leaves_the_model_unchanged():
    toy = Toy(LAYOUT).train()
    toy.blocks[1].eval()
    state = torch.get_rng_state()
    intervention_point(toy)
    assert hooks_left(toy) == [] and torch.equal(torch.get_rng_state(), state)
    assert toy.blocks[0].training and not toy.blocks[1].training
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_other_hooks_do_not_run_in_the_test_and_do_not_change_it():
    toy, seen = Toy(LAYOUT), []

    def spoil(scores, hook):
        seen.append(scores)
        return scores * torch.nan

    toy.add_hook("blocks.1.attn.hook_attn_scores", spoil)
    assert intervention_point(toy) == "scores" and seen == []
    toy(toy.example_input())
    assert len(seen) == 1


def test_suspended_hooks_are_restored_in_order_and_can_be_removed():
    toy, order = Toy(LAYOUT), []
    for name in "ab":
        toy.add_hook("hook_embed", lambda t, hook, name=name: order.append(name), is_permanent=name == "b")
    toy.add_hook("hook_embed", lambda t, hook: order.append("c"))
    toy.add_hook("hook_embed", lambda t, hook: order.append("d"), prepend=True)
    intervention_point(toy)
    order.clear()
    toy(toy.example_input())
    assert order == ["d", "a", "b", "c"]
    toy.reset_hooks()
    order.clear()
    toy(toy.example_input())
    assert order == ["b"]


def test_a_probed_model_can_be_freed():
    toy = Toy(LAYOUT)
    with cutting(toy, cross_modal()) as report:
        toy(toy.example_input())
    alive = weakref.ref(toy)
    del toy
    gc.collect()
    assert alive() is None and report.layers


def test_the_given_input_is_used():
    toy = Toy(LAYOUT)
    toy.example_input = None
    toy.cfg.d_vocab = 3
    seen = []
    toy.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(2, 6, 4)
    assert intervention_point(toy, inputs=x) == "scores"
    assert all(s is x for s in seen)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: {"x": x}])
def test_inputs_may_be_a_tensor_a_tuple_or_a_mapping(wrap):
    assert intervention_point(Toy(LAYOUT), inputs=wrap(torch.randn(1, 6, 4))) == "scores"


def test_a_model_without_attention_hooks_is_refused():
    toy = Toy(LAYOUT)
    points = toy.hook_dict
    toy.hook_dict = {name: point for name, point in points.items() if "attn" not in name}
    with pytest.raises(EdgeError, match="Toy has no attention that can be cut: none of its hook points is named hook_"):
        intervention_point(toy)
    toy.hook_dict = {name.replace("blocks", "layers"): point for name, point in points.items()}
    with pytest.raises(
        EdgeError, match=r"no hook point named blocks.<layer>.attn.hook_pattern.*\['hook_embed', 'layers"
    ):
        intervention_point(toy)


def test_example_inputs_have_the_models_type():
    encoder = HookedBiosignalEncoder(EncoderConfig({"emg": 2}, n_samples=8, n_classes=2, d_model=8))
    x = example_inputs(encoder.to(torch.bfloat16), 3, batch=2)
    assert x.shape == (2, 2, 8) and x.dtype == torch.bfloat16


def test_a_model_without_an_example_input_asks_for_inputs():
    toy = Toy(LAYOUT)
    toy.example_input = None
    toy.original_model = torch.nn.Module()
    toy.original_model.main_input_name = "smell"
    with pytest.raises(ValueError, match="cannot make an example 'smell' for Toy; pass inputs="):
        intervention_point(toy)


# --- what is asked of a model, and what is not -----------------------------------------------------------


def calls_of(toy):
    """Count the forwards of the model and of each layer's attention."""
    counts = {"model": 0, **dict.fromkeys(range(len(toy.blocks)), 0)}

    def counting(key):
        def count(*_):
            counts[key] += 1

        return count

    toy.register_forward_pre_hook(counting("model"))
    for layer, block in enumerate(toy.blocks):
        block.attn.register_forward_pre_hook(counting(layer))
    return counts


def test_one_forward_of_the_model_and_only_layers_that_are_cut():
    toy = Toy(LAYOUT, n_layers=12, std=0.2)
    counts = calls_of(toy)
    cut(toy, cross_modal().at(layers=5))
    assert counts["model"] == 1 and counts[5] < 40
    assert all(counts[layer] <= 4 for layer in range(12) if layer != 5)  # what the block is asked runs through none
    cut(toy, cross_modal().at(layers=[5, 6]))
    assert counts["model"] == 2
    cut(toy, cross_modal().at(layers=[5, 6]))
    assert counts["model"] == 2


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_edges_that_a_model_never_has_are_known(kernel):
    sizes = {"vocab_size": 20, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    found = find_intervention_point(bridge("GPT2LMHeadModel", "GPT2Config", kernel, sizes), SIX)
    assert torch.equal(found.facts[0].forbidden, torch.ones(6, 6, dtype=torch.bool).triu(1))


def test_a_layer_without_a_cut_is_not_tested():
    toy = Toy(LAYOUT)
    toy.blocks[2].attn.forward = lambda x: x.cumsum(1)  # no attention at all
    x = toy.example_input()
    with cutting(toy, cross_modal().at(layers=0)):
        toy(x)
    with pytest.raises(DeadHookError, match=r"layer 2 \(blocks.2.attn\)"):
        find_intervention_point(toy, LAYOUT)


@pytest.mark.parametrize("live", [True, False])
def test_a_model_with_a_zero_output_matrix_is_accepted(live):
    toy, plain = Toy(LAYOUT, live=live), Toy(LAYOUT, live=live)
    for model in (toy, plain):
        torch.nn.init.zeros_(model.blocks[1].attn.out.weight)
    x, weight = toy.example_input(), toy.blocks[1].attn.out.weight
    version = weight._version
    assert intervention_point(toy) == ("scores" if live else "attention_mask")
    with cutting(toy, every()):
        toy(x)
    assert weight._version == version and not weight.any() and torch.equal(toy(x), plain(x))


def test_a_test_inside_another_cut_uses_the_model_without_it():
    toy, twin, x = Toy(LAYOUT), Toy(LAYOUT), Toy(LAYOUT).example_input()
    with cutting(toy, every()) as outer, cutting(toy, cross_modal().at(layers=1)):
        toy(x)
    assert all(entry.trials == 1 for entry in outer.layers)
    with cutting(twin, every().at(layers=0)) as outer, cutting(twin, every().at(layers=[1, 2])):
        out = twin(x)
    with cutting(toy, every()):
        assert torch.equal(toy(x), out)
    assert outer.layers[0].trials == 1


def test_a_module_with_random_outputs_is_refused():
    toy = Toy(LAYOUT)
    own = toy.blocks[0].attn.forward
    toy.blocks[0].attn.forward = lambda x: own(x) + torch.randn(6, 8)
    with pytest.raises(DeadHookError, match="outputs for the same input differ"):
        intervention_point(toy)


def test_keys_that_are_no_tokens_are_refused():
    toy = Toy(LAYOUT, live=False)

    def pooled(x):
        attention = toy.blocks[0].attn
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in attention.qkv(x).chunk(3, -1))
        k, v = k.unflatten(2, (3, 2)).mean(3), v.unflatten(2, (3, 2)).mean(3)
        return attention.out(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))

    toy.blocks[0].attn.forward = pooled
    with pytest.raises(
        DeadHookError, match="layer 0 .* 6 queries read 3 keys, so the keys are not the tokens of the layout"
    ):
        intervention_point(toy)


# --- models that were refused, or crashed ------------------------------------------------------------------

WORDS = torch.randint(5, 20, (2, 6), generator=torch.Generator().manual_seed(0))
SIX = TokenLayout.groups({"emg": [1, 2], "acc": [3, 4]}, n_tokens=6)


def bridge(architecture, config, kernel, sizes):
    if architecture not in SUPPORTED_ARCHITECTURES:
        pytest.skip(f"this TransformerLens does not bridge {architecture}")
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**sizes)
    settings._attn_implementation = kernel
    model = getattr(transformers, architecture)(settings).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return build_bridge_from_module(model, architecture, hf_config=model.config)


BERT = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 1024,
}


def test_double_precision_with_fused_attention_can_be_cut():
    outputs = {}
    for kernel in ("sdpa", "eager"):
        model = bridge("BertForMaskedLM", "BertConfig", kernel, BERT).double()
        with torch.no_grad(), cutting(model, cross_modal(), SIX):
            outputs[kernel] = model(WORDS)
    assert (outputs["sdpa"] - outputs["eager"]).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_edges_with_little_attention_are_detected_in_half_precision(dtype):
    """With initial weights attention is uniform: one of 64 edges has less effect than a few rounding steps."""
    layout = TokenLayout.groups({"emg": range(32), "acc": range(32, 64)}, n_tokens=64)
    model = bridge("BertForMaskedLM", "BertConfig", "sdpa", BERT)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    assert intervention_point(model.to(dtype), layout) == "attention_mask"


def test_eight_hundred_tokens_can_be_cut():
    n = 800
    layout = TokenLayout.groups({"emg": range(400), "acc": range(400, n)}, n_tokens=n)
    words = torch.randint(5, 20, (1, n), generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        model = bridge("BertForMaskedLM", "BertConfig", "sdpa", {**BERT, "num_hidden_layers": 3})
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
        with torch.no_grad(), cutting(model, cross_modal(), layout, inputs=words):
            model(words)


def test_attention_that_returns_a_list_can_be_cut():
    sizes = {"vocab_size": 20, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = bridge("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", "eager", sizes)
    with torch.no_grad(), cutting(model, cross_modal(), SIX) as report:
        out = model(WORDS)
    assert report.mass_removed > 0 and not torch.allclose(out, model(WORDS))


def test_t5_with_a_mixture_of_experts_can_be_cut():
    sizes = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "num_experts": 2}
    sizes |= {"num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
    name = "SwitchTransformersForConditionalGeneration"
    model = bridge(name, "SwitchTransformersConfig", "eager", sizes)
    for stack in ("encoder", "decoder"):
        with torch.no_grad(), cutting(model, cross_modal(), SIX, stack=stack) as report:
            model(WORDS)
        assert report.mass_removed > 0


def test_edges_forbidden_by_a_scaled_number_are_forbidden():
    """CodeGen divides the smallest float by the root of d_head; a row without other edges must not attend to them."""
    sizes = {"vocab_size": 20, "n_positions": 32, "n_ctx": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
    plain = wrapped_model(TinyArchitecture("CodeGenForCausalLM", "CodeGenConfig", sizes, ""), "eager")
    model = adapt(plain)  # its bridge needs an attribute that new versions of transformers do not set
    with torch.no_grad(), cutting(model, every(), SIX) as report:
        out = model(WORDS).logits
    assert report.intervention_point == "scores" and [entry.rows_fully_cut for entry in report.layers] == [24, 24]
    with torch.no_grad(), cutting(model, every(), SIX):  # no token reads another one, so logits move with their token
        swapped = model(WORDS.flip(1)).logits
    torch.testing.assert_close(swapped.flip(1), out)


class OfLogarithms(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(x.log())


def test_a_failed_probe_is_repeated_with_the_inputs_that_its_message_asks_for():
    model, x = OfLogarithms().eval(), torch.rand(2, 4, 8) + 0.5
    layout = TokenLayout.channels({"emg": 2, "acc": 2}, cls=False)
    adapted = adapt(model, -x)
    with pytest.raises(DeadHookError, match="not finite.*pass inputs="), cutting(adapted, cross_modal(), layout):
        model(x)
    with cutting(adapted, cross_modal(), layout, inputs=x) as report:
        model(x)
    assert len(report.layers) == 2
