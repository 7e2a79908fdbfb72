"""Decide whether two runs can be paired by subject, and arrange their scores for the comparison."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from emg_lens.errors import EmgLensError
from emg_lens.studies.report.wording import count, listed_names
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.spec.factors import AVERAGED
from emg_lens.studies.statistics.comparison import by_subject
from emg_lens.sweeps.conditions import BASELINE

SHOWN = 3
"""Names that a message lists."""


class ComparisonError(EmgLensError, ValueError):
    """Runs that cannot be compared."""


@dataclass(frozen=True, eq=False)
class ComparedCell:
    """The results of a run at one level of every compared factor, and the identity of its test trials.

    Attributes:
        run: Name of the run.
        cell: The results.
        trials: Rows of `trial_identities` of this cell's fits.
        data: Data set, options and fingerprint of the recordings.
        outputs: Names of the classes or target values.
        definitions: What each condition does, as text, by its name.
    """

    run: str
    cell: Cell
    trials: pd.DataFrame = field(repr=False)
    data: tuple[str, str, str]
    outputs: tuple[str, ...]
    definitions: Mapping[str, str] = field(repr=False, default_factory=dict)


@dataclass(frozen=True, eq=False)
class ScorePair:
    """The metric of two runs, with the conditions that both have.

    Attributes:
        reference: One row a subject, one column a condition, of the reference run.
        other: The same of the other run; with the same subjects in the same order if they are `paired`.
        paired: Whether both runs were tested on the same repetitions of the same subjects.
        notes: What was paired or left out, and why, as sentences.
    """

    reference: pd.DataFrame
    other: pd.DataFrame
    paired: bool
    notes: tuple[str, ...]


def pair_cells(reference: ComparedCell, other: ComparedCell) -> ScorePair:
    """Pair two runs by subject where they were tested on the same repetitions; otherwise keep all their subjects.

    Seeds and folds that only one run has are left out of a paired comparison. The scores of a subject are then averaged
    over seeds and folds, as in a study.

    Raises:
        ComparisonError: The runs have different classes or targets.
    """
    if set(reference.outputs) != set(other.outputs):
        raise ComparisonError(
            f"{other.run} distinguishes {_some(other.outputs)}, and {reference.run} {_some(reference.outputs)}; scores"
            " of different tasks cannot be compared: give runs with the same classes or targets"
        )
    conditions, notes = _shared_conditions(reference, other)
    reason, chosen, more = _same_trials(reference, other)
    if reason:
        same = len(set(reference.trials["subject"]) & set(other.trials["subject"]))
        again = f", as if the {count(same, 'subject')} with the same name were different people" * bool(same)
        notes = [
            f"Not paired, because {reason}. Welch's t intervals compare the means of two groups of subjects{again}.",
            *notes,
        ]
        values = [_values(one, one.trials, conditions) for one in (reference, other)]
        return ScorePair(*values, paired=False, notes=tuple(notes))
    values = [_values(one, rows, conditions) for one, rows in zip((reference, other), chosen, strict=True)]
    return ScorePair(values[0], values[1].loc[values[0].index], paired=True, notes=(*more, *notes))


def _values(one: ComparedCell, trials: pd.DataFrame, conditions: Collection[str]) -> pd.DataFrame:
    """Average the metric over the fits of these rows: one row a subject, one column a condition."""
    scores = one.cell.scores.merge(trials[["fit", "subject"]].drop_duplicates())
    return by_subject(scores[scores["condition"].isin(conditions)], one.cell.metric)[list(conditions)]


def _shared_conditions(reference: ComparedCell, other: ComparedCell) -> tuple[list[str], list[str]]:
    names = [name for name in reference.definitions if name in other.definitions]
    equal = [name for name in names if reference.definitions[name] == other.definitions[name]]
    different = [name for name in names if name not in equal]
    notes = []
    if different:
        notes.append(f"Left out, because the runs define them differently: {_listed(different)}.")
    for mine, theirs in ((reference, other), (other, reference)):
        only = [name for name in mine.definitions if name not in theirs.definitions]
        if only:
            notes.append(f"Only {mine.run} has {count(len(only), 'ablation')}: {_listed(only)}.")
    layers = [one.cell.outer_layers[1] for one in (reference, other)]
    if layers[0] == layers[0] and layers[1] == layers[1] and layers[0] != layers[1]:
        notes.append(
            f"The models have {layers[0] + 1:.0f} and {layers[1] + 1:.0f} layers. Cuts with equal layer numbers are"
            " compared."
        )
    return [BASELINE, *equal], notes


def _same_trials(
    reference: ComparedCell, other: ComparedCell
) -> tuple[str, tuple[pd.DataFrame, pd.DataFrame], list[str]]:
    """Find the fits of both runs with the same test trials.

    Returns:
        The reason why the runs cannot be paired (empty if they can), the chosen rows of both runs, and notes.
    """
    mine, theirs = reference.trials, other.trials
    common = [name for name in mine["subject"].unique() if name in set(theirs["subject"])]
    nothing = (mine, theirs)
    if not common:
        return "the runs share no subject", nothing, []
    if reference.data != other.data:
        return f"{_difference_of_data(reference.data, other.data)}, although names of subjects agree", nothing, []
    notes = []
    for run, rows in ((reference.run, mine), (other.run, theirs)):
        only = [name for name in rows["subject"].unique() if name not in common]
        if only:
            notes.append(f"Left out, because only {run} has them: {count(len(only), 'subject')} ({_listed(only)}).")
    mine, theirs, more = _same_levels(reference.run, mine, other.run, theirs)
    notes += more
    mine, theirs = (rows[rows["subject"].isin(common)] for rows in (mine, theirs))
    first_mine, first_theirs = (rows.drop_duplicates(["subject", "fold"]) for rows in (mine, theirs))
    both = first_mine.merge(first_theirs, on=["subject", "fold"], suffixes=("", "_other"))
    divided = both.loc[both["repetitions"] != both["repetitions_other"], "subject"]  # block1 of 2 is not block1 of 3
    both = both[~both["subject"].isin(divided)]
    by_fold = set(both["subject"])
    totals = [
        rows[~rows["subject"].isin(by_fold)].groupby("subject")[["trials", "repetitions", "n_trials"]].sum()
        for rows in (first_mine, first_theirs)
    ]  # other folds: all test trials of a subject together
    both = pd.concat([both, totals[0].join(totals[1].add_suffix("_other")).reset_index()], ignore_index=True)
    wrong = both[both["repetitions"] != both["repetitions_other"]]
    if len(wrong):
        subjects = wrong["subject"].unique()
        verb = "was" if len(subjects) == 1 else "were"
        return f"{_listed(subjects)} {verb} tested on other repetitions in the two runs", nothing, []
    pairs = both.loc[both["subject"].isin(by_fold), ["subject", "fold"]]
    kept = [
        pd.concat([rows.merge(pairs), rows[~rows["subject"].isin(by_fold)]]).drop_duplicates(["fit", "subject"])
        for rows in (mine, theirs)
    ]
    for run, rows, some in ((reference.run, mine, kept[0]), (other.run, theirs, kept[1])):
        folds = sorted(set(rows["fold"]) - set(some["fold"]))
        if folds:
            notes.append(f"Left out, because only {run} has them: {count(len(folds), 'fold')} ({_listed(folds)}).")
    n = sum(both["n_trials"])
    if (both["trials"] == both["trials_other"]).all():
        what = f"the same {n} test trials"
    else:
        what = f"the same test repetitions, cut into {n} and {sum(both['n_trials_other'])} windows"
    return "", (kept[0], kept[1]), [f"Paired by subject: {count(len(common), 'subject')}, {what}.", *notes]


def _same_levels(
    run: str, mine: pd.DataFrame, other_run: str, theirs: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Keep the seeds and electrode sets that both runs have; if they have none in common, keep all."""
    notes = []
    for factor in AVERAGED:
        if factor not in mine or factor not in theirs:
            continue
        levels = [list(rows[factor].unique()) for rows in (mine, theirs)]
        shared = [level for level in levels[0] if level in levels[1]]
        word = factor.replace("_", " ")
        if not shared:
            notes.append(f"The runs have no {word} in common. Each is averaged over its own.")
            continue
        for name, own in ((run, levels[0]), (other_run, levels[1])):
            only = [level for level in own if level not in shared]
            if only:
                notes.append(f"Left out, because only {name} has them: {count(len(only), word)} ({_listed(only)}).")
        mine, theirs = (rows[rows[factor].isin(shared)] for rows in (mine, theirs))
    return mine, theirs, notes


def _difference_of_data(mine: tuple[str, str, str], theirs: tuple[str, str, str]) -> str:
    if mine[0] != theirs[0]:
        return f"the data sets differ ({mine[0]} and {theirs[0]})"
    if mine[1] != theirs[1]:
        return f"the options of the data set {mine[0]} differ"
    return f"the recordings differ (fingerprints {mine[2]} and {theirs[2]})"


def _listed(names: Sequence[str]) -> str:
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return listed_names([*map(str, names[:SHOWN]), *more])


def _some(names: Sequence[str]) -> str:
    return f"{count(len(names), 'output')} ({_listed(names)})"
