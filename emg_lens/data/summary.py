"""Summarize a data set: one row per subject, and every note once."""

from collections import Counter
from pathlib import Path

import pandas as pd

from emg_lens.data.recording import Recording
from emg_lens.data.registry import describe_dataset, load_dataset, load_trials
from emg_lens.data.trials import TrialSet


def summarise(dataset: str, root: str | Path | None) -> tuple[pd.DataFrame, Counter[str]]:
    """Read a whole data set and count its content.

    Returns:
        One row per subject: recordings, minutes, signals (channels and rate), gestures, repetitions, trials; and each
        note with the number of recordings that have it.
    """
    if describe_dataset(dataset).finished:
        trials = load_trials(dataset, root)
        return _of_trials(trials), Counter(trials.notes)
    rows, notes = {}, Counter()
    for recording in load_dataset(dataset, root):
        rows.setdefault(recording.subject, []).append(_facts(recording))
        notes.update(set(recording.notes))
    return pd.DataFrame([_merge(subject, facts) for subject, facts in rows.items()]), notes


def _facts(recording: Recording) -> tuple[float, str, pd.DataFrame]:
    """Seconds, signals, and the table of repetitions; the samples are not kept."""
    signals = ", ".join(f"{name} {len(s.ch_names)} x {s.fs:.4g} Hz" for name, s in recording.signals.items())
    return max(s.duration for s in recording.signals.values()), signals, recording.trials


def _merge(subject: str, facts: list[tuple[float, str, pd.DataFrame]]) -> dict:
    table = pd.concat([trials for *_, trials in facts])
    return {
        "subject": subject,
        "recordings": len(facts),
        "minutes": round(sum(seconds for seconds, *_ in facts) / 60, 1),
        "signals": facts[0][1],
        "gestures": table["label"].nunique(),
        "repetitions": table["repetition"].nunique(),
        "trials": len(table),
    }


def _of_trials(trials: TrialSet) -> pd.DataFrame:
    signals = ", ".join(f"{name} {n} x {trials.fs:.4g} Hz" for name, n in trials.modalities.items())
    table = pd.DataFrame({"subject": trials.subject, "y": trials.y, "repetition": trials.repetition})
    return pd.DataFrame(
        [
            {
                "subject": subject,
                "recordings": 1,
                "minutes": round(len(rows) * trials.n_samples / trials.fs / 60, 1),
                "signals": signals,
                "gestures": rows["y"].nunique(),
                "repetitions": rows["repetition"].nunique(),
                "trials": len(rows),
            }
            for subject, rows in table.groupby("subject", sort=False)
        ]
    )
