"""The studies with the settings of the paper, shortened, on small files in the formats of the data sets."""

import h5py
import numpy as np
import pytest
import yaml
from scipy.io import savemat

from emg_lens.studies.spec.catalog_lookup import catalogue_text
from emg_lens.studies.study import Study

FS, ROWS = 2000, 1200
GESTURES = {1: (1, 2), 2: (18, 19)}
SMALL = {"d_model": 16, "n_heads": 2, "d_mlp": 16, "d_hidden": 8, "d_fused": 8, "patch_samples": 500}


@pytest.fixture(scope="module")
def db2(tmp_path_factory):
    """Two subjects, two exercises of two gestures each, six repetitions of 0.6 s; gravity turns with the gesture."""
    folder = tmp_path_factory.mktemp("db2")
    for subject in (1, 2):
        rng = np.random.default_rng(subject)
        for exercise, gestures in GESTURES.items():
            runs = [(of, r) for of in gestures for r in range(1, 7)]
            label = np.concatenate([np.repeat([0, of], ROWS) for of, _ in runs]).astype(np.int8)
            repetition = np.concatenate([np.repeat([r, r], ROWS) for _, r in runs]).astype(np.int8)
            gravity = rng.normal(size=(len(label), 12, 3)) * 0.01 + np.eye(3)[label % 3][:, None]
            content = {
                "emg": (rng.normal(size=(len(label), 12)) * 1e-5 * (1 + label[:, None] % 5)).astype(np.float32),
                "acc": gravity.reshape(len(label), 36).astype(np.float32),
                "restimulus": label[:, None],
                "stimulus": label[:, None],
                "rerepetition": repetition[:, None],
                "repetition": repetition[:, None],
                "subject": np.uint8(subject),
                "exercise": np.uint8(exercise),
            }
            savemat(folder / f"S{subject}_E{exercise}_A1.mat", content)
    return folder


@pytest.fixture(scope="module")
def hd(tmp_path_factory):
    """Two subjects of the high-density data, two gestures, five repetitions of 0.54 s; forces depend on the gesture."""
    folder = tmp_path_factory.mktemp("hd")
    for subject in (1, 2):
        rng, rest, rows = np.random.default_rng(subject), 600, 1100
        runs = [(of, r) for r in range(1, 6) for of in (1, 3)]
        label = np.concatenate([np.repeat([0, of], [rest, rows]) for of, _ in runs] + [np.zeros(rest)])
        repetition = np.concatenate([np.repeat([0, r], [rest, rows]) for _, r in runs] + [np.zeros(rest)])
        with h5py.File(folder / f"s{subject}.mat", "w") as file:
            for array in ("emg_extensors", "emg_flexors"):
                file[array] = rng.normal(size=(8, 8, len(label)))
            file["force"] = rng.uniform(2, 3, size=(9, len(label))) + (label == 3) * np.linspace(0, 1, 9)[:, None]
            for name in ("class", "adjusted_class"):
                file[name] = label[None]
            for name in ("repetition", "adjusted_repetition"):
                file[name] = repetition[None]
    return folder


def short(name: str) -> Study:
    """The shipped study with one epoch, few electrode sets, small models and the available gestures."""
    content = yaml.safe_load(catalogue_text(name))
    content["training"]["epochs"] = 1
    if content["cohort"]["dataset"] == "ninapro-db2":
        content["cohort"]["options"]["label_numbering"] = "global"
        content["cohort"]["labels"] = [of for some in GESTURES.values() for of in some]
    levels = content.get("factors", {}).get("architecture", {}).values()
    blocks = [content["model"], *(level["model"] for level in levels if "model" in level)]
    for block in blocks:
        block.update({key: value for key, value in SMALL.items() if key in block})
    if "electrode_set" in content.get("factors", {}):
        content["factors"]["electrode_set"]["sets"] = 2
    return Study.parse(yaml.safe_dump(content, sort_keys=False))


def test_figure_2_compares_networks_of_twelve_channels(db2, tmp_path):
    result = short("isonet-figure2").run(db2, tmp_path, jobs=1)
    modalities = dict(zip(result.facts["sensors"], result.facts["modalities"], strict=True))
    assert modalities == {
        "emg+emg": {"emg_a": 6, "emg_b": 6},
        "acc+acc": {"acc_a": 6, "acc_b": 6},
        "emg+acc": {"emg": 6, "acc": 6},
        "acc+acc, 3 axes": {"acc_a": 6, "acc_b": 6},
        "emg+acc, 3 axes": {"emg": 6, "acc": 6},
    }
    assert result.facts["n_parameters"].nunique() == 1
    beside = result.tables()["Comparison with published numbers"]
    assert beside["Paper"].tolist() == ["0.605", "0.586", "0.716"]


def test_table_1_shows_every_published_number(db2, tmp_path):
    result = short("isonet-table1").run(db2, tmp_path, jobs=1)
    assert len(result.facts) == 2 * 9
    assert len(result.tables()["Comparison with published numbers"]) == 9
    grid = result.tables()["Accuracy by architecture × sensors"]
    assert list(grid.index) == ["hierarchical", "multimodal-transformer", "multimodal-mlp"]


def test_table_2_replaces_one_sensor_and_shows_the_published_numbers(db2, tmp_path):
    result = short("isonet-table2").run(db2, tmp_path, jobs=1)
    single = result.tables()["Single conditions"].set_index("Condition")["Paper"]
    assert single["ACC zeroed"] == "0.089" and single["EMG zeroed"] == "0.511" and single["Baseline"] == "0.957"


def test_high_density_tables_have_their_published_numbers(hd, tmp_path):
    one = short("isonet-table1-hd").run(hd, tmp_path, jobs=1)
    assert one.tables()["Comparison with published numbers"]["Paper"].tolist()[0] == "0.967"
    assert one.facts["n_samples"].eq(1000).all() and one.facts["modalities"].iloc[0] == {"emg": 128, "force": 9}
    two = short("isonet-table2-hd").run(hd, tmp_path, jobs=1)
    single = two.tables()["Single conditions"].set_index("Condition")["Paper"]
    assert single["Force zeroed"] == "0.303" and single["EMG zeroed"] == "0.276"


def test_smaller_sets_of_electrodes_are_parts_of_larger_ones(hd, tmp_path):
    study = short("saturation-hd")
    result = study.run(hd, tmp_path, jobs=1)
    assert sorted({fit["emg"] for fit in result.facts["modalities"]}) == [10, 20, 40, 80, 128]
    sets = {}
    for levels, spec in study.cells:
        rows = spec.cohort.groups["emg"]["emg"].rows(128, "emg")
        assert sets.get(levels["electrode_set"], set()) < set(rows)
        sets[levels["electrode_set"]] = set(rows) if levels["electrodes"] != "128" else set()
    assert "Drop under each condition by electrodes" in result.tables()
