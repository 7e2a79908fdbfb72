"""Fuzz of comma- and tab-separated text, compressed and not."""

import gzip
import os
from functools import partial
from pathlib import Path
from typing import Any

import test_psl_myo
import test_uci_emg
from changes import NAMES, changed_bytes, pick
from loaders import Specimen, attempt, specimens
from numpy.random import Generator
from verdicts import Target

CELLS = (
    "", "NA", "nan", "inf", "-inf", "1e300", "1e30", "-1", "0", "1.5", "x", "9" * 400, "0x10", "1_000", "١", "²",
    " ", "true", "None", "2018-13-45T99:99:99", "NaT", "'", "\x00", "é", "1,5", "9" * 5000, "2**3", "99999",
    "2147483648",
)  # fmt: skip


def text_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Change bytes, lines or cells of a text file, which may be compressed."""
    content = pick(rng, specimen.files)
    packed = content[:2] == b"\x1f\x8b"
    if packed:
        path = path.rename(path.with_name(path.name + ".gz")) if path.exists() else path.with_name(path.name + ".gz")
    chance = rng.random()
    if chance < 0.4:
        content, words = changed_bytes(content, rng)
        path.write_bytes(content)
        return words, False
    if chance < 0.5:
        return renamed(content, rng, path)
    if packed and chance < 0.53:
        path.write_bytes(gzip.compress(b"time\t" * 2**20, mtime=0) * 400)  # 2 GB
        return "bomb", True
    text = gzip.decompress(content) if packed else content
    if chance < 0.75:
        text, words = changed_bytes(text, rng)
    else:
        text, words = odd_cells(text, rng)
    path.write_bytes(gzip.compress(text, mtime=0) if packed else text)
    return words, False


def odd_cells(text: bytes, rng: Generator) -> tuple[bytes, str]:
    """Change cells, rows or columns of a table."""
    lines = text.split(b"\n")
    separator = b"\t" if b"\t" in lines[0] else b","
    kind = pick(
        rng,
        (
            "cell",
            "cell",
            "cell",
            "column",
            "drop",
            "double",
            "shuffle",
            "order",
            "wide",
            "narrow",
            "header",
            "quote",
            "encoding",
            "one row",
            "endings",
            "giant line",
        ),
    )
    row = int(rng.integers(len(lines)))
    cells = lines[row].split(separator)
    column = int(rng.integers(len(cells)))
    value = pick(rng, CELLS)
    new = value.encode() if separator == b"\t" else b'"' + value.encode() + b'"'
    match kind:
        case "cell":
            cells[column] = new
            lines[row] = separator.join(cells)
        case "column":
            lines = [
                separator.join([new if i == column else c for i, c in enumerate(line.split(separator))])
                for line in lines
            ]
        case "drop":
            del lines[row : row + int(2 ** rng.uniform(0, 9))]
        case "double":
            lines[row:row] = lines[row : row + int(2 ** rng.uniform(0, 9))]
        case "shuffle":
            lines = [lines[i] for i in rng.permutation(len(lines))]
        case "order":
            lines = lines[::-1]
        case "wide":
            lines[row] += separator + new
        case "narrow":
            lines[row] = separator.join(cells[:-1])
        case "header":
            lines = lines[1:]
        case "quote":
            lines[row] = b'"' + lines[row]
        case "encoding":
            return text.decode("latin-1").encode("utf-16"), kind
        case "one row":
            lines = lines[:2]
        case "endings":
            lines = [line.rstrip(b"\r") + b"\r" for line in lines]
        case "giant line":
            lines[row] = lines[row] * 20_000
    return b"\n".join(lines), f"{kind} in line {row + 1}, {value[:20]!r}"


def renamed(content: bytes, rng: Generator, path: Path) -> tuple[str, bool]:
    """Copy the file or its folder to another name, next to the original."""
    name = pick(
        rng, [n for n in NAMES if n and "\0" not in n and "\n" not in n and len(n) < 200 and n not in (".", "..")]
    )
    name = name.replace("/", "_")
    folder = path.parent.with_name(pick(rng, (name, "person" + name, "person²", "0²", "person007", "1" * 200)))
    folder.mkdir(exist_ok=True)
    (folder / pick(rng, (path.name, name + path.name))).write_bytes(content)
    if rng.random() < 0.5:
        path.write_bytes(content)
    return f"next to it {os.fsdecode(folder.name)[:40]!r}", False


def prepare_psl(folder: Path) -> list[Any]:
    """Polish Sign Language."""
    name = "[1]2018-07-04 17:23:13337433_4.csv"
    test_psl_myo.write(folder / "psl", name, seconds=0.5)
    return [specimens("psl-myo", f"person1/{name}", [(folder / "psl" / name).read_bytes()], folder)]


def prepare_uci(folder: Path) -> list[Any]:
    """UCI gestures, uncompressed and compressed."""
    name = "1_raw_data_13-12_22.03.16.txt"
    test_uci_emg.write(folder / "uci", name, run=40, step_ms=5)
    text = (folder / "uci" / name).read_bytes()
    return [specimens("uci-emg", f"01/{name}", [text, gzip.compress(text, mtime=0)], folder)]


TARGETS = (
    Target("psl-myo", prepare_psl, partial(attempt, text_changed)),
    Target("uci-emg", prepare_uci, partial(attempt, text_changed)),
)
