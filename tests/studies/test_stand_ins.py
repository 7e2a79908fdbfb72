"""`emg-lens check` without recordings: what no recordings could mend is refused, and nothing else is."""

import pytest
import yaml

from emg_lens.errors import EmgLensError
from emg_lens.studies.fits.stand_ins import check_without_data
from emg_lens.studies.spec.catalog_lookup import catalogue
from emg_lens.studies.study import Study

STUDY = {
    "name": "mine",
    "title": "Mine",
    "cohort": {"dataset": "ninapro-db5", "segment": {"stop_s": 1.0}},
    "split": {"by": "repetition", "test": [2]},
    "model": {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 16},
    "training": {"epochs": 1, "anneal_epochs": 0},
}
NAMED = {"dataset": "ninapro-db5", "modalities": ["emg", "acc"]}


def study(**changes):
    return Study.parse(yaml.safe_dump({**STUDY, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"architecture": "isonett"}}, "unknown model 'isonett'; did you mean 'isonet'"),
        ({"model": {"dmodel": 64}}, "no setting 'dmodel'; did you mean 'd_model'"),
        ({"model": {"d_model": 64, "n_heads": 7}}, "d_model=64 is not a multiple of n_heads=7"),
        ({"objective": "clasification"}, "did you mean 'classification'"),
        ({"metrics": ["acuracy"]}, "did you mean 'accuracy'"),
        ({"metrics": ["r2"]}, "scores values, but objective 'classification' predicts classes"),
        ({"analyses": ["shfit"]}, "did you mean 'shift'"),
        ({"cohort": {"dataset": "ninapro-db5", "options": {"exersises": [1]}}}, "no option 'exersises'"),
        ({"conditions": {"extra": [{"name": "a", "edges": "every().at(layers=2)"}]}}, "condition 'a': .*layer 2"),
        ({"cohort": NAMED, "conditions": {"extra": [{"name": "a", "edges": "flow('eeg', 'cls')"}]}}, "'a': .*'eeg'"),
        ({"cohort": NAMED, "conditions": {"extra": [{"name": "a", "replace": "eeg"}]}}, "condition 'a': .*'eeg'"),
        ({"training": {"epochs": 1, "fitted": "head", "layer_decay": 0.9}}, "layer_decay"),
        ({"model": {"pretrained": "/nowhere/w.safetensors"}}, "/nowhere/w.safetensors: expected a file of weights"),
        ({"training": {"epochs": 2, "patience": 1}}, "training.patience=1 needs validation trials: split: "),
        ({"factors": {"size": {"small": {}, "odd": {"model": {"n_heads": 3}}}}}, "at size=odd: .*n_heads=3"),
    ],
)
def test_what_no_recordings_could_mend_is_refused(changes, message):
    with pytest.raises(EmgLensError, match=message):
        check_without_data(study(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conditions": {"extra": [{"name": "a", "edges": "flow('gyro', 'cls')"}]}},
        {"model": {"architecture": "hierarchical", "d_model": 16, "n_heads": 2}},
        {"model": {"architecture": "tinymyo", "d_model": 12, "n_heads": 2, "n_layers": 1, "d_mlp": 8}},
        {"cohort": {**NAMED, "targets": ["force"], "dataset": "myo-force"}, "objective": "regression"},
        {"cohort": {"dataset": "trials"}, "objective": "regression"},
        {"training": {"epochs": 2, "patience": 1}, "split": {"by": "repetition", "test": [2], "validation": [3]}},
    ],
)
def test_what_recordings_may_decide_is_not_refused(changes):
    assert "subjects" in check_without_data(study(**changes))


def test_weights_that_a_variable_names_are_reported_as_not_checked(monkeypatch):
    monkeypatch.delenv("NO_SUCH_WEIGHTS", raising=False)
    unchecked = check_without_data(study(model={"pretrained": "$NO_SUCH_WEIGHTS"}))
    assert unchecked[-1] == "the model with the weights $NO_SUCH_WEIGHTS"


@pytest.mark.slow
@pytest.mark.parametrize("name", catalogue())
def test_every_shipped_study_is_accepted(name):
    check_without_data(Study.load(name))


@pytest.mark.parametrize("name", ["gestures-neuromotor", "silent-speech-text", "silent-speech-audio"])
def test_studies_of_sequences_are_checked_without_recordings(name):
    assert check_without_data(Study.load(name))
