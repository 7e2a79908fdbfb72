"""Limits of a cut: copies, activation checkpointing, key-value caches; and the stack that is cut."""

import copy
import io
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from toy import Toy, hooks_left
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from zoo.architectures import FAMILIES, TinyArchitecture
from zoo.tiny_models import bridged, wrapped_model

from emg_lens.errors import EmgLensError
from emg_lens.hooks import DeadHookError, EdgeError, cross_modal, cut, cutting, every, flow, unimodal
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.layout import TokenLayout

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})
X = Toy(LAYOUT).example_input(4)
SIX = TokenLayout.groups({"cls": [0], "emg": [1, 2], "acc": [3, 4]}, n_tokens=6)
WORDS = torch.randint(5, 20, (2, 6), generator=torch.Generator().manual_seed(0))
OPT = TinyArchitecture(
    "OPTForCausalLM",
    "OPTConfig",
    {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 32,
        "vocab_size": 20,
        "max_position_embeddings": 32,
        "word_embed_proj_dim": 16,
        "dropout": 0.0,
    },
    "model.decoder.layers.{}.self_attn",
)
BART = FAMILIES["BART"]


@pytest.fixture(params=[True, False], ids=["at the hook", "at the kernel"])
def toy(request):
    return Toy(LAYOUT, live=request.param)


def bridge(architecture, kernel="sdpa"):
    if architecture.model not in SUPPORTED_ARCHITECTURES:
        pytest.skip(f"this TransformerLens does not bridge {architecture.model}")
    return bridged(architecture, kernel)


# --- copies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, pickle.dumps, lambda model: torch.save(model, io.BytesIO())],
    ids=["deepcopy", "pickle", "save"],
)
def test_a_model_cannot_be_copied_while_it_is_cut(toy, copied):
    with (
        pytest.raises(DeadHookError, match=r"copied or pickled inside cutting\(cross_modal\(\)\).*stay cut"),
        cutting(toy, cross_modal()),
    ):
        toy(X)
        copied(toy)
    assert hooks_left(toy) == []


def test_a_part_that_is_not_cut_may_be_copied(toy):
    with cutting(toy, cross_modal()):
        toy(X)
        copy.deepcopy(toy.blocks[0].mlp)


def test_copies_made_before_or_after_a_cut_are_complete(toy):
    before, plain = copy.deepcopy(toy), toy(X)
    with cutting(toy, cross_modal()) as report:
        toy(X)
    for model in (before, copy.deepcopy(toy)):
        assert torch.equal(model(X), plain) and hooks_left(model) == []
    assert copy.deepcopy(report).layers == report.layers


# --- activation checkpointing -----------------------------------------------------------------------------


def checkpointed(toy, x, reentrant):
    for block in toy.blocks:
        x = checkpoint(block, x, use_reentrant=reentrant)
    return x


