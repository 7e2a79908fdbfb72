"""Two runs are paired only if they were tested on the same repetitions of the same recordings."""

import re
from collections.abc import Sequence
from dataclasses import replace

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given, settings
from synthetic import cell_of, tidy

from emg_lens.studies.comparison.pairing import ComparedCell, ComparisonError, pair_cells
from emg_lens.studies.comparison.trial_identity import identity_of_subjects
from emg_lens.sweeps.conditions import BASELINE


def trials_of(subject: str, repetitions: Sequence[int], windows: int = 1, first_id: int = 0) -> pd.DataFrame:
    """Trials of two classes, some windows a repetition."""
    rows = [(subject, r, first_id + 2 * k + c, f"class {c}") for k, r in enumerate(repetitions) for c in (0, 1)]
    table = pd.DataFrame(rows, columns=["subject", "repetition", "repetition_id", "target"])
    return table.loc[table.index.repeat(windows)].reset_index(drop=True)


def compared(run: str, fits: dict[str, pd.DataFrame], scores: dict[str, float], **parts) -> ComparedCell:
    """A run with these fits: `{"A/1": trials}` is a fit of subject A and fold 1; its accuracy is `scores["A/1"]`."""
    rows = [
        {"fit": fit, "subject": fit[0], "condition": condition, "accuracy": value}
        for fit in fits
        for condition, value in ((BASELINE, scores[fit]), ("cut", scores[fit] / 2))
    ]
    cell = replace(cell_of(tidy(baseline=[0.5], cut=[0.25])), scores=pd.DataFrame(rows))
    identities = [identity_of_subjects(trials).assign(fit=fit, fold=fit) for fit, trials in fits.items()]
    about = {"data": ("d", "{}", "f"), "outputs": ("0", "1"), "definitions": {"cut": "every()"}} | parts
    return ComparedCell(run, cell, pd.concat(identities, ignore_index=True), **about)


SUBJECTS = "ABCDE"


def a_run(name: str, repetitions: Sequence[int] = (2, 4), subjects: str = SUBJECTS, windows: int = 1, **parts):
    fits = {one: trials_of(one, repetitions, windows) for one in subjects}
    return compared(name, fits, {one: 0.5 + 0.05 * SUBJECTS.index(one) for one in subjects}, **parts)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(12)), st.integers(0, 500))
def test_trials_are_the_same_in_any_order_and_with_any_first_number(order, first):
    trials, moved = trials_of("A", [2, 4, 5], 2), trials_of("A", [2, 4, 5], 2, first).iloc[order]
    pd.testing.assert_frame_equal(identity_of_subjects(trials), identity_of_subjects(moved))


def test_other_trials_are_not_the_same():
    same, *others = (
        identity_of_subjects(one).iloc[0]
        for one in (
            trials_of("A", [2, 4]),
            trials_of("A", [2, 5]),
            trials_of("A", [2]),
            trials_of("A", [2, 4]).assign(target="class 1"),
        )
    )
    assert all(one["trials"] != same["trials"] and one["repetitions"] != same["repetitions"] for one in others)
    windows = identity_of_subjects(trials_of("A", [2, 4], 3)).iloc[0]
    assert windows["trials"] != same["trials"] and windows["repetitions"] == same["repetitions"]


