"""A batch refuses parts that do not belong together, and keeps them together when trials are selected."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.data.batch import Batch, BatchError

X = torch.arange(24.0).view(4, 2, 3)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"x": np.zeros((4, 2, 3))}, r"x is ndarray of float64, \[4, 2, 3\]; expected a torch tensor"),
        ({"x": None}, "x is None; expected a torch tensor"),
        ({"x": X, "targets": torch.tensor(3)}, "targets is Tensor .*; expected a torch tensor"),
        ({"x": X, "targets": torch.zeros(3)}, "3 targets for 4 trials; expected one per trial"),
        ({"x": X, "lengths": torch.tensor([1, 2, 3, 4])}, "lengths are not all between 1 and 3"),
        ({"x": X, "lengths": torch.tensor([3, 3, 0, 3])}, "lengths are not all between 1 and 3"),
        ({"x": X, "lengths": torch.full((4,), 2.5)}, "lengths is .*; expected one whole number per trial"),
        ({"x": X, "lengths": torch.ones(4, 2, dtype=torch.int64)}, "expected one whole number per trial"),
        ({"x": X, "reference": X[:, :1]}, r"reference trials are \[1, 3\]; expected \[2, 3\], as in x"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused_in_one_line(parts, message):
    with pytest.raises(BatchError, match=message) as error:
        Batch(**parts)
    assert "\n" not in str(error.value)


@given(size=st.integers(1, 6))
def test_split_batches_hold_all_trials_in_order_and_the_whole_reference(size):
    batch = Batch(X, torch.arange(4), torch.tensor([3, 1, 2, 3]), reference=X[:1])
    parts = list(batch.split(size))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    for name in ("x", "targets", "lengths"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert all(part.reference is batch.reference for part in parts)


def test_chosen_trials_keep_their_targets():
    some = Batch(X, torch.arange(4))[torch.tensor([2, 0])]
    assert some.targets.tolist() == [2, 0] and torch.equal(some.x, X[[2, 0]]) and some.lengths is None
    assert some.to("meta").x.device.type == "meta"


@pytest.mark.parametrize("use", [lambda b: b[0], list, lambda b: next(b.split(0)), lambda b: next(b.split(-2))])
def test_what_gives_no_batch_is_refused(use):
    with pytest.raises(BatchError, match=r"has no trial axis; use batch\[0:1\]|expected a number of trials, 1 or more"):
        use(Batch(X))
