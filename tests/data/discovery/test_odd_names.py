"""`emg-lens new` with names that break YAML, patterns or tables: it reads them as they are, or says what is wrong."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from emg_lens.cli import app
from emg_lens.data import load_dataset
from emg_lens.data.discovery import folder_layout
from emg_lens.data.discovery.description_text import commented, on_one_line
from emg_lens.data.discovery.file_names import find_pattern
from emg_lens.data.recording import DataError
from emg_lens.io.yaml_text import read_yaml


@pytest.fixture
def written(emg):
    """Write three repetitions of two gestures as tables; return the samples of the first one."""

    def write(folder, between="_", names=None, scale=1e-4, **options):
        for gesture, repetition in product((0, 1), (1, 2, 3)):
            path = folder / "S1" / f"{('fist', 'open')[gesture]}{between}{repetition}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            samples = emg(gesture, seconds=0.5, seed=repetition) * scale
            pd.DataFrame(samples, columns=names).to_csv(path, **{"index": False} | options)
        return emg(0, seconds=0.5, seed=1) * scale

    return write


def new(folder, *options):
    return CliRunner().invoke(app, ["new", "--data", str(folder), "--fs", "1000", *options])


def description(folder):
    return yaml.safe_load((folder / "dataset.yaml").read_text())


@pytest.mark.parametrize("name", ["a\nline: x", "a # b: 'c", "{a: &b *c", "tab\there", "a\u2028b: c"])
def test_any_name_of_a_folder_is_written_as_a_comment_and_as_text(tmp_path, written, name):
    written(tmp_path / name)
    assert new(tmp_path / name).exit_code == 0
    assert description(tmp_path / name)["files"] == "S1/{label}_{repetition}.csv"
    assert yaml.safe_load((tmp_path / name / "study.yaml").read_text())["cohort"]["dataset"] == "folder"


def test_a_line_end_in_the_names_of_files_and_variables(tmp_path, emg, written):
    written(tmp_path / "tables", between="_a\nb_")
    assert new(tmp_path / "tables").exit_code == 0
    assert len([*load_dataset("folder", tmp_path / "tables")]) == 6
    arrays = tmp_path / "arrays" / "S1"
    arrays.mkdir(parents=True)
    for gesture, repetition in product((0, 1), (1, 2, 3)):
        content = {"a\nfs": 1000, "my\nemg: #": emg(gesture, seconds=0.5).tolist()}
        (arrays / f"{('fist', 'open')[gesture]}_{repetition}.json").write_text(json.dumps(content))
    result = CliRunner().invoke(app, ["new", "--data", str(tmp_path / "arrays")])
    assert result.exit_code == 0, result.output
    assert description(tmp_path / "arrays")["signals"]["emg"] == {"key": "my\nemg: #"}


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\n\n  "])
def test_values_and_comments_stay_on_one_line(end):
    value = {"key": f"a{end}b: #", "list": [1, 2.5, f"x{end}"]}
    assert len(on_one_line(value).splitlines()) == 1 and read_yaml(f"x: {on_one_line(value)}") == {"x": value}
    assert len(commented("fs: 200", f"of a{end}b").splitlines()) == 1


@pytest.mark.parametrize("name", ["{", "a}b", "{subject}", "{1}"])
def test_braces_in_names_of_files_are_refused(name):
    with pytest.raises(DataError, match="braces"):
        find_pattern([f"S1/{name}_{k}.csv" for k in (1, 2)], False, "folder")


@pytest.mark.parametrize("options", [{}, {"index": True}, {"names": [1, 2, 3, 4]}], ids=["0,1", "index", "1,2"])
def test_numbers_of_columns_are_a_header_and_no_sample(tmp_path, written, options):
    samples = written(tmp_path, **options)
    result = new(tmp_path)
    assert result.exit_code == 0, result.output
    recording = next(load_dataset("folder", tmp_path))
    np.testing.assert_allclose(recording.signals["emg"].data, samples, rtol=1e-5)


def test_a_column_that_is_called_like_a_range_is_one_column(tmp_path, written):
    samples = written(tmp_path, names=["1-2", "2-3", "3-4", "4-5"])
    assert new(tmp_path).exit_code == 0
    np.testing.assert_allclose(next(load_dataset("folder", tmp_path)).signals["emg"].data, samples, rtol=1e-5)


def test_a_broken_link_among_the_files_is_named(tmp_path, written):
    written(tmp_path)
    (tmp_path / "S1" / "open_4.csv").symlink_to("nothing")
    result = new(tmp_path)
    assert result.exit_code != 0 and isinstance(result.exception, DataError)
    assert "link to a file that does not exist" in str(result.exception)


def test_each_file_is_looked_at_once(tmp_path, written, monkeypatch):
    written(tmp_path)
    seen = []
    looked = folder_layout.table_content
    monkeypatch.setattr(folder_layout, "table_content", lambda path, *more: seen.append(path) or looked(path, *more))
    folder_layout.find_layout(tmp_path / "S1" / "fist_1.csv", 1000)
    assert len(seen) == 1
    folder_layout.find_layout(tmp_path, 1000)
    assert len(seen) < 1 + 3 + 1 + 6