def test_equal_trials_are_paired_and_missing_subjects_named():
    pair = pair_cells(a_run("one"), a_run("two", subjects="DCBA"))
    assert pair.paired and pair.reference.index.tolist() == pair.other.index.tolist() == list("ABCD")
    assert pair.notes[0] == "Paired by subject: 4 subjects, the same 16 test trials."
    assert "Left out, because only one has them: 1 subject (E)." in pair.notes


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (a_run("two", repetitions=(2, 5)), "A, B, C and 2 more were tested on other repetitions"),
        (a_run("two", data=("d", "{}", "g")), r"the recordings differ \(fingerprints f and g\), although names"),
        (a_run("two", data=("d", "{x: 1}", "f")), "the options of the data set d differ"),
        (a_run("two", data=("e", "{}", "g")), "the data sets differ"),
        (compared("two", {"Z": trials_of("Z", [2])}, {"Z": 0.5}), "share no subject"),
    ],
)
def test_other_trials_under_the_same_names_are_not_paired(other, reason):
    pair = pair_cells(a_run("one"), other)
    assert not pair.paired and re.search(f"Not paired, because .*{reason}", pair.notes[0])
    assert len(pair.reference) == 5 and len(pair.other) == other.trials["subject"].nunique()
    same = "as if the 5 subjects with the same name were different people" in pair.notes[0]
    assert same == (set(other.trials["subject"]) == set(SUBJECTS))


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(seed):
    runs = [a_run("one"), a_run("two", subjects="DCBA")]
    mixed = [
        replace(
            run,
            cell=replace(run.cell, scores=run.cell.scores.sample(frac=1, random_state=seed)),
            trials=run.trials.sample(frac=1, random_state=seed + 1 if seed < 2**32 - 1 else 0),
        )
        for run in runs
    ]
    pair, other = pair_cells(*runs), pair_cells(*mixed)
    assert pair.notes == other.notes
    for mine, theirs in ((pair.reference, other.reference), (pair.other, other.other)):
        pd.testing.assert_frame_equal(mine, theirs[mine.columns])


def test_windows_of_the_same_repetitions_are_paired_by_subject():
    pair = pair_cells(a_run("one"), a_run("two", windows=3))
    assert pair.paired and "the same test repetitions, cut into 20 and 60 windows" in pair.notes[0]


def test_other_classes_are_refused():
    with pytest.raises(ComparisonError, match=r"two distinguishes 3 outputs .* one 2 outputs .* cannot be compared"):
        pair_cells(a_run("one"), a_run("two", outputs=("0", "1", "2")))


def test_only_shared_folds_are_averaged_and_other_names_of_folds_are_joined():
    fits = {f"{one}{fold}": trials_of(one, [fold]) for one in SUBJECTS for fold in (1, 2)}
    scores = {fit: 0.2 * int(fit[1]) for fit in fits}
    first = compared("one", fits, scores)
    missing = compared("two", {fit: trials for fit, trials in fits.items() if fit[1] == "1"}, scores)
    pair = pair_cells(first, missing)
    assert pair.paired and (pair.reference[BASELINE] == 0.2).all()
    assert any("only one has them: 5 folds" in note for note in pair.notes)
    whole = a_run("three", repetitions=(1, 2))  # one fold a subject with both repetitions
    pair = pair_cells(first, whole)
    assert pair.paired and (pair.reference[BASELINE].round(12) == 0.3).all()


def test_folds_with_equal_names_and_other_trials_are_joined():
    runs = []
    for name, folds in (("one", {"1": [1, 2], "2": [3]}), ("two", {"1": [1], "2": [2], "3": [3]})):
        fits = {f"{one}{fold}": trials_of(one, numbers) for one in SUBJECTS for fold, numbers in folds.items()}
        runs.append(compared(name, fits, {fit: 0.2 * int(fit[1]) for fit in fits}))
    pair = pair_cells(*runs)
    assert pair.notes == ("Paired by subject: 5 subjects, the same 30 test trials.",)
    assert (pair.reference[BASELINE].round(12) == 0.3).all() and (pair.other[BASELINE].round(12) == 0.4).all()


def test_seeds_that_both_runs_have_are_compared():
    runs = []
    for name, seeds in (("one", "12"), ("two", "23")):
        fits = {f"{one}{seed}": trials_of(one, [1]) for one in SUBJECTS for seed in seeds}
        run = compared(name, fits, {fit: 0.1 * int(fit[1]) for fit in fits})
        runs.append(replace(run, trials=run.trials.assign(seed=run.trials["fit"].str[1], fold=run.trials["subject"])))
    pair = pair_cells(*runs)
    assert (pair.reference[BASELINE].round(12) == 0.2).all() and (pair.other[BASELINE].round(12) == 0.2).all()
    assert "Left out, because only two has them: 1 seed (3)." in pair.notes


def test_conditions_with_another_definition_are_left_out():
    pair = pair_cells(a_run("one"), a_run("two", definitions={"cut": "cross_modal()", "more": "x"}))
    assert pair.other.columns.tolist() == [BASELINE]
    assert {"Left out, because the runs define them differently: cut.", "Only two has 1 ablation: more."} <= {
        *pair.notes
    }
