"""The `factors:` of a study file: what varies between fits. A level of a factor overrides parts of the study."""

import itertools
import math
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.spec.electrode_sets import levels_of_sets
from emg_lens.validation import Name, check_argument

SEED, ELECTRODE_SET = "seed", "electrode_set"
AVERAGED = (SEED, ELECTRODE_SET)
"""Factors with random levels: seeds and random electrode sets. Levels are averaged within the subject, not compared."""
MOST_CELLS = 1000
OVERRIDES = ("cohort", "split", "model", "objective", "training", "conditions")
"""Keys of a study that a level may override."""

COLUMNS = frozenset(
    ("fit", "fold", "subject", "condition", "edges", "mode", "layer", "head", "levels", "factor", "level", "to")
    + ("test_subjects", "metrics", "executor", "seconds", "n_parameters", "n_train", "n_test", "n_test_repetitions")
    + ("outputs", "modalities", "n_samples", "fs", "notes", "n_repetitions", "chance", "target")
    + ("expected", "expected_is_baseline")
    + ("edges_cut", "live_edges_cut", "rows_fully_cut", "max_abs_delta_logit", "structural_null", "equivalent_to")
    + ("equivalence_error", "n_subjects", "mean", "sd", "baseline_mean", "delta_percent", "difference", "ci_low")
    + ("ci_high", "unit", "chance_corrected_drop_percent", "n_changed", "u", "rank_biserial", "rank_biserial_paired")
    + ("family", "family_size", "p_corrected", "stars", "significant", "repetition_id", "repetition")
    + ("by", "kept", "control", "of", "superset", "train_repetitions", "reference", "test", "train")
)
"""Columns of a study's tables; a factor cannot have such a name."""

WHOLE = {("cohort", "channels"), ("conditions", "layer_masks", "edges"), ("conditions", "head_masks", "edges")}
"""Mappings from names that a level replaces as a whole."""

Levels = Mapping[str, str]
"""One level of every factor."""
Factors = dict[str, dict[str, dict[str, Any]]]
"""Factor -> level -> the keys that the level overrides, with their values."""


