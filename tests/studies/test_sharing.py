"""A shared run renders the same report elsewhere, and holds nothing of the machine that it comes from."""

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from test_cli import write_db5, write_spec
from tiny import NO_CONDITIONS, TINY
from typer.testing import CliRunner

from emg_lens.cli import app
from emg_lens.errors import EmgLensError
from emg_lens.io.archives import ArchiveError
from emg_lens.io.run_folder import RunFolderError
from emg_lens.studies import StudyError, StudyResult, share_run, unpack_run
from emg_lens.studies.fits.fit_store import MODEL_CARD, check_fit
from emg_lens.studies.runs.shared_copy import private_texts, without_paths
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.studies.study import Study


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> StudyResult:
    """A run on recordings in a folder that a person's name is part of, with a note that names a path."""
    home = tmp_path_factory.mktemp("home") / "ann-lee"
    (home / "my recordings").mkdir(parents=True)
    data = write_db5(home / "my recordings" / "db5")
    (data / "README.md").write_text("# DB5\n\nLicence: CC BY-ND 4.0\n")
    spec = write_spec(home / "mine.yaml", conditions={"layer_masks": None, "controls": None}, views=["single"])
    return Study.load(spec).run(data=data, out=home / "runs", jobs=1)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> StudyResult:
    """A run with two seeds and an ablation with its controls."""
    content = yaml.safe_load(TINY) | {"factors": {"seed": 2}, "views": ["single"]}
    content["conditions"] |= {"layer_masks": None, "controls": {"random_edges": 2}}
    return Study.parse(yaml.safe_dump(content)).run(out=tmp_path_factory.mktemp("runs"), jobs=1)


@pytest.fixture(scope="module")
def archive(simulated, tmp_path_factory) -> Path:
    """The archive of this run, without models."""
    return share_run(simulated.folder, tmp_path_factory.mktemp("archives") / "a.zip")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- archives of runs -------------------------------------------------------------------------------------


def test_a_shared_run_has_the_same_numbers_tables_and_figures(simulated, archive, tmp_path):
    folder = unpack_run(archive, tmp_path / "elsewhere")
    there = StudyResult.load(folder)
    assert there.scores.equals(simulated.scores) and there.tests().equals(simulated.tests())
    assert there.predictions().equals(simulated.predictions())
    mine, theirs = content(simulated.folder), content(folder)
    same = [name for name in theirs if name.startswith(("figures/", "table.", "scores.csv", "controls.csv", "report"))]
    assert len(same) > 6 and all(theirs[name] == mine[name] for name in same)
    there.write()  # again, as `emg-lens report` does
    assert {name: text for name, text in content(folder).items() if name in same} == {n: mine[n] for n in same}
    assert not [name for name in theirs if name.endswith(("model.safetensors", "config.json"))]


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes_and_no_time(simulated, archive, tmp_path):
    assert share_run(simulated.folder, tmp_path / "b.zip").read_bytes() == archive.read_bytes()
    assert {one.date_time for one in zipfile.ZipFile(archive).infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.slow
def test_no_path_and_no_name_of_the_machine_is_shared(real, tmp_path):
    source = Path(json.loads((real.folder / "data.json").read_text())["folder"])
    assert "ann-lee" in str(source) and str(source).encode() in (real.folder / "report.html").read_bytes()
    folder = unpack_run(share_run(real.folder, tmp_path / "a.zip", models=True), tmp_path / "elsewhere")
    assert folder.parts[-2:] == real.folder.parts[-2:]  # the same study, so the same hash
    for name, text in content(folder).items():
        assert not [word for word in (b"ann-lee", b"my recordings", os.fsencode(Path.home())) if word in text], name
    assert b"--data FOLDER" in (folder / "report.html").read_bytes()


@pytest.mark.slow
def test_paths_of_weights_in_the_study_and_in_notes_are_shortened(real, tmp_path):
    run = tmp_path / "runs" / "copy"
    for name, text in content(real.folder).items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(text)
    from emg_lens.io.run_folder import write_run_files
    from emg_lens.studies.fits.fit_store import write_fit_checksums
    from emg_lens.studies.runs.run_files import read_record, read_spec

    weights = "/home/ann lee/models/trunk v2.safetensors"
    study = read_spec(run).model_dump(mode="json")
    study["model"]["pretrained"] = weights
    write_run_files(run, StudySpec.from_content(study).to_yaml(), read_record(run))
    (fit,) = (run / "fits").iterdir()
    facts = json.loads((fit / "fit.json").read_text())
    facts["notes"] = [f"the weights in {weights} come from a pre-training", r"read C:\Users\Ann\emg\S1.mat at 1/2"]
    (fit / "fit.json").write_text(json.dumps(facts))
    write_fit_checksums(fit)
    there = unpack_run(share_run(run, tmp_path / "a.zip"), tmp_path / "elsewhere")
    (shared,) = (there / "fits").iterdir()
    assert json.loads((shared / "fit.json").read_text())["notes"] == [
        "the weights in trunk v2.safetensors come from a pre-training",
        "read S1.mat at 1/2",
    ]
    assert read_spec(there).model.pretrained == "trunk v2.safetensors"
    assert not [name for name, text in content(there).items() if b"/home/ann" in text or b"Users" in text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unimodal/individual/L1", "unimodal/individual/L1"),
        ("https://arxiv.org/abs/2506.16744 and 1/10", "https://arxiv.org/abs/2506.16744 and 1/10"),
        ("in '/mnt/x/y.csv': bad", "in 'y.csv': bad"),
        ("~/emg/db5/", "db5"),
        ("a / b and m/s", "a / b and m/s"),
        (r"D:\emg\S1.mat, D:/x/y", "S1.mat, y"),
        ({"/home/ann/a": ["/home/ann/b", 3, None, True]}, {"a": ["b", 3, None, True]}),
    ],
)
def test_absolute_paths_become_their_last_part(text, expected):
    assert without_paths(text, []) == expected


