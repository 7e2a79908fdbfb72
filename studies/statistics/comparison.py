"""Subject-level statistics of an ablation study: tests, corrections, effect sizes, intervals.

The unit of analysis is the subject, never the trial or the seed. In goes the tidy table of a study's scores
(one row a subject and condition), out comes one row a condition, compared with the baseline. The IsoNet
paper's test (§2.4: two-sided Mann-Whitney U, Bonferroni within one mask mode) is the default; because the
same subjects appear under every condition, the paired tests always stand beside it (fact sheet §2.3, items 2
and 3). The arithmetic on arrays is in `emg_lens.studies.statistics.rank_tests`; `tables`, `figures` and `report` show
what is computed here.
"""

import gc
import itertools
from collections.abc import Mapping, Sequence
from math import comb
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field

from emg_lens.errors import EmgLensError
from emg_lens.studies.statistics import rank_tests
from emg_lens.studies.statistics.rank_tests import EXACT_FLIPS, N_FLIPS, TESTS, p_values
from emg_lens.sweeps.conditions import BASELINE

CORRECTIONS = ("bonferroni", "holm", "fdr_bh")
STARS = ((0.0001, "****"), (0.001, "***"), (0.01, "**"), (0.05, "*"))
"""Thresholds of the corrected p, IsoNet paper §2.4."""
NOT_TESTED = "–"
EXTRA = "extra"
"""Name, in the family "mode", of the conditions that belong to no mask mode."""

_TAGS = ("edges", "mode", "layer")
_AUDIT = ("edges_cut", "live_edges_cut", "rows_fully_cut")
_SAME_FOR_ALL = (*_TAGS, "structural_null", "equivalent_to")


class StatisticsError(EmgLensError, ValueError):
    """Scores that cannot be compared as asked."""


class StatisticsSpec(BaseModel):
    """How conditions are compared with the baseline.

    Attributes:
        test: The test that sets the stars; all are always reported. `"mann-whitney"` (unpaired, the paper's),
            `"wilcoxon"` (signed-rank, paired) or `"sign-flip"` (paired permutation test of the mean).
        correction: The correction that sets the stars; all three are always reported.
        family: Which hypotheses are corrected together: `"mode"`, those of one mask mode (the paper's 10);
            `"all"`, every condition (30); `"distinct"`, those that can matter and differ (18): structural
            nulls are left out, conditions with the same live cut count once.
        confidence: Level of the bootstrap intervals.
        n_bootstrap: Resamples of the subjects.
        seed: Seed of bootstrap and random sign flips.
        alpha: Level at which a corrected p counts as significant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    test: Literal["mann-whitney", "wilcoxon", "sign-flip"] = "mann-whitney"
    correction: Literal["bonferroni", "holm", "fdr_bh"] = "bonferroni"
    family: Literal["mode", "all", "distinct"] = "mode"
    confidence: float = Field(default=0.95, gt=0, lt=1)
    n_bootstrap: int = Field(default=10_000, ge=100)
    seed: int = Field(default=0, ge=0)
    alpha: float = Field(default=0.05, gt=0, lt=1)

    @property
    def p_column(self) -> str:
        """Column of `compare`'s result that sets the stars."""
        return f"p_{self.test.replace('-', '_')}_{self.correction}"


