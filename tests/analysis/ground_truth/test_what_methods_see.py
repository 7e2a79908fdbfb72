"""What attribution methods find in encoders with known circuits, and what they do not: worst of four seeds."""

import pytest

from emg_lens.analysis import attribute, compiled_encoder
from emg_lens.analysis.attribution.method import METHODS
from emg_lens.analysis.ground_truth.benchmark import benchmark_attribution

pytestmark = pytest.mark.slow

SIMPLE = ["single", "xor", "distractor", "saturated", "negative"]
ALL = [*SIMPLE, "backup", "renorm", "standby"]
FAILURES = {
    ("attention", "distractor"): (0.2, "may be unused"),
    ("cut", "backup"): (0.2, "another route can replace"),
    ("first_order", "backup"): (0.2, "another route can replace"),
    ("gate_gradient", "saturated"): (0.1, "nearly all attention"),
}
"""Method and variant -> largest average precision, and a part of the sentence in the audit that names the failure."""


def worst(method, variants, seeds=range(4)):
    """Return the smallest average precision of each variant, and all rows."""
    rows = benchmark_attribution([method], variants, seeds, n_trials=16, curves=False)
    return rows.groupby("variant")["average_precision"].min(), rows


def test_first_order_finds_all_circuits_of_one_route():
    found, _ = worst("first_order", SIMPLE)
    assert found.min() >= 0.99


def test_shared_gates_also_find_a_route_that_another_can_replace():
    found, rows = worst("shared_gates", ALL)
    assert found[[*SIMPLE, "backup"]].min() >= 0.99
    assert found["renorm"] >= 0.75
    assert set(rows["backward_passes"]) == {8}
    assert rows.loc[rows["variant"] != "standby", "completeness_error"].abs().max() <= 0.05


def test_contexts_find_everything():
    found, rows = worst("contexts", ALL, seeds=[0])  # two minutes; the bench runs four seeds
    assert found.min() >= 0.95
    assert set(rows["forward_passes"]) == {2000}


@pytest.mark.parametrize(("method", "variant"), FAILURES)
def test_what_must_fail_fails_and_the_audit_names_it(method, variant):
    limit, sentence = FAILURES[method, variant]
    found, _ = worst(method, [variant])
    assert found[variant] <= limit
    task = compiled_encoder(variant, n_trials=4)
    audit = attribute(task.model, task.x, task.y, method=method, by="modality").audit
    assert sentence in audit["cannot_see"]
    assert audit["cannot_see"] == METHODS[method].cannot_see
