import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from emg_lens.data import DataError, TrialSet
from emg_lens.data.splits import BlockSplit, RepetitionSplit, SplitSpec, SubjectSplit

SPLIT = TypeAdapter(SplitSpec)


def made(subjects=("A", "B", "C"), classes=3, repetitions=4, windows=2, order=None) -> TrialSet:
    """Each subject performs each class in each repetition, and each repetition gives some windows."""
    rows = [
        (s, y, r, (i * repetitions + r) * classes + y)
        for i, s in enumerate(subjects)
        for r in range(1, repetitions + 1)
        for y in range(classes)
        for _ in range(windows)
    ]
    rows = rows if order is None else [rows[i] for i in order.permutation(len(rows))]
    subject, y, repetition, repetition_id = (np.array(column) for column in zip(*rows, strict=True))
    x = np.random.default_rng(0).normal(size=(len(rows), 2, 3))
    return TrialSet.from_arrays(
        x, y, subject, repetition, {"emg": 2}, 10.0, repetition_id=repetition_id, classes=range(classes)
    )


def identities(trials: TrialSet) -> set[bytes]:
    return {one.tobytes() for one in trials.x}


sets = st.builds(
    made,
    subjects=st.integers(2, 5).map(lambda n: tuple("ABCDE"[:n])),
    classes=st.integers(1, 4),
    repetitions=st.integers(2, 6),
    windows=st.integers(1, 3),
    order=st.none() | st.integers(0, 99).map(np.random.default_rng),
)


@settings(deadline=None)
@given(sets, st.data())
def test_a_repetition_split_uses_every_listed_trial_in_one_set(trials, data):
    known = sorted(set(trials.repetition.tolist()))
    test = data.draw(st.sets(st.sampled_from(known), min_size=1, max_size=len(known) - 1))
    rest = [r for r in known if r not in test]
    train = data.draw(st.none() | st.sets(st.sampled_from(rest), min_size=1))
    split = RepetitionSplit(train=None if train is None else tuple(train), test=tuple(test))
    folds = split.folds(tuple(np.unique(trials.subject).tolist()))
    assert [f.name for f in folds] == np.unique(trials.subject).tolist()
    for fold in folds:
        one, other = fold.divide(trials)
        assert {*one.subject, *other.subject} == {fold.name} == set(fold.subjects) == set(fold.test_subjects)
        assert set(one.repetition) == set(rest if train is None else train) and set(other.repetition) == test
        assert not set(one.repetition_id) & set(other.repetition_id)
        mine = trials.select(subjects=[fold.name])
        assert len(one) + len(other) == np.isin(mine.repetition, [*set(one.repetition), *test]).sum()


@settings(deadline=None)
@given(sets, st.integers(1, 4))
def test_leaving_subjects_out_tests_every_trial_once_and_never_trains_on_the_tested(trials, k):
    subjects = tuple(dict.fromkeys(sorted(trials.subject.tolist())))
    if k >= len(subjects):
        with pytest.raises(DataError, match=f"leave_out: {k} leaves no subject to train on, of {len(subjects)}"):
            SubjectSplit(leave_out=k).folds(subjects)
        return
    tested = []
    for fold in SubjectSplit(leave_out=k).folds(subjects):
        train, test = fold.divide(trials)
        assert set(test.subject) == set(fold.test_subjects) == set(fold.name.split("+"))
        assert set(train.subject) == set(subjects) - set(test.subject)
        assert identities(train) | identities(test) == identities(trials)
        tested += [one.tobytes() for one in test.x]
    assert len(tested) == len(trials) and set(tested) == identities(trials)


@settings(deadline=None)
@given(sets, st.integers(2, 6))
def test_blocks_test_every_trial_once_keep_repetitions_whole_and_hold_every_class(trials, n):
    subjects = tuple(dict.fromkeys(sorted(trials.subject.tolist())))
    repetitions, tested = int(trials.repetition.max()), []
    for fold in BlockSplit(folds=n).folds(subjects):
        if repetitions < n:
            break
        train, test = fold.divide(trials)
        assert set(train.subject) == set(test.subject) == set(fold.subjects)
        assert not set(train.repetition_id) & set(test.repetition_id)
        assert set(train.y) == set(test.y) == set(trials.y)
        for of in set(test.y):  # contiguous in time: no training repetition of the class lies between tested ones
            inside = test.repetition_id[test.y == of]
            between = train.repetition_id[train.y == of]
            assert not ((between > inside.min()) & (between < inside.max())).any()
        tested += [one.tobytes() for one in test.x]
    assert repetitions < n or (len(tested) == len(trials) and set(tested) == identities(trials))


