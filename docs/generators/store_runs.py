"""Store what finished runs of shipped studies say: `python docs/generators/store_runs.py --times FILE RUN...`.

RUN is the folder of a run, `<out>/<study>/<hash>`. FILE has one line for each run, `<study> <wall> <user> <system>`, in
seconds; run with `--jobs 1`, so that user + system is the CPU time of the whole run. Each study gets two files in
`docs/gallery`: `<study>.json` (answers, quality, numbers of subjects and models, CPU minutes, versions) and
`<study>.png` (its figure). The first line of the study's file gets the time on two cores. Then run
`python docs/generators`, which makes the page from these files.
"""

import argparse
import io
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from emg_lens.io.run_folder import ENVIRONMENT, read_facts_of_run
from emg_lens.plotting.saving import to_png
from emg_lens.studies.report.answers import answers_to_questions
from emg_lens.studies.report.limits import warnings_of_split
from emg_lens.studies.report.quality_sentences import quality_line, quality_warning
from emg_lens.studies.report.view import MAIN, VIEWS, views_of
from emg_lens.studies.report.views.answers import MOST_CELLS
from emg_lens.studies.result import StudyResult
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.results.verdicts import verdicts_of
from emg_lens.studies.runs.run_files import read_record
from emg_lens.studies.spec.catalog_lookup import catalogue
from emg_lens.studies.spec.study_spec import StudySpec

ROOT = Path(__file__).resolve().parents[2]
GALLERY, CATALOGUE = ROOT / "docs/gallery", ROOT / "studies/catalog"
MOST_WIDTH, MOST_BYTES = 1600, 80_000
"""Largest width of a picture in pixels, and its largest size."""


def figure_of(result: StudyResult) -> tuple[str, str, Figure]:
    """Return name, caption and figure that answer the question of a study.

    It is the first figure of the study's own analysis. Without one it is the main figure of the report, or the next
    figure of the report if the main one leaves out levels that the study compares.
    """
    shown = views_of(result)
    judged = sum(bool(verdicts) for _, verdicts in verdicts_of(result))
    is_complete = judged in (0, len(result.cells)) and judged <= MOST_CELLS
    own = [view for view in shown if view.answers]
    others = [view for view in shown if not view.answers and (is_complete or view.name != MAIN)]
    for view in [*own, *others, VIEWS[MAIN]]:
        for name, figure in view.figures(result).items():
            caption = next((text for start, text in view.captions.items() if name.startswith(start)), "")
            return name, ". ".join(part for part in (name.partition(" · ")[2], caption) if part), figure
    raise AssertionError("the main view always has a figure")


def warnings_of(cell: Cell) -> Iterator[str]:
    """Yield what a reader of the answers must know: a model below its reference, a posture before the movement."""
    if poor := quality_warning(cell):
        yield poor
    yield from warnings_of_split(cell)


def small_png(content: bytes) -> bytes:
    """Return a picture with at most `MOST_WIDTH` pixels a row and `MOST_BYTES` bytes, with as many colours as fit."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    picture.thumbnail((MOST_WIDTH, 10 * MOST_WIDTH))
    for colours in (256, 64, 32, 16):
        small = io.BytesIO()
        picture.quantize(colours).save(small, "PNG", optimize=True)
        if small.tell() <= MOST_BYTES:
            break
    return small.getvalue()


def summary(result: StudyResult, cpu_minutes: float) -> tuple[dict[str, Any], bytes]:
    """Return what a run says, as content of a JSON file, and its picture."""
    name, caption, figure = figure_of(result)
    versions = read_facts_of_run(result.folder, ENVIRONMENT, {})
    content = {
        "digest": result.study.digest(),
        "subjects": result.scores["subject"].nunique(),
        "models": int((result.facts["seconds"] > 0).sum()),  # copies of equal fits take no time
        "cpu_minutes": round(cpu_minutes, 1),
        "versions": {key: text for key, text in versions.items() if key != "checksum"},
        "warnings": [*dict.fromkeys(text for cell in result.cells for text in warnings_of(cell))],
        "quality": [text for cell in result.cells if (text := quality_line(cell))],
        "answers": answers_to_questions(result),
        "figure": name,
        "caption": caption,
    }
    return content, small_png(to_png(figure))


def with_time(text: str, minutes: float) -> str:
    """Return a study's file with a time at the end of its first line: `# Which heads matter? [15 min]`."""
    return re.sub(r"^(# [^\[\n]+?)(?: \[.*\])?\n", rf"\1 [{math.ceil(minutes)} min]\n", text)


def read_times(path: Path) -> dict[str, float]:
    """Return the CPU minutes of each study; a resumed run has several lines."""
    times: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, user, system = line.split()
        times[name] = times.get(name, 0.0) + (float(user) + float(system)) / 60
    return times


def finished_run(folder: Path) -> StudyResult:
    """Read a run; exit if it is not finished, or not of a shipped study as it is now."""
    result = StudyResult.load(folder)
    name, missing = result.study.name, len(read_record(folder)["n_train"]) - len(result.folders)
    if name not in catalogue() or StudySpec.load(name).digest() != result.study.digest():
        sys.exit(f"{folder} is no run of a shipped study with its present settings")
    if missing:
        sys.exit(f"{folder} is not finished: {missing} models are missing")
    return result


def main() -> None:
    """Store each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--times", type=Path, required=True, metavar="FILE")
    given = parser.parse_args()
    times = read_times(given.times)
    for folder in given.runs:
        result = finished_run(folder)
        name = result.study.name
        if name not in times:
            sys.exit(f"{given.times} has no line for {name}; expected {name} <wall> <user> <system>")
        content, picture = summary(result, times[name])
        (GALLERY / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (GALLERY / f"{name}.png").write_bytes(picture)
        file, cores = CATALOGUE / f"{name}.yaml", min(2, content["models"])
        file.write_text(with_time(file.read_text("utf-8"), times[name] / cores), "utf-8")


if __name__ == "__main__":
    main()
