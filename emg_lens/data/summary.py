"""Summarize a data set: one row per subject, and every note once."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from emg_lens.data.registry import describe_dataset, load_dataset, load_trials
from emg_lens.data.segment import notes_by_kind, unique_notes
from emg_lens.data.trials import TrialSet


def summarise(dataset: str, root: str | Path | None) -> tuple[pd.DataFrame, Counter[str]]:
    """Read a whole data set and count its content.

    Returns:
        One row per subject: recordings, minutes, signals (channels and sampling rate, with the rate of the sensor if it
        is lower), gestures, numbers of repetitions (which a split can name), and all repetitions or, of finished
        trials, all trials; and each note with the number of recordings that have it, once if only numbers differ.
    """
    if describe_dataset(dataset).finished:
        trials = load_trials(dataset, root)
        return _of_trials(trials), Counter(trials.notes)
    rows, notes = {}, []
    for recording in load_dataset(dataset, root):
        signals = ", ".join(
            f"{name} {len(s.ch_names)} x {s.fs:.4g} Hz"
            + (f" (sensor: {s.native_fs:.4g} Hz)" if s.native_fs < s.fs else "")
            for name, s in recording.signals.items()
        )
        seconds = max(s.duration for s in recording.signals.values())
        rows.setdefault(recording.subject, []).append((seconds, signals, recording.trials))  # without the samples
        notes.append(set(recording.notes))
    kinds = notes_by_kind(dict.fromkeys(note for of_one in notes for note in sorted(of_one)))
    counts = Counter({unique_notes(same)[0]: sum(not of_one.isdisjoint(same) for of_one in notes) for same in kinds})
    return pd.DataFrame([_of_subject(subject, facts, "repetitions") for subject, facts in rows.items()]), counts


def _of_subject(subject: str, facts: Sequence[tuple[float, str, pd.DataFrame]], counted: str) -> dict:
    """One row, from the duration (s), signals and table of repetitions (or trials, as `counted`) of each recording."""
    seconds, signals, tables = zip(*facts, strict=True)
    table = pd.concat(tables)
    return {
        "subject": subject,
        "recordings": len(facts),
        "minutes": round(sum(seconds) / 60, 1),
        "signals": signals[0],
        "gestures": table["label"].nunique(),
        "repetition numbers": table["repetition"].nunique(),
        counted: len(table),
    }


def _of_trials(trials: TrialSet) -> pd.DataFrame:
    signals = ", ".join(f"{name} {n} x {trials.fs:.4g} Hz" for name, n in trials.modalities.items())
    table = pd.DataFrame({"subject": trials.subject, "label": trials.y, "repetition": trials.repetition})
    subjects, seconds = table.groupby("subject", sort=False), trials.n_samples / trials.fs
    return pd.DataFrame(
        [_of_subject(str(name), [(len(rows) * seconds, signals, rows)], "trials") for name, rows in subjects]
    )
