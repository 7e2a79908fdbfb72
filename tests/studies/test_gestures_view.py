"""The table of events shows every condition at the fixed and at its matched threshold."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from emg_lens.decoding import score_event_conditions
from emg_lens.studies.report.views.gestures import layout_events, past_answers


def test_a_cut_that_halves_the_probabilities_is_no_worse_at_its_threshold():
    recordings = {"u1": [([("tap", 1.0)], np.arange(4.0), 4.0)]}
    intact = np.array([[0.0], [0.6], [0.0], [0.4]])
    outputs = {"baseline": {"u1": [intact]}, "halved": {"u1": [intact / 2]}}
    table = layout_events(score_event_conditions(recordings, outputs, ["tap"])).set_index("Condition")
    assert table["Right"].tolist() == ["1.000", "0.000"]
    assert table["Right, matched"].tolist() == ["1.000", "1.000"]
    assert table["Threshold"].tolist() == ["0.600", "0.300"]


def test_the_answer_on_the_past_follows_from_the_counts():
    rows = [
        (family, time, gesture, 100, right, false)
        for family, time, of in (
            ("baseline", np.nan, {"thumb": (100, 0), "index": (98, 1)}),
            ("past", -0.5, {"thumb": (99, 0), "index": (98, 1)}),
            ("past", -0.3, {"thumb": (25, 7), "index": (97, 4)}),
            ("late", 0.06, {"thumb": (97, 0), "index": (98, 0)}),
        )
        for gesture, (right, false) in of.items()
    ]
    table = pd.DataFrame(rows, columns=["family", "relative_s", "gesture", "labels", "right", "false"])
    cell = SimpleNamespace(analysis=lambda name: table)
    assert list(past_answers(cell)) == [
        "With attention to more than 300 ms before each event cut, fewer labels are detected under their own name:"
        " thumb in 0.250 of its labels (1.000 before). Every other gesture changes by at most 1.0 pp. False alarms: 11"
        " (1 before).",
        "Attention to samples later than 60 ms after the event is not needed: without it, the largest drop of a gesture"
        " is 3.0 pp.",
    ]
    small = SimpleNamespace(analysis=lambda name: table[table["relative_s"] != -0.3])
    assert next(past_answers(small)) == (
        "No gesture needs attention to more than 500 ms before its event: the largest drop is 1.0 pp."
    )
