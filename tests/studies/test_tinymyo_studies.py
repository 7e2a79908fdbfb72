"""The shipped studies of a foundation model, shortened, on small files in the format of NinaPro DB5."""

import numpy as np
import pytest
import yaml
from scipy.io import savemat

from emg_lens.studies.spec.catalog_lookup import catalogue_text
from emg_lens.studies.study import Study

FS, ROWS = 200, 260


@pytest.fixture(scope="module")
def db5(tmp_path_factory):
    """Two subjects, three gestures, six repetitions of 1.3 s; each gesture has its own frequency."""
    folder = tmp_path_factory.mktemp("db5")
    for subject in (1, 2):
        rng = np.random.default_rng(subject)
        runs = [(repetition_id, r) for repetition_id in (1, 2, 3) for r in range(1, 7)]
        label = np.concatenate([np.repeat([0, repetition_id], [100, ROWS]) for repetition_id, _ in runs])
        repetition = np.concatenate([np.repeat([r, r], [100, ROWS]) for _, r in runs])
        time = np.arange(len(label)) / FS
        gains = rng.uniform(0, 3, size=(4, 16))
        emg = gains[label] * np.sin(2 * np.pi * (20 + 15 * label) * time)[:, None] + rng.normal(size=(len(label), 16))
        content = {"emg": emg, "acc": rng.normal(size=(len(label), 3)), "subject": subject, "exercise": 1}
        content |= {"restimulus": label[:, None], "rerepetition": repetition[:, None]}
        savemat(folder / f"S{subject}_E1_A1.mat", content)
    return folder


def short(name: str) -> Study:
    """The shipped study with two epochs of a small model, and few random cuts."""
    content = yaml.safe_load(catalogue_text(name))
    content["training"] |= {"epochs": 2, "warmup_epochs": 0}
    content["model"] |= {"d_model": 12, "d_mlp": 12, "n_layers": 2}
    content["conditions"]["controls"]["random_edges"] = 1
    return Study.parse(yaml.safe_dump(content, sort_keys=False))


def test_a_rotation_without_effect_is_detected(db5, tmp_path):
    result = short("tinymyo-position").run(db5, tmp_path, jobs=1)
    moved = result.scores.pivot_table("max_abs_delta_logit", "condition", "positions", aggfunc="max")
    orders = [name for name in moved.index if name.startswith("patches permuted")]
    assert len(orders) == 3
    assert (moved.loc[orders, "none"] < 1e-4).all()
    assert (moved.loc[orders, ["token", "time"]] > 1e-3).all(axis=None)
    assert (moved.loc["electrodes permuted"] > 1e-3).all(), "the head distinguishes electrodes"


def test_edges_over_channels_and_time_are_cut_in_every_layer(db5, tmp_path):
    result = short("tinymyo-edges").run(db5, tmp_path, jobs=1)
    n_patches, n_channels, heads = 10, 16, 3
    n = n_patches * n_channels
    single = result.scores[result.scores["mode"] == "individual"]
    expected = {
        "within_channel": n * (n_patches - 1),
        "same_time": n * (n_channels - 1),
        "other_channel_and_time": n * (n_patches - 1) * (n_channels - 1),
    }
    for kind, edges in expected.items():
        rows = single[single["edges"] == kind]
        assert (rows["edges_cut"] == heads * edges).all() and len(rows) == 2 * 2
        assert (rows["live_edges_cut"] == rows["edges_cut"]).all() and not rows["structural_null"].any()
