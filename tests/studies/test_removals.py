"""Sensors removed by default: which conditions they are, their random controls, and the defaults of one sensor."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import TINY

from emg_lens import build_model
from emg_lens.hooks import EdgeError, Replace
from emg_lens.hooks.values import input_mask
from emg_lens.layout import TokenLayout
from emg_lens.studies import Study
from emg_lens.studies.fits.control_conditions import controls_of
from emg_lens.studies.runner import run_study
from emg_lens.studies.spec.condition_spec import ConditionsSpec
from emg_lens.studies.spec.removal_spec import Removals
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.engine import sweep

SIZES = {"n_samples": 20, "n_classes": 3}
SMALL = {"d_model": 12, "n_heads": 2, "n_layers": 2, "d_mlp": 8}
MODELS = {
    "isonet": SMALL,
    "multimodal-mlp": {},
    "tinymyo": SMALL | {"patch_samples": 5},
    "hierarchical": SMALL | {"n_fusion_layers": 1, "patch_samples": 5},
    "multimodal-transformer": SMALL | {"patch_samples": 5, "tokens": "time", "embedding": "dedicated"},
}


def removals(modalities, **spec):
    return {one.name: one for one in Removals.model_validate(spec).build(TokenLayout.channels(modalities))}


def test_each_of_two_sensors_is_removed_and_the_other_is_then_kept():
    found = removals({"emg": 3, "acc": 2})
    assert list(found) == ["EMG removed", "ACC removed", "EMG set to its mean", "ACC set to its mean"]
    assert found["ACC removed"].interventions == (Replace("acc", by="resample"),)
    assert found["ACC removed"].tags == {"mode": "removal", "edges": "acc", "by": "resample", "kept": "emg"}
    assert found["ACC set to its mean"].interventions == (Replace("acc", by="mean"),)
    assert found["ACC set to its mean"].tags == {"mode": "removal", "edges": "acc", "by": "mean"}
    assert "kept" not in removals({"emg": 3, "acc": 2}, alone=False)["ACC removed"].tags


def test_with_three_sensors_all_but_one_are_also_removed():
    found = removals({"emg": 3, "acc": 2, "gyro": 1}, by=["mean"])
    assert list(found)[:3] == ["EMG set to its mean", "ACC set to its mean", "GYRO set to its mean"]
    assert list(found)[3:] == ["all but EMG removed", "all but ACC removed", "all but GYRO removed"]
    assert found["all but ACC removed"].interventions == (Replace(("emg", "gyro"), by="mean"),)
    assert found["all but ACC removed"].tags == {
        "mode": "removal",
        "edges": "emg and gyro",
        "by": "mean",
        "kept": "acc",
    }
    assert len(removals({"emg": 3, "acc": 2, "gyro": 1}, alone=False)) == 6


@pytest.mark.parametrize(
    ("n", "names"),
    [
        (1, []),
        (3, ["EMG channel 1", "EMG channel 2", "EMG channel 3"]),
        (6, [f"EMG channel {k}" for k in range(1, 7)]),
        (8, ["EMG channels 1-2", "EMG channels 3-4", "EMG channels 5-6", "EMG channels 7-8"]),
        (10, ["EMG channels 1-2", "EMG channels 3-5", "EMG channels 6-7", "EMG channels 8-10"]),
    ],
)
def test_channels_of_a_single_sensor_are_removed_in_groups(n, names):
    found = removals({"emg": n})
    whose = "their" if n > 6 else "its"
    assert list(found) == [*(f"{one} removed" for one in names), *(f"{one} set to {whose} mean" for one in names)]
    tokens = [token for one in found.values() if one.tags["by"] == "mean" for token in one.interventions[0].tokens]
    assert tokens == [f"emg.{k}" for k in range(n)] * (n > 1)


def test_sensors_whose_names_differ_only_in_case_keep_their_names():
    assert list(removals({"emg": 1, "EMG": 1}, by=["mean"])) == ["emg set to its mean", "EMG set to its mean"]


def test_a_condition_with_the_name_of_a_removal_is_refused_unless_it_is_the_removal():
    layout = TokenLayout.channels({"emg": 3, "acc": 2})
    same = {"extra": [{"name": "ACC removed", "replace": "acc", "by": "resample"}], "layer_masks": None}
    found = [one for one in ConditionsSpec.model_validate(same).build(2, 2, layout) if one.name == "ACC removed"]
    assert [one.tags["mode"] for one in found] == ["removal"]
    other = {"extra": [{"name": "ACC removed", "replace": "acc", "by": "zero"}]}
    with pytest.raises(EdgeError, match=r"'ACC removed' has the name of a removal .* rename it, or set"):
        ConditionsSpec.model_validate(other).build(2, 2, layout)
    ConditionsSpec.model_validate(other | {"removals": None}).build(2, 2, layout)


@pytest.mark.parametrize("modalities", [{"emg": 3, "acc": 2}, {"emg": 10}], ids=["two sensors", "one sensor"])
@pytest.mark.parametrize("name", MODELS)
def test_default_conditions_run_on_every_architecture_and_removals_change_their_channels_only(name, modalities):
    model = build_model(name, modalities=modalities, **SIZES, **MODELS[name]).eval()
    spec = ConditionsSpec.model_validate({"controls": {"random_edges": 2}})
    conditions = spec.build(model.cfg.n_layers, model.cfg.n_heads, model.layout)
    conditions += controls_of(spec, model, conditions)
    x, reference = model.example_input(6), model.example_input(9).flip(0)
    result = sweep(model, x, conditions, reference=reference)
    found = [one for one in conditions if one.tags.get("mode") == "removal"]
    assert len(found) == (4 if len(modalities) == 2 else 8)
    for one in found:
        (change,) = one.interventions
        changed = change.on_input(x, model.layout, reference)
        gone = input_mask(model.layout, change.tokens, x.shape[1:])
        assert 0 < gone.sum() < gone.numel() and (gone.all(1) == gone.any(1)).all()
        assert (changed != x).any((0, 2)).tolist() == gone.any(1).tolist()
        assert (result.logits[one.name] - model(changed)).abs().max() < 1e-4
        assert (result.logits[one.name] - result.logits["baseline"]).abs().max() > 0
    assert any("mode" in one.tags and one.tags["mode"] != "removal" for one in conditions) == bool(model.cfg.n_layers)


def channel_sets(model, conditions):
    """The channels that each condition replaces, by name."""
    n = sum(model.layout.n_channels(one) for one in model.layout.modalities)
    return {
        one.name: tuple(input_mask(model.layout, one.interventions[0].tokens, (n, 1))[:, 0].tolist())
        for one in conditions
    }


@pytest.mark.parametrize(
    ("modalities", "numbers"),
    [
        ({"emg": 6, "acc": 6}, [20, 20]),
        ({"emg": 6, "acc": 3}, [0, 20]),
        ({"emg": 2, "acc": 2, "gyro": 1}, [9, 9, 4, 0, 0, 0]),
        ({"emg": 4}, [3] * 4),
        ({"emg": 12}, [20] * 4),
    ],
    ids=["many sets", "most channels", "all but one sensor", "single channels", "groups of channels"],
)
def test_a_removal_has_removals_of_as_many_random_channels(modalities, numbers):
    model, spec = build_model("multimodal-mlp", modalities=modalities, **SIZES), ConditionsSpec()
    conditions = spec.build(0, 0, model.layout)
    made = controls_of(spec, model, conditions)
    channels = channel_sets(model, [*conditions[1:], *made])
    resampled = [one for one in conditions if one.tags.get("by") == "resample"]
    for one, n in zip(resampled, numbers, strict=True):
        drawn = [control for control in made if control.tags["of"] == one.name]
        assert [control.tags["random_cut"] for control in drawn] == [*range(1, n + 1)]
        assert {control.tags["control"] for control in drawn} <= {"random"}
        assert {control.interventions[0].by for control in drawn} <= {"resample"}
        sets = [channels[control.name] for control in drawn]
        assert len(set(sets)) == n and channels[one.name] not in sets
        assert {sum(chosen) for chosen in sets} <= {sum(channels[one.name])}
    assert {control.tags["of"] for control in made} <= {one.name for one in resampled}
    assert made == controls_of(spec, model, conditions), "the seed decides"
    assert not controls_of(spec.model_copy(update={"controls": None}), model, conditions)


def test_default_cuts_follow_the_sensors_and_named_ones_need_attention():
    spec = ConditionsSpec()
    several, one = TokenLayout.channels({"emg": 2, "acc": 1}), TokenLayout.channels({"emg": 2})
    patches, times = TokenLayout.patches({"emg": 2}, 3), TokenLayout.times({"emg": 2}, 3)
    assert {name: str(edges) for name, edges in spec.layer_edges(2, 2, several).items()} == {
        "unimodal": "unimodal()",
        "cross_modal": "cross_modal()",
    }
    for layout, same in ((one, "self_edges()"), (patches, "same_channel()")):
        edges = spec.layer_edges(2, 2, layout)
        expected = {"other channels": f"unimodal() - {same}", "same channel": f"unimodal() & {same}"}
        assert {name: str(edges) for name, edges in edges.items()} == expected
        together = edges["other channels"].mask(layout, 1, 1) | edges["same channel"].mask(layout, 1, 1)
        assert (together == spec.layer_edges(1, 1, several)["unimodal"].mask(layout, 1, 1)).all()
    assert list(spec.layer_edges(2, 2, times)) == ["other times", "same time"]
    assert list(spec.layer_edges(2, 2, TokenLayout.channels({"emg": 1}))) == ["same channel"]
    assert spec.layer_edges(0, 0, several) == {}
    named = ConditionsSpec.model_validate({"layer_masks": {"edges": {"all": "every()"}}})
    with pytest.raises(EdgeError, match="no attention layers to cut; set conditions.layer_masks to null"):
        named.build(0, 0, several)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    text = TINY.replace("  removals: null\n", "  controls: {random_edges: 2}\n")
    return run_study(StudySpec.parse(text), out=tmp_path_factory.mktemp("runs"), jobs=1)


def test_removals_are_scored_and_their_random_controls_are_not_hypotheses(result):
    rows = result.tests().set_index("condition")
    found = rows[rows["mode"] == "removal"]
    assert found["by"].to_list() == ["resample", "resample", "mean", "mean"]
    assert found["kept"].fillna("").to_list() == ["acc", "emg", "", ""]
    assert set(found["family"]) == {"removal"} and set(found["family_size"]) == {4}
    assert rows.loc["unimodal/individual/L1", "family_size"] == 4, "the other families are as large as before"
    drawn = result.controls[result.controls["of"].isin(["EMG removed", "ACC removed"])]
    assert set(drawn["of"]) == {"ACC removed"}, "EMG has most channels"
    assert set(drawn["condition"].value_counts()) == {3} and drawn["condition"].nunique() == 2


def test_a_study_file_without_conditions_runs_on_one_sensor(tmp_path):
    content = yaml.safe_load(TINY)
    del content["conditions"]
    content["cohort"]["modalities"] = ["emg"]
    found = run_study(StudySpec.parse(yaml.safe_dump(content)), out=tmp_path, jobs=1)
    assert {"same channel/individual/L1", "EMG channels 1-2 removed"} <= set(found.tests()["condition"])
    assert "report.html" in {path.name for path in found.folder.iterdir()}


def write_described_folder(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for subject in "ab":
        for label in ("fist", "open"):
            for repetition in (1, 2, 3, 4):
                rows = rng.normal(size=(100, 3)) * (2 if label == "fist" else 1)
                np.savetxt(folder / f"{subject}_{label}_{repetition}.csv", rows, delimiter=",", comments="",
                           header="one,two,three")  # fmt: skip
    (folder / "dataset.yaml").write_text(
        "files: '{subject}_{label}_{repetition}.csv'\nfs: 100\nsignals:\n  emg: {columns: 1-3, units: mV}\n"
        "label: {field: label, classes: {fist: closed fist, open: open hand}}\nrepetition: {field: repetition}\n"
    )


def test_a_study_file_without_conditions_runs_on_a_described_folder_of_one_sensor(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_described_folder(folder)
    study = Study.parse("""
name: mine
title: My electrodes
cohort:
  dataset: folder
  recipe: {signals: {emg: []}, fs: 100}
  segment: {start_s: 0, stop_s: 1}
split: {by: repetition, test: [2, 4]}
model: {d_model: 8, n_heads: 2, n_layers: 2, d_mlp: 8}
training: {epochs: 1}
""")
    found = study.run(data=folder, out=tmp_path / "runs", jobs=1)
    names = set(found.tests()["condition"])
    assert {"other channels/from_beginning/L2", "EMG channel 3 removed", "EMG channel 3 set to its mean"} <= names
