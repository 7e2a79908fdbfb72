"""Subject-level statistics: every condition against the baseline, and every level of a factor against another.

The unit of analysis is the subject, never the trial or the seed. In goes the tidy table of a study's scores (one row a
fit, subject and condition), out comes one row a condition. The IsoNet paper's test (§2.4: two-sided Mann-Whitney U,
Bonferroni within one mask mode) is the default; because the same subjects appear under every condition, the paired
tests always stand beside it. The arithmetic on arrays is in `emg_lens.studies.statistics.rank_tests`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.statistics import rank_tests
from emg_lens.studies.statistics.families import FAMILY_COLUMNS, with_families
from emg_lens.studies.statistics.intervals import mean_interval
from emg_lens.studies.statistics.rank_tests import TESTS, p_values
from emg_lens.studies.statistics.spec import LevelComparison, StatisticsError, StatisticsSpec
from emg_lens.sweeps.conditions import BASELINE

AUDIT = ("edges_cut", "live_edges_cut", "rows_fully_cut")
EXPECTATION = ("expected", "expected_is_baseline")
"""What was expected of a condition, and in what share of fits and subjects that is the measured baseline itself."""
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
            metric; rows of one subject and condition (seeds, folds) are averaged first. Tags, what was expected and
            the audit columns are carried over if present.
        spec: Tests, correction and family.
        chance: What guessing gives; default the mean of the column `<metric>_chance`, if there is one.
        metric: The column that is compared. A share of trials (`accuracy`) is told in percentage points.
        factors: Columns whose every combination of levels is a comparison of its own.
        tags: Columns that describe a condition.

    Returns:
        One row a condition, in the order of `scores`; with `factors`, one column each in front.

        * `mean`, `sd`, `baseline_mean`: the metric over subjects.
        * `delta_percent`: the IsoNet paper's Δ% (§2.3), signed and relative to the baseline; NaN where that is not
          positive.
        * `difference`, `ci_low`, `ci_high`, in `unit`: mean paired difference with its interval over subjects (NaN for
          fewer than five, and where all changed alike); `n_changed`: subjects whose value changed at all.
        * `chance_corrected_drop_percent`: 100 (baseline - masked) / (baseline - chance).
        * `u`, `rank_biserial`: Mann-Whitney's U of the condition, and 2 U / n² - 1; `rank_biserial_paired`: matched
          pairs. Positive = the masked model has the higher value.
        * `p_<test>`, `p_<test>_<correction>` for all tests and corrections; `p_corrected`, `stars` and `significant`
          are those of `spec`; `family`, `family_size`. A condition in no family has NaN and "–".

    Raises:
        StatisticsError: Missing columns, names or values, no baseline, a share outside 0 to 1, conditions over
            different subjects, tags that differ between subjects, or a factor or tag named as a column of the result.
    """
    _check_columns(scores, ["subject", "condition", *factors], metric)
    _check_names([*factors, *tags], ["subject", "condition", "chance", *EXPECTATION, metric])
    parts = []
    for levels, cell in by_levels(scores, factors):
        values = by_subject(cell, metric)
        numbers = _numbers(values, BASELINE, spec, _chance(cell, chance, metric), metric)
        about = _about_conditions(cell, tags).loc[numbers.index]
        _check_names([*factors, *about.columns], [*numbers.columns, *FAMILY_COLUMNS])
        rows = pd.concat([about, numbers], axis=1).reset_index(names="condition")
        parts.append(_with_levels(with_families(rows, spec), factors, levels))
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
        One row a level: `factor`, `level` and `to`, the other factors, then the numbers of `compare`. `baseline_mean`
        is the mean at `to`.

    Raises:
        StatisticsError: As `compare`; levels over different subjects among them.
    """
    _check_columns(scores, ["subject", "condition", *factors], metric)
    rows = scores[scores["condition"] == BASELINE]
    rows = rows.assign(**{comparison.factor: rows[comparison.factor].astype(str)})
    others = [name for name in factors if name != comparison.factor]
    family = spec.model_copy(update={"family": "all"})
    parts = []
    for levels, cell in by_levels(rows, others):
        values = by_subject(cell, metric, comparison.factor, comparison.to)
        numbers = _numbers(values, comparison.to, spec, _chance(cell, None, metric), metric)
        _check_names(others, ["factor", "level", "to", *numbers.columns, *FAMILY_COLUMNS])
        found = with_families(numbers.reset_index(names="condition"), family).rename(columns={"condition": "level"})
        found.insert(0, "factor", comparison.factor)
        found.insert(2, "to", comparison.to)
        parts.append(_with_levels(found, others, levels, place=3))
    return pd.concat(parts, ignore_index=True)


def is_fraction(metric: str) -> bool:
    """Whether a metric is a share of trials, 0 to 1, told in percentage points."""
    return metric in METRICS and METRICS[metric].unit == "share"


# --- from scores to one column a condition ----------------------------------------------------------------


def by_levels(scores: pd.DataFrame, factors: Sequence[str]) -> Iterable[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The rows of every combination of levels, in order of appearance; all rows where there is no factor."""
    return scores.groupby(list(factors), sort=False) if factors else [((), scores)]


