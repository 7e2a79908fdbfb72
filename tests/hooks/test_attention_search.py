"""What `adapt` finds in other people's attention: stacks, axes of scores, layers. Each cut against a mask by hand."""

import threading

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.nn.attention.flex_attention import flex_attention

from emg_lens.hooks import DeadHookError, EdgeError, adapt, cross_modal, cutting, positions
from emg_lens.layout import TokenLayout

LAYOUT = TokenLayout.groups({"emg": [0, 1, 2], "acc": [3, 4]}, n_tokens=6)
EDGES = cross_modal().at(layers=0, heads=1) | positions(dest=[5], src=[0, 2]).at(layers=1)
X = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))


def masks(n_heads, edges=EDGES, layout=LAYOUT):
    """One additive mask [head, dest, src] for each of two layers."""
    cut = edges.mask(layout, 2, n_heads)
    return torch.zeros(cut.shape).masked_fill(cut, -torch.inf)


def spread(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


# --- stacks -------------------------------------------------------------------------------------------------------


class Attend(nn.Module):
    """Attention to itself or to `context`; `mask` is added to the scores."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.q, self.kv, self.out = nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(16, 16)
        self.mask = None

    def forward(self, x, context=None):
        q, k, v = self.q(x), *self.kv(x if context is None else context).chunk(2, -1)
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=2) for t in (q, k, v))
        scores = q @ k.mT / 8**0.5
        pattern = (scores if self.mask is None else scores + self.mask).softmax(-1)
        return self.out(rearrange(pattern @ v, "b h n d -> b n (h d)"))


class Residual(nn.Module):
    """A sub-layer with a norm, as in T5 and x-transformers: attention to itself and to others in separate modules."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), Attend()

    def forward(self, x, memory=None):
        return x + self.attention(self.norm(x), memory)


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleList(Residual() for _ in range(2))
        self.decoder = nn.ModuleList(Residual() for _ in range(4))  # itself, others, itself, others

    def forward(self, source, target):
        for layer in self.encoder:
            source = layer(source)
        for index, layer in enumerate(self.decoder):
            target = layer(target, source if index % 2 else None)
        return target


@pytest.mark.parametrize(
    ("stack", "parts"),
    [("encoder", ["encoder.0", "encoder.1"]), ("decoder", ["decoder.0", "decoder.2"])],
)
def test_a_stack_is_where_the_residual_stream_is(stack, parts):
    model, y = spread(Seq2Seq()), torch.randn(2, 6, 16)
    with torch.no_grad(), cutting(adapt(model, (X, y)), EDGES, LAYOUT, stack=stack) as report:
        ours = model(X, y)
    for part, mask in zip(parts, masks(2), strict=True):
        model.get_submodule(part).attention.mask = mask
    torch.testing.assert_close(ours, model(X, y))
    assert len(report.layers) == 2


def test_the_attention_of_t5s_decoder_is_its_own_stack():
    transformers = pytest.importorskip("transformers")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 20}
    model = spread(transformers.T5Model(transformers.T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0)))
    words = torch.randint(1, 20, (2, 6))
    inputs = {"input_ids": words, "decoder_input_ids": words.flip(1)}
    adapted = adapt(model, inputs)
    assert adapted.attention == {
        **{f"encoder_blocks.{i}.attn": f"encoder.block.{i}.layer.0.SelfAttention" for i in range(2)},
        **{f"decoder_blocks.{i}.self_attn": f"decoder.block.{i}.layer.0.SelfAttention" for i in range(2)},
        **{f"decoder_blocks.{i}.cross_attn": f"decoder.block.{i}.layer.1.EncDecAttention" for i in range(2)},
    }
    edges = positions(dest=[5], src=[0, 1, 2, 3, 4]).at(layers=[0, 1])
    with torch.no_grad():
        plain = model(**inputs)
        with cutting(adapted, edges, LAYOUT, stack="encoder"):
            encoder = model(**inputs)
        with cutting(adapted, edges, LAYOUT, stack="decoder"):
            decoder = model(**inputs)
    assert (encoder.encoder_last_hidden_state - plain.encoder_last_hidden_state)[:, 5].abs().min() > 0
    torch.testing.assert_close(decoder.encoder_last_hidden_state, plain.encoder_last_hidden_state)
    assert (decoder.last_hidden_state - plain.last_hidden_state)[:, 5].abs().max() > 1e-3
    torch.testing.assert_close(decoder.last_hidden_state[:, :5], plain.last_hidden_state[:, :5])


