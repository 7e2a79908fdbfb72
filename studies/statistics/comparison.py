"""Compare conditions with the baseline, and levels of a factor with a reference level, over subjects.

The unit of analysis is the subject, never the trial or the seed. The input is a tidy table of scores (one row per fit,
subject and condition); the output has one row per condition. The default is the IsoNet paper's test (§2.4: two-sided
Mann-Whitney U, Bonferroni within one mask mode). Paired tests are always reported too, because the same subjects appear
under every condition.
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
from emg_lens.validation import checked

AUDIT = ("edges_cut", "live_edges_cut", "rows_fully_cut")
EXPECTATION = ("expected", "expected_is_baseline")
"""Expected accuracy of a condition, and the fraction of fits and subjects in which it equals the baseline."""
TAGS = ("edges", "mode", "layer", "head")
"""Tags of the layer and head sweeps; a condition may have others."""


@checked
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
        scores: One row per fit, subject and condition, with the columns `subject`, `condition` (including
            `"baseline"`) and the metric. Rows of one subject and condition (seeds, folds) are averaged first. Columns
            with tags, expected accuracy and audit are copied to the result.
        spec: Test, correction and family.
        chance: Chance level of the metric; default: the mean of the column `<metric>_chance`, if there is one.
        metric: The column that is compared. Fractions of trials (`accuracy`) are reported in percentage points.
        factors: Columns of factors; every combination of levels is compared separately.
        tags: Columns that describe a condition.

    Returns:
        One row per condition, in the order of `scores`; the first columns are the `factors`.

        * `mean`, `sd`, `baseline_mean`: the metric over subjects.
        * `delta_percent`: the IsoNet paper's Δ% (§2.3), the signed change relative to the baseline; NaN if the baseline
          is not positive.
        * `difference`, `ci_low`, `ci_high`, in `unit`: mean paired difference with its interval over subjects (NaN for
          fewer than five subjects, or if all changes are equal); `n_changed`: number of subjects with any change.
        * `chance_corrected_drop_percent`: 100 (baseline - masked) / (baseline - chance).
        * `u`, `rank_biserial`: Mann-Whitney's U of the condition, and 2 U / n² - 1; `rank_biserial_paired`: matched
          pairs. Positive = the masked model has the higher value.
        * `p_<test>`, `p_<test>_<correction>` for all tests and corrections; `p_corrected`, `stars` and `significant`
          follow `spec`; `family`, `family_size`. A condition outside all families has NaN and "–".

    Raises:
        StatisticsError: Missing columns, names or values, no baseline, a fraction outside 0 to 1, conditions with
            different subjects, tags that differ between subjects, or a factor or tag named like a result column.

    Example:
        >>> import pandas as pd
        >>> rows = [(s, "baseline", 0.9) for s in "abcdefgh"] + [(s, "EMG masked", 0.5) for s in "abcdefgh"]
        >>> scores = pd.DataFrame(rows, columns=["subject", "condition", "accuracy"])
        >>> table = compare(scores, StatisticsSpec(test="wilcoxon"))
        >>> table[["condition", "difference", "unit", "p_wilcoxon", "stars"]].to_dict("records")
        [{'condition': 'EMG masked', 'difference': -40.0, 'unit': 'pp', 'p_wilcoxon': 0.0078125, 'stars': '**'}]
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
    """Compare each level of a factor with a reference level, paired by subject, for the unmasked models.

    Args:
        scores: As for `compare`.
        spec: Test and correction; every combination of the other factors is a family.
        comparison: The factor and its reference level.
        metric: The column that is compared.
        factors: All compared factors.

    Returns:
        One row per level: `factor`, `level`, `to` (the reference level), the other factors, then the numbers of
        `compare`. `baseline_mean` is the mean at the reference level.

    Raises:
        StatisticsError: As in `compare`; also if levels have different subjects.
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
        table = with_families(numbers.reset_index(names="condition"), family).rename(columns={"condition": "level"})
        table.insert(0, "factor", comparison.factor)
        table.insert(2, "to", comparison.to)
        parts.append(_with_levels(table, others, levels, place=3))
    return pd.concat(parts, ignore_index=True)


def is_fraction(metric: str) -> bool:
    """Whether a metric is a fraction, which is reported in percentage points."""
    return metric in METRICS and METRICS[metric].unit == "fraction"


def metric_range(metric: str) -> tuple[float, float]:
    """Smallest and largest value of a metric: of a fraction 0 and usually 1, otherwise infinite."""
    return (0.0, METRICS[metric].largest) if is_fraction(metric) else (-np.inf, np.inf)


