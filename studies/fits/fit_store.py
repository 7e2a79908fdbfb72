"""The folder of one fit: written when the fit is finished, and read for tables and reports.

* `config.json`, `model.safetensors`: the model (`from_pretrained`); `README.md`: its card;
* `input_statistics.safetensors`, for a regression also `target_statistics.safetensors`: standardization of the trials;
* `fit.csv`: training and held-out curve;
* `logits.safetensors`: outputs and targets; `trials.csv`: subject and repetition of each test trial;
* `conditions.csv`: tags and audit of conditions and controls; `scores.csv`: the metrics;
* `quality.csv`: the metrics of the simple reference on the test trials, and of the model on its training trials;
* `analyses/<name>.csv`: the table of each fit analysis;
* `fit.json`: facts, versions, machine; `leakage.json`: leakage report; `checksums.json`: checksums of all these files
  except the card.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from pandas.api.types import is_numeric_dtype
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from emg_lens.errors import EmgLensError
from emg_lens.io.checksums import CHECKSUMS, DamagedFileError, UnreadableFileError, check_checksums, write_checksums
from emg_lens.io.csv_tables import read_table, write_csv
from emg_lens.io.files import new_folder
from emg_lens.io.os_errors import check_regular, remedy
from emg_lens.io.run_folder import environment, writing
from emg_lens.scoring.class_factors import factor_accuracies, factor_values
from emg_lens.scoring.metrics import METRICS, chances, measure, repetition_weights
from emg_lens.studies.spec.errors import StudyError
from emg_lens.sweeps.conditions import BASELINE

if TYPE_CHECKING:  # reports read fits without torch
    from emg_lens.studies.fits.prepared_fit import PreparedFit
    from emg_lens.sweeps.result import SweepResult

OUTPUTS = "logits.safetensors"
WEIGHTS = "model.safetensors"
MODEL_CARD = "README.md"
"""Written again with every report, so it has no checksum."""
ANALYSES = "analyses"
TRAIN = "train"
"""Name of the model's score on its training trials."""
COMPLETE = ["n_test", "edges_cut", "live_edges_cut", "rows_fully_cut", "structural_null", "equivalent_to"]
"""Columns of `scores.csv` that have no missing value."""


def write_fit(
    folder: Path,
    prepared: "PreparedFit",
    history: pd.DataFrame,
    result: "SweepResult",
    analyses: Mapping[str, pd.DataFrame],
    quality: pd.DataFrame,
    seconds: float,
) -> None:
    """Write all files of a finished fit into an empty folder.

    Args:
        folder: The folder.
        prepared: The fit, with the fitted model.
        history: The training curve: one row an epoch.
        result: Outputs and audit of every condition.
        analyses: Table of each fit analysis, by its name.
        quality: Scores of the simple reference, and of the model on its training trials.
        seconds: Duration of the fit.
    """
    prepared.model.to("cpu").save_pretrained(folder)
    prepared.input_statistics.save(folder / "input_statistics.safetensors")
    if prepared.target_statistics is not None:
        prepared.target_statistics.save(folder / "target_statistics.safetensors")
    outputs, tested = _outputs_in_own_units(prepared, result), prepared.tested
    write_outputs(folder, outputs, prepared.targets)
    tags = pd.DataFrame([{"condition": c.name, **c.tags} for c in result.conditions])
    conditions = tags.merge(result.audit, on="condition", validate="one_to_one")
    trials = pd.DataFrame({name: getattr(tested, name) for name in ("subject", "repetition", "repetition_id")})
    facts = prepared.facts | {"executor": result.executor, "seconds": round(seconds, 2), "environment": environment()}
    scores = score(conditions, trials, outputs, prepared.targets, facts["metrics"], facts["outputs"])
    (folder / ANALYSES).mkdir()
    tables = {"conditions": conditions, "trials": trials, "fit": history, "scores": scores, "quality": quality}
    for name, table in [*tables.items(), *((f"{ANALYSES}/{name}", table) for name, table in analyses.items())]:
        write_csv(table, folder / f"{name}.csv")
    (folder / "fit.json").write_text(json.dumps(facts, indent=1))
    if prepared.leakage is not None:
        (folder / "leakage.json").write_text(json.dumps(prepared.leakage, indent=1))
    write_fit_checksums(folder)


def _outputs_in_own_units(
    prepared: "PreparedFit", result: "SweepResult"
) -> Float[np.ndarray, "condition trial *output"]:
    """Return the outputs of all conditions, in the units of the targets."""
    first = result.logits[BASELINE].numpy()
    outputs = np.empty((len(result.conditions), *first.shape), first.dtype)
    for out, condition in zip(outputs, result.conditions, strict=True):
        out[:] = prepared.in_own_units(result.logits[condition.name].numpy())
    return outputs


