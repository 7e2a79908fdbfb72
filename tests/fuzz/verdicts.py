"""The verdict of one case of the fuzz, and how it follows from the behaviour of a call."""

import linecache
import re
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from pydantic import BaseModel

import emg_lens
from emg_lens import hooks, studies
from emg_lens.errors import EmgLensError

FAULTS = ("raw", "silent", "hang", "memory", "crash")
CLASSES = ("right", "changed", "noted", "refused", *FAULTS)
"""`right`: the expected values. `changed`: other values, in a format that cannot detect a change. `noted`: other values
with a note. `refused`: an error of one line. Faults are: an error that is not ours or too long (`raw`), other values
without a note (`silent`), no answer (`hang`), too much memory (`memory`), a killed process (`crash`)."""

LONGEST_MESSAGE = 2000
OUT_OF_MEMORY = ("can't allocate memory", "bad_alloc", "Unable to allocate", "not enough memory", "Cannot allocate")
OURS = tuple(f"{Path(str(package.__file__)).parent}/" for package in (emg_lens, hooks, studies))

Content = Mapping[str, Any]
"""Digest of each part that was read, by name."""


class SilentlyWrong(Exception):
    """Wrong values were read without an error or a note."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a case; faults of one kind have the same `cause`."""

    outcome: str
    change: str = ""
    cause: str = ""
    trace: str = ""


class Announcer:
    """Sends the description of a case to the parent, in case the child ends early."""

    def __init__(self) -> None:
        self.announce: Callable[[str], None] = lambda words: None


ANNOUNCER = Announcer()


@dataclass(frozen=True)
class Target:
    """One target of the fuzz.

    Attributes:
        name: Name on the command line.
        prepare: Makes the specimens in a folder. Every case receives its return value.
        attempt: One case: change a copy of the specimen in an empty folder, use it, and return the verdict.
        fraction: Fraction of the requested cases that run; smaller if one case takes long.
    """

    name: str
    prepare: Callable[[Path], Any]
    attempt: Callable[[Any, Generator, Path], Verdict]
    fraction: float = 1.0


def judge(
    act: Callable[[], tuple[Content, Collection[str]]],
    expected: tuple[Content, Collection[str]],
    change: str,
    *,
    names: Collection[str] = (),
    own: bool = False,
    must_refuse: bool = False,
) -> Verdict:
    """Call `act`, and compare its result with the expected one.

    Args:
        act: Returns content and notes.
        expected: Its result without a change.
        change: Description of the change.
        names: Names of which an error must contain one.
        own: Whether the format is ours, so that other content needs a note.
        must_refuse: Whether only an error is right.
    """
    ANNOUNCER.announce(change)
    try:
        content, notes = act()
    except Exception as error:
        return of_error(error, change, names)
    if must_refuse:
        return Verdict("silent", change, "accepted")
    known = expected[0]
    other = [
        name
        for name in {**known, **content}
        if name not in known or name not in content or known[name] != content[name]
    ]
    if not other:
        return Verdict("right", change)
    if set(notes) - set(expected[1]):
        return Verdict("noted", change)
    return Verdict("silent", change, f"other {', '.join(sorted(other)[:4])}") if own else Verdict("changed", change)


def of_error(error: Exception, change: str, names: Collection[str] = (), deliberate: bool = False) -> Verdict:
    """Return the verdict of a case that raised; `deliberate`: built-in errors of our own code are refusals too."""
    trace = "".join(traceback.format_exception(error))
    message, where = str(error), place(error)
    if isinstance(error, SilentlyWrong):
        return Verdict("silent", change, message)
    if isinstance(error, MemoryError) or any(words in message for words in OUT_OF_MEMORY):
        return Verdict("memory", change, f"{type(error).__name__} {where}", trace)
    ours = isinstance(error, EmgLensError)
    if deliberate and not ours:
        ours = isinstance(error, ValueError | TypeError | KeyError) and raised(error)
        if ours:
            return Verdict("refused", change, trace=message)
    if not ours:
        first = (
            re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "#", message.strip().splitlines()[0])[:120] if message.strip() else ""
        )
        return Verdict("raw", change, f"{type(error).__name__}: {first} {where}", trace)
    said = type(error).__name__
    if len(message.splitlines()) > 1 or "\x1b" in message or "\0" in message:
        return Verdict("raw", change, f"{said} of {len(message.splitlines())} lines {where}", trace)
    if len(message) > LONGEST_MESSAGE:
        return Verdict("raw", change, f"{said} of {len(message)} characters {where}", trace)
    if names and not any(name in message for name in names):
        return Verdict(
            "raw", change, f"{said} that names no file: {re.sub(r'[0-9]+', '#', message)[:120]} {where}", trace
        )
    return Verdict("refused", change, trace=message)


def place(error: BaseException) -> str:
    """Return the last line of our code in a traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(OURS)]
    return f"[{Path(frames[-1].filename).name}:{frames[-1].name}]" if frames else "[outside]"


def raised(error: BaseException) -> bool:
    """Whether a `raise` statement of our code raised the error."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if not last.filename.startswith(OURS):
        return False
    return any(
        linecache.getline(last.filename, n).strip().startswith("raise")
        for n in range(last.lineno or 0, (last.lineno or 0) - 6, -1)
    )


def digest(value: Any) -> str:
    """Return a text that is equal for two values if they are equal to the bit."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        return digest(value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype.str} {value.shape} {sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]}"
    if isinstance(value, np.ndarray | pd.Index):
        return digest(value.tolist())
    if isinstance(value, pd.DataFrame):
        return digest(value.to_dict("list"))
    if isinstance(value, BaseModel):
        return digest(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return digest(asdict(value))
    return sha256(repr(value).encode("utf-8", "replace")).hexdigest()[:16]