def compare(scores: pd.DataFrame, spec: StatisticsSpec, chance: float | None = None) -> pd.DataFrame:
    """Compare every condition with the baseline over the same subjects.

    Args:
        scores: One row a subject and condition, with `subject`, `condition` (`"baseline"` among them) and
            `accuracy` (0 to 1); several rows of one subject and condition are averaged first. `edges`,
            `mode`, `layer`, `chance`, `expected` and the audit columns are carried over if present.
        spec: Tests, correction and family.
        chance: Accuracy of guessing; default: the mean of the `chance` column, if there is one.

    Returns:
        One row a condition, in the order of `scores`.

        * `mean`, `sd`, `baseline_mean`: accuracy over subjects.
        * `delta_percent`: the paper's Δ% (§2.3), signed and relative to the baseline.
        * `difference_pp`, `ci_low_pp`, `ci_high_pp`: mean paired difference with its bootstrap interval (BCa,
          over subjects), in percentage points; `n_changed`: subjects whose accuracy changed at all.
        * `chance_corrected_drop_percent`: 100 (baseline - masked) / (baseline - chance).
        * `u`, `rank_biserial`: Mann-Whitney's U of the condition, and 2 U / n² - 1; `rank_biserial_paired`:
          matched pairs. Positive = the masked model is better.
        * `p_<test>`, `p_<test>_<correction>` for all `TESTS` and `CORRECTIONS`; `p_corrected`, `stars` and
          `significant` are those of `spec`; `family`, `family_size`. A condition in no family has NaN and
          "–".

    Raises:
        StatisticsError: Missing columns, no baseline, accuracies outside 0 to 1, conditions over different
            subjects, or tags that differ between subjects.
    """
    accuracy = _by_subject(scores)
    names = [name for name in accuracy.columns if name != BASELINE]
    rows = _about_conditions(scores).loc[names].reset_index()
    masked, baseline = accuracy[names].to_numpy(), accuracy[[BASELINE]].to_numpy()
    change = rank_tests.difference(masked, baseline)
    drop, base, n = -change.mean(axis=0), float(baseline.mean()), len(baseline)
    u = rank_tests.u_statistic(masked, baseline)
    options = (spec.confidence, spec.n_bootstrap, spec.seed)
    interval = np.array([rank_tests.bootstrap_interval(c, *options) for c in change.T]).reshape(-1, 2)
    chance = _chance(scores, chance)
    above_chance = base - chance if chance is not None and chance < base else np.nan
    rows = rows.assign(
        n_subjects=n,
        mean=masked.mean(axis=0),
        sd=masked.std(axis=0, ddof=1) if n > 1 else np.nan,
        baseline_mean=base,
        delta_percent=-100 * drop / base if base > 0 else np.nan,
        difference_pp=-100 * drop,
        ci_low_pp=100 * interval[:, 0],
        ci_high_pp=100 * interval[:, 1],
        chance=np.nan if chance is None else chance,
        chance_corrected_drop_percent=100 * drop / above_chance,
        n_changed=(change != 0).sum(axis=0),
        u=u,
        rank_biserial=2 * u / n**2 - 1,
        rank_biserial_paired=rank_tests.paired_rank_biserial(change),
        **{f"p_{test}": p_values(test, masked, baseline, spec.seed) for test in TESTS},
    )
    return _with_families(rows, spec)


def adjust(p: Float[np.ndarray, " test"], correction: str) -> Float[np.ndarray, " test"]:
    """Corrected p of one family, capped at 1; NaN (not tested) stays NaN and does not count."""
    from statsmodels.stats.multitest import multipletests  # half a second that those who fit models need not wait

    p = np.asarray(p, dtype=float)
    tested = ~np.isnan(p)
    corrected = np.full(p.shape, np.nan)
    if tested.any():
        gc.freeze()  # it collects garbage at every call, a fifth of a second among all that is imported by now
        try:
            corrected[tested] = np.minimum(multipletests(p[tested], method=correction)[1], 1.0)
        finally:
            gc.unfreeze()
    return corrected


def stars(p: float) -> str:
    """Significance symbol of a corrected p (IsoNet paper §2.4); `"–"` for NaN, which means not tested."""
    if np.isnan(p):
        return NOT_TESTED
    return next((symbol for threshold, symbol in STARS if p < threshold), "ns")


def family_sizes(conditions: pd.DataFrame, family: str) -> dict[str, int]:
    """Number of hypotheses in each family.

    Args:
        conditions: One row a condition, with `condition` and, where known, `mode`, `structural_null` and
            `equivalent_to`; the baseline is ignored. Scores, or the result of `compare`, will do.
        family: `"mode"`, `"all"` or `"distinct"`.
    """
    rows = conditions[conditions["condition"] != BASELINE].drop_duplicates("condition")
    label = _family_labels(rows, family)
    once = _counted_once(rows, label, family)
    counted = [name for name, first in zip(label, once, strict=True) if name and first]
    return {name: counted.count(name) for name in dict.fromkeys(counted)}


