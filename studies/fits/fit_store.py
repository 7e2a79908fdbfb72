"""The folder of one fit: what is written when it is finished, and how it is read.

`config.json`, `model.safetensors`: the model (`from_pretrained`) · `input_statistics.safetensors` (of a regression also
`target_statistics.safetensors`): what standardises raw trials · `fit.csv`: training and held-out curve ·
`logits.safetensors`: outputs `[condition, trial, output]` and targets · `trials.csv`: whose trials · `conditions.csv`:
tags and audit, controls among them · `superset_ablations.csv`: which of them contain which · `shift.csv`: how far they move
the residual stream · `scores.csv`: the metrics · `fit.json`: facts · `leakage.json`: what the two parts of the data
share · `checksums.json`: of all of them.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from pandas.api.types import is_numeric_dtype
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from emg_lens.data.standardization import InputStatistics, TargetStatistics
from emg_lens.data.trials import TrialSet
from emg_lens.errors import EmgLensError
from emg_lens.io.csv_tables import read_table, write_csv
from emg_lens.io.files import new_folder
from emg_lens.io.manifests import MANIFEST, check_manifest, write_manifest
from emg_lens.io.seals import DamagedFileError
from emg_lens.scoring.metrics import chances, measure, repetition_weights
from emg_lens.studies.results.class_factors import factor_accuracies, factor_values
from emg_lens.studies.spec.errors import StudyError
from emg_lens.sweeps.conditions import Condition

WHOLE = ["n_test", "edges_cut", "live_edges_cut", "rows_fully_cut", "structural_null", "equivalent_to"]
"""Columns of `scores.csv` without a missing value."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Inside, what cannot be written is told.

    Raises:
        StudyError: A full disk, or a place that may not be written to.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(f"cannot write to {str(folder)!r}: {reason}; make room, or give another --out") from None


@dataclass(frozen=True, eq=False)
class FittedOutputs:
    """What a fitted model gave under every condition.

    Attributes:
        conditions: The conditions, the baseline first.
        audit: One row a condition, as a sweep gives it.
        outputs: `[condition, trial, output]`, in the targets' units.
        targets: `[trial]` class index, or `[trial, target]`.
        test: The tested trials.
        shift: How far conditions move the residual stream: `activation_shift`.
        nested: Pairs of conditions, `condition` and `larger`: all that the first cuts, the second cuts too.
    """

    conditions: Sequence[Condition]
    audit: pd.DataFrame
    outputs: Float[np.ndarray, "condition trial output"]
    targets: Shaped[np.ndarray, "trial *target"]
    test: TrialSet
    nested: pd.DataFrame
    shift: pd.DataFrame


def write_fit(
    folder: Path,
    model: Any,
    inputs: InputStatistics,
    targets: TargetStatistics | None,
    history: pd.DataFrame,
    found: FittedOutputs,
    facts: Mapping[str, Any],
    leakage: Mapping[str, Any] | None,
    metrics: Sequence[str],
) -> None:
    """Write everything into an empty folder."""
    model.to("cpu").save_pretrained(folder)
    inputs.save(folder / "input_statistics.safetensors")
    if targets is not None:
        targets.save(folder / "target_statistics.safetensors")
    tags = pd.DataFrame([{"condition": c.name, **c.tags} for c in found.conditions])
    conditions = tags.merge(found.audit, on="condition", validate="one_to_one")
    trials = pd.DataFrame({name: getattr(found.test, name) for name in ("subject", "repetition", "repetition_id")})
    save_file({"outputs": found.outputs, "targets": found.targets}, folder / "logits.safetensors")
    write_csv(conditions, folder / "conditions.csv")
    write_csv(trials, folder / "trials.csv")
    write_csv(found.nested, folder / "superset_ablations.csv")
    write_csv(found.shift, folder / "shift.csv")
    write_csv(history, folder / "fit.csv")
    scores = score(conditions, trials, found.outputs, found.targets, metrics, facts["outputs"])
    write_csv(scores, folder / "scores.csv")
    (folder / "fit.json").write_text(json.dumps(facts, indent=1))
    if leakage is not None:
        (folder / "leakage.json").write_text(json.dumps(leakage, indent=1))
    write_manifest(folder)


def copy_fit(source: Path, folder: Path, levels: Mapping[str, str]) -> None:
    """Write the folder of a finished fit once more, as that of another combination of levels that makes the same fit.

    Raises:
        StudyError: A file of the finished fit does not hold what was written.
    """
    check_fit(source)
    facts = read_facts(source) | {"levels": dict(levels), "seconds": 0.0}
    with new_folder(folder) as partial:
        for file in source.iterdir():
            if file.name not in (MANIFEST, "leakage.json"):  # which is told once for each fold
                shutil.copyfile(file, partial / file.name)
        (partial / "fit.json").write_text(json.dumps(facts, indent=1))
        write_manifest(partial)