def write_outputs(
    folder: Path, outputs: np.ndarray | Sequence[np.ndarray], targets: np.ndarray | Sequence[np.ndarray]
) -> None:
    """Write the outputs and targets of a fit.

    Args:
        folder: The folder of the fit.
        outputs: `[condition, trial, output]`. If trials differ in length: one array `[condition, time, output]` for
            each trial.
        targets: `[trial, ...]`. If trials differ in length: one array `[time, ...]` for each trial.
    """
    save_file(_flat("outputs", outputs, axis=1) | _flat("targets", targets, axis=0), folder / OUTPUTS)


def _flat(name: str, values: np.ndarray | Sequence[np.ndarray], axis: int) -> dict[str, np.ndarray]:
    """Join arrays of different lengths to one, and keep their lengths."""
    if isinstance(values, np.ndarray):
        return {name: values}
    lengths = np.array([part.shape[axis] for part in values])
    return {name: np.concatenate(list(values), axis), f"{name}_lengths": lengths}


def _divided(name: str, tensors: Mapping[str, np.ndarray], axis: int) -> np.ndarray | list[np.ndarray]:
    """Undo `_flat`."""
    if f"{name}_lengths" not in tensors:
        return tensors[name]
    return np.split(tensors[name], np.cumsum(tensors[f"{name}_lengths"])[:-1], axis)


def copy_fit(source: Path, folder: Path, levels: Mapping[str, str]) -> None:
    """Copy a finished fit for other levels that define the same fit.

    The leakage report is not copied: each fold has it once.

    Raises:
        StudyError: A file of the finished fit was changed or cannot be read.
    """
    check_fit(source)
    facts = read_facts(source) | {"levels": dict(levels), "seconds": 0.0}
    with writing(folder), new_folder(folder) as partial:
        without = shutil.ignore_patterns(CHECKSUMS, "leakage.json")
        shutil.copytree(source, partial, dirs_exist_ok=True, ignore=without, copy_function=shutil.copyfile)
        (partial / "fit.json").write_text(json.dumps(facts, indent=1))
        write_fit_checksums(partial)


