"""docs/folder-recipes.md, taken at its word: each layout is written to disk, and read with the recipe of the page."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from emg_lens.data import Recipe, Segment, load_trials

PAGE = (Path(__file__).parents[2] / "docs/folder-recipes.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```yaml\n(files: .*?)^```", PAGE, re.M | re.S))
PEOPLE, GESTURES, REPETITIONS = ("ann", "ben"), ("fist", "open"), (1, 2, 3)
FS, SLOW, SECONDS = 200, 50, 2
EMG, ACC = [f"e{i}" for i in range(1, 5)], ["ax", "ay", "az"]
PERFORMED = list(product(GESTURES, REPETITIONS))


def signals(fs: int, names: list[str], seconds: float = SECONDS) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(0).normal(size=(int(fs * seconds), len(names))), columns=names)


def both(seconds: float = SECONDS) -> pd.DataFrame:
    return signals(FS, EMG + ACC, seconds)


def write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)


def in_the_name(folder: Path) -> None:
    for person, (gesture, repetition) in product(PEOPLE, PERFORMED):
        table = both()
        table.insert(0, "t", 1000 / FS * np.arange(len(table)))
        write(table, folder / person / f"{gesture}_{repetition}.csv")


def in_a_column(folder: Path) -> None:
    for person in PEOPLE:
        parts = [both().assign(gesture=name) for gesture, _ in PERFORMED for name in (gesture, "rest")]
        write(pd.concat(parts), folder / f"{person}.csv")


def file_per_sensor(folder: Path) -> None:
    for person, (gesture, repetition) in product(PEOPLE, PERFORMED):
        write(signals(FS, EMG), folder / f"{person}_{gesture}_{repetition}_emg.csv")
        write(signals(SLOW, ACC), folder / f"{person}_{gesture}_{repetition}_acc.csv")


def mixed_rows(folder: Path) -> None:
    values = [f"v{i}" for i in range(1, 5)]
    for person, (gesture, repetition) in product(PEOPLE, PERFORMED):
        emg = signals(FS, values).assign(sensor="emg")
        acc = signals(SLOW, values[:3]).assign(sensor="acc", v4=0)
        write(pd.concat([emg, acc])[["sensor", *values]], folder / f"{person}_{gesture}_{repetition}.csv")


def table_of_events(folder: Path) -> None:
    onsets = 2.0 * SECONDS * np.arange(len(PERFORMED))
    for person in PEOPLE:
        write(both(2 * SECONDS * len(PERFORMED)), folder / f"{person}_signals.csv")
        events = {"onset": onsets, "duration": float(SECONDS), "gesture": [gesture for gesture, _ in PERFORMED]}
        write(pd.DataFrame(events), folder / f"{person}_events.csv")


def matlab(folder: Path) -> None:
    seconds = 2 * SECONDS * len(PERFORMED)
    numbers = [GESTURES.index(gesture) + 1 for gesture, _ in PERFORMED]
    performed = np.repeat([value for number in numbers for value in (number, 0)], FS * SECONDS)
    repetition = np.repeat([value for _, number in PERFORMED for value in (number, 0)], FS * SECONDS)
    for person in PEOPLE:
        arrays = {"emg": signals(FS, EMG, seconds).to_numpy(), "acc": signals(SLOW, ACC, seconds).to_numpy()}
        savemat(folder / f"{person}.mat", arrays | {"stimulus": performed, "rep": repetition})


def cut_trials(folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(len(PERFORMED), 4, FS * SECONDS))
    y, rep = ([GESTURES.index(gesture) + 1 for gesture, _ in PERFORMED], [number for _, number in PERFORMED])
    for person in PEOPLE:
        np.savez(folder / f"{person}.npz", x=x, y=y, rep=rep)


def sessions(folder: Path) -> None:
    for person, day, (gesture, repetition) in product(PEOPLE, ("monday", "friday"), PERFORMED):
        write(both().assign(t=0)[["t", *EMG]], folder / person / day / f"{gesture}_{repetition}.csv")


WRITERS = {
    "Gesture and repetition in the file name": in_the_name,
    "Gesture in a column, with rest": in_a_column,
    "One file per sensor": file_per_sensor,
    "Rows of several sensors in one table": mixed_rows,
    "A table of events next to the signals": table_of_events,
    "MATLAB or HDF5, one variable per sensor": matlab,
    "Trials that are already cut, in npz": cut_trials,
    "Several sessions": sessions,
}


@pytest.mark.parametrize("title", RECIPES)
def test_a_layout_is_read_with_its_recipe(title, tmp_path):
    WRITERS[title](tmp_path)
    (tmp_path / "dataset.yaml").write_text(RECIPES[title], encoding="utf-8")
    trials = load_trials("folder", tmp_path, Recipe(fs=SLOW), Segment(stop_s=SECONDS / 2))
    again = 2 if title == "Several sessions" else 1
    assert len(trials) == again * len(PEOPLE) * len(PERFORMED)
    assert set(trials.subject) == set(PEOPLE) and trials.classes == ("closed fist", "open hand")
    numbers = [*range(1, again * len(REPETITIONS) + 1)]
    for person, y in product(PEOPLE, (0, 1)):
        assert sorted(trials.repetition[(trials.subject == person) & (trials.y == y)]) == numbers
    assert trials.modalities == ({"emg": 4, "acc": 3} if "acc" in RECIPES[title] else {"emg": 4})


def test_every_recipe_of_the_page_is_read():
    assert [*RECIPES] == [*WRITERS] == re.findall(r"^## (?!The study)([^\n]+)", PAGE, re.M)
