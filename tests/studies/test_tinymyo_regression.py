"""A TinyMyo with its regression head in a study: finger angles of small files in the format of NinaPro DB8."""

import numpy as np
import pytest
import yaml
from scipy.io import savemat

from emg_lens.data.sources.ninapro_bases import DOA
from emg_lens.studies.spec.catalog_lookup import catalogue_text
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.study import Study

ROWS = 800
SMALL = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_mlp": 16, "patch_samples": 100}


def write_db8(folder):
    """Two gestures; the EMG amplitude follows the index finger angle; the third session has two repetitions."""
    rng = np.random.default_rng(0)
    for part, repetitions in ((1, 10), (2, 10), (3, 2)):
        runs = [(of, r) for of in (1, 3) for r in range(1, repetitions + 1)]
        label = np.concatenate([np.repeat([0, of], ROWS // 2) for of, _ in runs])
        repetition = np.concatenate([np.repeat([r, r], ROWS // 2) for _, r in runs])
        bend = np.concatenate([np.full(ROWS, rng.uniform(0, 80)) for _ in runs])
        glove = rng.normal(size=(len(label), 18)) + bend[:, None]
        emg = 1e-5 * rng.normal(size=(len(label), 16)) * (1 + bend[:, None] / 20)
        columns = {"restimulus": label, "rerepetition": repetition, "stimulus": label, "repetition": repetition}
        content = {name: values.astype(np.int8)[:, None] for name, values in columns.items()}
        content |= {"emg": emg.astype(np.float32), "glove": glove.astype(np.float32)}
        savemat(folder / f"S1_E1_A{part}.mat", content | {"subject": np.uint8(1), "exercise": np.uint8(1)})


def changed(**model):
    content = yaml.safe_load(catalogue_text("tinymyo-kinematics"))
    content["model"] |= SMALL | model
    content["cohort"]["labels"] = [1, 3]
    content["training"] |= {"epochs": 20, "batch_size": 8, "lr": 0.01}
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("db8")
    write_db8(found)
    return found


def test_finger_angles_are_reported_in_degrees_next_to_the_published_values(folder, tmp_path):
    result = Study.parse(yaml.safe_dump(changed())).run(data=folder, out=tmp_path, jobs=1)
    trials = result.predictions()
    targets = trials[[c for c in trials if c.startswith("target_")]].to_numpy()
    outputs = trials[[c for c in trials if c.startswith("output_")]].to_numpy()
    assert targets.shape == outputs.shape == (2 * 2 * 2, len(DOA))  # gestures, repetitions, windows of 0.1 s
    scores = result.scores.set_index("condition")
    assert scores.loc["baseline", "mae"] == pytest.approx(np.abs(targets - outputs).mean(), rel=1e-5)
    assert scores.loc["baseline", "r2"] > 0.3 > scores.loc["EMG permuted", "r2"]
    assert any("8.87" in table.to_string() for table in result.tables().values())


def test_values_for_every_sample_are_refused_before_the_first_fit(folder, tmp_path):
    with pytest.raises(StudyError, match=r"predicts \[200, 5\] values per trial.*pooled=True"):
        Study.parse(yaml.safe_dump(changed(pooled=False))).run(data=folder, out=tmp_path, jobs=1)
    assert not list(tmp_path.rglob("fit.csv"))


def test_the_shipped_studies_have_the_published_head():
    for name in ("tinymyo-force", "tinymyo-kinematics"):
        study = Study.load(name)
        assert study.objective == "regression"
        assert study.model.settings["head"] == "regression" and study.model.settings["pooled"] is True
    assert Study.load("tinymyo-kinematics").reference.by_condition("mae", {}) == {"baseline": 8.87}
