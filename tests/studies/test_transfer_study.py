"""The shipped study of the benefit of pre-training, shortened, on small files in the format of UCI EMG."""

import numpy as np
import pytest
import torch
import yaml

from emg_lens.models.tinymyo.encoder import TinyMyo, TinyMyoConfig
from emg_lens.studies.spec.catalog_lookup import catalogue_text
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.study import Study

SMALL = {"d_model": 8, "n_heads": 2, "n_layers": 2, "d_mlp": 8}
HEADER = "\t".join(["time", *(f"channel{i}" for i in range(1, 9)), "class"])


@pytest.fixture(scope="module")
def uci(tmp_path_factory):
    """Six subjects, two runs of each of six gestures of 2.4 s; the amplitudes of the channels depend on the gesture."""
    folder = tmp_path_factory.mktemp("uci")
    for subject in (1, 2, 25, 30, 31, 36):
        rng = np.random.default_rng(subject)
        runs = [0, *(of for _ in range(2) for of in (1, 2, 3, 4, 5, 6) for of in (of, 0))]
        label = np.repeat(runs, [200 if of == 0 else 2400 for of in runs])
        swing = 1 + 4 * (label[:, None] % 7 == np.arange(8))
        values = np.repeat(rng.normal(size=(len(label) // 5 + 1, 8)), 5, axis=0)[: len(label)] * swing * 1e-5
        rows = [f"{k + 1}\t" + "\t".join(f"{v:.2e}" for v in values[k]) + f"\t{label[k]}" for k in range(len(label))]
        (folder / f"{subject:02d}").mkdir()
        (folder / f"{subject:02d}" / "1_raw_data_13-12_22.03.16.txt").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def short(levels=("scratch", "probe", "fine-tune")) -> Study:
    content = yaml.safe_load(catalogue_text("tinymyo-transfer"))
    content["split"] |= {"train": [1, 2], "validation": [25, 30], "test": [31, 36]}
    content["training"] |= {"epochs": 2, "warmup_epochs": 1, "patience": 1}
    content["model"] |= SMALL
    content["factors"]["start"] = {level: content["factors"]["start"][level] for level in levels}
    content["factors"]["seed"] = 2
    content["reference"]["rows"] = [row for row in content["reference"]["rows"] if row["at"]["start"] in levels]
    return Study.parse(yaml.safe_dump(content, sort_keys=False))


def test_the_three_starting_weights_are_shown_with_the_published_numbers(uci, tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = TinyMyoConfig(modalities={"emg": 16}, n_samples=100, n_classes=0, head="reconstruction", **SMALL)
    TinyMyo(config).save_pretrained(tmp_path / "run" / "model")  # as a pre-training leaves it
    monkeypatch.setenv("EMG_LENS_PRETRAINED", str(tmp_path / "run"))
    result = short().run(uci, tmp_path / "runs", jobs=1)
    assert len(result.facts) == 6 and sorted(result.scores["subject"].unique()) == ["31", "36"]
    assert result.facts["n_validation"].eq(result.facts["n_train"]).all()
    tables = result.tables()
    assert tables["Comparison with published numbers"]["Paper"].tolist() == ["0.975", "0.971", "0.979"]
    assert {"By class · start: scratch", "By class · start: probe"} <= set(tables)
    assert result.leakage[0]["shared"]["subject"] == 0
    assert "validation_loss" in result.curves


def test_without_weights_the_error_names_the_variable_and_scratch_still_runs(uci, tmp_path, monkeypatch):
    monkeypatch.delenv("EMG_LENS_PRETRAINED", raising=False)
    with pytest.raises(StudyError, match=r"\$EMG_LENS_PRETRAINED is not set; set it to .*, or leave") as error:
        short().run(uci, tmp_path / "runs", jobs=1)
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()
    alone = short(("scratch",)).run(uci, tmp_path / "runs", jobs=1)
    assert alone.scores["start"].unique().tolist() == ["scratch"]