# --- from scores to one column a condition ----------------------------------------------------------------


def by_levels(scores: pd.DataFrame, factors: Sequence[str]) -> Iterable[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Split the rows by combination of levels, in order of appearance; one part if there is no factor."""
    return scores.groupby(list(factors), sort=False) if factors else [((), scores)]


def by_subject(scores: pd.DataFrame, metric: str, column: str = "condition", reference: str = BASELINE) -> pd.DataFrame:
    """Arrange the metric as one row per subject and one column per condition; fits of a subject are averaged.

    Args:
        scores: Tidy scores.
        metric: Column of the values.
        column: Column of the conditions, or of the levels of a factor.
        reference: The condition or level that all others are compared with.

    Raises:
        StatisticsError: No reference, a fraction outside 0 to 1, a value that is not finite, or conditions with
            different subjects.
    """
    if reference not in set(scores[column]):
        raise StatisticsError(
            f"the scores have no rows of {column} {reference!r}, the reference of all comparisons; add these rows"
        )
    numbers = scores[metric].to_numpy(dtype=float)
    low, high = metric_range(metric)
    wrong = ~np.isfinite(numbers) | (numbers < low) | (numbers > high)
    if wrong.any():
        subject, name = scores.loc[wrong, ["subject", column]].iloc[0]
        wanted = "a number from 0 to 1" if high == 1 else "a finite number" + " of at least 0" * (low == 0)
        raise StatisticsError(
            f"{metric} is {numbers[wrong][0]} for {column} {name!r}, subject {subject}; expected {wanted}"
        )
    # Subjects are sorted, so that random sign flips do not depend on the order in which fits finished.
    table = scores.groupby(["subject", column])[metric].mean().unstack(column)
    for name in table.columns:
        without = ", ".join(str(s) for s in table.index[table[name].isna()])
        if without:
            raise StatisticsError(
                f"{column} {name!r} has no score for subject(s) {without}; all need the same subjects"
            )
    return table[list(scores[column].unique())]


def _numbers(
    values: pd.DataFrame, reference: str, spec: StatisticsSpec, chance: float | None, metric: str
) -> pd.DataFrame:
    """The numbers of `compare` for every column but the reference, indexed by column, without families."""
    masked, baseline = values.drop(columns=reference).to_numpy(), values[[reference]].to_numpy()
    change = rank_tests.difference(masked, baseline)
    mean_change, base, n = change.mean(axis=0), float(baseline.mean()), len(baseline)
    u = rank_tests.u_statistic(masked, baseline)
    most = metric_range(metric)[1]
    interval = np.array([mean_interval(c, spec.confidence, (-most, most)) for c in change.T]).reshape(-1, 2)
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
    """Tags, audit and expected accuracy of each condition, indexed by condition."""
    groups = scores.groupby("condition", sort=False)
    for column in [c for c in (*tags, "structural_null", "equivalent_to") if c in scores]:
        n_values = groups[column].nunique(dropna=False)
        if (n_values > 1).any():
            raise StatisticsError(
                f"condition {n_values.idxmax()!r} has several values of {column!r}; all subjects need the same"
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
        raise StatisticsError(f"chance is {chance}; expected an accuracy from 0 to below 1")
    return chance


def _with_levels(rows: pd.DataFrame, factors: Sequence[str], levels: Sequence[str], place: int = 0) -> pd.DataFrame:
    """Insert one column per factor, starting at this position."""
    for k, (factor, level) in enumerate(zip(factors, levels, strict=True)):
        rows.insert(place + k, factor, level)
    return rows


def _check_columns(scores: pd.DataFrame, names: Sequence[str], metric: str) -> None:
    missing = {*names, metric} - set(scores.columns)
    if missing:
        raise StatisticsError(f"the scores have no columns {sorted(missing)}; they have {list(scores.columns)}")
    for name in names:
        n_without = int(scores[name].isna().sum())
        if n_without:
            raise StatisticsError(
                f"{n_without} rows of the scores have no {name}; fill it in. If a {name} is called NA or None, read the"
                " file with keep_default_na=False"
            )


def _check_names(names: Sequence[str], taken: Iterable[str]) -> None:
    """Refuse factors and tags that have the name of a result column."""
    taken_twice = sorted({*names} & {*taken}) or sorted({name for name in names if names.count(name) > 1})
    if taken_twice:
        raise StatisticsError(
            f"a factor or tag is named {taken_twice[0]!r}, which is also a column of the result; rename it"
        )
