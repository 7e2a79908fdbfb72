"""Fuzz of checkpoints of fits and sweeps."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from changes import changed_bytes, with_new_checksum
from loaders import names_in, replaced
from model_folders import tensors_changed
from numpy.random import Generator
from toy_cohort import make_model, make_trials
from verdicts import Content, Target, Verdict, digest, judge

from emg_lens import Condition, TrainingRecipe, cross_modal, fit, layer_masks, sweep, unimodal
from emg_lens.data import Batch

FILE = "work.safetensors"
X, Y = make_trials(12)
RECIPE = TrainingRecipe(epochs=3, batch_size=6, lr=1e-3, anneal_epochs=2)
CONDITIONS: list[Condition] = layer_masks({"uni": unimodal(), "cross": cross_modal()}, 2)


class Stopped(Exception):
    """The interruption."""


def run_fit(path: Path, stop_after: int | None = None) -> tuple[Content, set[str]]:
    """Resume the fit from the file."""
    model = make_model(0)
    history = fit(model, Batch(X, Y), RECIPE, checkpoint=path, stop_after=stop_after)
    return {"history": digest(history), **{name: digest(value) for name, value in model.state_dict().items()}}, set()


def run_sweep(path: Path, stop_after: int | None = None) -> tuple[Content, set[str]]:
    """Resume the sweep from the file."""
    seen: list[float] = []

    def stop(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == stop_after:
            raise Stopped

    result = sweep(make_model(0), X, CONDITIONS, checkpoint=path, on_progress=stop, batch_size=6)
    audited = result.audit.to_dict("list")
    return {"audit": digest(audited), **{name: digest(value) for name, value in result.logits.items()}}, set()


def prepare(run: Callable, folder: Path) -> tuple[bytes, Content]:
    """Return the checkpoint of interrupted work, and the result of uninterrupted work."""
    with suppress(Stopped):
        run(folder / FILE, 2)
    content = (folder / FILE).read_bytes()
    whole = run(folder / "whole.safetensors")[0]
    if run(folder / FILE)[0] != whole:
        raise RuntimeError("the resumed work differs from the uninterrupted work")
    return content, whole


def attempt(run: Callable[[Path], Any], made: tuple[bytes, Content], rng: Generator, folder: Path) -> Verdict:
    """Run one case."""
    content, expected = made
    path, chance = folder / FILE, rng.random()
    if chance < 0.04:
        words, _ = replaced(path, rng)
    elif chance < 0.55:
        content, words = changed_bytes(content, rng)
        path.write_bytes(content)
    else:
        path.write_bytes(content)
        words = tensors_changed(path, rng)
    again = rng.random() < 0.4 and with_new_checksum(path)
    return judge(
        partial(run, path),
        (expected, set()),
        words + ", with a new checksum" * again,
        names=() if again else names_in(folder),  # with a correct checksum it may be resumed, and fail later
        own=not again,
    )


TARGETS = (
    Target("fit-checkpoint", partial(prepare, run_fit), partial(attempt, run_fit)),
    Target("sweep-checkpoint", partial(prepare, run_sweep), partial(attempt, run_sweep)),
)
