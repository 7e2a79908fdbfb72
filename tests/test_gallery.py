"""The gallery: what a run says is stored, and the page shows it word for word."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from emg_lens.studies import Study, StudyResult, catalogue
from emg_lens.studies.spec.catalog_lookup import catalogue_summary, catalogue_text

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
STORED = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "docs/gallery").glob("*.json"))}
TINY = """
name: planted-route
title: Small models of two subjects
cohort:
  dataset: simulated
  options: {simulation: {n_subjects: 2, emg_classes: 2, acc_classes: 1, joint_classes: 1, n_repetitions: 2}}
  recipe: {fs: 50}
split: {by: repetition, test: [2]}
model: {d_model: 8, n_heads: 2, n_layers: 1, d_mlp: 8}
training: {epochs: 1}
conditions:
  layer_masks: null
  removals: null
  controls: null
  extra: [{name: ACC masked, edges: "flow('acc', 'cls') | flow('acc', 'emg')"}]
views: [single]
"""


@pytest.fixture(scope="module")
def store_runs():
    sys.path.insert(0, str(ROOT / "docs/generators"))
    import store_runs

    yield store_runs
    sys.path.remove(str(ROOT / "docs/generators"))


def run_of(text: str, folder: Path) -> StudyResult:
    return Study.parse(text).run(out=folder, jobs=1)


def cards() -> dict[str, str]:
    names = re.split(r"^#### (.+)\n", PAGE, flags=re.M)
    return dict(zip(names[1::2], names[2::2], strict=True))


def plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def test_a_run_is_stored_with_the_sentences_of_its_report_and_a_small_picture(store_runs, tmp_path):
    result = run_of(TINY, tmp_path)
    content, picture = store_runs.summary(result, 1.26)
    report = (result.folder / "report.html").read_text(encoding="utf-8")
    sentences = [text for texts in content["answers"].values() for text in texts]
    assert sentences and all(text in report for text in sentences)
    assert (content["subjects"], content["models"], content["cpu_minutes"]) == (2, 2, 1.3)
    assert content["figure"] == "answers" and content["digest"] == result.folder.name
    assert len(picture) <= store_runs.MOST_BYTES and Image.open(io.BytesIO(picture)).width <= store_runs.MOST_WIDTH


def test_the_figure_shows_all_levels_that_are_compared(store_runs, tmp_path):
    study = yaml.safe_load(TINY) | {"factors": {"trained": {"long": {}, "short": {"training": {"epochs": 2}}}}}
    study["factors"]["trained"]["short"]["conditions"] = {"extra": []}
    study["views"] = ["grid", "single"]
    name, caption, _ = store_runs.figure_of(run_of(yaml.safe_dump(study), tmp_path))
    assert name == "grid" and caption.startswith("Models at every combination of levels")


def test_a_run_with_other_settings_than_the_shipped_study_is_refused(store_runs, tmp_path):
    result = run_of(TINY, tmp_path)
    with pytest.raises(SystemExit, match="no run of a shipped study"):
        store_runs.finished_run(result.folder)


def test_large_pictures_get_narrower_and_lose_colours(store_runs):
    noise = io.BytesIO()
    Image.effect_noise((2000, 200), 60).save(noise, "PNG")
    small = store_runs.small_png(noise.getvalue())
    assert Image.open(io.BytesIO(small)).size == (1600, 160) and len(small) < len(noise.getvalue()) / 2


def test_times_of_a_resumed_run_add_up(store_runs, tmp_path):
    (tmp_path / "times").write_text("one 90.0 55.0 5.0\ntwo 9 6 0\none 70.0 60.0 0.0\n", encoding="utf-8")
    assert store_runs.read_times(tmp_path / "times") == {"one": 2.0, "two": 0.1}


@pytest.mark.parametrize("first", ["# Which heads?", "# Which heads? [minutes]", "# Which heads? [9 min]"])
def test_the_first_line_of_a_study_gets_its_time(store_runs, first):
    assert store_runs.with_time(f"{first}\nname: a [b]\n", 12.4) == "# Which heads? [13 min]\nname: a [b]\n"


@pytest.mark.parametrize("name", STORED)
def test_stored_runs_are_shown_word_for_word(name):
    run, card = STORED[name], plain(cards()[name])
    sentences = [text for texts in [*run["answers"].values(), run["warnings"], run["quality"]] for text in texts[:4]]
    assert name in catalogue() and sentences and all(text in card for text in sentences)
    assert f"](gallery/{name}.png)" in card and f"{run['cpu_minutes']:.3g} CPU minutes" in card


def test_the_answer_of_a_study_of_its_own_kind_is_open():
    opened = cards()["gestures-simulated"].partition("<details>")[0]
    assert "*Which past does a detection need?*" in opened and "*Which electrodes matter?*" not in opened


@pytest.mark.parametrize("name", STORED)
def test_stored_runs_have_a_small_picture_and_a_time_in_the_list(name):
    picture = ROOT / f"docs/gallery/{name}.png"
    assert picture.stat().st_size <= 80_000 and Image.open(picture).width <= 1600
    minutes = STORED[name]["cpu_minutes"] / min(2, STORED[name]["models"])
    assert -0.1 < int(catalogue_summary(name).time.removesuffix(" min")) - minutes < 1.1


@pytest.mark.parametrize("name", catalogue())
def test_a_card_says_what_the_run_says_or_why_there_is_none(name):
    card = cards()[name]
    assert "?" in Study.load(name).question
    assert ("**What our run says** (" in card) == (name in STORED)
    assert name in STORED or "**What our run says**: not run by us" in card


def test_a_study_without_recordings_and_gpu_says_so():
    assert "because it needs a GPU, and we do not have these recordings." in cards()["isonet-table3"]
    assert "because it needs a GPU.\n" in cards()["tinymyo-transfer"]


def test_equal_questions_are_told_apart_by_their_data():
    rows = re.findall(r"^\| \[.+?\]\(#.+?\) \| (.+?) \| (.+?) \| (?:[\d.]+|–) \|$", PAGE, re.M)
    assert len(rows) == len(catalogue())
    assert len(set(rows)) >= len(rows) - 1  # force-myo: two models


def test_options_are_code_and_links_have_titles():
    assert not re.findall(r"(?<!`)(?<!\S)--[a-z]+", re.sub(r"`[^`]*`|<!--.*?-->", "", PAGE))
    assert not re.findall(r"\[[a-z]+(?:-[a-z0-9]+)*\]\([\w-]+\.md\)", PAGE)


def test_files_of_studies_have_short_lines():
    long = [name for name in catalogue() for line in catalogue_text(name).splitlines() if len(line) > 120]
    assert not long