def write_fit_checksums(folder: Path) -> None:
    """Write the checksums of all files of a fit, except its model card."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    write_checksums(folder, [name for name in files if name not in (CHECKSUMS, MODEL_CARD)])


def check_fit(folder: Path) -> None:
    """Check every file of a fit, except its model card, against its checksum.

    Raises:
        StudyError: A file is missing or was changed.
    """
    try:
        check_checksums(folder, but=(MODEL_CARD,))
    except DamagedFileError as error:
        raise StudyError(f"{error}; delete {folder} and run again") from None
    except UnreadableFileError as error:
        raise StudyError(str(error)) from None


def score(
    conditions: pd.DataFrame,
    trials: pd.DataFrame,
    outputs: Float[np.ndarray, "condition trial output"],
    targets: Shaped[np.ndarray, "trial *target"],
    metrics: Sequence[str],
    names: Sequence[str],
) -> pd.DataFrame:
    """Compute the metrics of every test subject under every condition.

    Args:
        conditions: Name, tags and audit of each condition.
        trials: Subject and repetition of each test trial.
        outputs: The outputs.
        targets: The targets.
        metrics: Names of metrics.
        names: Names of the outputs. If they are classes that combine factors, each factor also gets an accuracy.

    Returns:
        One row a subject and condition: subject, condition, tags, metrics, n_test, n_repetitions, chance levels, audit.
    """
    n_audit = list(conditions.columns).index("edges_cut")
    about, audit = conditions.iloc[:, :n_audit], conditions.iloc[:, n_audit:]
    parts = []
    for subject in trials["subject"].unique():
        mine = (trials["subject"] == subject).to_numpy()
        repetition_id = trials.loc[mine, "repetition_id"].to_numpy()
        rows = slice(None) if mine.all() else mine  # a slice does not copy the outputs
        values = pd.DataFrame([measure(metrics, out[rows], targets[rows], repetition_id, names) for out in outputs])
        table = pd.concat([about, values], axis=1)
        table.insert(0, "subject", subject)
        table["n_test"] = int(mine.sum())
        table["n_repetitions"] = len(np.unique(repetition_id))
        for metric, chance in chances(metrics, targets[mine], outputs.shape[-1], repetition_id).items():
            table[f"{metric}_chance"] = chance
        if METRICS[metrics[0]].kind == "classes" and factor_values(names):
            weights = repetition_weights(len(repetition_id), repetition_id)
            by_factor = [factor_accuracies(out[rows], targets[rows], weights, names) for out in outputs]
            table = pd.concat([table, pd.DataFrame(by_factor, index=table.index)], axis=1)
        parts.append(pd.concat([table, audit], axis=1))
    return pd.concat(parts, ignore_index=True)


@contextmanager
def damaged_fit_errors(folder: Path) -> Iterator[None]:
    """Turn an error about the content of a fit's files into one line that names the folder.

    Raises:
        StudyError: That line.
    """
    try:
        yield
    except EmgLensError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StudyError(f"{folder} is damaged ({reason}); delete it and run again") from None


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table of a run; empty cells are missing values, every other text (`NA`, `None`) stays text.

    Raises:
        StudyError: The file is missing or damaged.
    """
    try:
        return read_table(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        reason = str(error).splitlines()[0]
        advice = remedy(error, "delete its folder and run again")
        raise StudyError(f"{path} cannot be read ({reason}); {advice}") from None


def read_facts(folder: Path, name: str = "fit.json") -> dict[str, Any]:
    """Read a JSON file of a fit.

    Raises:
        StudyError: The file is missing or damaged.
    """
    try:
        check_regular(folder / name)
        facts = json.loads((folder / name).read_text())
        if not isinstance(facts, dict):
            raise ValueError(f"it holds a {type(facts).__name__}, expected an object")
        return facts
    except (OSError, ValueError, RecursionError) as error:
        advice = remedy(error, f"delete {folder} and run again")
        raise StudyError(f"{folder / name} cannot be read ({error}); {advice}") from None


def read_analyses(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the table of each fit analysis, by the name of the analysis.

    Raises:
        StudyError: A file is damaged.
    """
    return {path.stem: read_csv(path) for path in sorted((folder / ANALYSES).glob("*.csv"))}


def read_quality(folder: Path, metric: str, subjects: Sequence[str]) -> pd.DataFrame:
    """Read one metric of the simple reference and of the training trials.

    Returns:
        One row a test subject, with the columns `reference`, `reference_<modality>` (none if this kind of output has no
        reference) and `train`; NaN where the metric was not defined.

    Raises:
        StudyError: The file is missing or damaged.
    """
    table = read_csv(folder / "quality.csv")
    values, is_train = table.get(metric, pd.Series(np.nan, table.index)).astype(float), table["model"] == TRAIN
    by_model = {
        name: pd.Series(values[rows.index].to_numpy(), rows["subject"]).reindex(subjects)
        for name, rows in table[~is_train].groupby("model", sort=False)
    }
    return pd.DataFrame({**by_model, TRAIN: values[is_train].item()}, index=pd.Index(subjects, name="subject"))


def read_outputs(folder: Path) -> tuple[Any, Any]:
    """Read outputs and targets, as arrays or lists of arrays, in the form that `write_outputs` got.

    Raises:
        StudyError: The file is missing or damaged.
    """
    try:
        tensors = load_file(folder / OUTPUTS)
        return _divided("outputs", tensors, axis=1), _divided("targets", tensors, axis=0)
    except (OSError, KeyError, SafetensorError) as error:
        advice = remedy(error, f"delete {folder} and run again")
        raise StudyError(f"{folder / OUTPUTS} cannot be read ({error}); {advice}") from None


def read_targets(folder: Path) -> Any:
    """Read the targets of the test trials without the outputs, in the form that `write_outputs` got.

    Raises:
        StudyError: The file is missing or damaged.
    """
    try:
        with safe_open(folder / OUTPUTS, "np") as file:
            names = [name for name in file.keys() if name.startswith("targets")]  # noqa: SIM118 - it is no mapping
            return _divided("targets", {name: file.get_tensor(name) for name in names}, axis=0)
    except (OSError, KeyError, SafetensorError) as error:
        advice = remedy(error, f"delete {folder} and run again")
        raise StudyError(f"{folder / OUTPUTS} cannot be read ({error}); {advice}") from None


def read_scores(folder: Path, metrics: Sequence[str]) -> pd.DataFrame:
    """Read the scores of a fit; a metric that is not among them is computed from the saved outputs.

    Raises:
        StudyError: A file is missing or damaged, or `scores.csv` and `conditions.csv` disagree.
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
            f"{folder / 'scores.csv'} has {len(scores)} rows; expected one row for each subject and each of the"
            f" {len(names)} conditions; delete {folder} and run again"
        )
    numbers = scores[list(metrics)]
    if not all(map(is_numeric_dtype, numbers.dtypes)) or scores[COMPLETE].isna().to_numpy().any():
        raise StudyError(f"{folder / 'scores.csv'} has cells that are not numbers; delete {folder} and run again")
    if "mode" in scores:
        scores["mode"] = scores["mode"].astype(object).fillna("")
    return scores
