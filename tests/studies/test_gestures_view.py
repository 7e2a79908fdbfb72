"""The table of events shows every condition at the fixed and at its matched threshold."""

import numpy as np

from emg_lens.decoding import score_event_conditions
from emg_lens.studies.report.views.gestures import layout_events


def test_a_cut_that_halves_the_probabilities_is_no_worse_at_its_threshold():
    recordings = {"u1": [([("tap", 1.0)], np.arange(4.0), 4.0)]}
    intact = np.array([[0.0], [0.6], [0.0], [0.4]])
    outputs = {"baseline": {"u1": [intact]}, "halved": {"u1": [intact / 2]}}
    table = layout_events(score_event_conditions(recordings, outputs, ["tap"])).set_index("Condition")
    assert table["Right"].tolist() == ["1.000", "0.000"]
    assert table["Right, matched"].tolist() == ["1.000", "1.000"]
    assert table["Threshold"].tolist() == ["0.600", "0.300"]
