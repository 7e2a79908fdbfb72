"""Compare every cut of a study with its controls (docs/controls.md §8)."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.studies.results.findings import Cell
from emg_lens.studies.spec.condition_spec import CLS_PATH_CLOSED, HEAD, RANDOM, head_family
from emg_lens.studies.spec.removal_spec import REMOVAL, are_most_channels
from emg_lens.studies.spec.study_spec import SUPERSETS
from emg_lens.studies.statistics.comparison import by_subject
from emg_lens.studies.statistics.intervals import FEWEST, mean_interval
from emg_lens.sweeps.conditions import BASELINE

DECIMALS = 12
"""Means that agree to so many decimals are equal; the order of summation changes the later ones."""


@dataclass(frozen=True)
class Controlled:
    """An ablation and its controls. All values are means of the metric over subjects.

    Attributes:
        condition: Name of the cut.
        mean: The metric under the cut.
        random: The metric under each size-matched random control; empty if there is none.
        shares_random: Whether these are the random cuts of all heads of a layer.
        random_is_clear: For each of them, whether the interval of its change lies on the worse side of zero.
        is_controlled: Whether the study has any control or superset ablation of this cut.
        n_supersets: Number of superset ablations that were compared with the cut; 0 if the cut does no harm, or if
            there are too few subjects for an interval.
        superset: The best superset ablation among those that hurt clearly less: the interval of the difference excludes
            zero, at the confidence of the study corrected for the number of superset ablations. None if there is none.
        superset_mean: The metric under `superset`.
        best_superset: The best superset ablation, clear or not; None without superset ablations.
        best_superset_mean: The metric under `best_superset`; NaN without one.
        cls_path_closed: The metric with the same edges cut in every layer and the path through CLS closed; NaN if this
            control was not run.
        lower_is_better: Whether the metric is an error.
    """

    condition: str
    mean: float
    random: tuple[float, ...] = ()
    shares_random: bool = False
    random_is_clear: tuple[bool, ...] = ()
    is_controlled: bool = False
    n_supersets: int = 0
    superset: str | None = None
    superset_mean: float = np.nan
    cls_path_closed: float = np.nan
    lower_is_better: bool = False
    best_superset: str | None = None
    best_superset_mean: float = np.nan

    @property
    def hurts_more_than_a_superset(self) -> bool:
        """Whether a superset ablation hurts less on average, clearly or not."""
        gain = self.mean - self.best_superset_mean if self.lower_is_better else self.best_superset_mean - self.mean
        return gain > 10.0**-DECIMALS  # false for NaN

    @property
    def n_random_hurt_less(self) -> int:
        """Number of random cuts that hurt less on average."""
        gains = np.round(np.subtract(self.random, self.mean), DECIMALS)
        return int((gains < 0 if self.lower_is_better else gains > 0).sum())


def controlled_cuts(cell: Cell) -> list[Controlled]:
    """Return every distinct ablation of a cell with its controls, in order, without structural nulls.

    Conditions that are equal by construction are one ablation, with the name of the condition that cuts every layer, or
    else of the removal, if there is one.
    """
    values, controls = _all_values(cell), _controls_by_kind(cell)
    means = values.mean().to_dict()
    better = -1 if cell.lower_is_better else 1
    classes = []
    for _, alike in cell.tests[~cell.tests["structural_null"]].groupby("equivalent_to", sort=False):
        rows = alike.to_dict("records")
        rows.sort(key=lambda one: (not cuts_every_layer(cell, one), one.get("mode") != REMOVAL))
        classes.append((rows[0], rows))
    name_of = {one["condition"]: row["condition"] for row, alike in classes for one in alike}
    name_of |= {control: name_of[same] for control, same in _equal_conditions(cell) if same in name_of}
    cuts = []
    for row, alike in classes:
        name, cut = row["condition"], values[row["condition"]]
        own = [one for same in alike for one in controls.get((RANDOM, same["condition"]), ())]
        own = [] if removes_most_channels(cell, row) else own  # runs of earlier versions have such controls
        random = own or (controls.get((RANDOM, head_family(row)), []) if row.get("mode") == HEAD else [])
        supersets = list(dict.fromkeys(name_of.get(one, one) for one in _supersets(cell, name) if one in values))
        level = 1 - (1 - cell.statistics.confidence) / max(len(supersets), 1)
        hurts = np.round((better * (cut - values[BASELINE])).mean(), DECIMALS) < 0 and len(cut) >= FEWEST
        gains = {one: (better * (values[one] - cut)).to_numpy() for one in supersets if hurts}
        clear = [one for one, gain in gains.items() if mean_interval(gain, level)[0] > 0]
        best, best_of_all = (max(of, key=lambda one: better * means[one], default=None) for of in (clear, gains))
        closed = controls.get((CLS_PATH_CLOSED, row.get("edges")), []) if cuts_every_layer(cell, row) else []
        changes = [(better * (values[one] - values[BASELINE])).to_numpy() for one in random]
        cuts.append(
            Controlled(
                condition=name,
                mean=means[name],
                random=tuple(means[one] for one in random),
                shares_random=bool(random) and not own,
                random_is_clear=tuple(mean_interval(one, cell.statistics.confidence)[1] < 0 for one in changes),
                is_controlled=bool(random or supersets or closed),
                n_supersets=len(gains),
                superset=best,
                superset_mean=means[best] if best else np.nan,
                cls_path_closed=means[closed[0]] if closed else np.nan,
                lower_is_better=cell.lower_is_better,
                best_superset=best_of_all,
                best_superset_mean=means[best_of_all] if best_of_all else np.nan,
            )
        )
    return cuts


def _equal_conditions(cell: Cell) -> Iterable[tuple[str, str]]:
    """Pair each control with the condition that it is equivalent to."""
    if "equivalent_to" not in cell.controls:
        return ()
    rows = cell.controls.drop_duplicates("condition")
    return zip(rows["condition"], rows["equivalent_to"], strict=True)


def _all_values(cell: Cell) -> pd.DataFrame:
    """Return the metric of every subject under conditions and controls."""
    if not len(cell.controls):
        return cell.values
    unmasked = cell.scores[cell.scores["condition"] == BASELINE]
    controls = by_subject(pd.concat([unmasked, cell.controls], ignore_index=True), cell.metric)
    return cell.values.join(controls.drop(columns=BASELINE))


def _controls_by_kind(cell: Cell) -> dict[Hashable, list[str]]:
    """Return the names of the controls by their kind and the condition that they control."""
    if not len(cell.controls):
        return {}
    return cell.controls.drop_duplicates("condition").groupby(["control", "of"])["condition"].agg(list).to_dict()


def _supersets(cell: Cell, name: str) -> list[str]:
    """Return the names of the conditions that cut all edges of this one and more."""
    pairs = cell.analysis(SUPERSETS)
    return pairs.loc[pairs["condition"] == name, "superset"].unique().tolist() if len(pairs) else []


def removes_most_channels(cell: Cell, row: Mapping[str, Any]) -> bool:
    """Say whether a condition removes more than half of the channels from the input."""
    n_removed = sum(cell.channels.get(name, 0) for name in str(row.get("edges")).split(" and "))
    return row.get("mode") == REMOVAL and are_most_channels(n_removed, sum(cell.channels.values()))


def cuts_every_layer(cell: Cell, row: Mapping[str, Any]) -> bool:
    """Say whether a condition cuts its edges in every layer."""
    first, last = cell.outer_layers
    return row.get("layer") == {"from_beginning": last, "from_end": first}.get(str(row.get("mode")), np.inf)


def cuts_of_every_layer(cell: Cell) -> list[str]:
    """Return the conditions that cut an edge set in every layer, the first of each edge set."""
    rows = [row for row in cell.tests.to_dict("records") if cuts_every_layer(cell, row)]
    return list({row["edges"]: row["condition"] for row in reversed(rows)}.values())[::-1]
