"""Hook points in the attention of any torch model, and cuts compared with the same mask in the plain model."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from emg_lens.hooks import DeadHookError, EdgeCut, EdgeError, adapt, cross_modal, cut, cutting, every, flow, positions
from emg_lens.hooks.hook_points import PATTERN, SCORES
from emg_lens.layout import TokenLayout
from emg_lens.sweeps import Condition, sweep

LAYOUT = TokenLayout.groups({"cls": [0], "emg": [1, 2], "acc": [3, 4]}, n_tokens=6)
EDGES = cross_modal().at(layers=[0, 2]) | flow("emg", "cls").at(heads=1) | positions(dest=[5], src=[0]).at(layers=1)
MASK = torch.zeros(3, 2, 6, 6).masked_fill(EDGES.mask(LAYOUT, 3, 2), -torch.inf)
PADDING = torch.arange(6).repeat(3, 1) > torch.tensor([[5], [4], [3]])
X = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(1))


def torch_encoder(batch_first: bool, norm_first: bool, activation: str = "relu") -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, activation, batch_first=batch_first, norm_first=norm_first)
    encoder = nn.TransformerEncoder(
        layer, 3, norm=nn.LayerNorm(16), enable_nested_tensor=batch_first and not norm_first
    )
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return encoder.eval()


def by_hand(encoder: nn.TransformerEncoder, x, masks, padding=None):
    """torch's own layers, each called with its own additive mask."""
    for layer, mask in zip(encoder.layers, masks, strict=True):
        padded = None if padding is None else torch.zeros(padding.shape).masked_fill(padding, -torch.inf)
        x = layer(x, src_mask=mask.repeat(3, 1, 1), src_key_padding_mask=padded)
    return encoder.norm(x)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_cut_equals_torchs_own_encoder_with_the_same_mask(batch_first, norm_first):
    encoder = torch_encoder(batch_first, norm_first)
    x = X if batch_first else X.transpose(0, 1)
    before = encoder(x)
    with cutting(adapt(encoder, x), EDGES, layout=LAYOUT) as report:
        ours = encoder(x)
    torch.testing.assert_close(ours, by_hand(encoder, x, MASK))
    assert (ours - before).abs().max() > 1e-2 and torch.allclose(encoder(x), before)
    assert [entry.attention_left for entry in report.layers] == [0, 0, 0] and report.mass_removed > 0.01


@pytest.mark.parametrize("padding", [None, PADDING], ids=["all", "padded"])
def test_the_fused_path_of_torchs_encoder_does_not_bypass_a_cut(padding):
    encoder = torch_encoder(True, False)
    with torch.no_grad(), torch.profiler.profile() as profile:
        plain = encoder(X, src_key_padding_mask=padding)
    fused = [event.key for event in profile.key_averages() if "encoder_layer_fwd" in event.key]
    assert fused, "torch did not take its fused path: nothing is tested"
    with torch.no_grad():
        model = adapt(encoder, X)
        adapted = encoder(X, src_key_padding_mask=padding)
        with cutting(model, EDGES, layout=LAYOUT):
            ours = encoder(X, src_key_padding_mask=padding)
        expected = by_hand(encoder, X, MASK, padding)
    torch.testing.assert_close(ours, expected)
    kept = torch.ones(3, 6, dtype=torch.bool) if padding is None else ~padding
    torch.testing.assert_close(adapted[kept], plain[kept])


def test_rows_with_every_edge_cut_get_the_output_bias():
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    nn.init.normal_(attention.out_proj.bias)
    with torch.no_grad(), cutting(adapt(attention, (X, X, X)), every(), layout=LAYOUT) as report:
        out, weights = attention(X, X, X, average_attn_weights=False)
    torch.testing.assert_close(out, attention.out_proj.bias.expand_as(out))
    assert (weights == 0).all() and report.layers[0].rows_fully_cut == 12


def test_training_mode_drops_what_torch_drops():
    encoder = torch_encoder(True, False).train()
    with cutting(adapt(encoder, X), EDGES, layout=LAYOUT):
        torch.manual_seed(3)
        ours = encoder(X)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, by_hand(encoder, X, MASK))


class Conformer(nn.Module):
    """Convolution over time, then attention written with einsum and a softmax, as in nets for EEG."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv1d(3, 16, kernel_size=4, stride=4)
        self.blocks = nn.Sequential(*(EinsumBlock() for _ in range(3)))
        self.head = nn.Linear(16, 5)

    def forward(self, x, masks=(None, None, None)):
        x = self.patches(x).transpose(1, 2)
        for block, mask in zip(self.blocks, masks, strict=True):
            x = block(x) if mask is None else block(x, mask)
        return self.head(x.mean(1))


class EinsumBlock(nn.Module):
    """Attention written out in the block itself."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x, mask=None):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / 8**0.5
        pattern = self.softmax(scores if mask is None else scores + mask)
        x = x + self.out(torch.einsum("bhij,bhjd->bihd", pattern, v).flatten(2))
        return x + F.gelu(x)


