import pytest
import yaml
from tiny import TINY

from emg_lens.studies.spec import Study, StudyError, catalogue


def changed(**changes) -> str:
    content = yaml.safe_load(TINY)
    for path, value in changes.items():
        node = content
        *parents, key = path.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = value
    return yaml.safe_dump(content)


def test_every_shipped_study_loads_and_checks():
    assert set(catalogue()) == {
        "isonet-table3",
        "isonet-table3-db5",
        "isonet-table3-psl",
        "planted-route",
        "quickstart",
    }
    for name in catalogue():
        Study.load(name).check()


def test_the_papers_study_has_the_papers_settings():
    study = Study.load("isonet-table3")
    assert (study.model.d_model, study.model.n_heads, study.model.n_layers, study.model.d_mlp) == (
        512,
        8,
        5,
        128,
    )
    assert (study.training.epochs, study.training.lr, study.training.anneal_epochs) == (2000, 4e-5, 750)
    assert study.cohort.train_repetitions == (1, 3, 4, 6) and study.cohort.test_repetitions == (2, 5)
    assert len(study.conditions.build(5)) == 31
    assert study.statistics.family == "mode" and study.statistics.correction == "bonferroni"


def test_yaml_round_trips_to_the_same_hash():
    study = Study.parse(TINY)
    again = Study.parse(study.to_yaml())
    assert again == study and again.digest() == study.digest()


def test_the_hash_ignores_words_and_follows_numbers():
    study = Study.parse(TINY)
    assert Study.parse(changed(title="Another title", question="?")).digest() == study.digest()
    assert Study.parse(changed(training__seed=1)).digest() != study.digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__epoch": 3}, "study: training.epoch is not a known key"),
        (
            {"cohort__test_repetitions": [1]},
            r"repetitions \[1\] are in train_repetitions and in test_repetitions",
        ),
        ({"conditions__layer_masks": {"edges": {"x": "crossmodal()"}}}, "unknown edge set 'crossmodal'"),
        ({"model__severed_edges": "flow('emg')"}, "missing 1 required positional argument: 'dest'"),
        ({"conditions": {"layer_masks": None}}, "needs layer_masks or extra"),
        ({"training__epochs": 0}, "training.epochs: Input should be greater than or equal to 1"),
        ({"name": "no spaces"}, "name: String should match"),
        ({"cohort__dataset": "uci-emg"}, "'sees' need dataset: simulated"),
    ],
)
def test_a_wrong_file_is_one_line(changes, message):
    with pytest.raises(StudyError, match=message) as error:
        Study.parse(changed(**changes))
    assert "\n" not in str(error.value)


def test_a_layer_that_does_not_exist_is_named_before_running():
    study = Study.parse(changed(conditions__extra=[{"name": "x", "edges": "unimodal().at(layers=7)"}]))
    study.check()  # needs the model's shape: found when the study meets its data
    from emg_lens.studies.run import run_study

    with pytest.raises(StudyError, match="layer 7 does not exist: the model has layers 0 to 1"):
        run_study(study, out="never-made")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not valid YAML"), ("- 1", "holds list"), ("", "holds NoneType")]
)
def test_text_that_is_no_study_is_one_line(text, message):
    with pytest.raises(StudyError, match=message) as error:
        Study.parse(text)
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_catalogue(tmp_path):
    with pytest.raises(StudyError, match="no study 'quikstart'.*quickstart"):
        Study.load("quikstart")
    with pytest.raises(StudyError, match="cannot read study"):
        Study.load(tmp_path / "missing.yaml")


def test_an_unknown_data_set_lists_the_known():
    content = yaml.safe_load(TINY)
    content["conditions"].pop("extra")
    content["cohort"]["dataset"] = "ninapro-db99"
    with pytest.raises(StudyError, match="unknown data set 'ninapro-db99'"):
        Study.parse(yaml.safe_dump(content)).check()
