"""Subject-level statistics: every condition against the baseline, and every level of a factor against another.

The unit of analysis is the subject, never the trial or the seed. In goes the tidy table of a study's scores (one row a
fit, subject and condition), out comes one row a condition. The IsoNet paper's test (§2.4: two-sided Mann-Whitney U,
Bonferroni within one mask mode) is the default; because the same subjects appear under every condition, the paired
tests always stand beside it. The arithmetic on arrays is in `emg_lens.studies.statistics.rank_tests`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emg_lens.studies.statistics import rank_tests
from emg_lens.studies.statistics.families import with_families
from emg_lens.studies.statistics.rank_tests import TESTS, p_values
from emg_lens.studies.statistics.spec import LevelComparison, StatisticsError, StatisticsSpec
from emg_lens.sweeps.conditions import BASELINE
from emg_lens.training.metrics import METRICS

AUDIT = ("edges_cut", "live_edges_cut", "rows_fully_cut")
TAGS = ("edges", "mode", "layer", "head")
"""Tags that the shipped families of conditions use; a condition may have others."""


def compare(
    scores: pd.DataFrame,
    spec: StatisticsSpec,
    chance: float | None = None,
    *,
    metric: str = "accuracy",
    factors: Sequence[str] = (),
    tags: Sequence[str] = TAGS,
) -> pd.DataFrame:
    """Compare every condition with the baseline over the same subjects.

    Args:
        scores: One row a fit, subject and condition, with `subject`, `condition` (`"baseline"` among them) and the
            metric; rows of one subject and condition (seeds, folds) are averaged first. Tags, `chance`, `expected` and
            the audit columns are carried over if present.
        spec: Tests, correction and family.
        chance: Accuracy of guessing; default: the mean of the `chance` column, if there is one.
        metric: The column that is compared. A share of trials (`accuracy`) is told in percentage points.
        factors: Columns whose every combination of levels is a comparison of its own.
        tags: Columns that describe a condition.

    Returns:
        One row a condition, in the order of `scores`; with `factors`, one column each in front.

        * `mean`, `sd`, `baseline_mean`: the metric over subjects.
        * `delta_percent`: the IsoNet paper's Δ% (§2.3), signed and relative to the baseline.
        * `difference`, `ci_low`, `ci_high`, in `unit`: mean paired difference with its bootstrap interval (BCa, over
          subjects); `n_changed`: subjects whose value changed at all.
        * `chance_corrected_drop_percent`: 100 (baseline - masked) / (baseline - chance).
        * `u`, `rank_biserial`: Mann-Whitney's U of the condition, and 2 U / n² - 1; `rank_biserial_paired`: matched
          pairs. Positive = the masked model has the higher value.
        * `p_<test>`, `p_<test>_<correction>` for all tests and corrections; `p_corrected`, `stars` and `significant`
          are those of `spec`; `family`, `family_size`. A condition in no family has NaN and "–".

    Raises:
        StatisticsError: Missing columns, no baseline, a share outside 0 to 1, conditions over different subjects, or
            tags that differ between subjects.
    """
    _check_columns(scores, {"subject", "condition", metric, *factors})
    if not factors:
        return _compare(scores, spec, chance, metric, tags)
    parts = []
    for levels, cell in scores.groupby(list(factors), sort=False, dropna=False):
        found = _compare(cell, spec, chance, metric, tags)
        for place, (factor, level) in enumerate(zip(factors, levels, strict=True)):
            found.insert(place, factor, level)
        parts.append(found)
    return pd.concat(parts, ignore_index=True)


def compare_levels(
    scores: pd.DataFrame, spec: StatisticsSpec, comparison: LevelComparison, *, metric: str, factors: Sequence[str]
) -> pd.DataFrame:
    """Compare the unmasked models of every other level of a factor with those of one level, subject by subject.

    Args:
        scores: As for `compare`.
        spec: Tests and correction; every combination of the other factors is a family.
        comparison: Which factor, and the level that the others are compared with.
        metric: The column that is compared.
        factors: All factors whose levels are set side by side.

    Returns:
        The columns of `compare` without those of conditions; `factor`, `level` and `to` in front, then the other
        factors. `baseline_mean` is the mean at `to`.

    Raises:
        StatisticsError: As `compare`; levels over different subjects among them.
    """
    rows = scores[scores["condition"] == BASELINE]
    levels = rows[comparison.factor].astype(str)
    rows = rows.drop(columns=[c for c in (*AUDIT, *TAGS, "structural_null", "equivalent_to", "expected") if c in rows])
    rows = rows.assign(condition=levels.where(levels != comparison.to, BASELINE))
    others = [name for name in factors if name != comparison.factor]
    chosen = spec.model_copy(update={"family": "all"})
    found = compare(rows, chosen, metric=metric, factors=others, tags=()).rename(columns={"condition": "level"})
    found.insert(0, "factor", comparison.factor)
    found.insert(2, "to", comparison.to)
    return found[["factor", "level", "to", *(c for c in found if c not in ("factor", "level", "to"))]]


def _compare(
    scores: pd.DataFrame, spec: StatisticsSpec, chance: float | None, metric: str, tags: Sequence[str]
) -> pd.DataFrame:
    values = by_subject(scores, metric)
    names = [name for name in values.columns if name != BASELINE]
    rows = _about_conditions(scores, tags).loc[names].reset_index()
    masked, baseline = values[names].to_numpy(), values[[BASELINE]].to_numpy()
    change = rank_tests.difference(masked, baseline)
    mean_change, base, n = change.mean(axis=0), float(baseline.mean()), len(baseline)
    u = rank_tests.u_statistic(masked, baseline)
    options = (spec.confidence, spec.n_bootstrap, spec.seed)
    interval = np.array([rank_tests.bootstrap_interval(c, *options) for c in change.T]).reshape(-1, 2)
    is_share = _is_share(metric)
    chance = _chance(scores, chance) if is_share else None
    above_chance = base - chance if chance is not None and chance < base else np.nan
    scale = 100 if is_share else 1
    rows = rows.assign(
        n_subjects=n,
        mean=masked.mean(axis=0),
        sd=masked.std(axis=0, ddof=1) if n > 1 else np.nan,
        baseline_mean=base,
        delta_percent=100 * mean_change / base if base > 0 else np.nan,
        difference=scale * mean_change,
        ci_low=scale * interval[:, 0],
        ci_high=scale * interval[:, 1],
        unit="pp" if is_share else METRICS[metric].unit if metric in METRICS else "",
        chance=np.nan if chance is None else chance,
        chance_corrected_drop_percent=-100 * mean_change / above_chance,
        n_changed=(change != 0).sum(axis=0),
        u=u,
        rank_biserial=2 * u / n**2 - 1,
        rank_biserial_paired=rank_tests.paired_rank_biserial(change),
        **{f"p_{test}": p_values(test, masked, baseline, spec.seed) for test in TESTS},
    )
    return with_families(rows, spec)


# --- from scores to one row a condition -------------------------------------------------------------------


def by_subject(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The metric, one row a subject, one column a condition in order of appearance; fits of a subject averaged.

    Raises:
        StatisticsError: No baseline, a share outside 0 to 1, a value that is missing, or conditions over different
            subjects.
    """
    if BASELINE not in set(scores["condition"]):
        raise StatisticsError(f"scores have no {BASELINE!r} condition; every comparison needs it")
    outside = scores[scores[metric].isna() | (_is_share(metric) & ~scores[metric].between(0, 1))]
    if len(outside):
        subject, condition, value = outside[["subject", "condition", metric]].iloc[0]
        wanted = "must lie in 0 to 1" if _is_share(metric) else "must be a number"
        raise StatisticsError(f"{metric} {wanted}, got {value} ({condition}, subject {subject})")
    # Subjects in order: bootstrap and random sign flips must not depend on who was finished first.
    table = scores.groupby(["subject", "condition"])[metric].mean().unstack("condition")
    for condition in table.columns:
        without = ", ".join(str(s) for s in table.index[table[condition].isna()])
        if without:
            raise StatisticsError(
                f"condition {condition!r} has no score of subject(s) {without}; all need the same subjects"
            )
    return table[list(scores["condition"].unique())]


