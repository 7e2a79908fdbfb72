from dataclasses import replace

import pytest
from forward import CASES, measure, ours, torchs

from emg_lens.encoder import count_parameters


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_rivals_are_of_one_size_and_both_run(case):
    small = replace(case, d_model=8 * case.n_heads, n_tokens=5, batch=2)
    mine = ours(small)
    assert count_parameters(mine, ["blocks"]) == count_parameters(torchs(small).layers)
    times = measure(small, "cpu", rounds=1)
    assert min(times.values()) > 0 and "ours" in times
