"""Some of the random rounds of `make fuzz-cuts`."""

import sys

import pytest
from random_rounds import SITUATIONS, judge


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3000, 3000 + 8 * len(SITUATIONS)))
def test_a_random_round_is_right_or_refused(seed):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        situation, outcome, detail = judge(seed)
    finally:
        sys.setswitchinterval(before)
    assert outcome in ("right", "refused"), (situation, detail)
    assert len(detail) > 40 or outcome == "right", "a refusal says why"
