import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from emg_lens.models.encoder import count_parameters

bench = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("forward.py"))))


@pytest.mark.parametrize("case", bench.CASES, ids=lambda case: case.name)
def test_the_rivals_are_of_one_size_and_both_run(case):
    small = replace(case, d_model=8 * case.n_heads, n_tokens=5, batch=2)
    mine = bench.ours(small)
    assert count_parameters(mine, ["blocks"]) == count_parameters(bench.torchs(small).layers)
    times = bench.measure(small, "cpu", rounds=1)
    assert min(times.values()) > 0 and "ours" in times