@pytest.mark.parametrize("name", [r"a\1b", r"a\g<0>b", r"back\slash", "x+(y"])
def test_names_of_folders_are_no_regular_expressions(name):
    assert without_paths(f"read /mnt/ann/{name}/S1.mat", [f"/mnt/ann/{name}"]) == f"read {name}/S1.mat"


def test_a_path_with_spaces_in_the_options_of_a_data_set_is_private():
    path = "/mnt/Ann Lee/my study/dataset.yaml"
    cohort = {"dataset": "folder", "options": {"description": path}}
    study = StudySpec.from_content(yaml.safe_load(TINY) | {"cohort": cohort, "conditions": NO_CONDITIONS})
    private = private_texts(study, Path("/mnt/run"), None)
    assert path in private and without_paths({"x": [path]}, private) == {"x": ["dataset.yaml"]}


@pytest.mark.slow
def test_damaged_and_unfinished_runs_are_refused(simulated, tmp_path):
    run = tmp_path / "run"
    for name, text in content(simulated.folder).items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(text)
    scores = next((run / "fits").iterdir()) / "scores.csv"
    scores.write_bytes(scores.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(StudyError, match="was changed after it was written"):
        share_run(run, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
    with pytest.raises(RunFolderError, match="is not a run's folder"):
        share_run(tmp_path, tmp_path / "a.zip")


def test_an_archive_has_the_name_of_one(simulated, tmp_path):
    with pytest.raises(RunFolderError, match=r"s\.tar: expected a name that ends in \.zip"):
        share_run(simulated.folder, tmp_path / "s.tar")
    assert not (tmp_path / "s.tar").exists()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: share_run("runs", done=1), "done=1; expected a function or None"),
        (lambda: unpack_run(float("nan")), "archive=nan; expected a string or a Path"),
        (lambda: unpack_run(torch.ones(2)), "archive=Tensor of .*; expected a string or a Path"),
        (lambda: unpack_run("\0"), "cannot be unpacked"),
        (lambda: unpack_run(__file__, out="\0"), "holds a null character; give another --out"),
    ],
)
def test_arguments_that_cannot_be_used_are_errors_of_one_line(call, message):
    with pytest.raises(EmgLensError, match=message) as error:
        call()
    assert str(error.value).isprintable()