def test_a_network_with_its_own_attention_can_be_adapted():
    torch.manual_seed(0)
    net, x = Conformer().eval(), torch.randn(2, 3, 24)
    model = adapt(net, x)
    assert model.attention == {f"blocks.{i}.attn": f"blocks.{i}" for i in range(3)}
    with torch.no_grad(), cutting(model, EDGES, layout=LAYOUT):
        ours = net(x)
    torch.testing.assert_close(ours, net(x, MASK))


SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = torch.randint(5, 20, (3, 6), generator=torch.Generator().manual_seed(2))
PLAIN = {
    "ViT": ("ViTModel", "ViTConfig", {**SIZES, "image_size": (4, 20), "patch_size": 4}, "encoder.layer"),
    "DistilBERT": (
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": 20, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 16},
        "transformer.layer",
    ),
    "ModernBERT": (
        "ModernBertModel",
        "ModernBertConfig",
        {**SIZES, "vocab_size": 20, "pad_token_id": 0, "local_attention": 4},
        "layers",
    ),
}


def hugging_face(name: str, kernel: str):
    transformers = pytest.importorskip("transformers")
    architecture, config, sizes, _ = PLAIN[name]
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)(**sizes, attn_implementation=kernel))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval(), torch.randn(3, 3, 4, 20) if name == "ViT" else WORDS


def masked_by_hand(model, x, monkeypatch):
    """The model's own eager attention, with -inf added to the mask of this layer."""
    import sys

    module = sys.modules[type(model).__module__]
    eager, layers = module.eager_attention_forward, iter(MASK)

    def with_mask(attention, query, key, value, attention_mask, **options):
        mask = next(layers)[None]
        return eager(attention, query, key, value, mask if attention_mask is None else attention_mask + mask, **options)

    monkeypatch.setattr(module, "eager_attention_forward", with_mask)
    out = model(x)[0]
    monkeypatch.undo()
    return out


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("name", PLAIN)
def test_encoders_of_transformers_equal_their_own_eager_attention_with_the_mask(name, kernel, monkeypatch):
    model, x = hugging_face(name, kernel)
    with torch.no_grad():
        before = model(x)[0]
        with cutting(adapt(model), EDGES, layout=LAYOUT) as report:
            ours = model(x)[0]
        expected = masked_by_hand(hugging_face(name, "eager")[0], x, monkeypatch)
        assert torch.equal(model(x)[0], before)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert (ours - before).abs().max() > 1e-2 and len(report.layers) == 3


def test_an_adapted_model_has_live_hooks_caches_and_plain_cuts():
    encoder = torch_encoder(True, False)
    model = adapt(encoder, X)
    with torch.no_grad():
        expected = by_hand(encoder, X, MASK)
        ours = model.run_with_hooks(X, fwd_hooks=cut(model, EDGES, LAYOUT))
        _, cache = model.run_with_cache(X)
    torch.testing.assert_close(ours, expected)
    assert list(cache) == [f"blocks.{i}.attn.{point}" for i in range(3) for point in (SCORES, PATTERN)]
    torch.testing.assert_close(cache[f"blocks.1.attn.{PATTERN}"], cache[f"blocks.1.attn.{SCORES}"].softmax(-1))


def test_the_model_keeps_its_weights_its_results_and_its_names():
    encoder = torch_encoder(True, False)
    keys, before, names = list(encoder.state_dict()), encoder(X), {m for m, _ in encoder.named_modules()}
    model = adapt(encoder, X)
    assert list(encoder.state_dict()) == keys and torch.equal(encoder(X), before) and torch.equal(model(X), before)
    assert {name for name, _ in encoder.named_modules()} - names == {
        f"layers.{i}.self_attn.{point}" for i in range(3) for point in (SCORES, PATTERN)
    }
    assert not any("name" in vars(m) for n, m in encoder.named_modules() if n in names)


def test_a_model_can_be_adapted_again_and_cuts_nest():
    encoder = torch_encoder(True, False)
    first, second = EDGES.at(layers=0), EDGES.at(layers=[1, 2])
    with cutting(adapt(encoder, X), first, LAYOUT), cutting(adapt(encoder, X), second, LAYOUT):
        ours = encoder(X)
    torch.testing.assert_close(ours, by_hand(encoder, X, MASK))


@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_hook_points_of_its_own(copied_by):
    encoder = torch_encoder(True, False)
    copied = copied_by(adapt(encoder, X)).original_model
    with cutting(adapt(copied, X), EDGES, LAYOUT):
        ours, untouched = copied(X), encoder(X)
    torch.testing.assert_close(ours, by_hand(encoder, X, MASK))
    assert torch.equal(untouched, encoder(X))


