"""Studies that start from pretrained weights: scratch, probe and fine-tuning, with fractions of the labels."""

import json
import shutil

import pytest
import torch
import yaml
from tiny import NO_CONDITIONS, TINY

from emg_lens.models.isonet import IsoNet
from emg_lens.models.pretrained import read_pretrained, weights_fingerprint
from emg_lens.models.registry import architecture
from emg_lens.models.tinymyo.encoder import TinyMyo, TinyMyoConfig
from emg_lens.studies.fits.fit_trials import load_fit
from emg_lens.studies.fits.model_building import build_fit_model
from emg_lens.studies.runs.plan import fingerprint
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.study import Study
from emg_lens.training.pretraining.spec import PretrainingError, PretrainingSpec

SIZES = {"d_model": 8, "n_heads": 2, "n_layers": 2, "d_mlp": 8, "patch_samples": 5}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A pre-trained encoder with other channels and another length, saved by save_pretrained."""
    config = TinyMyoConfig(
        modalities={"emg": 3}, n_samples=40, n_classes=0, head="reconstruction", positions="rotary_time", **SIZES
    )
    folder = tmp_path_factory.mktemp("weights") / "model"
    torch.manual_seed(5)
    TinyMyo(config).save_pretrained(folder)
    return folder


def transfer(weights, **changes) -> Study:
    content = yaml.safe_load(TINY) | {
        "split": {"by": "repetition", "train": [1], "validation": [3], "test": [2, 4]},
        "model": {"architecture": "tinymyo", **SIZES, "positions": "rotary_time"},
        "training": {"epochs": 3, "batch_size": 8, "lr": 0.01, "patience": 2, "label_smoothing": 0.1},
        "factors": {
            "start": {
                "scratch": {},
                "probe": {"model": {"pretrained": str(weights)}, "training": {"fitted": "head"}},
                "fine-tune": {"model": {"pretrained": str(weights)}, "training": {"layer_decay": 0.9}},
            }
        },
        "conditions": NO_CONDITIONS,
    }
    return Study.parse(yaml.safe_dump(content | changes, sort_keys=False))


@pytest.fixture(scope="module")
def done(weights, tmp_path_factory):
    return transfer(weights).run(out=tmp_path_factory.mktemp("runs"), jobs=1)


def test_curves_show_the_validation_loss_that_chose_the_epoch(done):
    figure = done.figures()["training"]
    legend = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "validation, selects the epoch" in legend
    assert len(done.curves["validation_loss"].dropna()) == len(done.curves)


def of_level(done, level):
    paths = [path for path in sorted((done.folder / "fits").iterdir()) if path.name.startswith(level)]
    return [TinyMyo.from_pretrained(path) for path in paths]


def test_scratch_probe_and_fine_tuning_are_compared(done, weights):
    assert done.scores["start"].unique().tolist() == ["scratch", "probe", "fine-tune"]
    given = TinyMyo.from_pretrained(weights).state_dict()
    trunk = [name for name in given if not name.startswith("unembed.")]
    for model in of_level(done, "probe"):  # nothing but the head has moved
        assert all(torch.equal(model.state_dict()[name], given[name]) for name in trunk)
    for level, most in (("fine", 0.1), ("scratch", 100.0)):
        for model in of_level(done, level):
            moved = max(float((model.state_dict()[name] - given[name]).abs().max()) for name in trunk)
            assert 1e-4 < moved < most
    facts = done.facts
    assert facts["n_validation"].gt(0).all() and facts["n_train"].eq(facts["n_validation"]).all()


def test_the_head_is_random_and_all_other_weights_come_from_the_file(weights):
    study = transfer(weights)
    from tiny import all_fits

    scratch, probe, _ = (
        next(fit for fit in all_fits(study) if fit.levels["start"] == s) for s in study.factors["start"]
    )
    trials = load_fit(scratch, None)
    one, other = build_fit_model(scratch, trials.train), build_fit_model(probe, trials.train)
    given = TinyMyo.from_pretrained(weights).state_dict()
    for name, tensor in other.state_dict().items():
        source = one.state_dict() if name.startswith("unembed.") else given
        assert torch.equal(tensor, source[name]), name


def test_reports_say_whose_recordings_the_weights_were_trained_on(done, weights, tmp_path):
    note = f"{weights} does not name the subjects that its weights were trained on"
    assert [note in notes for notes in done.facts["notes"]] == (done.facts["start"] != "scratch").tolist()
    report = (done.folder / "report.html").read_text()
    n_fits = len(done.facts)
    assert f"its weights were trained on ({2 * n_fits // 3} of {n_fits} fits)" in report
    assert "Pre-training subjects may overlap with the test subjects of this split" in report
    shutil.copytree(weights, tmp_path / "model")
    (tmp_path / "data.json").write_text(json.dumps({"held_out": ["mine/03", "mine/05"]}))
    (note,) = read_pretrained(architecture("tinymyo"), str(tmp_path), {}).notes
    assert "a pre-training that left out mine/03, mine/05; its other subjects" in note


def test_validation_trials_count_as_seen_in_the_leakage_report(weights):
    from tiny import all_fits

    fit = all_fits(transfer(weights))[0]
    trials = load_fit(fit, None)
    assert set(trials.seen.repetition) == {1, 3} and set(trials.train.repetition) == {1}
    assert set(trials.seen.repetition_id) == {*trials.train.repetition_id, *trials.validation.repetition_id}


def test_a_run_is_not_resumed_with_changed_weights(weights, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(weights, own)
    study = transfer(own)
    before = fingerprint(study, None)
    assert before.startswith(fingerprint(Study.parse(TINY), None) + "-")
    study.run(out=tmp_path / "runs", jobs=1)
    model = TinyMyo.from_pretrained(own)
    with torch.no_grad():
        model.ln_final.b += 0.1
    model.save_pretrained(own)
    assert fingerprint(study, None) != before
    with pytest.raises(StudyError, match="was made with other data or weights"):
        study.run(out=tmp_path / "runs", jobs=1)


@pytest.mark.parametrize(
    "pretrained, message",
    [
        ("nowhere/at/all", r"pretrained: nowhere/at/all: expected a file of weights"),
        ("$EMG_LENS_NOT_SET/x", r"\$EMG_LENS_NOT_SET is not set; set it to a file of weights"),
    ],
)
def test_missing_weights_are_refused_before_anything_is_read(pretrained, message, weights, tmp_path):
    study = transfer(weights, factors={"start": {"fine-tune": {"model": {"pretrained": pretrained}}}})
    with pytest.raises(StudyError, match=message) as error:
        study.run(out=tmp_path / "runs", jobs=1)
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "model, message",
    [
        (
            {"positions": "rotary"},
            "trained with positions='rotary_time', and the model asks for 'rotary'; leave it out",
        ),
        ({"d_model": 16}, "trained with d_model=8, and the model asks for 16"),
        ({"channel_slots": 16}, "trained with channel_slots=0, and the model asks for 16"),
        ({"architecture": "isonet"}, "cannot be loaded as IsoNet|is a tinymyo|IsoNet"),
    ],
)
def test_weights_of_another_model_are_refused_before_the_first_fit(model, message, weights, tmp_path):
    study = transfer(weights, model={"architecture": "tinymyo", "pretrained": str(weights)} | model, factors={})
    with pytest.raises(Exception, match=message) as error:
        study.run(out=tmp_path / "runs", jobs=1)
    assert "\n" not in str(error.value) and not list((tmp_path / "runs").rglob("fits/*"))


def test_positions_of_other_tokens_do_not_fit(tmp_path):
    config = architecture("isonet").config
    torch.manual_seed(0)
    IsoNet(config(modalities={"emg": 3}, n_samples=20, n_classes=2, d_model=16, n_heads=2, n_layers=2)).save_pretrained(
        tmp_path / "w"
    )
    content = yaml.safe_load(TINY) | {"model": {"architecture": "isonet", "pretrained": str(tmp_path / "w")}}
    with pytest.raises(StudyError, match=r"does not fit this model: .* has shape \["):
        Study.parse(yaml.safe_dump(content)).run(out=tmp_path / "runs", jobs=1)


@pytest.mark.parametrize("positions, rope", [("none", None), ("rotary", "token"), ("rotary_time", "time")])
def test_a_published_file_gives_its_trunk(positions, rope, tmp_path):
    slots = {"channel_slots": 4} if positions == "rotary_time" else {}
    sizes = {**SIZES, "d_model": 64, "n_heads": 1, "patch_samples": 20}
    config = TinyMyoConfig(
        modalities={"emg": 4}, n_samples=40, n_classes=0, head="reconstruction", positions=positions, **sizes, **slots
    )
    model = TinyMyo(config)
    model.save_published(tmp_path / "base.safetensors", prefix="model.")
    found = read_pretrained(architecture("tinymyo"), str(tmp_path / "base.safetensors"), {"n_heads": 1})
    assert found.settings["positions"] == positions and found.settings["d_model"] == 64
    own = model.state_dict()
    assert set(found.trunk) == {name for name in own if not name.startswith("unembed.")}
    assert all(torch.equal(tensor, own[name]) for name, tensor in found.trunk.items())
    assert "does not name the subjects" in found.notes[0] and len(found.notes) == (1 if rope else 2)
    assert len(weights_fingerprint([str(tmp_path / "base.safetensors")])) == 10


def test_patience_without_validation_and_unknown_layers_are_refused_before_the_first_fit(tmp_path):
    for model, training, message in (
        ("isonet", {"patience": 2}, r"training.patience=2 needs validation trials: split"),
        ("multimodal-mlp", {"layer_decay": 0.9}, "layer_decay needs the layer of every parameter"),
    ):
        content = yaml.safe_load(TINY) | {"model": {"architecture": model}, "conditions": NO_CONDITIONS}
        content["training"] |= training
        with pytest.raises(StudyError, match=message):
            Study.parse(yaml.safe_dump(content)).run(out=tmp_path / "runs", jobs=1)
    assert not (tmp_path / "runs").exists()


def test_a_pre_training_starts_from_random_weights():
    part = {"dataset": "simulated", "recipe": {}, "window_s": 1.0, "stride_s": 0.5}
    with pytest.raises(
        PretrainingError, match="model.pretrained is set, but a pre-training starts from random weights; remove it"
    ):
        PretrainingSpec.parse(
            yaml.safe_dump({"name": "x", "corpus": {"parts": {"a": part}}, "model": {"pretrained": "w"}})
        )