def gradient(model, x, run=None):
    x = x.clone().requires_grad_()
    (run or model)(x).square().sum().backward()
    return x.grad


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_recomputed_inside_are_those_of_the_cut(toy, reentrant):
    residual = torch.randn(2, 6, 8)
    with cutting(toy, cross_modal()):
        expected = gradient(toy, residual, lambda x: toy.blocks[2](toy.blocks[1](toy.blocks[0](x))))
    with cutting(toy, cross_modal()):
        ours = gradient(toy, residual, lambda x: checkpointed(toy, x, reentrant))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_forward_that_would_be_recomputed_uncut_is_an_error(toy, reentrant):
    x = torch.randn(2, 6, 8, requires_grad=True)
    with (
        pytest.raises(
            DeadHookError, match="3 forwards of attention ran with activation checkpointing, and 0 were recomputed"
        ),
        cutting(toy, cross_modal()),
    ):
        checkpointed(toy, x, reentrant)
    assert hooks_left(toy) == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_context_inside_the_checkpointed_function_is_recomputed_too(toy, reentrant):
    def cut_blocks(x):
        with cutting(toy, cross_modal()):
            return toy.blocks[2](toy.blocks[1](toy.blocks[0](x)))

    residual = torch.randn(2, 6, 8)
    ours = gradient(toy, residual, lambda x: checkpoint(cut_blocks, x, use_reentrant=reentrant))
    torch.testing.assert_close(ours, gradient(toy, residual, cut_blocks))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_without_gradients_is_allowed(toy, reentrant):
    with torch.no_grad(), cutting(toy, cross_modal()):
        checkpointed(toy, torch.randn(2, 6, 8), reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_plain_hooks_refuse_activation_checkpointing(reentrant):
    toy, x = Toy(LAYOUT), torch.randn(2, 6, 8, requires_grad=True)
    with (
        toy.hooks(fwd_hooks=cut(toy, cross_modal())),
        pytest.raises(DeadHookError, match=r"backward pass runs the attention again.*cutting\(...\) and call backward"),
    ):
        checkpointed(toy, x, reentrant)
    with torch.no_grad(), toy.hooks(fwd_hooks=cut(toy, cross_modal())):
        checkpointed(toy, x.detach(), reentrant)


def test_gradient_checkpointing_of_a_bridge():
    model = bridge(OPT)
    model.train(), model.original_model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(DeadHookError, match="switch checkpointing off"), cutting(model, cross_modal(), SIX):
        model(WORDS)


# --- padding and caches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_left_padding_leaves_no_nan(kernel):
    model, mask = bridge(OPT, kernel), torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0
    for edges in (cross_modal(), every()):
        with cutting(model, edges, SIX) as report:
            out = model(WORDS, attention_mask=mask)
        out.square().sum().backward()
        assert out.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        assert all(entry.attention_left == 0 for entry in report.layers)


def test_a_forward_that_continues_from_a_cache_is_refused():
    model = bridge(OPT)
    with (
        pytest.raises(EdgeError, match=r"\[2, 2, 1, 7\].*from a key-value cache.*use_cache=False"),
        cutting(model, cross_modal(), SIX),
    ):
        model.generate(WORDS, max_new_tokens=3, verbose=False)


# --- stacks -----------------------------------------------------------------------------------------------

ANSWER = WORDS[:, :4] - 1
DECODER = TokenLayout.groups({"emg": [1], "acc": [2, 3]}, n_tokens=4)
BOTH = TokenLayout.groups({"emg": [1, 2], "acc": [3, 4], "answer": [6, 7, 8, 9]}, n_tokens=10)
INPUTS = {"input": WORDS, "decoder_input": ANSWER}


def permanent_mask(stack, mask):
    """BART as transformers runs it, with -inf in the additive mask of one stack's attention."""
    model = wrapped_model(BART, "eager")
    name = {"encoder": "encoder.layers.{}.self_attn", "decoder": "decoder.layers.{}.self_attn"}.get(
        stack, "decoder.layers.{}.encoder_attn"
    )
    for layer in range(2):
        attention = model.model.get_submodule(name.format(layer))

        def add_mask(module, args, kwargs, cut=mask[layer]):
            given = kwargs.get("attention_mask")
            blocked = torch.zeros(cut.shape).masked_fill(cut, -torch.inf)[None]
            return args, {**kwargs, "attention_mask": blocked if given is None else given + blocked}

        attention.register_forward_pre_hook(add_mask, with_kwargs=True)
    with torch.no_grad():
        return model(WORDS, decoder_input_ids=ANSWER).logits


@pytest.mark.parametrize(
    "stack, layout, edges, module",
    [
        ("encoder", SIX, cross_modal() | flow("emg", "cls").at(heads=0), "encoder_blocks.0.attn"),
        (None, SIX, cross_modal() | flow("emg", "cls").at(heads=0), "encoder_blocks.0.attn"),
        ("decoder", DECODER, cross_modal() | flow("emg", "acc").at(heads=1), "decoder_blocks.0.self_attn"),
        ("cross", BOTH, flow("emg", "answer") | flow("acc", "answer").at(heads=1), "decoder_blocks.0.cross_attn"),
    ],
)
def test_each_stack_of_an_encoder_decoder_can_be_cut(stack, layout, edges, module):
    model = bridge(BART)
    with torch.no_grad(), cutting(model, edges, layout, stack=stack, inputs=INPUTS) as report:
        out = model(WORDS, decoder_input=ANSWER)
    mask = edges.mask(layout, 2, 2)
    expected = permanent_mask(stack or "encoder", mask[..., 6:, :6] if stack == "cross" else mask)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert report.layers[0].module == module and module in repr(report) and report.routes == ()
    with torch.no_grad():
        assert not torch.allclose(out, model(WORDS, decoder_input=ANSWER), atol=1e-3)


def test_cross_attention_to_the_same_number_of_tokens_is_no_other_route():
    model = bridge(BART)
    with torch.no_grad(), cutting(model, cross_modal(), SIX, stack="decoder") as report:
        model(WORDS, decoder_input=WORDS)
    assert report.routes == ()


@pytest.mark.parametrize(
    "stack, layout, edges, message",
    [
        (
            "cross",
            SIX,
            cross_modal(),
            "expected 10 for .*: 6 positions of the encoder, then 4 of the decoder",
        ),
        ("cross", BOTH, unimodal("emg"), "selects no edge from a position of the encoder to a position of the decoder"),
        ("both", SIX, cross_modal(), "stack='both'; expected 'encoder', 'decoder' or 'cross' or None"),
    ],
)
def test_a_stack_that_does_not_fit_is_refused(stack, layout, edges, message):
    with pytest.raises(EmgLensError, match=message), cutting(bridge(BART), edges, layout, stack=stack, inputs=INPUTS):
        raise AssertionError("not reached")


def test_cross_attention_needs_an_input_and_is_tested_for_each_length():
    model = bridge(BART)
    with pytest.raises(EdgeError, match="stack='cross'.*are unknown; pass inputs="):
        cut(model, flow("emg", "answer"), BOTH, stack="cross")
    shorter = TokenLayout.groups({"emg": [1], "answer": [4, 5]}, n_tokens=6)
    for layout, inputs in ((BOTH, INPUTS), (shorter, {"input": WORDS[:, :4], "decoder_input": ANSWER[:, :2]})):
        with cutting(model, flow("emg", "answer"), layout, stack="cross", inputs=inputs) as report:
            model(inputs["input"], decoder_input=inputs["decoder_input"])
        assert report.mass_removed > 0


def test_a_model_with_one_stack_needs_no_name(toy):
    with pytest.raises(EdgeError, match="no 'decoder' stack with attention; leave stack out"):
        cut(toy, cross_modal(), stack="decoder")


# --- layers that are one module ---------------------------------------------------------------------------


def test_layers_that_share_attention_are_cut_alike_or_not_at_all(toy):
    toy.blocks[1].attn = toy.blocks[0].attn
    toy.setup()
    assert list(find_intervention_point(toy, LAYOUT).paths) == [0, 1, 2]
    with (
        pytest.raises(EdgeError, match="layers 0 and 1 share one attention module"),
        cutting(toy, cross_modal().at(layers=0)),
    ):
        raise AssertionError("not reached")
    with cutting(toy, cross_modal().at(layers=[0, 1])) as report:
        toy(X)
    assert [entry.layer for entry in report.layers] == [0, 1]
