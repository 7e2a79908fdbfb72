"""Architectures of other libraries: each is cut as the plain model is cut by hand, or refused with a reason."""

from functools import cache

import pytest
import torch
from torch import nn
from zoo.libraries.collection import LIBRARIES, architectures, installed
from zoo.libraries.masked_by_patching import Patched
from zoo.libraries.ordinary_code import EinsumAttention, OwnSoftmax
from zoo.libraries.outcomes import Outcome, outcome
from zoo.libraries.page import PAGE, kind_of, on_page

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = [
    pytest.param(library, name, id=f"{library}: {name}", marks=[] if library == "torch" else pytest.mark.slow)
    for library in installed()
    for name in architectures(library)
]


@cache
def measured(library: str, name: str) -> Outcome:
    return outcome(architectures(library)[name])


@pytest.mark.parametrize(("library", "name"), CASES)
def test_a_cut_equals_the_plain_model_cut_by_hand_or_is_refused(library, name):
    result = measured(library, name)
    assert not result.fault, result
    if result.kind == "right":
        assert result.layers > 0 and result.changed > 1e-3, result
        assert not result.leaks or result.routes, f"another route between tokens is not named: {result}"


@pytest.mark.parametrize(("library", "name"), CASES)
def test_the_page_says_what_happens(library, name):
    assert on_page(PAGE.read_text(), library)[name] == kind_of(measured(library, name)), "run: make compatibility"


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_page_lists_no_other_architectures(library):
    if library not in installed():
        pytest.skip(f"{library} is not installed: make test-zoo")
    assert set(on_page(PAGE.read_text(), library)) == set(architectures(library))


def test_the_comparison_cuts_what_torchs_own_mask_cuts():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x, cut = torch.randn(2, 5, 8), torch.rand(2, 5, 5) < 0.4
    cut.diagonal(dim1=1, dim2=2)[:] = False

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = attention

        def forward(self, x):
            return self.attn(x, x, x)[0]

    expected = attention(x, x, x, attn_mask=cut.repeat(2, 1, 1))[0]
    (ours,) = Patched(Alone())(x, {"attn": cut})
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("second", "leaks"), [(EinsumAttention, False), (OwnSoftmax, True)])
def test_the_comparison_notices_tokens_that_influence_each_other(second, leaks):
    torch.manual_seed(0)
    model = nn.Sequential(EinsumAttention(), second(), EinsumAttention()).eval()
    x, cut = torch.randn(2, 5, 32), ~torch.eye(5, dtype=torch.bool).expand(4, 5, 5)
    assert Patched(model).leaks(x, ["0", "2"], {"0": cut, "1": cut, "2": cut}) is leaks