def test_a_decoder_has_stacks_of_its_own():
    torch.manual_seed(0)
    model = nn.Transformer(16, 2, 2, 2, 32, batch_first=True).eval()
    adapted = adapt(model, (X, X))
    names = {
        **{f"encoder_blocks.{i}.attn": f"encoder.layers.{i}.self_attn" for i in range(2)},
        **{f"decoder_blocks.{i}.self_attn": f"decoder.layers.{i}.self_attn" for i in range(2)},
        **{f"decoder_blocks.{i}.cross_attn": f"decoder.layers.{i}.multihead_attn" for i in range(2)},
    }
    assert adapted.attention == names
    edges = cross_modal()
    with cutting(adapted, edges, LAYOUT):
        ours = model(X, X)
    mask = torch.zeros(6, 6).masked_fill(edges.mask(LAYOUT, 1, 1)[0, 0], -torch.inf)
    torch.testing.assert_close(ours, model(X, X, src_mask=mask))


def test_attention_sinks_are_no_other_stack(monkeypatch):
    transformers = pytest.importorskip("transformers")
    sizes = {**SIZES, "num_key_value_heads": 1, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}
    torch.manual_seed(0)
    config = transformers.GptOssConfig(**sizes, vocab_size=20, pad_token_id=0, attn_implementation="eager")
    model = transformers.GptOssModel(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        with cutting(adapt(model), EDGES, LAYOUT) as report:
            ours = model(WORDS)[0]
        expected = masked_by_hand(model, WORDS, monkeypatch)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert report.mass_removed > 0.01


class Reader(nn.Module):
    """Latents that attend to the tokens and then to themselves; the argument names are the same."""

    def __init__(self):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(4, 16))
        self.read, self.think = KeysFrom(), KeysFrom()

    def forward(self, x):
        latents = self.read(self.latents.expand(len(x), -1, -1), x)
        return self.think(latents, latents)


class KeysFrom(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(16, 16), nn.Linear(16, 32)

    def forward(self, x, source):
        q, (k, v) = self.q(x), self.kv(source).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def test_tokens_of_another_number_are_another_stack():
    assert adapt(Reader(), X).attention == {
        "decoder_blocks.0.cross_attn": "read",
        "decoder_blocks.0.self_attn": "think",
    }


class Named(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.first, self.second = nn.MultiheadAttention(16, 2, batch_first=True), attention

    def forward(self, x):
        return self.second(x + self.first(x, x, x)[0])


class LinearAttention(nn.Module):
    def forward(self, x):
        return x @ (x.transpose(1, 2) @ x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        x = self.shared(x, x, x)[0]
        return self.shared(x, x, x)[0]


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.two, self.four = (nn.MultiheadAttention(16, heads, batch_first=True) for heads in (2, 4))

    def forward(self, x):
        x = self.two(x, x, x)[0]
        return self.four(x, x, x)[0]


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Linear(16, 16), DeadHookError, "Linear has no attention that can be edited"),
        (Named(LinearAttention()), DeadHookError, r"second \(LinearAttention\) of Named calls neither"),
        (Twice(), EdgeError, "the code of shared computes 2 attentions in one forward"),
        (Heads(), EdgeError, "different numbers of heads: 2 in two, 4 in four; adapt one stage"),
    ],
)
def test_a_model_that_cannot_be_adapted_is_refused_with_the_reason(model, error, message):
    with pytest.raises(error, match=message):
        adapt(model, X)
    assert not [name for name, _ in model.named_modules() if name.endswith(PATTERN)]
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_transformerlens_model_needs_no_adapter():
    with pytest.raises(EdgeError, match="use it without adapt"):
        adapt(adapt(torch_encoder(True, True), X), X)


def test_a_torch_model_needs_an_input():
    with pytest.raises(ValueError, match="TransformerEncoder; pass inputs="):
        adapt(torch_encoder(True, True))


def test_an_adapted_model_can_be_swept():
    encoder = torch_encoder(True, False).train()
    adapted = adapt(encoder, X[:1])
    encoder.eval()
    conditions = [Condition(str(head), EdgeCut(EDGES.at(heads=head))) for head in (0, 1)]
    with torch.no_grad():
        result = sweep(adapted, X, conditions, layout=LAYOUT)
        for head in (0, 1):
            mask = torch.zeros(3, 2, 6, 6).masked_fill(EDGES.at(heads=head).mask(LAYOUT, 3, 2), -torch.inf)
            torch.testing.assert_close(result.logits[str(head)], by_hand(encoder, X, mask))
    assert not encoder.training and not adapted.training
    assert adapted.train() is adapted and encoder.layers[0].training
