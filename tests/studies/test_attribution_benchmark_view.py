"""View of the comparison of attribution methods: tables and sentences follow from the numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import cell_of, tidy

from emg_lens.analysis.ground_truth.benchmark_analysis import FITTED, RANDOM
from emg_lens.studies.report.views.attribution_benchmark import (
    fitted_sentences,
    known_sentences,
    layout_fitted,
    layout_known,
)

PRECISION = {"gates": {"single": 1.0, "backup": 0.99}, "gradient": {"single": 1.0, "backup": 0.1},
             "weights": {"single": 0.2, "backup": 0.3}, RANDOM: {"single": 0.01, "backup": 0.01}}  # fmt: skip
NEEDED = {"gates": 10, "gradient": 20, "weights": 90, RANDOM: 80}


@pytest.fixture
def compared():
    """Six fits; on one of them, `gradient` is a little worse."""
    fits = [f"s{i}" for i in range(6)]
    rows = [
        {"fit": fit, "variant": variant, "method": method, "average_precision": value - 0.2 * lower,
         "forward_passes": 8.0, "backward_passes": 1.0}
        for i, fit in enumerate(fits)
        for method, values in PRECISION.items()
        for variant, value in values.items()
        for lower in [method == "gradient" and i == 3 and variant == "single"]
    ]  # fmt: skip
    rows += [
        {"fit": fit, "variant": FITTED, "method": method, "edges_needed": needed + i, "candidates": 100}
        for i, fit in enumerate(fits)
        for method, needed in NEEDED.items()
    ]
    scores = tidy(baseline=[0.9] * len(fits)).assign(fit=fits, subject=fits)
    return replace(cell_of(scores), scores=scores, analyses={"attribution-benchmark": pd.DataFrame(rows)})


def test_known_circuits_show_the_worst_encoder_and_the_best_method_first(compared):
    table = layout_known(compared)
    assert list(table["Method"]) == ["gates", "gradient", "weights", RANDOM]
    assert list(table["single"]) == ["1.00", "0.80", "0.20", "0.01"]
    assert list(table["Forward passes"]) == ["8"] * 4


def test_the_sentences_say_what_is_found_and_what_is_missed(compared):
    assert list(known_sentences(compared)) == [
        "Of 2 known circuits, gates finds 2: average precision of at least 0.95 for every encoder.",
        "gradient and weights find none of them.",
    ]
    best, *_ = fitted_sentences(compared)
    assert best.startswith("In the fitted models, the ranking of gates needs the fewest edges: 12 (95 % CI [")
    missing = compared.analyses["attribution-benchmark"].query("method != 'gates'")
    first, *_ = known_sentences(replace(compared, analyses={"attribution-benchmark": missing.query("fit != 's3'")}))
    assert first.startswith("Of 2 known circuits, gradient finds 1 (backup is missed)")


def test_edges_needed_are_compared_with_a_random_order(compared):
    table = layout_fitted(compared).set_index("Method")
    assert list(table.index) == ["gates", "gradient", RANDOM, "weights"]
    assert table.loc["gates", "Difference from random order"] == "−70"
    assert table.loc["weights", "Difference from random order"] == "10"
    assert table.iloc[0, 0].startswith(f"{np.mean([10, 11, 12, 13, 14, 15]):.0f} [")


def test_without_rows_nothing_is_shown(compared):
    empty = replace(compared, analyses={})
    assert layout_known(empty) is None and layout_fitted(empty) is None
    assert not [*known_sentences(empty), *fitted_sentences(empty)]