def test_folds_are_named_and_known_before_data_are_read():
    assert [f.name for f in SubjectSplit(leave_out=2).folds(("A", "B", "C"))] == ["A+B", "C"]
    assert [f.name for f in BlockSplit(folds=2).folds(("A", "B"))] == [f"{s}.block{k}" for s in "AB" for k in (1, 2)]
    (held,) = SubjectSplit(train=(1,), test=("S3",)).folds(("S1", "S2", "S3"))
    assert (held.name, held.subjects, held.test_subjects) == ("held-out", ("S1", "S3"), ("S3",))
    (held,) = SubjectSplit(test=(3,)).folds(("S1", "S2", "S3"))
    assert held.subjects == ("S1", "S2", "S3")
    assert pickle.loads(pickle.dumps(held)) == held


@pytest.mark.parametrize(
    "written",
    [
        {"by": "repetition", "train": [1, 3, 4, 6], "test": [2, 5]},
        {"by": "repetition", "test": [2, 5]},
        {"by": "subject", "leave_out": 1},
        {"by": "subject", "train": ["S1"], "test": ["S2", 3]},
        {"by": "block", "folds": 5},
    ],
)
def test_a_split_is_read_and_written_back(written):
    split = SPLIT.validate_python(written)
    defaults = {"train_fraction": 1.0, "train_fraction_seed": 0}
    assert split.model_dump(mode="json", exclude_none=True) == defaults | written
    assert SPLIT.validate_json(split.model_dump_json()) == split


@pytest.mark.parametrize(
    "written, message",
    [
        ({"by": "time", "folds": 5}, "'repetition', 'subject', 'block'"),
        ({"by": "repetition", "train": [1, 2], "test": [2]}, r"repetitions \[2\] are in the training and in the test"),
        ({"by": "repetition", "test": []}, "test must list different repetitions"),
        ({"by": "repetition", "train": [1, 1], "test": [2]}, "train must list different repetitions"),
        ({"by": "subject"}, "needs either leave_out or test"),
        ({"by": "subject", "leave_out": 1, "test": ["A"]}, "needs either leave_out or test"),
        ({"by": "subject", "leave_out": 1, "train": ["A"]}, "train cannot be given with leave_out"),
        ({"by": "subject", "leave_out": 0}, "greater than 0"),
        ({"by": "block", "folds": 1}, "greater than or equal to 2"),
        ({"by": "block", "folds": 10**12}, "less than or equal to 1000"),
        ({"by": "block", "folds": 2, "shuffle": True}, "shuffle"),
    ],
)
def test_an_invalid_split_is_rejected_when_it_is_read(written, message):
    with pytest.raises(ValidationError, match=message):
        SPLIT.validate_python(written)


@pytest.mark.parametrize(
    "split, subjects, message",
    [
        (SubjectSplit(test=("X",)), ("A", "B"), "unknown subject 'X'; known: A, B"),
        (
            SubjectSplit(train=("A",), test=("A",)),
            ("A", "B"),
            r"subjects \['A'\] are in the training and in the test split",
        ),
        (SubjectSplit(test=("A", "B")), ("A", "B"), "no subject is left to train on"),
        (RepetitionSplit(test=(1,)), (), "list of different subjects"),
        (BlockSplit(folds=2), ("A", "A"), "list of different subjects"),
    ],
)
def test_subjects_that_do_not_fit_a_split_are_rejected(split, subjects, message):
    with pytest.raises(DataError, match=message):
        split.folds(subjects)


def only_fold(split, subject="A"):
    return next(f for f in split.folds((subject,)) if f.name.startswith(subject))


