"""Factors: what varies between the fits of a study. A level overrides parts of the study."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.spec.electrode_sets import levels_of_draws
from emg_lens.validation import Name, check_argument

SEED, DRAW = "seed", "draw"
AVERAGED = (SEED, DRAW)
"""Factors whose levels are repetitions, of the same fit or of one with other electrodes drawn at random: they are
averaged within the subject, never compared."""
MOST_CELLS = 1000
OVERRIDES = ("cohort", "split", "model", "objective", "training", "conditions")
"""Parts of a study that a level may override."""

COLUMNS = frozenset(
    ("fit", "fold", "subject", "condition", "edges", "mode", "layer", "head", "levels", "factor", "level", "to")
    + ("test_subjects", "metrics", "executor", "seconds", "n_parameters", "n_train", "n_test", "n_test_repetitions")
    + ("outputs", "modalities", "n_samples", "fs", "notes", "n_repetitions", "chance", "target")
    + ("expected", "expected_is_baseline")
    + ("edges_cut", "live_edges_cut", "rows_fully_cut", "max_abs_delta_logit", "structural_null", "equivalent_to")
    + ("equivalence_error", "n_subjects", "mean", "sd", "baseline_mean", "delta_percent", "difference", "ci_low")
    + ("ci_high", "unit", "chance_corrected_drop_percent", "n_changed", "u", "rank_biserial", "rank_biserial_paired")
    + ("family", "family_size", "p_corrected", "stars", "significant", "repetition_id", "repetition")
    + ("control", "of", "larger")
)
"""Columns of a study's tables, which no factor may be called."""

Levels = Mapping[str, str]
"""One level of every factor."""
Factors = dict[str, dict[str, dict[str, Any]]]
"""Factor -> level -> what the level overrides."""


def read_factors(given: Any) -> Factors:
    """Factors as a study file writes them: `seed: 3` and `seed: [4, 9]` are short for levels of `training.seed`.

    `draw: {draws: 40, of: 12, into: {a: 6, b: 6}}` is short for levels of `cohort.electrodes` (`levels_of_draws`).

    Raises:
        ValueError: Something else than factors with levels, a factor called like a column of every table, or a level
            that overrides what it cannot.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"factors map names to levels, got {given!r}")
    found: Factors = {}
    for name, levels in given.items():
        check_argument("factor", str(name), Name)
        if str(name) == SEED and isinstance(levels, int | list) and not isinstance(levels, bool):
            levels = _levels_of_seeds(levels)
        if isinstance(levels, Mapping) and isinstance(levels.get("draws"), int):
            if str(name) != DRAW:
                raise ValueError(
                    f"electrodes are drawn by the factor {DRAW!r}, whose levels are averaged; got {name!r}"
                )
            levels = levels_of_draws(levels)
        if not isinstance(levels, Mapping) or not levels:
            raise ValueError(f"factor {name!r} needs levels, each a mapping of what it overrides; got {levels!r}")
        for level, parts in levels.items():
            check_argument(f"level of {name!r}", str(level), Name)
            if not isinstance(parts, Mapping | None):
                raise ValueError(f"level {level!r} of {name!r} must map parts of the study to values, got {parts!r}")
        if str(name) in found or len({str(level) for level in levels}) < len(levels):
            raise ValueError(f"factor {name!r} or one of its levels is there twice: names are compared as text")
        if str(name) in COLUMNS or str(name) in METRICS or not str(name).strip():
            raise ValueError(f"a factor cannot be called {name!r}: a table of every study has that column; rename it")
        found[str(name)] = {str(level): dict(parts or {}) for level, parts in levels.items()}
        for level, parts in found[str(name)].items():
            wrong = [part for part in parts if part not in OVERRIDES]
            if wrong:
                raise ValueError(f"level {level!r} of {name!r} overrides {wrong[0]!r}; it can: {', '.join(OVERRIDES)}")
    n_cells = 1
    for levels in found.values():
        n_cells *= len(levels)
    if n_cells > MOST_CELLS:
        raise ValueError(f"factors with {n_cells} combinations of levels; at most {MOST_CELLS}")
    return found


def _levels_of_seeds(given: int | list[Any]) -> dict[str, Any]:
    """A level a seed: as many as a number says, from 0, or those of a list."""
    if isinstance(given, int) and given > MOST_CELLS:
        raise ValueError(f"seed: {given} is that number of fits of everything; at most {MOST_CELLS}, or [{given}]")
    seeds = list(range(given)) if isinstance(given, int) else given
    doubled = [seed for i, seed in enumerate(seeds) if seed in seeds[:i]]
    if doubled:
        raise ValueError(f"seed {doubled[0]} is there twice: it would be one and the same fit; give different seeds")
    return {str(seed): {"training": {"seed": seed}} for seed in seeds}


def combinations(factors: Factors) -> list[dict[str, str]]:
    """One level of every factor, all combinations, the last factor fastest; `[{}]` where there is no factor."""
    names = list(factors)
    return [dict(zip(names, levels, strict=True)) for levels in itertools.product(*factors.values())]


def override(study: dict[str, Any], factors: Factors, levels: Levels) -> dict[str, Any]:
    """The study's content with the parts that these levels override.

    Mappings are merged key by key, everything else is replaced; so is the whole model where a level names an
    architecture, and the whole split where one splits by something else, because those have other settings; so are all
    groups of channels where a level names some.

    Raises:
        ValueError: Two factors override the same, so that one of them would do nothing.
    """
    chosen = {factor: factors[factor][level] for factor, level in levels.items()}
    _check_apart(chosen)
    models, splits = ([parts[key] for parts in chosen.values() if key in parts] for key in ("model", "split"))
    if any("channels" in cohort for parts in chosen.values() if isinstance(cohort := parts.get("cohort"), Mapping)):
        study = {**study, "cohort": {**study["cohort"], "channels": None}}
    if any(isinstance(model, Mapping) and "architecture" in model for model in models):
        study = {**study, "model": {}}
    by = study["split"].get("by")
    if any(isinstance(split, Mapping) and split.get("by", by) != by for split in splits):
        study = {**study, "split": {}}
    for parts in chosen.values():
        study = _merged(study, parts)
    return study


def _check_apart(chosen: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse two factors that override the same."""
    taken: dict[tuple[str, ...], str] = {}
    for factor, parts in chosen.items():
        mine = list(_overridden(parts))
        for path in mine:
            for other, by in taken.items():
                n = min(len(path), len(other))
                if path[:n] == other[:n]:
                    raise ValueError(f"factors {by!r} and {factor!r} both override {'.'.join(path[:n])}; make them one")
        taken.update(dict.fromkeys(mine, factor))


def _overridden(parts: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where values stand in nested mappings."""
    if isinstance(parts, Mapping):
        for key, value in parts.items():
            yield from _overridden(value, (*path, str(key)))
    else:
        yield path


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merged(below[key], value) if key in below else value for key, value in above.items()}}
