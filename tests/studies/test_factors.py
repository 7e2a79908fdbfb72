"""Factors of a study file: errors, and the study at each combination of levels."""

import pytest
import yaml
from tiny import TINY

from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.factors import read_factors
from emg_lens.studies.spec.study_spec import StudySpec


def study(factors: object, **changes: object) -> StudySpec:
    return StudySpec.parse(yaml.safe_dump(yaml.safe_load(TINY) | {"factors": factors} | changes, sort_keys=False))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"a": {"x": 5}}, "level 'x' of factor 'a' is 5; expected the keys that it overrides"),
        ({"a": {"x": [1]}}, "expected the keys that it overrides"),
        ({"a": {"x": {"model": 5}}}, "at a=x: model"),
        ({"a": {1: {}, "1": {"training": {"lr": 0.1}}}}, "twice"),
        ({1: {"x": {}}, "1": {"y": {}}}, "twice"),
        ({"seed": [3, 4, 3]}, "seed: 3 is listed twice"),
        ({"seed": 10**12}, "at most 1000"),
        ({"a": {"x": {"training": {"lr": 0.1}}}, "b": {"y": {"training": {"lr": 0.2}}}}, "both override training.lr"),
        ({"a": {"x": {"cohort": {"modalities": ["emg"]}}}, "b": {"y": {"cohort": None}}}, "both override cohort"),
    ],
)
def test_an_error_in_factors_is_one_line(factors, message):
    with pytest.raises(StudyError, match=message) as error:
        study(factors)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["modalities", "n_parameters", "notes", "edges_cut", "n_subjects", "accuracy", "r2"])
def test_a_factor_cannot_have_the_name_of_a_column(name):
    with pytest.raises(StudyError, match=f"a factor cannot be called '{name}'"):
        study({name: {"x": {}, "y": {}}})


def test_seeds_are_levels_from_zero():
    assert list(read_factors({"seed": 2})["seed"]) == ["0", "1"]


def test_an_architecture_keeps_the_settings_of_another_factor():
    size = {"small": {"model": {"d_model": 16}}, "big": {"model": {"d_model": 32}}}
    kinds = {"isonet": {"model": {"architecture": "isonet", "n_heads": 4}}}
    for factors in ({"size": size, "kind": kinds}, {"kind": kinds, "size": size}):
        settings = [spec.model.settings for _, spec in study(factors).cells]
        assert settings == [{"d_model": 16, "n_heads": 4}, {"d_model": 32, "n_heads": 4}]


def test_a_level_may_split_by_something_else():
    levels = {
        "within": {},
        "across": {"split": {"by": "subject", "leave_out": 1}},
        "time": {"split": {"by": "block", "folds": 2}},
    }
    kinds = [spec.split.model_dump() for _, spec in study({"split": levels}).cells]
    assert [kind["by"] for kind in kinds] == ["repetition", "subject", "block"]
    assert kinds[1]["leave_out"] == 1 and kinds[2]["folds"] == 2
    later = study({"later": {"b": {"split": {"test": [4]}}}}).cells[0][1].split.model_dump()
    added = {"train_fraction": 1.0, "train_fraction_seed": 0, "validation": None}
    assert later == {"by": "repetition", "train": (1, 3), "test": (4,)} | added


def test_a_level_replaces_the_edge_sets_of_the_layer_masks():
    few = {"conditions": {"layer_masks": {"edges": {"within": "unimodal()"}}}}
    every = {"layer_masks": {"edges": {"uni": "unimodal()", "cross": "cross_modal()"}}}
    several = study({"sensors": {"both": {}, "emg": few}}, conditions=every)
    both, one = (spec.conditions.layer_masks for _, spec in several.cells)
    assert both is not None and one is not None
    assert list(one.edges) == ["within"] and one.modes == both.modes and list(both.edges) == ["uni", "cross"]
