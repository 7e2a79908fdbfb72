"""The embedding view: vectors that are the saved models', kept once, refused where the recordings are others."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from tiny import NO_CONDITIONS, TINY

from emg_lens.models.isonet import IsoNet
from emg_lens.studies.report.views.embedding import EMBEDDING, EmbeddedFit, figure_maps, layout_neighbours
from emg_lens.studies.result import StudyResult
from emg_lens.studies.results.readouts import saved_readouts
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.study import Study


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    content = yaml.safe_load(TINY) | {"views": ["embedding", "control-effects", "training"]}
    controls = {"random_edges": 0, "superset": True, "cls_path_closed": False}
    content["conditions"] = {"layer_masks": {"modes": ["individual"]}, "controls": controls}
    content["split"] = {"by": "subject", "test": [2, 3]}
    return Study.parse(yaml.safe_dump(content)).run(out=tmp_path_factory.mktemp("runs"), jobs=1)


def test_the_vectors_are_those_that_the_saved_model_reads_the_saved_logits_from(done):
    assert "Nearest neighbours" in done.report() and (done.folder / "figures" / "embedding.svg").exists()
    vectors = load_file(done.folder / "readouts" / f"{done.folders[0].name}.safetensors")["vectors"]
    with torch.no_grad():
        logits = IsoNet.from_pretrained(done.folders[0]).unembed(torch.from_numpy(vectors)).numpy()
    outputs = [f"output_{name}" for name in done.facts["outputs"].iloc[0]]
    np.testing.assert_allclose(done.predictions()[outputs], logits, atol=1e-5)
    (table,) = EMBEDDING.tables(done).values()
    assert list(table)[-2:] == ["Same subject", "Subject by chance"]
    (figure,) = EMBEDDING.figures(done).values()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["held-out, by class", "held-out, by subject"]
    content = yaml.safe_load(TINY) | {"conditions": NO_CONDITIONS}
    assert not EMBEDDING.shows(replace(done, study=Study.parse(yaml.safe_dump(content))))


def test_a_study_whose_only_control_is_all_edge_sets_together_has_a_report(done):
    assert done.controls["control"].unique().tolist() == ["superset"] and done.controls["of"].isna().all()
    assert "Ablations and their controls" in done.report()


def test_they_are_computed_once_and_never_from_other_recordings(done, tmp_path):
    folder, name = tmp_path / "run", done.folders[0].name
    shutil.copytree(done.folder, folder)
    path = folder / "readouts" / f"{name}.safetensors"
    before = path.stat().st_mtime_ns
    StudyResult.load(folder).write()
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StudyError, match="cannot be read .*delete it, it is then computed again"):
        saved_readouts(done.study, folder, [name])
    path.unlink()
    others = done.study.model_dump(mode="json")
    others["cohort"]["options"]["simulation"]["trials_per_class"] = 3
    with pytest.raises(StudyError, match=f"{name}: the recordings differ from the recordings of the run"):
        saved_readouts(Study.model_validate(others), folder, [name])
    np.testing.assert_array_equal(
        saved_readouts(done.study, folder, [name])[name],
        load_file(done.folder / "readouts" / f"{name}.safetensors")["vectors"],
    )


def test_repetitions_have_equal_weight_and_few_trials_have_few_neighbours():
    trials = pd.DataFrame(
        {"subject": "s", "repetition_id": [0, 0, 0, 1, 2, 3], "label": ["fist", "fist", "fist", "fist", "rest", "rest"]}
    )
    vectors = np.array([[0.0], [0.0], [9.0], [0.1], [10.0], [11.0]], np.float32)
    table = layout_neighbours([EmbeddedFit("one", ["rest", "fist"], trials, vectors)]).set_index("Class")
    assert table.index.tolist()[:2] == ["rest", "fist"] and list(table) == [
        "Repetitions",
        "Same class",
        "Class by chance",
    ]
    # Three trials of other repetitions are the only neighbours of repetition 0: every fraction is at chance there.
    assert table.loc["fist", "Repetitions"] == "2" and table.loc["rest", "Repetitions"] == "2"
    assert float(table.loc["fist", "Class by chance"]) == pytest.approx((1 / 3 + 3 / 5) / 2, abs=1e-3)
    assert float(table.loc["fist", "Same class"]) == pytest.approx((1 / 3 + 3 / 3) / 2, abs=1e-3)
    assert (
        figure_maps([EmbeddedFit("one", ["rest", "fist"], trials, vectors)]).axes[0].get_title(loc="left")
        == "one, by class"
    )