class SmallestP(NamedTuple):
    """The smallest p that a design can give: raw, and after correction in the best case."""

    raw: float
    corrected: float


def smallest_p(n_subjects: int, family_size: int, spec: StatisticsSpec) -> SmallestP:
    """The smallest two-sided p that `spec.test` can give with so many subjects.

    Mann-Whitney: 2 / C(2n, n); Wilcoxon and sign flip: 2 / 2ⁿ (field survey §1e). Bonferroni and Holm
    multiply the smallest p of a family by its size; Benjamini-Hochberg may leave it as it is, if all are
    that small.
    """
    if n_subjects < 1 or family_size < 1:
        raise StatisticsError(f"needs at least one subject and one test, got {n_subjects} and {family_size}")
    raw = 2 / comb(2 * n_subjects, n_subjects) if spec.test == "mann-whitney" else 2 / 2**n_subjects
    if spec.test == "sign-flip" and n_subjects > EXACT_FLIPS:
        raw = max(raw, 1 / N_FLIPS)
    factor = 1 if spec.correction == "fdr_bh" else family_size
    return SmallestP(min(raw, 1.0), min(raw * factor, 1.0))


def power_warnings(n_subjects: int, sizes: Mapping[str, int] | Sequence[int], spec: StatisticsSpec) -> list[str]:
    """One sentence for each test and size of family that cannot be significant with so few subjects; ask first.

    Looks at the test that sets the stars, and at the paired Wilcoxon test beside it.

    Args:
        n_subjects: Subjects of the study.
        sizes: Family sizes, with or without names: the result of `family_sizes`, or `[10]`.
        spec: Test, correction and level.
    """
    named = sizes if isinstance(sizes, Mapping) else {f"of {size}": size for size in sizes}
    sentences = []
    for test, size in itertools.product(dict.fromkeys([spec.test, "wilcoxon"]), dict.fromkeys(named.values())):
        chosen = spec.model_copy(update={"test": test})
        raw, corrected = smallest_p(n_subjects, size, chosen)
        if corrected < spec.alpha:
            continue
        families = [repr(name) for name, of_size in named.items() if of_size == size]
        enough = (n for n in range(2, 500) if smallest_p(n, size, chosen).corrected < spec.alpha)
        sentences.append(
            f"With {_count(n_subjects, 'subject')} the {test} test cannot be significant in"
            f" {'family' if len(families) == 1 else 'the families'} {', '.join(families)}:"
            f" its smallest possible p is {raw:.2g}, {corrected:.2g} after {spec.correction} over"
            f" {_count(size, 'test')}, and alpha is {spec.alpha:g};"
            f" it takes {next(enough, 'over 500')} subjects."
        )
    return sentences


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


# --- from scores to one row a condition -------------------------------------------------------------------


