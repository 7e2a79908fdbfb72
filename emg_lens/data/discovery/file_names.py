"""Find the pattern of the files' paths, and what its fields mean, from the numbers and words that vary."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emg_lens.data.discovery.words import are_gestures, role_of, sensor_of
from emg_lens.data.files import natural_key
from emg_lens.data.recording import DataError
from emg_lens.data.sources.description import PART, FolderDescription

DATE = (
    r"(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d(?:[ T_-]*[0-2]\d[:h._-]?[0-5]\d(?:[:m._-]?[0-5]\d(?:[.,]?\d+)?)?)?(?!\d)"
    r"|(?<!\d)\d\d[-:]\d\d_\d\d\.\d\d\.\d\d(?:\d\d)?(?!\d)"
)
TOKEN = re.compile(rf"(?P<date>{DATE})|(?P<num>\d+)|(?P<word>[^\W\d_]+)|(?P<sep>.)", re.DOTALL)
SUFFIX = re.compile(r"(\.(csv|tsv|txt))?\.\w+$", re.IGNORECASE)
ENOUGH = 0.9
"""Fraction of the files that a pattern should match."""
ARRAYS = {"x", "y", "labels", "label", "subjects", "subject", "data"}
"""Names of arrays that each have a file of their own."""
MOST_CLASSES, MOST_SESSIONS = 120, 20
SETS = {"train", "test", "val", "validation", "training", "testing"}


@dataclass(frozen=True)
class FilePattern:
    """The pattern of the paths of recordings.

    Attributes:
        files: The pattern, as in a description.
        values: The value of each field in each file that matches.
        paths: These files, relative to the folder.
        assumed: Sentences on what the names do not say.
        subject: Name of the subject if no field names it.
    """

    files: str
    values: Mapping[str, Sequence[str]]
    paths: Sequence[str]
    assumed: tuple[str, ...] = ()
    subject: str | None = None


@dataclass
class _Piece:
    """Text at one place of the paths: constant, or a field."""

    kind: str
    values: list[str]
    role: str = ""
    name: str = field(default="", repr=False)

    @property
    def varies(self) -> bool:
        return len(set(self.values)) > 1

    @property
    def text(self) -> str:
        return self.values[0]


def find_pattern(paths: Sequence[str], labels_inside: bool, one_word: str) -> FilePattern:
    """Find the pattern of paths.

    Args:
        paths: Paths relative to the folder.
        labels_inside: Whether the files have labels of their own.
        one_word: Name of the subject if the paths have none.

    Raises:
        DataError: A path has braces, which mark the fields of a pattern.
    """
    if braces := next((path for path in paths if {"{", "}"} & {*path}), None):
        raise DataError(f"{braces!r} has braces, which mark fields in the pattern of the files; rename it without them")
    if len(paths) == 1:
        note = f"the subject is called {one_word}: one file does not say whose it is"
        return FilePattern(paths[0], {}, paths, (note,), one_word)
    chosen, pieces = _aligned(paths)
    _name_roles(pieces, labels_inside)
    assumed = [note for note in _explained(pieces) if note]
    subject = None
    if not any(piece.role == "subject" for piece in pieces):
        subject = one_word
        assumed.append(f"all files are of one subject, {one_word}: no field of their names looks like a subject")
    files, values = _written(pieces)
    if _matches_in_two_ways(files, chosen):
        files, values = _written(pieces, numbers=True)
    return FilePattern(files, values, chosen, tuple(assumed), subject)


# --- alignment --------------------------------------------------------------------------------------------


def _aligned(paths: Sequence[str]) -> tuple[list[str], list[_Piece]]:
    """The files of the most frequent form, and the pieces of their paths."""
    best: tuple[int, int, list[str], list[list[tuple[str, str]]]] | None = None
    for merged in (False, True):
        forms: dict[tuple, list[tuple[str, list[tuple[str, str]]]]] = defaultdict(list)
        for path in paths:
            tokens = _tokens(path, merged)
            forms[tuple(text if kind in ("sep", "suffix") else kind for kind, text in tokens)].append((path, tokens))
        most = max(forms.values(), key=len)
        columns = [{text for _, text in column} for column in zip(*(tokens for _, tokens in most), strict=True)]
        score = (len(most), sum(len(values) > 1 for values in columns))
        if best is None or score[0] > best[0]:
            best = (*score, [path for path, _ in most], [tokens for _, tokens in most])
        if score[0] >= ENOUGH * len(paths):
            break
    assert best is not None
    n, n_fields, chosen, tokens = best
    if n < ENOUGH * len(paths) and n_fields < 2 and (one := _one_field(paths)):
        return list(paths), one
    columns = zip(*tokens, strict=True)
    return chosen, [_Piece(column[0][0], [text for _, text in column]) for column in columns]


def _tokens(path: str, merged: bool) -> list[tuple[str, str]]:
    """Kind and text of the parts of a path; with `merged`, `wrist_flexion` is one word, unless it names a sensor."""
    suffix = SUFFIX.search(path)
    stem, end = (path[: suffix.start()], suffix[0]) if suffix else (path, "")
    tokens = [(match.lastgroup or "", match[0]) for match in TOKEN.finditer(stem)]
    if not merged:
        return [*tokens, ("suffix", end)]
    joined: list[tuple[str, str]] = []
    for kind, text in tokens:
        follows = len(joined) > 1 and joined[-1][1] in "_- " and joined[-2][0] == "word"
        if kind == "word" and follows and not sensor_of(text) and not sensor_of(joined[-2][1]):
            separator, first = joined.pop()[1], joined.pop()[1]
            joined.append(("word", f"{first}{separator}{text}"))
        else:
            joined.append((kind, text))
    return [*joined, ("suffix", end)]


def _one_field(paths: Sequence[str]) -> list[_Piece] | None:
    """Text before and after the one part that varies, if the files are in one folder and of one kind."""
    stems = [SUFFIX.sub("", path) for path in paths]
    ends = {path[len(stem) :] for path, stem in zip(paths, stems, strict=True)}
    first, last = min(stems), max(stems)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    cut = max((match.end() for match in re.finditer(r"[_\-\s./]", first[:same])), default=0)
    if len(ends) > 1 or any("/" in stem[cut:] or not stem[cut:] for stem in stems):
        return None
    pieces = [_Piece("sep", [first[:cut]] * len(paths))] if cut else []
    return [*pieces, _Piece("word", [stem[cut:] for stem in stems]), _Piece("suffix", [*ends] * len(paths))]


# --- roles ------------------------------------------------------------------------------------------------


def _name_roles(pieces: list[_Piece], labels_inside: bool) -> None:
    """Give each piece that varies a role, in place."""
    varying = [piece for piece in pieces if piece.varies]
    for i, piece in enumerate(pieces):
        before = next((p for p in reversed(pieces[:i]) if p.kind != "sep" or p.text == "/"), None)
        if not piece.varies:
            continue
        if piece.kind == "date":
            piece.role = "date"
        elif piece.kind == "suffix":
            piece.role = "suffix"
        elif piece.kind == "word" and _is_part({value.lower() for value in piece.values}):
            piece.role = PART
        elif {value.lower() for value in piece.values} <= SETS:
            piece.role = "set"
        elif before is not None and not before.varies and before.kind == "word":
            piece.role = role_of(before.text, of_file=True) or ""
    _copies(varying)
    roles = {piece.role for piece in varying}
    left = [piece for piece in varying if not piece.role]
    words, numbers = [p for p in left if p.kind == "word"], [p for p in left if p.kind == "num"]
    gestures = next((piece for piece in words if are_gestures(piece.values)), None)
    if gestures is not None and "label" not in roles and not labels_inside:
        gestures.role = "label"
        words.remove(gestures)
        roles.add("label")
    if "subject" not in roles and (subject := _subject_of(pieces, words, numbers, labels_inside, "label" in roles)):
        subject.role = "subject"
        words, numbers = [[p for p in some if p is not subject] for some in (words, numbers)]
    if "label" not in roles and not labels_inside and words:
        words.pop().role = "label"
        roles.add("label")
    if "label" not in roles and not labels_inside and numbers:
        label = _label_of(numbers, [piece for piece in varying if piece.role in ("subject", "session")])
        if label is not None:
            label.role = "label"
            numbers.remove(label)
    if "repetition" not in roles and numbers and not labels_inside:
        last = numbers[-1]
        label = next((piece for piece in varying if piece.role == "label"), None)
        owners = [piece for piece in varying if piece.role in ("subject", "session", "date", PART)]
        if label is None or _are_repetitions(label, last, owners):
            last.role = "repetition"
            numbers.remove(last)
    for piece in [*words, *numbers]:
        piece.role = "counter" if len(set(piece.values)) > MOST_SESSIONS else "session"


def _copies(varying: Sequence[_Piece]) -> None:
    """Mark pieces that repeat an earlier one, such as the subject in the folder and in the file name."""
    seen: dict[tuple, _Piece] = {}
    for piece in varying:
        if (
            piece.role not in (PART, "suffix", "date")
            and (first := seen.setdefault(tuple(piece.values), piece)) is not piece
        ):
            if not first.role or first.role == "copy":
                first.role = "" if piece.role == "copy" else piece.role
            piece.role = "copy"


def _is_part(values: set[str]) -> bool:
    sensors = [value for value in values if sensor_of(value)]
    others = [value for value in values if not sensor_of(value) and role_of(value) is None]
    if values <= ARRAYS and len(values) > 1:
        return True
    return len(values) > 1 and len(sensors) >= max(1, len(values) - 2) and not others


def _subject_of(
    pieces: Sequence[_Piece], words: Sequence[_Piece], numbers: Sequence[_Piece], labels_inside: bool, label_named: bool
) -> _Piece | None:
    """The unnamed piece that is most like a subject: in the first folder, or before the others."""
    labelled = labels_inside or label_named
    if label_named and not words and len(numbers) < 2:
        return None  # the repetition
    places = [i for i, piece in enumerate(pieces) if piece.text == "/"]
    in_folder = {id(piece) for piece in pieces[: max(places, default=0)]}
    for some in (numbers, words):
        first = some[0] if some else None
        if first is None:
            continue
        others = len(words) + len(numbers) - 1 + labelled
        if id(first) in in_folder and (others > 0 if some is words else True):
            if some is words and not labelled and len(words) < 2:
                continue  # a folder for each gesture
            return first
    unnamed = [*words, *numbers]
    if labelled and unnamed:
        return unnamed[0]
    if len(words) > 1 or (words and len(numbers) > 1):
        return words[0] if len(words) > 1 else numbers[0]
    if len(numbers) > 2:
        return numbers[0]
    unique = [piece for piece in unnamed if len(set(piece.values)) == len(piece.values)]
    return unique[0] if len(unnamed) == 1 and unique else None


def _label_of(numbers: Sequence[_Piece], owners: Sequence[_Piece]) -> _Piece | None:
    """The number that is most like a gesture: it comes back in each subject, with others as its repetitions."""
    keys = list(zip(*(owner.values for owner in owners), strict=True)) or [()] * len(numbers[0].values)
    returning = []
    for piece in numbers:
        times = Counter(zip(keys, piece.values, strict=True))
        if len(set(piece.values)) <= MOST_CLASSES and sum(n > 1 for n in times.values()) > len(times) / 2:
            returning.append(piece)
    if len(returning) > 1 and _are_repetitions(returning[0], returning[-1], owners):
        return returning[0]
    return min(returning, key=lambda piece: len(set(piece.values)), default=None)


def _are_repetitions(label: _Piece, number: _Piece, owners: Sequence[_Piece]) -> bool:
    """Whether the numbers of most gestures are the same ones, each once: repetitions, not a counter of files."""
    keys = list(zip(*(owner.values for owner in owners), strict=True)) or [()] * len(label.values)
    triples = list(zip(keys, label.values, number.values, strict=True))
    sets: dict[tuple, set[str]] = defaultdict(set)
    for key, one, of in triples:
        sets[key, one].add(of)
    usual = Counter(frozenset(some) for some in sets.values()).most_common(1)[0]
    overlap = [len(some & usual[0]) / len(some | usual[0]) for some in sets.values()]
    return len(set(triples)) == len(triples) and sum(overlap) / len(overlap) > 0.5


# --- text -------------------------------------------------------------------------------------------------


def _explained(pieces: Sequence[_Piece]) -> list[str]:
    said = {
        "subject": "names the subject",
        "label": "is the gesture",
        "repetition": "is the repetition",
        "session": "is a session or another recording of the subject",
        PART: "is the sensor: one file per sensor",
        "counter": "only counts files, and is not used",
    }
    notes = []
    for piece in pieces:
        if piece.varies and piece.role in said:
            different = sorted({*piece.values}, key=natural_key)
            some = ", ".join(different[:4]) + (", ..." if len(different) > 4 else "")
            notes.append(f"in the file names, {some} ({len(different)} values) {said[piece.role]}")
    return notes


def _matches_in_two_ways(files: str, paths: Sequence[str]) -> bool:
    """Whether a pattern leaves open which part of a path is which field: `{label} {repetition}` of `open hand 1`."""
    subject = {} if "{subject" in files else {"subject": "any"}
    signal = {PART: "any"} if f"{{{PART}" in files else {}
    root = Path("/")
    try:
        pattern = FolderDescription.from_content({"files": files, "fs": 1, "signals": {"emg": signal}} | subject)
        return any(pattern.places(root / path, root) is None for path in paths)
    except DataError:
        return True


def _written(pieces: Sequence[_Piece], numbers: bool = False) -> tuple[str, dict[str, list[str]]]:
    """The pattern as text, and the values of its fields; with `numbers`, numbers are written as `{name:number}`."""
    values: dict[str, list[str]] = {}
    texts: list[str] = []
    folder = [sum(before.text == "/" for before in pieces[:i]) for i in range(len(pieces))]
    fields = Counter(folder[i] for i, piece in enumerate(pieces) if piece.varies)
    for i, piece in enumerate(pieces):
        if not piece.varies:
            texts.append(piece.text)
            continue
        name = piece.role or "other"
        name = name if name not in values else f"{name}_{sum(one.startswith(name) for one in values) + 1}"
        values[name] = piece.values
        touches = (i > 0 and pieces[i - 1].varies) or (i + 1 < len(pieces) and pieces[i + 1].varies)
        kind = {"num": ":number", "word": ":text"}.get(piece.kind, "") if touches else ""
        kind = ":number" if numbers and piece.kind == "num" and fields[folder[i]] > 1 else kind
        alone = i < 2 or pieces[i - 2].kind == "sep"
        if piece.role == "subject" and not kind and i and pieces[i - 1].kind == "word" and alone:
            prefix = texts.pop()  # S1, person2
            values[name] = [f"{prefix}{value}" for value in piece.values]
        texts.append(f"{{{name}{kind}}}")
    return "".join(texts), values
