"""The notebooks as they are stored; `make notebooks` runs them, and `make store-notebooks` stores their outputs."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
ABSOLUTE = r"(?<![\w.:<)\]}/+-])/[\w.-]+/[\w.-]+"
"""A path with two parts or more, after nothing that belongs to a relative path, an address, a tag or base64."""


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> dict:
    return json.loads(request.param.read_text(encoding="utf-8"))


def cells(notebook: dict, kind: str) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_are_four_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == ["1-", "2-", "3-", "4-"]


def test_notebooks_are_stored_as_one_run_from_top_to_bottom_left_them(notebook):
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell["outputs"]) for cell in code) > len(code) / 2
    assert all(not cell["metadata"] for cell in notebook["cells"])
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


def test_outputs_are_small_and_name_no_folder_of_a_machine(notebook):
    assert len(json.dumps(notebook)) < 700_000
    for output in (output for cell in cells(notebook, "code") for output in cell["outputs"]):
        text = json.dumps({**output, "data": _text(output)})
        assert not re.search("/home/|/root/|/tmp/", text) and not re.search(ABSOLUTE, text)


def _text(output: dict) -> dict:
    return {kind: text for kind, text in output.get("data", {}).items() if kind.startswith("text/")}


def test_real_recordings_are_one_variable_and_not_the_default(notebook):
    text = "".join("".join(cell["source"]) for cell in cells(notebook, "code"))
    assert "is_dir" not in text and "../" not in text
    assert text.count("os.environ") == text.count('os.environ.get("EMG_LENS_DATA")') <= 1


def test_notebooks_open_with_a_title_and_what_the_reader_will_be_able_to_do(notebook):
    opening = "".join(notebook["cells"][0]["source"])
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert opening.startswith("# ") and "With this notebook you can" in opening


def test_links_between_notebooks_lead_somewhere(notebook):
    text = "".join("".join(cell["source"]) for cell in cells(notebook, "markdown"))
    names = {path.name for path in NOTEBOOKS}
    assert set(re.findall(r"\]\(([^):]+\.ipynb)\)", text)) <= names


def test_cells_are_short(notebook):
    assert max(len(cell["source"]) for cell in cells(notebook, "code")) <= 40