def _about_conditions(scores: pd.DataFrame, tags: Sequence[str]) -> pd.DataFrame:
    """Tags, audit and expectation of each condition, indexed by condition."""
    groups = scores.groupby("condition", sort=False)
    for column in [c for c in (*tags, "structural_null", "equivalent_to") if c in scores]:
        n_values = groups[column].nunique(dropna=False)
        if (n_values > 1).any():
            raise StatisticsError(
                f"condition {n_values.idxmax()!r} has different values of {column!r} for different subjects"
            )
    about = groups[["condition"]].first()
    for column in (*tags, *AUDIT):
        about[column] = groups[column].first() if column in scores else np.nan
    if "mode" in about:
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
    if chance is None and "chance" in scores and scores["chance"].notna().any():
        chance = float(scores["chance"].to_numpy(dtype=float).mean())
    if chance is not None and not 0 <= chance < 1:
        raise StatisticsError(f"chance must be an accuracy from 0 to below 1, got {chance}")
    return chance


def _is_share(metric: str) -> bool:
    """Whether a metric is a share of trials, told in percentage points."""
    return metric in METRICS and METRICS[metric].unit == "share"


def _check_columns(scores: pd.DataFrame, wanted: set[str]) -> None:
    missing = wanted - set(scores.columns)
    if missing:
        raise StatisticsError(f"scores need the columns {sorted(missing)}; they have {list(scores.columns)}")
