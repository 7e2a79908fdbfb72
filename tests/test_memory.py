"""`trials_not_finite` gives the same trials as `isfinite`, without a copy."""

import pytest
import torch

from emg_lens.memory import trials_not_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 1), (6, 5), (6, 3, 4)])
def test_the_same_trials_as_with_isfinite(dtype, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert trials_not_finite(x) == []
    x[1].view(-1)[0], x[3].view(-1)[-1], x[4].view(-1)[0] = float("nan"), float("inf"), float("-inf")
    assert trials_not_finite(x) == [1, 3, 4] == (~x.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3, 0, 4)])
def test_an_empty_tensor_has_no_such_trial(shape):
    assert trials_not_finite(torch.empty(shape)) == []