def _by_subject(scores: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, one row a subject, one column a condition in order of appearance."""
    missing = {"subject", "condition", "accuracy"} - set(scores.columns)
    if missing:
        raise StatisticsError(f"scores need the columns {sorted(missing)}; they have {list(scores.columns)}")
    if BASELINE not in set(scores["condition"]):
        raise StatisticsError(f"scores have no {BASELINE!r} condition; every comparison needs it")
    outside = scores[~scores["accuracy"].between(0, 1)]
    if len(outside):
        subject, condition, accuracy = outside[["subject", "condition", "accuracy"]].iloc[0]
        raise StatisticsError(f"accuracy must lie in 0 to 1, got {accuracy} ({condition}, subject {subject})")
    # Subjects in order: bootstrap and random sign flips must not depend on who was finished first.
    table = scores.groupby(["subject", "condition"])["accuracy"].mean().unstack("condition")
    for condition in table.columns:
        without = ", ".join(str(s) for s in table.index[table[condition].isna()])
        if without:
            raise StatisticsError(
                f"condition {condition!r} has no score of subject(s) {without}; all need the same subjects"
            )
    return table[list(scores["condition"].unique())]


def _about_conditions(scores: pd.DataFrame) -> pd.DataFrame:
    """Tags, audit and expectation of each condition, indexed by condition."""
    groups = scores.groupby("condition", sort=False)
    for column in [c for c in _SAME_FOR_ALL if c in scores]:
        n_values = groups[column].nunique(dropna=False)
        if (n_values > 1).any():
            raise StatisticsError(
                f"condition {n_values.idxmax()!r} has different values of {column!r} for different subjects"
            )
    about = groups[["condition"]].first()
    for column in (*_TAGS, *_AUDIT):
        about[column] = groups[column].first() if column in scores else np.nan
    about["mode"] = about["mode"].astype(object).fillna("").astype(str)
    worst = "max_abs_delta_logit"
    about[worst] = groups[worst].max() if worst in scores else np.nan
    about["structural_null"] = groups["structural_null"].any() if "structural_null" in scores else False
    about["equivalent_to"] = groups["equivalent_to"].first() if "equivalent_to" in scores else about["condition"]
    about["equivalent_to"] = about["equivalent_to"].fillna(about["condition"])
    if "expected" in scores:
        about["expected"] = groups["expected"].mean()
    return about.drop(columns="condition")


def _chance(scores: pd.DataFrame, chance: float | None) -> float | None:
    if chance is None and "chance" in scores:
        chance = float(scores["chance"].to_numpy(dtype=float).mean())
    if chance is not None and not 0 <= chance < 1:
        raise StatisticsError(f"chance must be an accuracy from 0 to below 1, got {chance}")
    return chance


# --- families ---------------------------------------------------------------------------------------------


def _family_labels(rows: pd.DataFrame, family: str) -> list[str | None]:
    """Family of each condition; None where it is not a hypothesis."""
    if family == "all":
        return ["all"] * len(rows)
    if family == "mode":
        return [mode or EXTRA for mode in rows["mode"].fillna("")] if "mode" in rows else [EXTRA] * len(rows)
    if family == "distinct":
        null = rows["structural_null"] if "structural_null" in rows else [False] * len(rows)
        return [None if is_null else "distinct" for is_null in null]
    raise StatisticsError(f"unknown family {family!r}; known: mode, all, distinct")


def _hypothesis(rows: pd.DataFrame, family: str) -> list[str]:
    """What a condition tests: in the family "distinct", conditions with the same live cut test the same."""
    return list(rows["equivalent_to" if family == "distinct" and "equivalent_to" in rows else "condition"])


def _counted_once(rows: pd.DataFrame, label: list[str | None], family: str) -> list[bool]:
    """True for the first condition of each hypothesis."""
    tested = [h if name else None for h, name in zip(_hypothesis(rows, family), label, strict=True)]
    first = {h: i for i, h in reversed(list(enumerate(tested)))}
    return [h is not None and first[h] == i for i, h in enumerate(tested)]


def _with_families(rows: pd.DataFrame, spec: StatisticsSpec) -> pd.DataFrame:
    """Add families, corrected p values and stars."""
    label = _family_labels(rows, spec.family)
    sizes = family_sizes(rows, spec.family)
    hypothesis, once = _hypothesis(rows, spec.family), _counted_once(rows, label, spec.family)
    rows = rows.assign(family=label, family_size=[sizes.get(name or "", 0) for name in label])
    for test, correction in itertools.product(TESTS, CORRECTIONS):
        raw = rows[f"p_{test}"].to_numpy(dtype=float)
        corrected = {}
        for name in sizes:
            members = [i for i, of in enumerate(label) if of == name and once[i]]
            corrected |= zip([hypothesis[i] for i in members], adjust(raw[members], correction), strict=True)
        rows[f"p_{test}_{correction}"] = [
            corrected[h] if name else np.nan for h, name in zip(hypothesis, label, strict=True)
        ]
    rows["p_corrected"] = rows[spec.p_column]
    rows["stars"] = [stars(p) for p in rows["p_corrected"]]
    rows["significant"] = rows["p_corrected"] < spec.alpha
    return rows
