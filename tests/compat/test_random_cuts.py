"""Some of the random cuts of `make fuzz-cuts`."""

import pytest
from random_cuts import SITUATIONS, judge

ALWAYS_CUT = ("as it is", "in another type", "peaked", "while training", "with padding", "nested")
"""Situations in which no cut may be refused."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_random_cut_is_right_or_refused(situation, seed):
    verdict = judge(300 + seed, situation)
    assert verdict.outcome in (("right",) if situation in ALWAYS_CUT else ("right", "refused")), verdict
    assert len(verdict.detail) > 40 or verdict.outcome == "right", "a refusal says why"
