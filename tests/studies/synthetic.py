"""Findings made of synthetic scores, without a run."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.studies.statistics.comparison import TAGS, compare
from emg_lens.studies.statistics.spec import StatisticsSpec

SPEC = StatisticsSpec()


def tidy(metric: str = "accuracy", **values: Sequence[float]) -> pd.DataFrame:
    """Scores of subjects s0, s1, ... under conditions given by name."""
    rows = [
        {"subject": f"s{i}", "condition": name, metric: value}
        for name, some in values.items()
        for i, value in enumerate(some)
    ]
    return pd.DataFrame(rows)


def cell_of(
    scores: pd.DataFrame,
    statistics: StatisticsSpec = SPEC,
    chance: float | None = None,
    metric: str = "accuracy",
    tags: Sequence[str] = TAGS,
) -> Cell:
    """The only cell of a study without factors."""
    tests = compare(scores, statistics, chance=chance, metric=metric, tags=tags)
    return Cell({}, scores, tests, statistics, metric)


def study_of(**parts: Any) -> StudySpec:
    """A study with these keys, and the other keys that a study needs."""
    needed = {
        "name": "made-up",
        "title": "A study",
        "cohort": {"dataset": "simulated"},
        "split": {"by": "repetition", "train": [1], "test": [2]},
    }
    return StudySpec.model_validate(needed | parts)


def findings_of(
    scores: pd.DataFrame,
    metrics: Sequence[str] = ("accuracy",),
    tags: Sequence[str] = TAGS,
    leakage: Sequence[Mapping[str, Any]] = (),
    **parts: Any,
) -> Findings:
    """The findings of a study; `parts` are keys of the study. Scores without fits get one fit a subject and level."""
    study = study_of(**parts)
    if "fit" not in scores:
        keys = scores[[*study.factors, "subject"]].astype(str)
        scores = scores.assign(fit=keys.apply("-".join, axis=1))
    fits = scores.drop_duplicates("fit")
    facts = pd.DataFrame(
        {
            "fit": fits["fit"],
            "fold": fits["subject"],
            **{name: fits[name] for name in study.factors},
            "n_parameters": 5_921_041,
            "n_train": 60,
            "n_test": 34,
            "n_test_repetitions": 34,
            "executor": "folded",
            "seconds": 1.5,
            "n_samples": 40,
            "fs": 20.0,
        }
    ).reset_index(drop=True)
    facts["outputs"] = [["fist", "rest"]] * len(facts)
    facts["modalities"] = [{"emg": 12, "acc": 36}] * len(facts)
    facts["notes"] = [["subject 3: one repetition is missing"], *[[]] * (len(facts) - 1)]
    epochs = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.0123456], metrics[0]: [0.5, 0.9], "cls_weight": [0.5, 1.0]})
    curves = pd.concat([epochs.assign(lr=0.001, fit=fit) for fit in facts["fit"]], ignore_index=True)
    return Findings(study, scores, facts, curves, leakage, tuple(metrics), tuple(tags))


def by_factors(
    values: Mapping[tuple[str, ...], Sequence[float]], factors: Sequence[str], metric: str = "accuracy"
) -> pd.DataFrame:
    """Unmasked scores of subjects s0, s1, ... at combinations of levels."""
    rows = [
        {**dict(zip(factors, levels, strict=True)), "subject": f"s{i}", "condition": "baseline", metric: value}
        for levels, some in values.items()
        for i, value in enumerate(some)
    ]
    return pd.DataFrame(rows)


def head_scores(n_layers: int = 2, n_heads: int = 3, kinds: Sequence[str] = ("every",), n: int = 6) -> pd.DataFrame:
    """Scores of head masks: layer l, head h, kind k lowers a score by 0.01 (1 + l) (1 + h) (1 + k); L1H0 is a null."""
    subjects = [f"s{i}" for i in range(n)]
    base = 0.9 - 0.01 * np.arange(n)
    parts = [pd.DataFrame({"subject": subjects, "condition": "baseline", "mode": "", "accuracy": base})]
    for layer, head, (k, kind) in itertools.product(range(n_layers), range(n_heads), enumerate(kinds)):
        null = layer == head == 0
        cost = 0 if null else 0.01 * (1 + layer) * (1 + head) * (1 + k)
        name = f"{kind}/head/L{layer + 1}H{head}"
        tags = {"condition": name, "edges": kind, "mode": "head", "layer": layer, "head": head}
        audit = {"structural_null": null, "equivalent_to": "baseline" if null else name}
        parts.append(pd.DataFrame({"subject": subjects, **tags, "accuracy": base - cost, **audit}))
    scores = pd.concat(parts, ignore_index=True)
    nulls = scores["condition"].eq("baseline") | scores["structural_null"].eq(True)
    return scores.assign(structural_null=nulls, equivalent_to=scores["equivalent_to"].fillna("baseline"))
