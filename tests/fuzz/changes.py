"""Random changes of bytes, and of a JSON document."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from emg_lens.io.checksums import MARK, PLACEHOLDER, insert_checksum

NAMES = (
    "", " ", ".", "..", "../../x", "/etc/x", ".hidden", "NA", "nan", "None", "null", "[red]x[/red]", "[/]", "=1+1",
    "a\nb", "\x1b[31m", "<script>x</script>", "S" * 5000, "é", "‮x", "²", "\0", "a/b", "CON", "-", "'", '"', "\\",
    "{x}",
)  # fmt: skip
"""Names that may be in a file by accident or with bad intent."""

ODD = (
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e300, -1e300, float("nan"), float("inf"), 10**30, 2**63, 2**31, "",
    "x", "NA", [], {}, [None], [[]], {"a": 1}, [1, 2, 3], "1", b"x".decode(), "x" * 3000, ["x", "x"], [1e300],
)  # fmt: skip
"""Values of JSON or YAML in a place where something else is expected."""


def pick(rng: Generator, options: Any) -> Any:
    """Pick one element of a sequence at random."""
    return options[int(rng.integers(len(options)))]


def changed_bytes(content: bytes, rng: Generator) -> tuple[bytes, str]:
    """Make one to three random changes to the bytes of a file, and describe them."""
    data, words = bytearray(content), []
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        if not data:
            break
        # Headers are short, but most errors are there.
        end = len(data) if rng.random() < 0.5 else min(len(data), int(rng.choice([64, 512, 4096])))
        at, run = int(rng.integers(end)), int(min(2 ** rng.uniform(0, 12), len(data)))
        kind = pick(rng, ("flip", "byte", "zeros", "ones", "delete", "insert", "truncate", "double", "swap", "digit"))
        match kind:
            case "flip":
                data[at] ^= 1 << int(rng.integers(8))
            case "byte":
                data[at] = int(rng.integers(256))
            case "zeros":
                data[at : at + run] = bytes(len(data[at : at + run]))
            case "ones":
                data[at : at + run] = b"\xff" * len(data[at : at + run])
            case "delete":
                del data[at : at + run]
            case "insert":
                data[at:at] = rng.bytes(run)
            case "truncate":
                del data[at:]
            case "double":
                data[at:at] = data[at : at + run]
            case "swap":
                to = int(rng.integers(len(data)))
                data[at : at + 8], data[to : to + 8] = data[to : to + 8], data[at : at + 8]
            case "digit":
                digits = [i for i, b in enumerate(data[: 2**16]) if 48 <= b <= 57]
                if digits:
                    data[pick(rng, digits)] = 48 + int(rng.integers(10))
        words.append(f"{kind} at {at}")
    return bytes(data), ", ".join(words)


def changed_document(document: Any, rng: Generator) -> tuple[Any, str]:
    """Remove, rename, nest or replace one value of a JSON document, and describe the change."""
    document = json.loads(json.dumps(document))
    places = list(_places(document))
    if not places:
        return pick(rng, ODD), "another document"
    holder, key = places[int(rng.integers(len(places)))]
    kind = pick(rng, ("remove", "replace", "replace", "replace", "rename", "name", "nest"))
    match kind:
        case "remove":
            del holder[key]
        case "rename" if isinstance(holder, dict):
            holder[pick(rng, NAMES)] = holder.pop(key)
        case "name":
            holder[key] = pick(rng, NAMES)
        case "nest":
            for _ in range(int(rng.choice([1, 50, 300]))):
                holder[key] = [holder[key]]
        case _:
            holder[key] = pick(rng, ODD)
    return document, f"{kind} {key!r}"


def as_json(document: Any, rng: Generator) -> str:
    """Write the document as text; sometimes with a duplicate key, or nested too deep for any parser."""
    text = json.dumps(document)
    match int(rng.integers(20)):
        case 0:
            return text[:-1] + ("," if len(text) > 2 else "") + text[1:] if isinstance(document, dict) else text
        case 1:
            return "[" * 100_000
        case 2:
            return text.replace(":", ": 1" + "0" * 5000 + ', "x":', 1)
    return text


def odd_array(array: np.ndarray, rng: Generator) -> tuple[Any, str]:
    """Give an array another shape, type or content, and name the change."""
    array = np.atleast_1d(array)
    numbers = array.dtype.kind in "iuf"
    kinds = {
        "transposed": lambda: array.T,
        "empty": lambda: array[:0],
        "without columns": lambda: array[..., :0],
        "a row less": lambda: array[:-1],
        "half of it": lambda: array[: len(array) // 2],
        "doubled": lambda: np.concatenate([array, array]),
        "flat": lambda: array.ravel(),
        "deeper": lambda: array[None, ..., None],
        "a number": lambda: array.ravel()[0] if array.size else np.float64(0),
        "text": lambda: np.array(["NA", "text"]),
        "zero": lambda: np.zeros((0, 0)),
    }
    if numbers:
        kinds |= {
            "complex": lambda: array.astype(np.complex128) + 1j,
            "NaN": lambda: _with(array, np.nan, rng),
            "infinite": lambda: _with(array, np.inf, rng),
            "1e300": lambda: _with(array, 1e300, rng),
            "negative": lambda: _with(array, -7.0, rng),
            "fractional": lambda: _with(array, 0.5, rng),
            "2**62": lambda: _with(array, 2.0**62, rng),
            "int8": lambda: array.astype(np.int8),
            "uint8": lambda: array.astype(np.uint8),
            "uint64": lambda: array.astype(np.uint64),
            "int64": lambda: array.astype(np.int64),
            "double": lambda: array.astype(np.float64),
            "boolean": lambda: array.astype(bool),
            "big-endian": lambda: array.astype(array.dtype.newbyteorder(">")),
            "constant": lambda: np.full_like(array, array.ravel()[0] if array.size else 0),
        }
    name = pick(rng, sorted(kinds))
    with np.errstate(all="ignore"):
        return kinds[name](), name


def _with(array: np.ndarray, value: float, rng: Generator) -> np.ndarray:
    changed = array.astype(np.float64)
    if changed.size:
        changed.ravel()[int(rng.integers(changed.size))] = value
    return changed


def _places(document: Any) -> Any:
    keys = document.keys() if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        yield document, key
        yield from _places(document[key])


def with_new_checksum(path: Path) -> bool:
    """Write a correct checksum into a changed file; return False if its format has none."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    path.write_bytes(re.sub(re.escape(MARK) + rb"[0-9a-f]{64}", PLACEHOLDER.encode(), content))
    try:
        insert_checksum(path)
    except ValueError:
        path.write_bytes(content)
        return False
    return True
