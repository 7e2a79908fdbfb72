import pytest
import yaml
from tiny import TINY

from emg_lens.errors import EmgLensError
from emg_lens.studies.spec.catalog_lookup import catalogue
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.study import Study


def changed(**changes) -> str:
    content = yaml.safe_load(TINY)
    for path, value in changes.items():
        node = content
        *parents, key = path.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = value
    return yaml.safe_dump(content, sort_keys=False)


def test_every_shipped_study_loads_and_checks():
    assert set(catalogue()) == {
        "attention-dropout-db5",
        "attribution-benchmark",
        "circuit-db5",
        "circuit-psl",
        "circuit-uci",
        "force-myo",
        "gestures-neuromotor",
        "gestures-simulated",
        "heads-db5",
        "heads-single-dual-db5",
        "hierarchical-db5",
        "isonet-figure2",
        "isonet-table1",
        "isonet-table1-hd",
        "isonet-table2",
        "isonet-table2-hd",
        "isonet-table3",
        "isonet-table3-db5",
        "isonet-table3-psl",
        "loso-db5",
        "loso-uci",
        "models-db5",
        "models-psl",
        "partitions-db5",
        "planted-route",
        "quantised-db5",
        "quickstart",
        "readout-db5",
        "retrained-db5",
        "saturation-db5",
        "saturation-hd",
        "sensors-db5",
        "silent-speech-audio",
        "silent-speech-text",
        "speech-simulated",
        "tinymyo-edges",
        "tinymyo-force",
        "tinymyo-kinematics",
        "tinymyo-position",
        "tinymyo-transfer",
        "tinymyo-transfer-small",
        "zeroed-db5",
        "zeroed-hierarchical-db5",
        "zeroed-psl",
    }
    for name in catalogue():
        Study.load(name).check()


def test_the_papers_study_has_the_papers_settings():
    study = Study.load("isonet-table3")
    assert study.model.architecture == "isonet"
    sizes = {"d_model": 512, "n_heads": 8, "n_layers": 5, "d_mlp": 128}
    assert study.model.settings == {**sizes, "dropout": 0.1}, "the paper drops out, at a rate that it does not state"
    assert "does not give the rate" in study.question
    assert (study.training.epochs, study.training.lr, study.training.anneal_epochs) == (2000, 4e-5, 750)
    assert study.split.train == (1, 3, 4, 6) and study.split.test == (2, 5)
    assert len(study.conditions.build(5, 8)) == 31
    assert study.statistics.family == "mode" and study.statistics.correction == "bonferroni"


def test_yaml_round_trips_to_the_same_hash():
    study = Study.parse(TINY)
    again = Study.parse(study.to_yaml())
    assert again == study and again.digest() == study.digest()