def check_fit(folder: Path) -> None:
    """Check that every file of a fit holds what was written.

    Raises:
        StudyError: One does not.
    """
    try:
        check_manifest(folder)
    except DamagedFileError as error:
        raise StudyError(f"{error}; delete {folder} and run again") from None


def score(
    conditions: pd.DataFrame,
    trials: pd.DataFrame,
    outputs: Float[np.ndarray, "condition trial output"],
    targets: Shaped[np.ndarray, "trial *target"],
    metrics: Sequence[str],
    names: Sequence[str],
) -> pd.DataFrame:
    """One row a tested subject and condition: who, which, tags, metrics, n_test, n_repetitions, chances, audit.

    Where the outputs' names are classes that combine factors, also the accuracy of each factor.
    """
    n_audit = list(conditions.columns).index("edges_cut")
    about, audit = conditions.iloc[:, :n_audit], conditions.iloc[:, n_audit:]
    parts = []
    for subject in trials["subject"].unique():
        mine = (trials["subject"] == subject).to_numpy()
        repetition_id = trials.loc[mine, "repetition_id"].to_numpy()
        some = slice(None) if mine.all() else mine  # no copy of the outputs of one subject alone
        values = pd.DataFrame([measure(metrics, out[some], targets[some], repetition_id) for out in outputs])
        table = pd.concat([about, values], axis=1)
        table.insert(0, "subject", subject)
        table["n_test"] = int(mine.sum())
        table["n_repetitions"] = len(np.unique(repetition_id))
        for metric, chance in chances(metrics, targets[mine], outputs.shape[2], repetition_id).items():
            table[f"{metric}_chance"] = chance
        if targets.ndim == 1 and factor_values(names):
            weights = repetition_weights(len(repetition_id), repetition_id)
            by_factor = [factor_accuracies(out[some], targets[some], weights, names) for out in outputs]
            table = pd.concat([table, pd.DataFrame(by_factor, index=table.index)], axis=1)
        parts.append(pd.concat([table, audit], axis=1))
    return pd.concat(parts, ignore_index=True)


@contextmanager
def naming_the_damaged(folder: Path) -> Iterator[None]:
    """What goes wrong inside, because a fit's files do not hold what was written, is a line that names the folder.

    Raises:
        StudyError: That line.
    """
    try:
        yield
    except EmgLensError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StudyError(f"{folder} is damaged ({what}); delete it and run again") from None


def read_csv(path: Path) -> pd.DataFrame:
    """A table of a run; empty cells are missing values, every other text (`NA`, `None`) is itself.

    Raises:
        StudyError: It is missing or damaged.
    """
    try:
        return read_table(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise StudyError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); delete its folder and run again"
        ) from None


def read_facts(folder: Path, name: str = "fit.json") -> dict[str, Any]:
    """A fit's facts.

    Raises:
        StudyError: They are missing or damaged.
    """
    try:
        found = json.loads((folder / name).read_text())
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{folder / name} cannot be read ({error}); delete {folder} and run again") from None


def read_outputs(
    folder: Path,
) -> tuple[Float[np.ndarray, "condition trial output"], Shaped[np.ndarray, "trial *target"]]:
    """A fit's outputs and targets.

    Raises:
        StudyError: They are missing or damaged.
    """
    try:
        found = load_file(folder / "logits.safetensors")
        return found["outputs"], found["targets"]
    except (OSError, KeyError, SafetensorError) as error:
        raise StudyError(
            f"{folder / 'logits.safetensors'} cannot be read ({error}); delete {folder}, run again"
        ) from None


def read_scores(folder: Path, metrics: Sequence[str]) -> pd.DataFrame:
    """A fit's scores; metrics that were not asked for when it was fitted are computed from its outputs.

    Raises:
        StudyError: A file is missing or damaged, or scores and conditions do not go together.
    """
    scores, conditions = read_csv(folder / "scores.csv"), read_csv(folder / "conditions.csv")
    if not set(metrics) <= set(scores.columns):
        outputs, targets = read_outputs(folder)
        names = read_facts(folder)["outputs"]
        scores = score(conditions, read_csv(folder / "trials.csv"), outputs, targets, metrics, names)
    names, subjects = conditions["condition"].tolist(), scores["subject"].unique()
    expected = pd.MultiIndex.from_product([subjects, names])
    if not names or not pd.MultiIndex.from_frame(scores[["subject", "condition"]]).equals(expected):
        raise StudyError(
            f"{folder / 'scores.csv'} has {len(scores)} rows; expected one a subject and condition of conditions.csv"
            f" ({len(names)}); delete {folder} and run again"
        )
    numbers = scores[list(metrics)]
    if not all(map(is_numeric_dtype, numbers.dtypes)) or scores[WHOLE].isna().to_numpy().any():
        raise StudyError(f"{folder / 'scores.csv'} has cells that are no numbers; delete {folder} and run again")
    if "mode" in scores:
        scores["mode"] = scores["mode"].astype(object).fillna("")
    return scores
