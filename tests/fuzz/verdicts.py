"""How one case of the fuzz ends, and how that is told from what a call did."""

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
"""`right`: what was expected. `changed`: other values, in a format that cannot tell, or that the change may mean.
`noted`: other values, and a note. `refused`: one line. The others are faults: a foreign or long-winded error, other
values without a word, no answer, memory beyond the limit, a killed process."""

LONGEST_MESSAGE = 2000
OUT_OF_MEMORY = ("can't allocate memory", "bad_alloc", "Unable to allocate", "not enough memory", "Cannot allocate")
OURS = tuple(f"{Path(str(package.__file__)).parent}/" for package in (emg_lens, hooks, studies))

Content = Mapping[str, Any]
"""What was read, by the name of the part."""


class SilentlyWrong(Exception):
    """What was read cannot be right, and nothing was said."""


@dataclass(frozen=True)
class Verdict:
    """How a case ended; `cause` is the same for faults of one kind."""

    outcome: str
    change: str = ""
    cause: str = ""
    trace: str = ""


class Announcer:
    """Tells the parent of a case what is about to be done, for the case that nothing comes back."""

    def __init__(self) -> None:
        self.tell: Callable[[str], None] = lambda words: None


ANNOUNCER = Announcer()


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        name: What users call it.
        prepare: Makes the specimens in a folder; what it returns is given to every case.
        attempt: One case: change a copy of the specimen in an empty folder, use it, say how that ended.
        share: Of the cases that are asked for, how many are run: less where one takes long.
    """

    name: str
    prepare: Callable[[Path], Any]
    attempt: Callable[[Any, Generator, Path], Verdict]
    share: float = 1.0


def judge(
    act: Callable[[], tuple[Content, Collection[str]]],
    expected: tuple[Content, Collection[str]],
    change: str,
    *,
    names: Collection[str] = (),
    own: bool = False,
    must_refuse: bool = False,
) -> Verdict:
    """Call `act`, and compare what it gives with what is expected.

    Args:
        act: Gives content and notes.
        expected: What it gives without a change.
        change: The change in words.
        names: Of which an error must have one.
        own: Whether the format is ours: then other content needs a note.
        must_refuse: Whether nothing but an error is right.
    """
    ANNOUNCER.tell(change)
    try:
        found, notes = act()
    except Exception as error:
        return of_error(error, change, names)
    if must_refuse:
        return Verdict("silent", change, "accepted")
    known = expected[0]
    other = [
        name for name in {**known, **found} if name not in known or name not in found or known[name] != found[name]
    ]
    if not other:
        return Verdict("right", change)
    if set(notes) - set(expected[1]):
        return Verdict("noted", change)
    return Verdict("silent", change, f"other {', '.join(sorted(other)[:4])}") if own else Verdict("changed", change)


def of_error(error: Exception, change: str, names: Collection[str] = (), deliberate: bool = False) -> Verdict:
    """How a case ended that raised; with `deliberate`, built-in errors that our own code raises are refusals too."""
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
    """The last line of our own code that an error passed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(OURS)]
    return f"[{Path(frames[-1].filename).name}:{frames[-1].name}]" if frames else "[outside]"


def raised(error: BaseException) -> bool:
    """Whether our own code raised the error in words, and not something that it called."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if not last.filename.startswith(OURS):
        return False
    return any(
        linecache.getline(last.filename, n).strip().startswith("raise")
        for n in range(last.lineno or 0, (last.lineno or 0) - 6, -1)
    )


def digest(value: Any) -> str:
    """Text that two values share if they are the same, to the bit."""
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