@pytest.mark.slow
def test_an_archive_does_not_replace_another_run(simulated, real, archive, tmp_path):
    out = simulated.folder.parents[1]
    with pytest.raises(RunFolderError, match="holds another run of this study; give another --out"):
        unpack_run(archive, out)  # the run itself is there
    assert unpack_run(archive, tmp_path / "b") == unpack_run(archive, tmp_path / "b")
    with pytest.raises(ArchiveError, match="nothing was unpacked"):
        unpack_run(real.folder / "data.json", tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_the_commands_share_and_report_print_size_and_place(simulated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["share", str(simulated.folder)])
    name = f"{simulated.study.name}-{simulated.study.digest()}.zip"
    assert done.exit_code == 0 and re.search(rf"{re.escape(name)} \(0\.\d MiB\)", done.output)
    done = CliRunner().invoke(app, ["report", name, "--out", "there"])
    assert done.exit_code == 0 and "report.html" in done.output
    assert (tmp_path / "there" / simulated.study.name / simulated.study.digest() / "report.html").is_file()


# --- model cards ------------------------------------------------------------------------------------------


def code_of(card: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return block


@pytest.mark.slow
def test_every_model_has_a_card_that_the_hub_reads_and_its_code_runs(simulated, monkeypatch):
    monkeypatch.chdir(simulated.folder)
    for folder in simulated.folders:
        card = ModelCard.load(folder / MODEL_CARD)
        scores = simulated.scores[
            (simulated.scores["fit"] == folder.name) & (simulated.scores["condition"] == "baseline")
        ]
        (accuracy,) = [one for one in card.data.eval_results if one.metric_type == "accuracy"]
        assert accuracy.metric_value == pytest.approx(scores["accuracy"].mean(), abs=1e-6)
        assert card.data.to_dict()["library_name"] == "emg-lens" and accuracy.dataset_type == "simulated"
        check_fit(folder)
    space: dict = {}
    exec(code_of(card.text), space)
    assert space["outputs"].shape == (1, len(simulated.facts["outputs"].iloc[0]))
    assert type(space["model"]).__name__ == "IsoNet"
    reloaded = type(space["model"]).from_pretrained(simulated.folders[-1])
    x = reloaded.example_input(2)
    torch.testing.assert_close(space["model"](x), reloaded(x))


@pytest.mark.slow
def test_a_card_names_licence_warning_chance_and_reference(real, tmp_path):
    card = (real.folders[0] / MODEL_CARD).read_text()
    for text in (
        "Licence of the recordings: CC BY-ND 4.0",
        "ninapro-db5",
        "chance 0.333",
        "Test subjects: S1",
    ):
        assert text in card
    assert "An interval needs 5 subjects" in card and real.study.digest() in card
    quality = real.quality()
    reference = quality.loc[quality["fit"] == "mean", "reference"].item()
    assert np.isnan(reference) or f"reaches {reference:.3f}" in card


@pytest.mark.slow
def test_an_archive_without_weights_has_cards_that_say_so_and_may_be_edited(archive, tmp_path):
    folder = unpack_run(archive, tmp_path / "b")
    path = next(iter(folder.glob(f"fits/*/{MODEL_CARD}")))
    card = path.read_text()
    assert "The weights are not in this folder" in card and "```" not in card
    path.write_text("my own words")
    StudyResult.load(folder).write()
    assert path.read_text() == card


def test_views_of_saved_values_need_neither_recordings_nor_weights(tmp_path):
    content = yaml.safe_load(TINY) | {"conditions": NO_CONDITIONS, "views": ["embedding"]}
    content["cohort"]["options"]["simulation"]["n_subjects"] = 1
    run = Study.parse(yaml.safe_dump(content)).run(out=tmp_path / "runs", jobs=1)
    there = unpack_run(share_run(run.folder, tmp_path / "a.zip"), tmp_path / "b")
    figures = {path.name: path.read_bytes() for path in run.folder.glob("figures/*.svg")}
    assert figures and {path.name: path.read_bytes() for path in there.glob("figures/*.svg")} == figures
    assert list(there.glob("readouts/*.safetensors")) and not list(there.rglob("model.safetensors"))
    assert not list(tmp_path.glob(".share-*"))
