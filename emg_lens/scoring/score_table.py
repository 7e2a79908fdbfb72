"""Sums of each user or utterance in one table, and every score that comes from them (docs/events-and-text.md §1).

Counts add up. The pooled score is the score of the sum over all units. The mean over units and the bootstrap come from
the same table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt

from emg_lens.scoring.event_matching import ScoreError
from emg_lens.validation import checked

Sums = Mapping[str, Float[np.ndarray, "..."]]
"""Named arrays of counts; the first axes are those of the units, or of the resamples."""
ResampleCount = Annotated[int, Field(ge=100, le=1_000_000)]
RESAMPLES_AT_ONCE = 250
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class CountScore:
    """A score that is computed from summed counts.

    Attributes:
        name: Name of the score.
        value: From sums `[..., part]` to the score `[...]`; NaN where it is undefined.
        undefined: When it is undefined, as the end of a sentence.
        better: Whether higher or lower values are better.
    """

    name: str
    value: Callable[[Sums], np.ndarray]
    undefined: str
    better: Literal["higher", "lower", "neither"] = "lower"


@dataclass(frozen=True)
class ScoreTable:
    """Sums of each unit: a user, a session or an utterance.

    Attributes:
        units: Names of the units.
        counts: Arrays of counts by name, each `[unit, ...]`.
        scores: The scores that these counts give.
        classes: Names of gestures or phonemes, in the order of the axes of the counts.
    """

    units: tuple[str, ...]
    counts: Sums
    scores: tuple[CountScore, ...]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.units or len(set(self.units)) < len(self.units):
            raise ScoreError(f"{len(self.units)} units, {len(set(self.units))} names; expected at least one, each once")

    def pooled(self) -> dict[str, float]:
        """Return each score of the sum over all units; NaN where it is undefined."""
        sums = self._sums(np.ones((1, len(self.units))))
        return {name: float(value[0]) for name, value in self._values(sums).items()}

    def by_unit(self) -> pd.DataFrame:
        """Return one row a unit, with one column a score."""
        return pd.DataFrame(self._values(self.counts), index=pd.Index(self.units, name="unit"))

    def summary(self) -> pd.DataFrame:
        """Return one row a score: `pooled`, `mean_of_units` (NaN if any unit is), `undefined_units`, and `note`.

        The note says why a score is undefined. A mean over only those units whose score is defined would hide units in
        which a model detects nothing.
        """
        by_unit, pooled, rows = self.by_unit(), self.pooled(), []
        for score in self.scores:
            values = by_unit[score.name].to_numpy()
            missing = int(np.isnan(values).sum())
            note = f"undefined in {missing} of {len(values)} units: {score.undefined}" if missing else ""
            rows.append((score.name, pooled[score.name], float(values.mean()), missing, note))
        return pd.DataFrame(rows, columns=["score", "pooled", "mean_of_units", "undefined_units", "note"])

    def grouped(self, groups: Sequence[str]) -> "ScoreTable":
        """Sum the counts of units that belong together, such as the utterances of one session.

        Args:
            groups: Name of the group of each unit.
        """
        if len(groups) != len(self.units):
            raise ScoreError(f"{len(groups)} groups for {len(self.units)} units; expected one name per unit")
        names = tuple(dict.fromkeys(groups))
        counts = {}
        for key, values in self.counts.items():
            counts[key] = np.zeros((len(names), *values.shape[1:]))
            np.add.at(counts[key], [names.index(group) for group in groups], values)
        return ScoreTable(names, counts, self.scores, self.classes)

    def resampled(
        self, weights: Int[np.ndarray, "resample unit"], over: Literal["pooled", "units"]
    ) -> dict[str, Float[np.ndarray, " resample"]]:
        """Return each score of bootstrap resamples; `weights` says how often a resample has each unit."""
        if over == "units":
            by_unit = self._values(self.counts)
            return {name: weights @ values / weights.sum(1) for name, values in by_unit.items()}
        parts = [
            self._values(self._sums(weights[start : start + RESAMPLES_AT_ONCE]))
            for start in range(0, len(weights), RESAMPLES_AT_ONCE)
        ]
        return {score.name: np.concatenate([part[score.name] for part in parts]) for score in self.scores}

    def _sums(self, weights: Float[np.ndarray, "resample unit"] | Int[np.ndarray, "resample unit"]) -> Sums:
        return {key: np.tensordot(weights, values, 1) for key, values in self.counts.items()}

    def _values(self, sums: Sums) -> dict[str, np.ndarray]:
        return {score.name: score.value(sums) for score in self.scores}


@checked
def paired_bootstrap(
    baseline: ScoreTable,
    condition: ScoreTable,
    over: Literal["pooled", "units"] = "pooled",
    n_resamples: ResampleCount = 2000,
    seed: NonNegativeInt = 0,
) -> pd.DataFrame:
    """Compare two conditions on the same units, and resample the units to get an interval of the difference.

    Each resample chooses units with replacement, and the same units for both conditions (percentile bootstrap; Bisani
    and Ney 2004 for word errors). If units of one session or one user are alike, group them first: `table.grouped`.

    Args:
        baseline: Sums of the intact model.
        condition: Sums of the model with the condition.
        over: `"pooled"`: score of the summed counts; `"units"`: mean of the scores of the units.
        n_resamples: Number of resamples.
        seed: Seed of the random numbers.

    Returns:
        One row a score: `baseline`, `condition`, `difference` (condition − baseline), `low` and `high` (95 % interval
        of the difference), and `undefined`, the fraction of resamples in which the difference is undefined. If there
        are any, the interval is NaN.

    Raises:
        ScoreError: The two tables have other units or scores, or there is only one unit.

    Example:
        >>> from emg_lens.scoring import paired_bootstrap, word_errors
        >>> texts = ["go left", "go right", "stop now"]
        >>> intact, cut = word_errors(texts, texts), word_errors(texts, ["go", "go right", "stop"])
        >>> row = paired_bootstrap(intact, cut).set_index("score").loc["word_error_rate"]
        >>> [round(float(row[name]), 3) for name in ("difference", "low", "high")]
        [0.333, 0.0, 0.5]
    """
    names = [score.name for score in baseline.scores]
    if baseline.units != condition.units or names != [score.name for score in condition.scores]:
        raise ScoreError("the two tables have different units or scores; score both conditions on the same units")
    n = len(baseline.units)
    if n < 2:
        raise ScoreError("there is one unit; a bootstrap needs at least 2 users, sessions or utterances")
    chosen = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in chosen])
    weights = np.concatenate([np.ones((1, n), weights.dtype), weights])  # the first row is the data itself
    before, after = baseline.resampled(weights, over), condition.resampled(weights, over)
    rows = []
    for name in names:
        difference = after[name] - before[name]
        low, high = np.percentile(difference[1:], INTERVAL)
        undefined = float(np.isnan(difference[1:]).mean())
        rows.append((name, before[name][0], after[name][0], difference[0], low, high, undefined))
    return pd.DataFrame(rows, columns=["score", "baseline", "condition", "difference", "low", "high", "undefined"])


def ratio(numerator: Float[np.ndarray, "*many"], denominator: Float[np.ndarray, "*many"]) -> np.ndarray:
    """Divide; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)


def mean_of_defined(values: Float[np.ndarray, "*many part"]) -> Float[np.ndarray, "*many"]:
    """Average over the parts that are not NaN; NaN if none is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1, dtype=np.float64))