def test_unknown_repetitions_are_rejected_and_those_that_one_subject_lacks_are_noted():
    both = made(("A", "B"))
    fewer = both.select(~((both.subject == "A") & (both.repetition == 4)))
    with pytest.raises(DataError, match="no subject has repetition 7; the data have 1, 2, 3, 4; change the split"):
        only_fold(RepetitionSplit(test=(2, 7))).divide(both)
    train, test = only_fold(RepetitionSplit(train=(1, 3), test=(2, 4))).divide(fewer)
    assert set(test.repetition) == {2}
    for part in (train, test):
        assert part.notes[-1] == "fold A: subject A has no repetition 4; it has 1, 2, 3"
    with pytest.raises(DataError, match="subject A has no trial of the test repetitions 4; it has 1, 2, 3"):
        only_fold(RepetitionSplit(test=(4,))).divide(fewer)
    with pytest.raises(DataError, match="subject A has no trial of the training repetitions 4; it has 1, 2, 3"):
        only_fold(RepetitionSplit(train=(4,), test=(1,))).divide(fewer)
    with pytest.raises(DataError, match="subject A has no trial of the repetitions outside the test set; it has 1, 2"):
        only_fold(RepetitionSplit(test=(1, 2, 3))).divide(fewer)


def test_a_class_in_one_set_only_is_rejected_or_noted():
    trials = made(("A", "B"))
    lacking = trials.select(~((trials.y == 2) & (trials.subject == "A")))
    first, second = SubjectSplit(leave_out=1).folds(("A", "B"))
    assert first.divide(lacking)[0].notes[-1] == "fold A: trained but not tested: 2"
    with pytest.raises(DataError, match="fold B has test trials of 2, but no training trial"):
        second.divide(lacking)
    lacking = trials.select(~((trials.y == 2) & (trials.repetition == 4)))
    with pytest.raises(DataError, match="fold A has training trials of 2, but no test trial"):
        only_fold(RepetitionSplit(test=(4,))).divide(lacking)
    with pytest.raises(DataError, match="fold A has test trials of 2, but no training trial"):
        only_fold(RepetitionSplit(train=(4,), test=(1,))).divide(lacking)


def test_fewer_repetitions_than_blocks_are_rejected():
    with pytest.raises(
        DataError, match="A.block5 has no test trial: no class has more than 4 repetitions, fewer than folds: 5"
    ):
        BlockSplit(folds=5).folds(("A",))[-1].divide(made())


def test_a_subject_without_trials_is_rejected():
    with pytest.raises(DataError, match="fold A needs trials of C; got trials of A, B"):
        SubjectSplit(leave_out=1).folds(("A", "B", "C"))[0].divide(made(("A", "B")))


# --- validation, and a fraction of the labels -------------------------------------------------------------------


@pytest.mark.parametrize(
    "split, expected",
    [
        (SubjectSplit(test=("C",), validation=("B",)), ({"A"}, {"B"}, {"C"})),
        (SubjectSplit(train=("C",), test=("A",), validation=("B",)), ({"C"}, {"B"}, {"A"})),
        (RepetitionSplit(test=(4,), validation=(2,)), ({1, 3}, {2}, {4})),
        (RepetitionSplit(train=(1,), test=(4,), validation=(2, 3)), ({1}, {2, 3}, {4})),
    ],
)
def test_trials_for_validation_are_neither_fitted_nor_tested(split, expected):
    trials = made()
    fold = split.folds(("A", "B", "C"))[0]
    (train, test), validation = fold.divide(trials), fold.validation(trials)
    key = "subject" if split.by == "subject" else "repetition"
    assert tuple({*getattr(part, key).tolist()} for part in (train, validation, test)) == expected
    assert not set(train.repetition_id) & set(validation.repetition_id) and not set(test.repetition_id) & set(
        validation.repetition_id
    )
    assert identities(fold.train_and_validation(trials)) == identities(train) | identities(validation)
    assert SPLIT.validate_python(split.model_dump()) == split and "validation" in split.model_dump()