def test_the_hash_depends_on_numbers_and_not_on_texts():
    study = Study.parse(TINY)
    assert Study.parse(changed(title="Another title", question="?")).digest() == study.digest()
    assert Study.parse(changed(training__seed=1)).digest() != study.digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__epoch": 3}, "study: training.epoch is not a known key; did you mean 'epochs'"),
        ({"condition": {}}, "study: condition is not a known key; did you mean 'conditions'"),
        ({"metrics": "accuracy"}, "metrics='accuracy'; expected a list: "),
        ({"split": "loso"}, "split='loso'; expected keys and values: "),
        ({"split": {"by": "repetition"}}, "split.test is missing"),
        ({"split__test": [1]}, r"repetitions \[1\] are in the training and in the test split"),
        ({"split": {"by": "weekday"}}, "split.by='weekday'; expected 'repetition'"),
        ({"split": {"by": "subject"}}, "needs either leave_out or test"),
        ({"conditions__layer_masks": {"edges": {"x": "crossmodal()"}}}, "unknown edge set 'crossmodal'"),
        ({"conditions__extra": [{"name": "x"}]}, "condition 'x' has no intervention"),
        ({"conditions__extra": [{"name": "x", "edge": "every()"}]}, "unknown key 'edge'; known interventions"),
        (
            {"conditions__extra": [{"name": "x", "replace": "acc", "by": "zeros"}]},
            "by='zeros'; expected 'zero'",
        ),
        ({"conditions__extra": [{"name": "x", "by": "zero"}]}, "unknown key 'by'"),
        (
            {"conditions": {}},
            "conditions is empty; leave it out for the default conditions, or switch them off: {layer_",
        ),
        (
            {"factors": {"size": {"a": {"conditions": {}}}}},
            "level 'a' of factor 'size': conditions is empty and overrides nothing",
        ),
        ({"factors": {"subject": {"a": {}}}}, "a factor cannot be called 'subject'"),
        ({"factors": {"seed": {}}}, "factor 'seed'={}; expected levels with the keys that they override"),
        ({"factors": {"size": {"a": {"titel": "b"}}}}, "level 'a' of factor 'size' overrides 'titel'"),
        (
            {"factors": {"size": {"a": {"training": {"epochs": 0}}}}},
            "at size=a: training.epochs=0; expected a number greater than or equal to 1",
        ),
        ({"factors": {"seed": 100, "x": {str(i): {} for i in range(11)}}}, "1100 combinations"),
        ({"statistics__compare": [{"factor": "size", "to": "a"}]}, "statistics.compare: unknown factor 'size'"),
        (
            {"factors": {"size": {"a": {}}}, "statistics__compare": [{"factor": "size", "to": "b"}]},
            "statistics.compare: 'size' has no level 'b'; it has a",
        ),
        ({"training__epochs": 0}, "training.epochs=0; expected a number greater than or equal to 1"),
        ({"statistics__n_bootstrap": 500}, "statistics.n_bootstrap is not a known key; known keys: "),
        ({"name": "no spaces"}, "name: 'no spaces' is not a name of a study; expected letters, digits and"),
        (
            {"cohort__dataset": "uci-emg"},
            "the true information in 'uci-emg' is unknown; leave 'sees' out, or use simulated",
        ),
        ({"cohort__labels": [1, 2]}, "'sees' needs every class of the data set; leave cohort.labels out"),
    ],
)
def test_a_wrong_file_is_one_line(changes, message):
    with pytest.raises(StudyError, match=message) as error:
        Study.parse(changed(**changes))
    assert "\n" not in str(error.value)


def test_a_layer_that_does_not_exist_is_named_before_running():
    study = Study.parse(changed(conditions__extra=[{"name": "x", "edges": "unimodal().at(layers=7)"}]))
    study.check()  # the number of layers is known only when the model is built
    from emg_lens.studies.runner import run_study

    with pytest.raises(StudyError, match="unknown layer 7; the model has layers 0 to 1"):
        run_study(study, out="never-made")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not valid YAML"), ("- 1", "holds a list"), ("", "holds nothing")]
)
def test_an_error_in_a_text_that_is_not_a_study_is_one_line(text, message):
    with pytest.raises(StudyError, match=message) as error:
        Study.parse(text)
    assert "\n" not in str(error.value)


def test_an_error_names_the_level_whose_conditions_do_not_fit(tmp_path):
    factors = {"sensors": {"both": {}, "emg": {"cohort": {"modalities": ["emg"]}}}, "seed": 2}
    study = Study.parse(changed(factors=factors, conditions={"layer_masks": {"edges": {"cross": "cross_modal()"}}}))
    with pytest.raises(
        StudyError,
        match="^at sensors=emg: condition 'cross/individual/L1': cross_modal.*; a level may override 'conditions'",
    ):
        study.run(out=tmp_path / "runs", jobs=1)


SENSORS = {"both": {}, "emg": {"cohort": {"modalities": ["emg"]}, "conditions": {"layer_masks": None, "extra": []}}}


def test_levels_override_parts_of_the_study_and_nothing_else():
    study = Study.parse(changed(factors={"sensors": SENSORS, "seed": 2}))
    assert [levels for levels, _ in study.cells] == [
        {"sensors": s, "seed": k} for s in ("both", "emg") for k in ("0", "1")
    ]
    specs = [spec for _, spec in study.cells]
    assert [s.training.seed for s in specs] == [0, 1, 0, 1]
    assert specs[0].cohort.modalities is None and specs[2].cohort.modalities == ("emg",)
    assert specs[2].conditions.layer_masks is None and specs[0].conditions.layer_masks is not None
    assert specs[2].cohort.recipe == study.cohort.recipe and specs[2].training.epochs == study.training.epochs
    assert study.compared_factors == ("sensors",)


