"""Invalid and malicious study files are refused at once in one line; a study survives a round trip through YAML."""

import time

import pytest
from tiny import TINY

from emg_lens.io.yaml_text import read_yaml
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def with_(old: str, new: str) -> str:
    assert old in TINY
    return TINY.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (with_("epochs: 4", "epochs: 4, epochs: 7"), "the key 'epochs' twice, again in line 16"),
        (TINY + "title: again\n", "the key 'title' twice, again in line"),
        ("a: " + "[" * 20_000, "nested deeper"),
        ("a: " + "[" * 60 + "]" * 60, "nested deeper"),
        ("{a: " * 5000, "nested deeper"),
        (LAUGHS, "expands to more than"),
        ("a: &a [*a]", "nested deeper"),
        ("a: !!python/object:os.system x", "the tag .* in line 1; tags are not allowed"),
        ("a: !!set {b}", "the tag"),
        ("a: !!binary AAAA", "the tag"),
        ("a: !!bool x", "not valid YAML"),
        ("a: !!float x", "not valid YAML"),
        ("name: " + "9" * 5000, "not valid YAML"),
        ("? [a]\n: b", "expected text"),
        ("a\0b", "not valid YAML"),
        (TINY + "zzzzqqqq: 1\n", "zzzzqqqq is not a known key; known keys: name, title"),
        ("", "holds nothing"),
        ("[1]", "holds a list"),
        (with_("layer_masks: {}", "layer_masks: {modes: []}"), "conditions.layer_masks.modes"),
        (with_("name: tiny", "name: " + "a" * 5000), "name=.*at most 100"),
        (with_("layer_masks: {}", "layer_masks: {edges: {'': none()}}"), "is not a name; expected printable text"),
        (with_("name: ACC masked", 'name: "a\\e[31m"'), "is not a name; expected printable text"),
        (TINY + "factors: {sensors: {'': {}}}\n", "level of 'sensors'="),
        (TINY + "factors: {' ': {a: {}}}\n", "factor=' '"),
        (with_("epochs: 4", "epochs: true"), "epochs=true; expected a number or text"),
        (with_("epochs: 4", "epochs: 1000000000000"), "training.epochs"),
        (with_("epochs: 4", "epochs: 0"), "training.epochs"),
        (with_("lr: 0.003", "lr: .nan"), "training.lr=nan; expected a finite number"),
        (with_("batch_size: 16", "batch_size: -1"), "training.batch_size"),
        (with_("stop_s: 1.5", "stop_s: .inf"), "cohort.segment.stop_s"),
        (with_("fs: 20", "fs: .inf"), "cohort.recipe.fs"),
        (
            with_("  dataset: simulated", "  dataset: simulated\n  subjects: [no]"),
            "subjects=false; expected a number or text",
        ),
        (with_("train: [1, 3]", "train: [true, 3]"), "train=true; expected a number or text"),
        (with_("layer_masks: {}", "controls: {random_edges: 1000000000}"), "random_edges"),
    ],
)
def test_an_invalid_study_is_refused_at_once_in_one_line(text, message):
    started = time.perf_counter()
    with pytest.raises(StudyError, match=message) as error:
        StudySpec.parse(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500
    assert time.perf_counter() - started < 10


def test_keys_are_text_as_they_stand():
    spec = StudySpec.parse(TINY + "factors: {sensors: {007: {}, true: {}, null: {}, 1e5: {}, NA: {}, 7: {}}}\n")
    assert list(spec.factors["sensors"]) == ["007", "true", "null", "1e5", "NA", "7"]
    assert StudySpec.parse(spec.to_yaml()) == spec


def test_references_dates_and_merges_are_read():
    content = read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: 2020-13-45\nd: *a")
    assert content == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": "2020-13-45", "d": {"x": 1, "y": 2}}


@pytest.mark.parametrize("name", ["x" * 5000, 3, b"x", None, "a\0b", "/", "/no/such.yaml", "."])
def test_a_name_without_a_file_or_a_shipped_study_is_refused_in_one_line(name):
    with pytest.raises(Exception, match="study") as error:
        StudySpec.load(name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500
