"""Factors: what varies between the fits of a study. A level overrides parts of the study."""

import itertools
from collections.abc import Mapping
from typing import Any

SEED = "seed"
"""The factor whose levels are repetitions of the same fit: they are averaged within the subject, never compared."""
MOST_CELLS = 1000
OVERRIDES = ("cohort", "split", "model", "objective", "training", "conditions")
"""Parts of a study that a level may override."""

COLUMNS = frozenset(
    ("fit", "fold", "subject", "condition", "edges", "mode", "layer", "head", "levels", "factor", "level", "to")
    + ("n_test", "n_movements", "chance", "expected", "structural_null", "equivalent_to", "mean", "stars")
)
"""Columns of a study's tables, which no factor may be called."""

Levels = Mapping[str, str]
"""One level of every factor."""
Factors = dict[str, dict[str, dict[str, Any]]]
"""Factor -> level -> what the level overrides."""


def read_factors(given: Any) -> Factors:
    """Factors as a study file writes them: `seed: 3` and `seed: [4, 9]` are short for levels of `training.seed`.

    Raises:
        ValueError: Something else than factors with levels, a factor called like a column of every table, or a level
            that overrides what it cannot.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"factors map names to levels, got {given!r}")
    found: Factors = {}
    for name, levels in given.items():
        if str(name) == SEED and isinstance(levels, int | list) and not isinstance(levels, bool):
            seeds = range(levels) if isinstance(levels, int) else levels
            levels = {str(seed): {"training": {"seed": seed}} for seed in seeds}
        if not isinstance(levels, Mapping) or not levels:
            raise ValueError(f"factor {name!r} needs levels, each a mapping of what it overrides; got {levels!r}")
        if str(name) in COLUMNS or not str(name).strip():
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


def combinations(factors: Factors) -> list[dict[str, str]]:
    """One level of every factor, all combinations, the last factor fastest; `[{}]` where there is no factor."""
    names = list(factors)
    return [dict(zip(names, levels, strict=True)) for levels in itertools.product(*factors.values())]


def override(study: dict[str, Any], factors: Factors, levels: Levels) -> dict[str, Any]:
    """The study's content with the parts that these levels override.

    Mappings are merged key by key, everything else is replaced; so is the whole model where the level names an
    architecture, because another architecture has other settings.
    """
    for factor, level in levels.items():
        parts = factors[factor][level]
        if "architecture" in (parts.get("model") or {}):
            study = {**study, "model": {}}
        study = _merged(study, parts)
    return study


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merged(below[key], value) if key in below else value for key, value in above.items()}}
