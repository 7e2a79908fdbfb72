"""Classes that combine factors: the factors are read from the class names, each with its own accuracy."""

import numpy as np
import pytest
from synthetic import cell_of, tidy

from emg_lens.scoring.class_factors import factor_accuracies, factor_values
from emg_lens.studies.report.views.class_factors import layout_factors


@pytest.mark.parametrize(
    ("names", "factors"),
    [
        (["emg 0, acc 0", "emg 0, acc 1", "emg 1, acc 0"], {"emg": ["0", "0", "1"], "acc": ["0", "1", "0"]}),
        (["wrist bent left, hand open", "wrist bent right, hand open"], {"wrist bent": ["left", "right"]}),
        (["fist", "rest"], {}),
        (["index flexion", "index extension"], {}),
        (["emg 0, acc 0", "acc 1, emg 1"], {}),
        (["a 0, a 1", "a 1, a 0"], {}),
        (["0, 1", "1, 1"], {}),
        (["emg 0, acc 0", "rest"], {}),
    ],
)
def test_factors_are_read_where_all_names_list_the_same(names, factors):
    assert factor_values(names) == factors


def test_the_accuracy_of_a_factor_counts_its_value_alone():
    names = ["emg 0, acc 0", "emg 0, acc 1", "emg 1, acc 0", "emg 1, acc 1"]
    y, weights = np.array([0, 1, 2, 3]), np.array([1.0, 1.0, 1.0, 3.0])
    logits = np.stack([np.eye(4), np.eye(4)[[1, 1, 3, 3]], np.eye(4)[[2, 3, 0, 3]]])
    accuracies = [factor_accuracies(of_one, y, weights, names) for of_one in logits]
    assert [of["accuracy_of_emg"] for of in accuracies] == pytest.approx([1, 1, 0.5])
    assert [of["accuracy_of_acc"] for of in accuracies] == pytest.approx([1, 4 / 6, 1])
    assert factor_accuracies(logits[0], y, weights, ["a", "b", "c", "d"]) == {}


def test_the_table_has_a_column_for_each():
    scores = tidy(baseline=[0.9, 0.8], cut=[0.5, 0.4]).assign(accuracy_of_emg=[1.0, 1.0, 0.5, 0.7])
    table = layout_factors(cell_of(scores)).set_index("Condition")
    assert list(table.columns) == ["All", "emg"] and table.loc["cut"].to_list() == ["0.450", "0.600"]
    assert table.loc["Baseline", "emg"] == "1.000"
    assert layout_factors(cell_of(scores.drop(columns="accuracy_of_emg"))) is None
    without = layout_factors(cell_of(scores.rename(columns={"accuracy": "macro_f1"}), metric="macro_f1"))
    assert list(without.columns) == ["Condition", "emg"]
