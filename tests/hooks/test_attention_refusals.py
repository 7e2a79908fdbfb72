"""Attention that is not between the tokens of a layer: left out where it only reads them, otherwise refused."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from test_attention_search import EDGES, LAYOUT, Attend, Residual, X, masks, spread
from torch import nn

from emg_lens.hooks import DeadHookError, EdgeError, adapt, cutting, positions


class Pooled(nn.Module):
    """Two layers, and a learned query that reads the tokens, as the head of SigLIP or the CLS layers of CaiT."""

    def __init__(self, n_readers):
        super().__init__()
        self.layers = nn.ModuleList(Residual() for _ in range(2))
        self.query, self.readers = (
            nn.Parameter(torch.zeros(1, 1, 16)),
            nn.ModuleList(Residual() for _ in range(n_readers)),
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        query = self.query.expand(len(x), -1, -1)
        for reader in self.readers:
            query = reader(query, torch.cat([query, x], 1))
        return query[:, 0]


@pytest.mark.parametrize("n_readers", [1, 2])
def test_a_learned_query_is_no_decoder(n_readers):
    """A second reader reads the query next to the tokens, so that tokens could influence each other through it."""
    model = spread(Pooled(n_readers))
    adapted = adapt(model, X)
    assert adapted.attention == {f"blocks.{i}.attn": f"layers.{i}.attention" for i in range(2)}
    with torch.no_grad(), cutting(adapted, EDGES, LAYOUT, allow_routes=n_readers > 1):
        ours = model(X)
    for layer, mask in zip(model.layers, masks(2), strict=True):
        layer.attention.mask = mask
    torch.testing.assert_close(ours, model(X))


class FoldedCausal(Attend):
    """Trials and heads share an axis; the future has the smallest score."""

    def forward(self, x):
        q, k, v = (rearrange(t, "b n (h d) -> (b h) n d", h=2) for t in (self.q(x), *self.kv(x).chunk(2, -1)))
        scores = q @ k.mT + torch.full((6, 6), torch.finfo().min).triu(1)
        if self.mask is not None:
            scores = scores + self.mask.repeat(len(x), 1, 1)
        return x + self.out(rearrange(scores.softmax(-1) @ v, "(b h) n d -> b n (h d)", h=2))


def test_heads_and_trials_in_one_axis_are_distinguished_in_a_causal_model():
    model, edges = spread(nn.Sequential(FoldedCausal(), FoldedCausal())), positions(dest=[5], src=[0, 2]).at(heads=1)
    with torch.no_grad(), cutting(adapt(model, X), edges, LAYOUT):
        ours = model(X)
    for layer, mask in zip(model, masks(2, edges), strict=True):
        layer.mask = mask
    torch.testing.assert_close(ours, model(X))


class LandmarkAttention(Attend):
    """Keys are means of neighbours."""

    def forward(self, x):
        return x + super().forward(x, x.unflatten(1, (-1, 2)).mean(2))


class SelectedAttention(Attend):
    """Only three tokens have queries, as in Informer."""

    def forward(self, x):
        q, (k, v) = self.q(x)[:, :3], self.kv(x).chunk(2, -1)
        return x + F.pad(self.out((q @ k.mT).softmax(-1) @ v), (0, 0, 0, 3))


class WindowAttention(Attend):
    """Scores [trial, token, head, place in the window], as in Longformer; there are as many heads as trials."""

    def forward(self, x):
        q, k, v = (rearrange(t, "b n (h d) -> b n h d", h=2) for t in (self.q(x), *self.kv(x).chunk(2, -1)))
        near = torch.stack([t.roll(step, 1) for t in (k, v) for step in (-1, 0, 1)]).unflatten(0, (2, 3))
        pattern = torch.einsum("bnhd,wbnhd->bnhw", q, near[0]).softmax(-1)
        return x + self.out(torch.einsum("bnhw,wbnhd->bnhd", pattern, near[1]).flatten(2))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (LandmarkAttention, r"0 of Sequential: 6 positions read 3 keys.*landmarks.*cannot be cut. Adapt a part"),
        (SelectedAttention, r"0 \(SelectedAttention\).*softmax over scores of shape \[2, 3, 6\].*selected positions"),
        (WindowAttention, r"0 \(WindowAttention\).*softmax over scores of shape \[2, 6, 2, 3\].*windows"),
    ],
)
def test_attention_that_is_not_between_all_tokens_is_refused_as_such(kind, reason):
    with pytest.raises(DeadHookError, match=reason):
        adapt(spread(nn.Sequential(kind(), Residual())), X)
    with pytest.raises(DeadHookError, match=reason):
        adapt(spread(nn.Sequential(kind())), X)


class SameHeads(FoldedCausal):
    def forward(self, x):
        self.q.weight.data.zero_(), self.q.bias.data.zero_()
        return super().forward(x)


class RandomScores(FoldedCausal):
    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


@pytest.mark.parametrize(("kind", "reason"), [(SameHeads, "all heads have equal scores"), (RandomScores, "random")])
def test_why_the_axes_of_scores_are_unknown(kind, reason):
    with pytest.raises(EdgeError, match=rf"0 of Sequential: .*{reason}"):
        adapt(spread(nn.Sequential(kind())), X)