class TwoReaders(nn.Module):
    """Two streams that read each other."""

    def __init__(self):
        super().__init__()
        self.left, self.right = Residual(), Residual()

    def forward(self, x, y):
        return self.left(x, y), self.right(y, x)


def test_two_stacks_that_read_each_other_are_refused():
    with pytest.raises(EdgeError, match=r"several stacks of TwoReaders .*: left.attention, right.attention; adapt a"):
        adapt(TwoReaders(), (X, X.flip(0)))


class NormedThrice(nn.Module):
    """One stream whose norm is computed for queries, keys and values; the keys have other features."""

    def __init__(self, kdim=None):
        super().__init__()
        self.norm, self.keys = nn.LayerNorm(16), nn.Identity() if kdim is None else nn.Linear(16, kdim)
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True, kdim=kdim, vdim=kdim)

    def forward(self, x, mask=None):
        k, v = self.keys(self.norm(x)), self.keys(self.norm(x))
        return x + self.attn(self.norm(x), k, v, attn_mask=None if mask is None else mask.repeat(len(x), 1, 1))[0]


class Stacked(nn.Module):
    def __init__(self, make, *args):
        super().__init__()
        self.layers = nn.ModuleList(make(*args) for _ in range(2))

    def forward(self, x, masks=(None, None)):
        for layer, mask in zip(self.layers, masks, strict=True):
            x = layer(x, mask)
        return x


@pytest.mark.parametrize("kdim", [None, 6])
def test_equal_tokens_in_other_tensors_are_the_same_stream(kdim):
    model = spread(Stacked(NormedThrice, kdim))
    with torch.no_grad(), cutting(adapt(model, X), EDGES, LAYOUT):
        ours = model(X)
    torch.testing.assert_close(ours, model(X, masks(2)))


# --- axes ---------------------------------------------------------------------------------------------------------

SCORES = {  # the axes of queries and keys; scores have the last one replaced by src
    "h b i j": "b n (h d) -> h b n d",
    "(b h) i j": "b n (h d) -> (b h) n d",
    "(h b) i j": "b n (h d) -> (h b) n d",
    "b (g r) i j": "b n (g r d) -> b g r n d",
}
MASKS = {
    "h b i j": "h i j -> h 1 i j",
    "(b h) i j": "h i j -> (b h) i j",
    "(h b) i j": "h i j -> (h b) i j",
    "b (g r) i j": "(g r) i j -> 1 g r i j",
}


