"""The confusion view against scikit-learn."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn import metrics
from tiny import NO_CONDITIONS, TINY

from emg_lens.studies.report.views.confusion import (
    CONFUSION,
    confusion_matrix,
    confusions,
    figure_confusion,
    layout_classes,
)
from emg_lens.studies.study import Study


def test_the_matrix_and_the_classes_are_scikit_learns(finished):
    trials, names = finished.predictions(), finished.facts["outputs"].iloc[0]
    predicted = trials[[f"output_{name}" for name in names]].to_numpy().argmax(1)
    weight = 1 / trials.groupby(["fit", "subject", "repetition_id"])["target"].transform("size")
    expected = metrics.confusion_matrix(trials["target"], predicted, labels=range(len(names)), sample_weight=weight)
    (matrix,) = confusions(finished).values()
    assert list(matrix) == list(matrix.index) == names
    np.testing.assert_allclose(matrix, expected)
    scores = metrics.precision_recall_fscore_support(
        trials["target"], predicted, labels=range(len(names)), sample_weight=weight, zero_division=0
    )
    (title, table), *others = CONFUSION.tables(finished).items()
    assert title == "By class" and not others and table["Class"].tolist() == [*names, "Mean over classes"]
    for column, of_classes in zip(("Precision", "Recall", "F1"), scores, strict=False):
        means = table[column].iloc[-1]
        assert float(means) == pytest.approx(of_classes.mean(), abs=6e-4), column


def test_windows_of_a_repetition_count_once_and_rows_are_what_was_performed():
    trials = pd.DataFrame({"subject": "a", "repetition_id": [0, 0, 1], "target": [0, 0, 1]})
    outputs = pd.DataFrame([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], columns=["output_fist", "output_rest"])
    matrix = confusion_matrix(pd.concat([trials, outputs], axis=1), ["fist", "rest"])
    assert matrix.to_numpy().tolist() == [[0.5, 0.5], [1.0, 0.0]]
    table = layout_classes(matrix).set_index("Class")
    assert table.loc["fist", "Repetitions"] == "1" and float(table.loc["fist", "Recall"]) == 0.5
    axes = figure_confusion(matrix).axes[0]
    assert axes.get_ylabel() == "Performed" and [text.get_text() for text in axes.texts] == ["50", "50", "100"]


def test_it_is_shown_where_it_is_asked_for(finished):
    assert "By class" in finished.report() and (finished.folder / "figures" / "confusion.svg").exists()
    content = yaml.safe_load(TINY) | {"conditions": NO_CONDITIONS}
    assert not CONFUSION.shows(replace(finished, study=Study.parse(yaml.safe_dump(content))))