def by_subject(scores: pd.DataFrame, metric: str, column: str = "condition", reference: str = BASELINE) -> pd.DataFrame:
    """The metric, one row a subject, one column a condition in order of appearance; fits of a subject averaged.

    Args:
        scores: Tidy scores.
        metric: Which column holds the values.
        column: What is compared: conditions, or the levels of a factor.
        reference: The condition or level that all others are compared with.

    Raises:
        StatisticsError: No reference, a share outside 0 to 1, a value that is no finite number, or conditions over
            different subjects.
    """
    if reference not in set(scores[column]):
        raise StatisticsError(f"scores have no {column} {reference!r}; every comparison needs it")
    numbers = scores[metric].to_numpy(dtype=float)
    wrong = ~np.isfinite(numbers) | (is_fraction(metric) & ((numbers < 0) | (numbers > 1)))
    if wrong.any():
        subject, name = scores.loc[wrong, ["subject", column]].iloc[0]
        wanted = "must lie in 0 to 1" if is_fraction(metric) else "must be a finite number"
        raise StatisticsError(f"{metric} {wanted}, got {numbers[wrong][0]} ({column} {name!r}, subject {subject})")
    # Subjects in order: random sign flips must not depend on who was finished first.
    table = scores.groupby(["subject", column])[metric].mean().unstack(column)
    for name in table.columns:
        without = ", ".join(str(s) for s in table.index[table[name].isna()])
        if without:
            raise StatisticsError(f"{column} {name!r} has no score of subject(s) {without}; all need the same subjects")
    return table[list(scores[column].unique())]


def _numbers(
    values: pd.DataFrame, reference: str, spec: StatisticsSpec, chance: float | None, metric: str
) -> pd.DataFrame:
    """What `compare` says of every column but the reference, indexed by the column; no families yet."""
    masked, baseline = values.drop(columns=reference).to_numpy(), values[[reference]].to_numpy()
    change = rank_tests.difference(masked, baseline)
    mean_change, base, n = change.mean(axis=0), float(baseline.mean()), len(baseline)
    u = rank_tests.u_statistic(masked, baseline)
    bounds = (-1, 1) if is_fraction(metric) else (-np.inf, np.inf)
    interval = np.array([mean_interval(c, spec.confidence, bounds) for c in change.T]).reshape(-1, 2)
    above_chance = base - chance if chance is not None and chance < base else np.nan
    scale = 100 if is_fraction(metric) else 1
    columns = {
        "n_subjects": n,
        "mean": masked.mean(axis=0),
        "sd": masked.std(axis=0, ddof=1) if n > 1 else np.nan,
        "baseline_mean": base,
        "delta_percent": 100 * mean_change / base if base > 0 else np.nan,
        "difference": scale * mean_change,
        "ci_low": scale * interval[:, 0],
        "ci_high": scale * interval[:, 1],
        "unit": "pp" if is_fraction(metric) else METRICS[metric].unit if metric in METRICS else "",
        "chance": np.nan if chance is None else chance,
        "chance_corrected_drop_percent": -100 * mean_change / above_chance,
        "n_changed": (change != 0).sum(axis=0),
        "u": u,
        "rank_biserial": 2 * u / n**2 - 1,
        "rank_biserial_paired": rank_tests.paired_rank_biserial(change),
        **{f"p_{test}": p_values(test, masked, baseline, spec.seed) for test in TESTS},
    }
    return pd.DataFrame(columns, index=values.columns.drop(reference))


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
    for column in [c for c in EXPECTATION if c in scores]:
        about[column] = groups[column].mean()
    return about.drop(columns="condition")


def _chance(scores: pd.DataFrame, chance: float | None, metric: str) -> float | None:
    column = f"{metric}_chance"
    if chance is None:
        return float(scores[column].mean()) if column in scores and scores[column].notna().any() else None
    if not 0 <= chance < 1:
        raise StatisticsError(f"chance must be an accuracy from 0 to below 1, got {chance}")
    return chance


def _with_levels(rows: pd.DataFrame, factors: Sequence[str], levels: Sequence[str], place: int = 0) -> pd.DataFrame:
    """The rows with one column a factor, from the place-th column on."""
    for k, (factor, level) in enumerate(zip(factors, levels, strict=True)):
        rows.insert(place + k, factor, level)
    return rows


def _check_columns(scores: pd.DataFrame, names: Sequence[str], metric: str) -> None:
    missing = {*names, metric} - set(scores.columns)
    if missing:
        raise StatisticsError(f"scores need the columns {sorted(missing)}; they have {list(scores.columns)}")
    for name in names:
        n_without = int(scores[name].isna().sum())
        if n_without:
            raise StatisticsError(
                f"{n_without} rows of the scores have no {name}; if one is called NA or None, read"
                " the file with keep_default_na=False"
            )


def _check_names(names: Sequence[str], taken: Iterable[str]) -> None:
    """Factors and tags must not hide what is computed."""
    doubled = sorted({*names} & {*taken}) or sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise StatisticsError(f"a factor or tag is named {doubled[0]!r}, as a column of the result; rename it")