class Arranged(nn.Module):
    """Attention whose scores have other axes than [batch, head, dest, src]."""

    def __init__(self, name, n_heads, softmax):
        super().__init__()
        self.name, self.softmax, self.norm, self.qkv = name, softmax, nn.LayerNorm(16), nn.Linear(16, 48)
        self.sizes = {"g": 2, "r": n_heads // 2} if "g" in name else {"h": n_heads}

    def forward(self, x, mask=None):
        split = SCORES[self.name]
        q, k, v = (rearrange(t, split, **self.sizes) for t in self.qkv(self.norm(x)).chunk(3, -1))
        if self.softmax is None:
            mask = None if mask is None else self.arranged(mask, x)
            out = F.scaled_dot_product_attention(q, k, v, mask)
        else:
            scores = q @ k.mT / q.shape[-1] ** 0.5
            out = self.softmax(scores if mask is None else scores + self.arranged(mask, x)) @ v
        before, after = split.split(" -> ")
        return x + rearrange(out, f"{after} -> {before}", **self.sizes)

    def arranged(self, mask, x):
        mask, sizes = mask.expand(len(x), *mask.shape), dict(self.sizes)
        if self.name in ("(b h) i j", "(h b) i j"):
            return rearrange(mask, f"b h i j -> {self.name}", **sizes)
        return rearrange(mask[0], MASKS[self.name], **sizes)


@pytest.mark.parametrize("batch", [1, 2, 4, 6])
@pytest.mark.parametrize(
    "softmax", [lambda s: torch.special.softmax(s, -1), nn.Softmax(-1), None], ids=["special", "module", "fused"]
)
@pytest.mark.parametrize("name", SCORES)
def test_heads_and_trials_are_known_by_what_grows_with_the_batch(name, softmax, batch):
    model = spread(Stacked(Arranged, name, 4, softmax))
    x = torch.randn(4, 6, 16)
    with torch.no_grad(), cutting(adapt(model, torch.randn(batch, 6, 16)), EDGES, LAYOUT) as report:
        ours = model(x)
    torch.testing.assert_close(ours, model(x, masks(4)))
    assert [entry.trials for entry in report.layers] == [4, 4]


class SingleHead(nn.Module):
    """Attention with one head, and no axis for it."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x, mask=None):
        scores = self.q(x) @ self.k(x).mT / 4
        return x + (scores if mask is None else scores + mask).softmax(-1) @ x


class Gated(nn.Module):
    """Single-head attention, then a choice between as many experts as there are tokens."""

    def __init__(self):
        super().__init__()
        self.attend, self.experts = SingleHead(), Experts()

    def forward(self, x, mask=None):
        return self.experts(self.attend(x, mask))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.choose, self.experts = nn.Linear(16, 6), nn.Linear(6, 16)

    def forward(self, x):
        return x + self.experts(self.choose(x).softmax(-1))


def test_a_single_head_has_no_axis_and_a_choice_of_experts_is_not_attention():
    model = spread(Stacked(Gated))
    adapted = adapt(model, X)
    assert list(adapted.attention.values()) == ["layers.0.attend", "layers.1.attend"]
    edges = cross_modal().at(layers=0) | positions(dest=[5], src=[0, 2]).at(layers=1)
    with torch.no_grad(), cutting(adapted, edges, LAYOUT):
        ours = model(X)
    torch.testing.assert_close(ours, model(X, masks(1, edges)))


# --- surgery --------------------------------------------------------------------------------------------------------


class Listed(nn.Module):
    """As many layers as its list has."""

    def __init__(self, n):
        super().__init__()
        self.layers = nn.ModuleList(Arranged("h b i j", 4, nn.Softmax(-1)) for _ in range(n))

    def forward(self, x, mask=None):
        for layer in self.layers:
            x = layer(x, mask)
        return x


def test_a_layer_that_is_appended_later_is_cut_or_the_cut_is_refused():
    model = spread(Listed(2))
    before = adapt(model, X)
    with torch.no_grad(), cutting(before, cross_modal(), LAYOUT):
        model(X)
    model.layers.append(spread(Listed(1)).layers[0])
    with pytest.raises(DeadHookError, match=r"through layers\.2"), cutting(before, cross_modal(), LAYOUT):
        model(X)
    with torch.no_grad(), cutting(adapt(model, X), cross_modal(), LAYOUT):
        ours = model(X)
    torch.testing.assert_close(ours, model(X, masks(4, cross_modal())[0]))


@pytest.mark.parametrize("change", ["reorder", "replace", "remove"])
def test_layers_that_are_moved_replaced_or_removed_are_refused(change):
    model = spread(Listed(3))
    before = adapt(model, X)
    layers = list(model.layers)
    new = spread(Listed(1)).layers[0]
    model.layers = nn.ModuleList({"reorder": layers[::-1], "replace": [new, *layers[1:]], "remove": layers[:2]}[change])
    changed = pytest.raises(EdgeError, match=r"was moved, replaced or removed after adapt")
    with changed, cutting(before, cross_modal().at(layers=0), LAYOUT):
        model(X)
    with torch.no_grad(), cutting(adapt(model, X), cross_modal().at(layers=0), LAYOUT):
        ours = model(X)
    mask = masks(4, cross_modal())[0]
    by_hand = model.layers[0](X, mask)
    for layer in model.layers[1:]:
        by_hand = layer(by_hand)
    torch.testing.assert_close(ours, by_hand)


def test_flex_attention_is_refused_by_name():
    class Flexible(Arranged):
        def forward(self, x, mask=None):
            q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=4) for t in self.qkv(self.norm(x)).chunk(3, -1))
            return x + rearrange(flex_attention(q, k, v), "b h n d -> b n (h d)")

    with pytest.raises(DeadHookError, match="torch's flex_attention, whose scores cannot be edited"):
        adapt(Stacked(Flexible, "h b i j", 4, None), X)


def test_adapt_leaves_random_numbers_alone_and_ignores_forwards_in_other_threads():
    model, stop = spread(Stacked(Gated)), threading.Event()
    expected = adapt(model, X).attention

    def run():
        while not stop.is_set():
            model(X)

    other = threading.Thread(target=run)
    other.start()
    try:
        state = torch.get_rng_state()
        found = [adapt(model, X).attention for _ in range(20)]
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        stop.set()
        other.join()
    assert found == [expected] * 20