@pytest.mark.parametrize(
    "content, message",
    [
        (
            {"by": "repetition", "test": [4], "validation": [4]},
            r"repetitions \[4\] are in validation and in the training",
        ),
        (
            {"by": "repetition", "train": [1], "test": [4], "validation": [1]},
            r"repetitions \[1\] are in validation and in the training",
        ),
        ({"by": "repetition", "test": [4], "validation": []}, "validation must list different repetitions"),
        (
            {"by": "subject", "leave_out": 1, "validation": ["A"]},
            "must list at least one subject with test, or be a number with leave_out",
        ),
        (
            {"by": "subject", "test": ["A"], "validation": 1},
            "validation: 1 is a number, which needs leave_out; with test, list",
        ),
        ({"by": "block", "folds": 2, "validation": [1]}, "validation"),
        ({"by": "block", "folds": 2, "validation": 1}, "folds: 2 and validation: 1 leave no block to train on"),
        ({"by": "repetition", "test": [4], "train_fraction": 0}, "greater than 0"),
        ({"by": "repetition", "test": [4], "train_fraction_seed": 1}, "has no effect; give a train_fraction below 1"),
    ],
)
def test_invalid_validation_sets_and_fractions_are_rejected(content, message):
    with pytest.raises(ValidationError, match=message):
        SPLIT.validate_python(content)


@pytest.mark.parametrize(
    ("split", "subjects", "expected"),
    [
        (SubjectSplit(leave_out=1, validation=1), "ABC", ["B", "C", "A"]),
        (SubjectSplit(leave_out=2, validation=1), "ABCD", ["C", "A"]),
        (BlockSplit(folds=4, validation=2), "AB", [{2, 3}, {3, 4}, {4, 1}, {1, 2}] * 2),
    ],
)
def test_validation_sets_follow_the_tested_subjects_or_blocks(split, subjects, expected):
    trials = made(subjects=tuple(subjects))
    folds = split.folds(tuple(subjects))
    assert len(folds) == len(expected)
    for fold, of in zip(folds, expected, strict=True):
        (train, test), validation = fold.divide(trials), fold.validation(trials)
        repetitions = [set(zip(p.subject, p.repetition_id, strict=True)) for p in (train, test, validation)]
        assert sum(map(len, repetitions)) == len(set.union(*repetitions)) and all(repetitions)
        if fold.block:  # a repetition of every class is a block
            whole = {fold.test_subjects[0]}
            assert set(validation.subject) == whole and set(validation.repetition.tolist()) == set(of)
        else:
            assert set(validation.subject) == set(of)
            assert len(train) + len(test) + len(validation) == len(trials)
        assert identities(fold.train_and_validation(trials)) == identities(train) | identities(validation)
    assert SPLIT.validate_python(split.model_dump()) == split
    with pytest.raises(DataError, match="leave_out: 1 and validation: 2 leaves no subject to train on"):
        SubjectSplit(leave_out=1, validation=2).folds(("A", "B", "C"))


def test_subjects_in_two_sets_and_untrained_classes_are_rejected():
    with pytest.raises(DataError, match=r"subjects \['B'\] are in validation and in the training or the test split"):
        SubjectSplit(train=("A", "B"), test=("C",), validation=("B",)).folds(("A", "B", "C"))
    trials = made()
    few = trials.select(~((trials.subject == "A") & (trials.y == 2)) & ~((trials.subject == "C") & (trials.y == 2)))
    with pytest.raises(DataError, match="fold held-out has validation trials of 2, but no training trial of it"):
        SubjectSplit(test=("C",), validation=("B",)).folds(("A", "B", "C"))[0].validation(few)
    with pytest.raises(DataError, match="no subject has repetition 9"):
        RepetitionSplit(test=(4,), validation=(9,)).check([1, 2, 3, 4])


def test_a_train_fraction_takes_whole_repetitions_of_each_class_and_smaller_ones_are_subsets():
    trials = made(repetitions=11)
    parts = {}
    for fraction in (0.01, 0.2, 0.5, 1.0):
        split = SubjectSplit(test=("C",), train_fraction=fraction)
        train, test = split.folds(("A", "B", "C"))[0].divide(trials)
        assert set(test.subject) == {"C"} and len(test) == 11 * 3 * 2
        repetitions = [len(set(train.repetition_id[train.y == of].tolist())) for of in range(3)]
        assert repetitions == [max(1, round(fraction * 22))] * 3 and len(train) == 2 * sum(repetitions)
        parts[fraction] = identities(train)
    assert parts[0.01] < parts[0.2] < parts[0.5] < parts[1.0]
    other = SubjectSplit(test=("C",), train_fraction=0.2, train_fraction_seed=1).folds(("A", "B", "C"))[0]
    assert identities(other.divide(trials)[0]) != parts[0.2]
