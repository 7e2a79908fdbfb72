"""Fit analyses: one table a fit, saved and read back; another package adds its own analysis."""

import sys
from contextlib import nullcontext

import pandas as pd
import pytest
import torch
import yaml
from tiny import TINY

from emg_lens import registry
from emg_lens.analysis.fit_analysis import FIT_ANALYSES, AnalysisError, FitAnalysis, run_analyses
from emg_lens.data.batch import Batch
from emg_lens.studies.result import StudyResult
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.study import Study
from emg_lens.validation import ArgumentError

STRANGER = """
import pandas as pd
from emg_lens.analysis.fit_analysis import FitAnalysis


class LargestOutput(FitAnalysis):
    def run(self, model, batch, conditions):
        outputs = model(batch.x).detach()
        return pd.DataFrame(
            {"class": range(outputs.shape[1]), "largest": outputs.amax(0), "conditions": len(conditions),
             "trials": len(batch), "reference": len(batch.reference), "training": model.training}
        )


LARGEST = LargestOutput()
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """An installed package that offers the analysis `largest-output`."""
    package, info = tmp_path / "package", tmp_path / "package" / "stranger-1.0.dist-info"
    info.mkdir(parents=True)
    (package / "stranger.py").write_text(STRANGER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[emg_lens.fit_analyses]\nlargest-output = stranger:LARGEST\n")
    monkeypatch.syspath_prepend(package)
    monkeypatch.setattr(FIT_ANALYSES, "_known", {})
    registry._entry_points.cache_clear()
    yield
    registry._entry_points.cache_clear()
    sys.modules.pop("stranger", None)


def study(**changes) -> Study:
    return Study.parse(yaml.safe_dump(yaml.safe_load(TINY) | changes, sort_keys=False))


def test_an_analysis_of_another_package_runs_in_a_study_and_its_table_is_read_back(stranger, tmp_path):
    one = study(analyses=["largest-output", "superset-ablations"], views=["single"])
    result = one.run(out=tmp_path, jobs=1)
    for table in (result.analyses["largest-output"], StudyResult.load(result.folder).analyses["largest-output"]):
        assert list(table) == ["class", "largest", "conditions", "trials", "reference", "training", "fit"]
        assert table["fit"].tolist() == ["01"] * 4 + ["02"] * 4 + ["03"] * 4
        assert table["class"].tolist() == [0, 1, 2, 3] * 3 and not table["training"].any()
        n_conditions = len(pd.read_csv(result.folders[0] / "conditions.csv"))
        assert set(table["conditions"]) == {n_conditions} and set(table["trials"]) == set(table["reference"]) == {16}
        outputs = result.predictions()[result.predictions()["fit"] == "02"].filter(like="output_")
        largest = table[table["fit"] == "02"]["largest"].to_numpy()
        assert largest == pytest.approx(outputs.max().to_numpy(), abs=1e-5)
    assert set(result.analyses) == {"largest-output", "superset-ablations"} and "shift" not in result.analyses
    files = {path.name for path in (result.folders[0] / "analyses").iterdir()}
    assert files == {"largest-output.csv", "superset-ablations.csv"}
    (cell,) = result.cells
    assert len(cell.analysis("largest-output")) == 12 and not len(cell.analysis("shift"))


def test_which_analyses_a_study_runs_is_part_of_its_hash_and_follows_from_its_controls():
    assert study().fit_analyses == ("shift", "superset-ablations")
    assert study(conditions={"controls": None}).fit_analyses == ("superset-ablations",)
    assert study(analyses=[]).fit_analyses == ("superset-ablations",)
    assert study(analyses=[], conditions={"controls": None}).fit_analyses == ()
    assert study(analyses=[]).digest() != study().digest()


def test_an_unknown_analysis_is_refused_before_anything_is_fitted(tmp_path):
    message = "unknown fit analysis 'shfit'; did you mean 'shift'\\? known: .*circuit"  # in any order
    with pytest.raises(StudyError, match=message):
        study(analyses=["shfit"]).run(out=tmp_path, jobs=1)
    assert not list(tmp_path.iterdir())


class Wrong(FitAnalysis):
    def __init__(self, table):
        self.table = table

    def run(self, model, batch, conditions):
        return self.table


@pytest.mark.parametrize("table", [{"a": 1}, pd.DataFrame(), pd.DataFrame({"fit": [1]}), None])
def test_an_analysis_that_returns_no_table_is_refused_by_name(monkeypatch, table):
    monkeypatch.setattr(FIT_ANALYSES, "_known", {"wrong": Wrong(table)})
    with pytest.raises(AnalysisError, match=r"analysis 'wrong' returned .*; expected a pandas.DataFrame with columns"):
        run_analyses(["wrong"], None, None, [])


def test_an_analysis_that_fails_is_found_before_anything_is_fitted(monkeypatch, tmp_path):
    monkeypatch.setattr(FIT_ANALYSES, "_known", {"wrong": Wrong(None)})
    with pytest.raises(StudyError, match="'wrong' returned NoneType"):
        study(analyses=["wrong"]).run(out=tmp_path, jobs=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"c": ["x", "y"], "a": [1, 2]}).groupby("c").mean(), "values in its index.*reset_index"),
        (pd.DataFrame({"a": [1]}, index=["x"]), "values in its index"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "a different text for each column"),
        (pd.DataFrame([[1, 2]]), "a different text for each column"),
        (pd.DataFrame({"edges": [3, 4]}), "numbers in the column 'edges', which stored tables read as text"),
    ],
)
def test_a_table_that_would_be_stored_incompletely_is_refused(monkeypatch, table, message):
    monkeypatch.setattr(FIT_ANALYSES, "_known", {"wrong": Wrong(table)})
    with pytest.raises(AnalysisError, match=message):
        run_analyses(["wrong"], None, None, [])


@pytest.mark.parametrize("odd", [Wrong, len])
def test_what_is_no_analysis_is_refused(odd):
    with pytest.raises(ArgumentError, match="expected an object of the class FitAnalysis"):
        FIT_ANALYSES.add("wrong", odd)


def test_a_name_that_is_no_file_name_is_refused(monkeypatch):
    monkeypatch.setattr(FIT_ANALYSES, "_known", {"../wrong": Wrong(pd.DataFrame({"a": [1]}))})
    with pytest.raises(AnalysisError, match="'../wrong' is not a name of an analysis; expected letters"):
        run_analyses(["../wrong"], None, None, [])


class Careless(FitAnalysis):
    def __init__(self, edit):
        self.edit = edit

    def run(self, model, batch, conditions):
        with torch.no_grad():
            self.edit(model, batch)
        return pd.DataFrame({"a": [1]})


@pytest.mark.parametrize(
    ("edit", "refused"),
    [
        (lambda model, batch: model.weight.zero_(), True),
        (lambda model, batch: model.train(), True),
        (lambda model, batch: model.register_forward_hook(print), True),
        (lambda model, batch: batch.x.sub_(1), True),
        (lambda model, batch: model.register_buffer("extra", torch.ones(1)), True),
        (lambda model, batch: model(batch.x), False),
    ],
)
def test_an_analysis_that_changes_the_model_or_the_batch_is_refused(monkeypatch, edit, refused):
    monkeypatch.setattr(FIT_ANALYSES, "_known", {"careless": Careless(edit)})
    model, batch = torch.nn.Linear(4, 2).eval(), Batch(torch.zeros(3, 2, 4))
    with pytest.raises(AnalysisError, match="changed the model or the batch") if refused else nullcontext():
        run_analyses(["careless"], model, batch, [])
