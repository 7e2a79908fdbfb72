"""The notebooks as they are shipped; `pytest --nbmake notebooks` runs them."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> dict:
    return json.loads(request.param.read_text(encoding="utf-8"))


def cells(notebook: dict, kind: str) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_are_four_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == ["1-", "2-", "3-", "4-"]


def test_notebooks_are_shipped_without_outputs(notebook):
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells(notebook, "code"))
    assert all(not cell["metadata"] for cell in notebook["cells"])


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