def test_another_architecture_brings_its_own_settings():
    levels = {"isonet": {}, "mlp": {"model": {"architecture": "multimodal-mlp", "d_hidden": 8}}}
    study = Study.parse(changed(factors={"architecture": levels}))
    isonet, mlp = (spec.model for _, spec in study.cells)
    assert isonet == study.model and mlp.settings == {"d_hidden": 8}


def test_what_is_computed_from_finished_fits_does_not_change_the_hash():
    study = Study.parse(TINY)
    for changes in ({"metrics": ["macro_f1"]}, {"statistics__test": "wilcoxon"}, {"views": ["layer-sweep"]}):
        assert Study.parse(changed(**changes)).digest() == study.digest()
    for changes in ({"factors": {"seed": 2}}, {"split__train": [1]}, {"conditions__head_masks": {}}):
        assert Study.parse(changed(**changes)).digest() != study.digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__d_modle": 3}, "model 'isonet' has no setting 'd_modle'; did you mean 'd_model'\\? known: d_model, "),
        ({"model__architecture": "isonett"}, "unknown model 'isonett'; did you mean 'isonet'"),
        ({"model__masked_edges": "flow('emg')"}, "missing 1 required positional argument: 'dest'"),
        ({"model__n_heads": 3}, "is not a multiple of n_heads=3"),
        ({"metrics": ["acuracy"]}, "unknown metric 'acuracy'; did you mean 'accuracy'"),
        ({"objective": "regresion"}, "unknown objective 'regresion'"),
        ({"objective": "regression"}, "have no targets"),
        ({"views": ["tabel3"]}, "unknown view 'tabel3'"),
        ({"split__test": [9]}, "no trial of the test repetitions 9; it has 1, 2, 3, 4"),
        ({"split__test": [2, 9]}, "no subject has repetition 9"),
        (
            {"cohort__labels": [1, 2, 99], "conditions__extra": []},
            "cohort.labels: no subject performs 99; leave it out",
        ),
        ({"cohort__subjects": ["77"]}, "cohort.subjects: the data have no subject 77; known: 01, 02, 03"),
        ({"cohort__modalities": ["gyro"]}, "gyro"),
        (
            {"conditions__extra": [{"name": "x", "edges": "flow('gyro', 'cls')"}]},
            "condition 'x': unknown group or token 'gyro'",
        ),
        ({"conditions__extra": [{"name": "x", "cut_mlp": "gyro"}]}, "condition 'x': unknown group or token 'gyro'"),
        ({"conditions__extra": [{"name": "x", "replace": "gyro"}]}, "condition 'x': unknown group or token 'gyro'"),
        ({"conditions__extra": [{"name": "x", "replace": "acc", "at": "hook_embd"}]}, "hook_embd"),
    ],
)
def test_what_only_model_and_data_decide_is_one_line_before_anything_is_written(changes, message, tmp_path):
    study = Study.parse(changed(**changes))
    with pytest.raises(EmgLensError, match=message) as error:
        study.run(out=tmp_path / "runs", jobs=1)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_pre_training_is_not_a_study():
    with pytest.raises(StudyError, match="study describes a pre-training, not a study; run it with emg-lens pretrain"):
        Study.parse("name: x\ncorpus: {folders: [a]}\nmodel: {architecture: tinymyo}\n")


def test_an_unknown_name_lists_the_catalogue(tmp_path):
    with pytest.raises(StudyError, match="unknown study 'quikstart'.*quickstart"):
        Study.load("quikstart")
    with pytest.raises(StudyError, match="cannot read study"):
        Study.load(tmp_path / "missing.yaml")


def test_an_unknown_data_set_lists_the_known():
    content = yaml.safe_load(TINY)
    content["conditions"].pop("extra")
    content["cohort"]["dataset"] = "ninapro-db99"
    with pytest.raises(StudyError, match="unknown data set 'ninapro-db99'"):
        Study.parse(yaml.safe_dump(content)).check()
