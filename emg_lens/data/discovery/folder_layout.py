"""Find out how a folder of recordings is laid out: which files, sensors, rates, labels and repetitions it has."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from emg_lens.data.discovery.columns import EVENT_ROLES, nice_rate
from emg_lens.data.discovery.file_content import FileContent, FoundSignal, table_content
from emg_lens.data.discovery.file_names import FilePattern, find_pattern
from emg_lens.data.discovery.table_forms import text_form
from emg_lens.data.discovery.variables import array_content
from emg_lens.data.discovery.words import role_of, sensor_of
from emg_lens.data.files import files_below, regular_file
from emg_lens.data.recording import DataError
from emg_lens.data.sources.described import DESCRIPTION, SLOW_HZ
from emg_lens.data.sources.described_tables import TABLES
from emg_lens.data.sources.description import PART
from emg_lens.io.array_files import READERS

EVENTS = ("events.tsv", "events.csv")
"""Ends of the names of tables of events."""
SAMPLED = 6
"""Recordings that are looked at, of all."""
GUESS_HZ, MYO_HZ = 1000.0, 200.0
SAME_RATE = 0.012
"""Measured rates of one sensor may differ by this fraction."""
TIMES_AGREE = 0.01
Look = Callable[[Path, str | None], FileContent]


@dataclass
class FolderLayout:
    """What was found in a folder.

    Attributes:
        root: The folder.
        description: Content of a `dataset.yaml`, without the classes of labels that stand inside the files.
        comments: A comment for each key of the description, or `signals.<name>`.
        seen: Sentences on what was found.
        assumed: Sentences on what the files do not say.
        odd: Sentences on what looks wrong.
        pattern: The pattern of the paths.
        guessed_fs: The sampling rate (Hz), if it is a guess.
    """

    root: Path
    pattern: FilePattern
    description: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    guessed_fs: float | None = None


def find_layout(place: Path, fs: float | None) -> FolderLayout:
    """Look at a folder, or at one file.

    Args:
        place: The folder or file.
        fs: Sampling rate of the EMG (Hz), if the user states it.

    Raises:
        DataError: It has no file with samples.
    """
    if fs is not None and fs < SLOW_HZ:
        raise DataError(f"--fs {fs:g} is one sample every {1 / max(fs, 1e-9):.3g} s; write Hz: 200 for 0.2 kHz")
    root = place.parent if place.is_file() else place
    files = [place] if place.is_file() else files_below(place)
    look = lru_cache(maxsize=4)(look_at)  # a large file takes long
    chosen, ignored = _data_files(files, root, look)
    paths = [path.relative_to(root).as_posix() for path in chosen]
    first = look(chosen[0], None)
    pattern = find_pattern(paths, "label" in first.sources, place.stem if place.is_file() else place.resolve().name)
    pattern = _with_events(pattern, root)
    layout = FolderLayout(root, pattern, assumed=[*pattern.assumed])
    left = len({*paths} - {*pattern.paths})
    layout.seen.append(f"{len(pattern.paths)} files {pattern.files!r}")
    if left:
        some = ", ".join([path for path in paths if path not in set(pattern.paths)][:3])
        layout.odd.append(f"{left} files have other names and are not read: {some}")
    if ignored:
        layout.seen.append(f"not read, as they hold no samples or are of another kind: {', '.join(ignored)}")
    contents = _contents(root, pattern, look)
    _describe(layout, contents, fs)
    return layout


def _with_events(pattern: FilePattern, root: Path) -> FilePattern:
    """Add tables of events that stand next to the recordings, as in BIDS: `x_emg.edf` and `x_events.tsv`."""
    match = re.fullmatch(r"(.*_)([^\W_{}]+\.\w+)", pattern.files)
    if match is None or PART in pattern.values:
        return pattern
    before, part = match.groups()
    beside = {path: [path.removesuffix(part) + name for name in EVENTS] for path in pattern.paths}
    present = {path: found[0] for path, some in beside.items() if (found := [f for f in some if (root / f).is_file()])}
    if len(present) < len(pattern.paths):
        return pattern
    values = {name: [*some, *some] for name, some in pattern.values.items()}
    values[PART] = [part] * len(pattern.paths) + [
        present[path].removeprefix(path.removesuffix(part)) for path in pattern.paths
    ]
    paths = [*pattern.paths, *(present[path] for path in pattern.paths)]
    note = "the gestures are the events in the tables next to the recordings"
    return FilePattern(f"{before}{{{PART}}}", values, paths, (*pattern.assumed, note), pattern.subject)


def look_at(path: Path, default: str | None) -> FileContent:
    """What one file holds; `default` is the modality of what has no name."""
    if path.suffix.lower() in READERS:
        return array_content(path, default)
    form = text_form(path)
    return FileContent() if form is None else table_content(path, form, default)


def _data_files(files: Sequence[Path], root: Path, look: Look) -> tuple[list[Path], list[str]]:
    """The files of the kind that holds most samples, and the other kinds in words."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        name = path.relative_to(root).as_posix()
        if not any(part.startswith(".") for part in name.split("/")) and path.name not in (DESCRIPTION, "study.yaml"):
            groups["".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()].append(
                path
            )
    sizes: dict[str, int] = {}
    reasons: list[str] = []
    for kind, some in groups.items():
        if Path(f"x{kind}").suffix not in (*TABLES, *READERS):
            continue
        try:
            if any(look(path, None).signals for path in some[:: max(1, len(some) // 3)][:3]):
                sizes[kind] = sum(regular_file(path).stat().st_size for path in some)
        except DataError as error:
            reasons.append(str(error))
    if not sizes:
        some = ", ".join(path.name for path in files[:3]) or "no file"
        known = ", ".join((*TABLES, *READERS))
        raise DataError(
            reasons[0] if reasons else f"{root} has no file with samples of sensors; expected {known}; found {some}"
        )
    best = max(sizes, key=lambda kind: sizes[kind])
    others = [f"{len(some)} x {kind or 'no suffix'}" for kind, some in groups.items() if kind != best]
    return sorted(groups[best]), others


def _contents(root: Path, pattern: FilePattern, look: Look) -> dict[str, list[FileContent]]:
    """Contents of some files of each part ("" if each recording is one file)."""
    by_part: dict[str, list[str]] = defaultdict(list)
    for path, part in zip(pattern.paths, pattern.values.get(PART, [""] * len(pattern.paths)), strict=True):
        by_part[part].append(path)
    contents: dict[str, list[FileContent]] = {}
    for part, paths in by_part.items():
        step = max(1, len(paths) // SAMPLED)
        contents[part] = [look(root / path, sensor_of(part)) for path in paths[::step][:SAMPLED]]
    return contents


# --- description ------------------------------------------------------------------------------------------


def _describe(layout: FolderLayout, contents: dict[str, list[FileContent]], fs: float | None) -> None:
    """Fill in the description."""
    pattern, description = layout.pattern, layout.description
    description["files"] = pattern.files
    inside = _subjects_inside(contents)
    if pattern.subject is not None and not inside:
        description["subject"] = pattern.subject
        layout.comments["subject"] = "ASSUMED: all files are of this subject"
    elif pattern.subject is not None:
        description["subject"] = inside
        layout.seen.append(f"subjects in {_source(inside)}")
        layout.assumed = [text for text in layout.assumed if "subject" not in text]
    found: dict[str, tuple[str, list[FoundSignal]]] = {}
    for part, some in contents.items():
        for signal in some[0].signals:
            same = [s for content in some for s in content.signals if s.sensor == signal.sensor]
            if signal.sensor in found:
                layout.odd.append(
                    f"{signal.sensor} stands in {part!r} and in {found[signal.sensor][0]!r}; only the latter is used"
                )
            elif role_of(part) not in ("label", "repetition"):
                found[signal.sensor] = part, same
            if len(same) < len(some):
                layout.odd.append(
                    f"{signal.sensor} is missing in {len(some) - len(same)} of {len(some)} files that were looked at"
                )
        layout.assumed += [note for note in some[0].notes if note not in layout.assumed]
        layout.odd += some[0].odd
        if some[0].unused:
            where = f" of the {part} files" if part else ""
            layout.seen.append(f"not used{where}: {_some(some[0].unused)}")
    if not found:
        raise DataError(f"{layout.root}: no channels of a sensor in {pattern.files!r}")
    order = sorted(found, key=lambda name: (name != "emg", [*found].index(name)))
    rates = {name: _rate_of(found[name][1]) for name in order}
    reference = fs or rates[order[0]][0] or max((rate or 0.0 for rate, _ in rates.values()), default=0.0)
    if not reference:
        reference = _guessed_rate(layout, found[order[0]][1][0])
    elif fs:
        layout.comments["fs"] = "stated with --fs (Hz)"
        if rates[order[0]][0] and abs(fs / (rates[order[0]][0] or fs) - 1) > SAME_RATE:
            layout.odd.append(
                f"--fs is {fs:g} Hz, but {rates[order[0]][1]} of {order[0]} says {rates[order[0]][0]:g} Hz"
            )
    else:
        layout.comments["fs"] = f"rows per second (Hz), from {rates[order[0]][1]}"
    description["fs"] = reference
    description |= next(iter(contents.values()))[0].options
    description["signals"] = {}
    for name in order:
        part, same = found[name]
        _describe_signal(layout, name, part, same, rates[name][0], len(found[order[0]][1][0].data))
    _shared_times(layout, {name: found[name][1] for name in order})
    _describe_sources(layout, contents)


def _subjects_inside(contents: dict[str, list[FileContent]]) -> dict[str, Any]:
    """Where the subjects stand, if that is inside the files."""
    for part, some in contents.items():
        source = some[0].sources.get("subject", {}) or ({"part": part} if part and role_of(part) == "subject" else {})
        if source:
            return {**source, **({"part": part} if part else {})}
    return {}


def _describe_signal(
    layout: FolderLayout, name: str, part: str, same: list[FoundSignal], rate: float | None, reference_rows: int
) -> None:
    first, fs = same[0], layout.description["fs"]
    place: dict[str, Any] = {"part": part} if part else {}
    place |= {key: value for key, value in first.place.items() if key != "time"}
    if "columns" in place:
        place["columns"] = _span(place["columns"])
    own = part or "rows" in place or "key" in place
    if rate is None and own and name != next(iter(layout.description["signals"]), name):
        rate = nice_rate(fs * len(first.data) / reference_rows)
        if abs(rate / fs - 1) > SAME_RATE:
            layout.assumed.append(f"{name} has {rate:g} Hz, from its number of samples")
    if rate is not None and abs(rate / fs - 1) > SAME_RATE and own:
        place["fs"] = rate
    native = [signal.native_fraction for signal in same]
    if max(native) < 1:
        actual = nice_rate(float(f"{(rate or fs) * float(np.median(native)):.3g}"))
        place["native_fs"] = actual
        layout.odd.append(
            f"{name}: {1 - np.median(native):.0%} of its rows repeat the row before: the signal changes at {actual:g}"
            " Hz"
        )
    comment = _channels(first)
    if not first.sure:
        comment = f"ASSUMED to be {name}: no name says so; {comment}"
        layout.assumed.append(f"the {first.data.shape[1]} channels without a telling name are {name}")
    layout.description["signals"][name] = place
    layout.comments[f"signals.{name}"] = comment
    layout.seen.append(f"{name}: {_channels(first)} at {place.get('fs', fs):g} Hz")


def _shared_times(layout: FolderLayout, found: dict[str, list[FoundSignal]]) -> None:
    """Declare the columns of times, if they rise at one rate in all files that were looked at."""
    signals = layout.description["signals"]
    times = {}
    for name, same in found.items():
        rates = [signal.fs for signal in same if signal.fs is not None]
        fs = signals[name].get("fs", layout.description["fs"])
        steady = len(rates) == len(same) and all(abs(rate / fs - 1) < TIMES_AGREE for rate in rates)
        if "time" in same[0].place and all("time" in signal.place for signal in same):
            if steady:
                times[name] = same[0].place["time"]
            elif rates:
                low, high = min(rates), max(rates)
                layout.odd.append(
                    f"{name}: its times give {low:.5g} to {high:.5g} Hz in the {len(same)} files that were looked"
                    f" at, so that they are not used; fs is {fs:g} Hz"
                )
    different = {str(time) for time in times.values()}
    if len(different) == 1 and len(times) == len(found):
        layout.description["time"] = next(iter(times.values()))
        layout.comments["time"] = "must rise and agree with fs"
    else:
        for name, time in times.items():
            signals[name]["time"] = time


def _describe_sources(layout: FolderLayout, contents: dict[str, list[FileContent]]) -> None:
    """Say where labels and repetition numbers stand."""
    description, fields = layout.description, layout.pattern.values
    for role in ("label", "repetition"):
        for part, some in contents.items():
            source = {**some[0].sources.get(role, {})}
            of_part = {"part": part} if part and part != next(iter(description["signals"].values())).get(PART) else {}
            if of_part and role_of(part) == role and not source:
                source = of_part
            events = {name: some[0].sources[name]["column"] for name in EVENT_ROLES if name in some[0].sources}
            if source and role == "label" and "onset" in events and len(events) > 1:
                source |= dict([*events.items()][:2])
            if source and role not in description:
                description[role] = {**source, **of_part}
        if role not in description and role in fields:
            description[role] = {"field": role}
    if "session" in fields and description.get("repetition") == {"field": "repetition"}:
        del description["repetition"]
        layout.assumed.append(
            "repetitions are counted through all sessions of a subject; the numbers in the names are not used, because"
            " they start again in each session"
        )
    if "label" not in description:
        layout.odd.append("no labels were found: neither in the names of the files nor inside them")
    elif "repetition" not in description:
        layout.comments["label"] = "repetitions are counted: the runs of a gesture, in the order of the files"
    if "label" in description and "field" not in description["label"]:
        layout.seen.append(f"labels in {_source(description['label'])}")
    if "repetition" in description and "field" not in description["repetition"]:
        layout.seen.append(f"repetition numbers in {_source(description['repetition'])}")


def _source(source: dict[str, Any]) -> str:
    parts = {"column": "column", "key": "variable", PART: "the files"}
    return ", ".join(f"{parts[name]} {value}" for name, value in source.items() if name in parts)


def _rate_of(same: Sequence[FoundSignal]) -> tuple[float | None, str]:
    rates = [signal.fs for signal in same if signal.fs is not None]
    return (nice_rate(float(np.median(rates))), same[0].source) if rates else (None, "")


def _guessed_rate(layout: FolderLayout, signal: FoundSignal) -> float:
    """A rate where the files have none: that of a Myo band, if the samples look like its."""
    data = signal.data[:5000]
    myo = data.shape[1] in (8, 16) and (data == np.round(data)).all() and np.abs(data).max() <= 128
    rate, why = (MYO_HZ, "as of a Myo band") if myo else (GUESS_HZ, "a guess")
    layout.guessed_fs = rate
    layout.comments["fs"] = f"ASSUMED ({why}): the files do not say it; rows per second (Hz)"
    layout.assumed.append(f"the sampling rate is {rate:g} Hz ({why}): the files do not say it; state it with --fs")
    return rate


def _channels(signal: FoundSignal) -> str:
    n = signal.data.shape[1]
    return f"{n} channel{'s' * (n > 1)}"


def _span(columns: Sequence[str | int]) -> Any:
    """Columns as a range if they follow each other."""
    if len(columns) > 2 and all(isinstance(one, int) for one in columns):
        first, last = int(columns[0]), int(columns[-1])
        if list(columns) == list(range(first, last + 1)):
            return f"{first}-{last}"
    return list(columns)


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
