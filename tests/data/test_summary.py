"""The summary of a data set."""

from dataclasses import replace

from emg_lens.data import summary
from emg_lens.data.registry import load_dataset


def test_notes_that_differ_in_numbers_are_counted_by_recording_and_shown_once(monkeypatch):
    first, second, third = list(load_dataset("simulated"))[:3]
    recordings = [
        replace(first, meta={"notes": ("rate 962.5 Hz", "rate 962.7 Hz")}),
        replace(second, meta={"notes": ("rate 955.9 Hz",)}),
        replace(third, meta={"notes": ("gap",)}),
    ]
    monkeypatch.setattr(summary, "load_dataset", lambda *_: recordings)
    table, notes = summary.summarise("simulated", None)
    assert table["repetitions"].tolist() == [len(one.trials) for one in recordings]
    assert dict(notes) == {"rate 962.5 Hz [2 more of this kind]": 2, "gap": 1}