def read_factors(given: Any) -> Factors:
    """Read the factors of a study file.

    Two factors have a short form. `seed: 3` and `seed: [4, 9]` give levels of `training.seed`. `electrode_set: {sets:
    40, of: 12, into: {a: 6, b: 6}}` gives levels of `cohort.electrodes` (`RandomElectrodeSets`).

    Raises:
        ValueError: A factor has no levels or an impossible name, or a level overrides a key that it cannot.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r}; expected names with levels: {{channels: {{few: {{...}}, all: {{}}}}}}")
    factors: Factors = {}
    for name, levels in given.items():
        check_argument("factor", str(name), Name)
        if str(name) == SEED and isinstance(levels, int | list) and not isinstance(levels, bool):
            levels = _levels_of_seeds(levels)
        if isinstance(levels, Mapping) and isinstance(levels.get("sets"), int):
            if str(name) != ELECTRODE_SET:
                raise ValueError(
                    f"factor {name!r} asks for random electrode sets; only the factor {ELECTRODE_SET!r} can; rename it"
                )
            levels = levels_of_sets(levels)
        if not isinstance(levels, Mapping) or not levels:
            raise ValueError(
                f"factor {name!r}={levels!r}; expected levels with the keys that they override:"
                " {few: {model: {n_layers: 2}}, many: {model: {n_layers: 5}}}"
            )
        for level, parts in levels.items():
            check_argument(f"level of {name!r}", str(level), Name)
            if not isinstance(parts, Mapping | None):
                raise ValueError(
                    f"level {level!r} of factor {name!r} is {parts!r}; expected the keys that it overrides:"
                    f" {{model: {{n_layers: 2}}}}"
                )
        if str(name) in factors or len({str(level) for level in levels}) < len(levels):
            raise ValueError(f"factor {name!r} or one of its levels is listed twice (as text); give different names")
        if str(name) in COLUMNS or str(name) in METRICS or not str(name).strip():
            raise ValueError(f"a factor cannot be called {name!r}, because tables have such a column; rename it")
        factors[str(name)] = {str(level): dict(parts or {}) for level, parts in levels.items()}
        for level, parts in factors[str(name)].items():
            empty = [part for part, values in parts.items() if values == {}]
            if empty:
                raise ValueError(
                    f"level {level!r} of factor {name!r}: {empty[0]} is empty and overrides nothing; leave it out, or"
                    " give its keys"
                )
            wrong = [part for part in parts if part not in OVERRIDES]
            if wrong:
                raise ValueError(
                    f"level {level!r} of factor {name!r} overrides {wrong[0]!r}; a level can override"
                    f" {', '.join(OVERRIDES)}"
                )
    n_cells = math.prod(map(len, factors.values()))
    if n_cells > MOST_CELLS:
        raise ValueError(f"the factors have {n_cells} combinations of levels; at most {MOST_CELLS} are possible")
    return factors


def _levels_of_seeds(given: int | list[Any]) -> dict[str, Any]:
    """Make one level a seed: a number n means the seeds 0 to n - 1, a list means its seeds."""
    if isinstance(given, int) and given > MOST_CELLS:
        raise ValueError(
            f"seed: {given} means {given} seeds; at most {MOST_CELLS} are possible; for one seed: [{given}]"
        )
    seeds = list(range(given)) if isinstance(given, int) else given
    repeated = [seed for i, seed in enumerate(seeds) if seed in seeds[:i]]
    if repeated:
        raise ValueError(f"seed: {repeated[0]} is listed twice; give different seeds")
    return {str(seed): {"training": {"seed": seed}} for seed in seeds}


def combinations(factors: Factors) -> list[dict[str, str]]:
    """List all combinations of levels; the last factor varies fastest. Without factors: `[{}]`."""
    names = list(factors)
    return [dict(zip(names, levels, strict=True)) for levels in itertools.product(*factors.values())]


def override(study: dict[str, Any], factors: Factors, levels: Levels) -> dict[str, Any]:
    """Replace parts of a study's content by the overrides of some levels.

    Mappings are merged key by key, all other values are replaced. Some parts are replaced as a whole: the model if a
    level names an architecture, the split if a level splits by something else, and the parts `WHOLE` if a level gives
    them.

    Args:
        study: Content of the study.
        factors: All factors.
        levels: One level of every factor.

    Raises:
        ValueError: Two factors override the same key.
    """
    chosen = {factor: factors[factor][level] for factor, level in levels.items()}
    _check_different_keys(chosen)
    models, splits = ([parts[key] for parts in chosen.values() if key in parts] for key in ("model", "split"))
    given = {path[: len(whole)] for parts in chosen.values() for path in _overridden(parts) for whole in WHOLE}
    for whole in given & WHOLE:
        study = _merged(study, reduce(lambda inner, key: {key: inner}, reversed(whole), None))
    if any(isinstance(model, Mapping) and "architecture" in model for model in models):
        study = {**study, "model": {}}
    by = study["split"].get("by")
    if any(isinstance(split, Mapping) and split.get("by", by) != by for split in splits):
        study = {**study, "split": {}}
    for parts in chosen.values():
        study = _merged(study, parts)
    return study


def _check_different_keys(chosen: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse two factors that override the same key."""
    taken: dict[tuple[str, ...], str] = {}
    for factor, parts in chosen.items():
        mine = list(_overridden(parts))
        for path in mine:
            for other, by in taken.items():
                n = min(len(path), len(other))
                if path[:n] == other[:n]:
                    raise ValueError(
                        f"factors {by!r} and {factor!r} both override {'.'.join(path[:n])}; combine them in one factor"
                    )
        taken.update(dict.fromkeys(mine, factor))


def _overridden(parts: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of keys to each value in nested mappings."""
    if isinstance(parts, Mapping):
        for key, value in parts.items():
            yield from _overridden(value, (*path, str(key)))
    else:
        yield path


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merged(below[key], value) if key in below else value for key, value in above.items()}}
