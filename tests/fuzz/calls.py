"""Fuzz of public functions: valid arguments, of which one or two are replaced by invalid ones."""

from pathlib import Path
from typing import Any

import call_data
import call_edges
import call_models
import call_sweeps
import numpy as np
import torch
from changes import pick
from nonsense import Call
from numpy.random import Generator
from verdicts import ANNOUNCER, Target, Verdict, of_error


def prepare(folder: Path) -> dict[str, Call]:
    """Return all calls by name."""
    return call_data.CALLS | call_edges.CALLS | call_models.CALLS | call_sweeps.CALLS


def attempt(made: dict[str, Call], rng: Generator, folder: Path) -> Verdict:
    """Run one case: a call with no, one or two invalid arguments."""
    name = pick(rng, sorted(made))
    arguments = made[name].arguments
    usual = {key: right for key, (right, _) in arguments.items() if right}
    given = {key: pick(rng, right) if rng.random() < 0.5 else right[0] for key, right in usual.items()}
    bad = list(rng.permutation(sorted(arguments)))[: int(rng.choice([0, 1, 1, 1, 1, 1, 2]))]
    bad += [key for key in arguments if key not in usual and key not in bad]
    given |= {key: pick(rng, arguments[key][1]) for key in bad}
    words = f"{name}({', '.join(f'{key}={shortened(given[key])}' for key in bad)})"
    ANNOUNCER.announce(words)
    try:
        made[name].function(**given)
    except Exception as error:
        return of_error(error, words, deliberate=True)
    return Verdict("silent", words, f"accepted {words}") if bad else Verdict("right", words)


def shortened(value: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{value.dtype} {tuple(value.shape)} of {np.asarray(value).ravel()[:1]}"
    return " ".join(repr(value).split())[:60]


TARGETS = (Target("calls", prepare, attempt),)
