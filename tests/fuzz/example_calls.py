"""Fuzz of the public functions that examples call: one argument of a recorded call is replaced by an odd value.

The calls are recorded while the examples in docstrings (and `USES`, for functions without an example) run. Whatever an
odd value is, an error has one line; another form of the same array gives the same result or an error.
"""

import copy
import doctest
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch
from changes import pick
from numpy.random import Generator
from pydantic import BaseModel
from verdicts import ANNOUNCER, Target, Verdict, of_error

PACKAGES = ("", ".data", ".hooks", ".lens", ".models", ".scoring", ".sweeps", ".training", ".analysis", ".studies")
LEFT_OUT = (
    "trained_encoder",
    "StudyResult",
    "Study",
    "model_costs",
    "profile",
    "AdaptedModel",
    "adapt",
    "EmgLensError",
)
"""Public names whose examples take seconds, that measure time, or that call a user's own model."""
CALLS_OF_ONE = 3
"""Recorded calls of one function."""
HIDDEN = {"self", "cls", "inputs", "options"}
"""Arguments that are not replaced; `inputs` and `options` are passed on to a user's own function."""
ANYTHING = (None, 3, -1, 0, 2.5, 10**30, math.nan, True, "", "x", "\0", b"x", [], {}, (), [None], {"a": None}, object())
USES = Path(__file__).with_name("example_uses.py")


@dataclass(frozen=True)
class Recorded:
    """A call of a public function with valid arguments."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]

    def call(self, **changed: Any) -> Any:
        """Call the function with some other arguments."""
        given = self.arguments | changed
        kinds = inspect.signature(self.function).parameters
        positional, named = [], {}
        for name, value in given.items():
            kind = kinds[name].kind if name in kinds else inspect.Parameter.KEYWORD_ONLY
            if kind is inspect.Parameter.VAR_POSITIONAL:
                positional += value if isinstance(value, tuple) else [value]
            elif kind is inspect.Parameter.VAR_KEYWORD:
                named |= value if isinstance(value, dict) else {}
            elif kind is inspect.Parameter.KEYWORD_ONLY:
                named[name] = value
            else:
                positional.append(value)
        return self.function(*positional, **named)


def public() -> Iterator[tuple[str, Any]]:
    """Yield the public functions and classes, each once."""
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(f"emg_lens{package}")
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing) and id(thing) not in seen and name not in LEFT_OUT:
                seen.add(id(thing))
                yield name, thing


def functions() -> dict[CodeType, tuple[str, Callable]]:
    """Return the public functions by their code, and the constructors and methods of data, which users call."""
    found = {}
    for name, thing in public():
        if not inspect.isclass(thing):
            if code := getattr(inspect.unwrap(thing), "__code__", None):
                found[code] = (name, thing)
            continue
        if thing.__module__.split(".")[1] != "data" or issubclass(thing, BaseModel):
            continue
        if code := getattr(vars(thing).get("__init__"), "__code__", None):
            found[code] = (name, thing)
        for key, method in vars(thing).items():
            inner = getattr(method, "__func__", method)
            if not key.startswith("_") and (code := getattr(inspect.unwrap(inner), "__code__", None)):
                bound = isinstance(method, staticmethod | classmethod)
                found[code] = (f"{name}.{key}", getattr(thing, key) if bound else inner)
    return found


def prepare(folder: Path) -> tuple[list[Recorded], Path]:
    """Run the examples, and return the recorded calls and the folder where they ran."""
    known, calls = functions(), []
    counts: dict[str, int] = {}

    def record(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or frame.f_code not in known:
            return
        name, function = known[frame.f_code]
        if counts.get(name, 0) < CALLS_OF_ONE:
            counts[name] = counts.get(name, 0) + 1
            names = inspect.getargs(frame.f_code)
            given = [*names.args, *filter(None, (names.varargs, names.varkw))]
            skip = 1 if inspect.isclass(function) or inspect.ismethod(function) else 0
            calls.append(Recorded(name, function, {key: frame.f_locals[key] for key in given[skip:]}))

    texts = [(name, thing.__doc__ or "") for name, thing in public()]
    parser, here = doctest.DocTestParser(), Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            for name, text in texts:
                code = [compile(example.source, f"<{name}>", "single") for example in parser.get_examples(text)]
                with suppress(Exception):  # the tests of the examples find it
                    _run(code, record, dict(public()))
            _run([compile(USES.read_text(), str(USES), "exec")], record, {"__name__": "uses"})
    finally:
        os.chdir(here)
    return calls, folder


def _run(code: list[CodeType], record: Callable, names: dict[str, Any]) -> None:
    sys.setprofile(record)
    try:
        for one in code:
            exec(one, names)
    finally:
        sys.setprofile(None)


def attempt(made: tuple[list[Recorded], Path], rng: Generator, folder: Path) -> Verdict:
    """Run one case: a recorded call with one odd argument."""
    calls, place = made
    by_name: dict[str, list[Recorded]] = {}
    for call in calls:
        if set(call.arguments) - HIDDEN:
            by_name.setdefault(call.name, []).append(call)
    call = pick(rng, by_name[pick(rng, sorted(by_name))])
    key = pick(rng, sorted(set(call.arguments) - HIDDEN))
    usual = call.arguments[key]
    same = same_values(usual)
    is_same = bool(same) and rng.random() < 0.4
    words, odd = pick(rng, same if is_same else odd_values(usual))
    words = f"{call.name}({key}={words})"
    ANNOUNCER.announce(words)
    os.chdir(place)
    own = copied(call)
    try:
        result = own.call(**{key: odd})
        text = repr(result)
    except Exception as error:
        return of_error(error, words, deliberate=True)
    usual = copied(call).call() if is_same else None
    if is_same and alike(copied(call).call(), usual) and not alike(usual, result):
        return Verdict("silent", words, f"{call.name} gives another result for another form of {key}: {text[:80]}")
    return Verdict("right", words)


def copied(call: Recorded) -> Recorded:
    """Copy the arguments, which a call may change."""
    try:
        return Recorded(call.name, call.function, copy.deepcopy(call.arguments))
    except Exception:  # locks and generators cannot be copied
        return call


def same_values(value: Any) -> list[tuple[str, Any]]:
    """Return other forms of the same value."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb" and value.ndim:
        fixed = value.copy()
        fixed.flags.writeable = False
        return [
            ("big-endian", value.astype(value.dtype.newbyteorder(">"))),
            ("Fortran", np.asfortranarray(value)),
            ("reversed strides", np.ascontiguousarray(value[::-1])[::-1]),
            ("read-only", fixed),
            ("memory map", value.view(np.memmap)),
        ]
    if isinstance(value, torch.Tensor) and value.ndim:
        forms = [("strided", torch.stack([value, value], -1)[..., 0])]
        floating = value.is_floating_point()
        return [*forms, ("with gradient", value.detach().clone().requires_grad_())] if floating else forms
    if isinstance(value, bool):
        return [("numpy bool", np.bool_(value))]
    if isinstance(value, int):
        return [("numpy int", np.int64(value)), ("numpy uint8", np.uint8(value % 256))] * (0 <= value < 256)
    if isinstance(value, float):
        return [("numpy float", np.float64(value))]
    if isinstance(value, list | tuple):
        return [("tuple", tuple(value)), ("list", list(value))]
    return []


def odd_values(value: Any) -> list[tuple[str, Any]]:
    """Return values of other types, and damaged forms of a value."""
    odd: list[tuple[str, Any]] = [(" ".join(repr(one).split())[:40], one) for one in ANYTHING]
    odd += [("array", np.zeros((2, 3))), ("tensor", torch.zeros(2, 3)), ("frame", pd.DataFrame({"a": [1]}))]
    if isinstance(value, torch.Tensor):
        odd += [(f"tensor of {kind}", value.to(kind)) for kind in (torch.complex64, torch.int8)]
        odd += [(f"tensor {words}", one) for words, one in _reshaped(value)]
    if isinstance(value, np.ndarray):
        odd += [(f"array {words}", one) for words, one in _reshaped(value)]
        kinds = ("complex64", "object", "str", "float16", "longdouble", "M8[s]", "uint64", "bool", "S8")
        for kind in kinds:
            try:
                odd.append((f"array of {kind}", value.astype(kind)))
            except (TypeError, ValueError):
                continue
        odd.append(("masked array", np.ma.masked_array(value, np.ones(value.shape, bool))))
    if isinstance(value, pd.DataFrame):
        odd += [("empty frame", value[:0]), ("frame of one column less", value.iloc[:, 1:])]
        odd += [("frame of text", value.astype(str)), ("doubled frame", pd.concat([value, value]))]
    if isinstance(value, list | tuple) and value:
        kind = type(value) if type(value) in (list, tuple) else list
        odd += [(f"item {words}", kind([*value[:-1], one])) for words, one in odd_values(value[-1])]
        odd += [("one less", value[:-1]), ("doubled", [*value, *value]), ("generator", (one for one in list(value)))]
    if isinstance(value, dict) and value:
        *_, last = value
        odd += [(f"[{last!r}] {words}", value | {last: one}) for words, one in odd_values(value[last])]
        odd += [("without last key", {k: v for k, v in value.items() if k != last}), ("other key", value | {"zz": 1})]
        odd += [("key of bytes", {b"a": value[last]}), ("key None", {None: value[last]})]
    if isinstance(value, str):
        odd += [("long text", value * 5000), ("surrogate", "\udcff"), ("text with spaces", f" {value} ")]
    return odd


def _reshaped(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield forms of an array or a tensor with other shapes, or with a value that is not finite."""
    yield "with one axis more", value[None]
    if value.ndim:
        yield "empty", value[:0]
        yield "without an axis", value[0] if len(value) else value
        yield "of one less", value[:-1]
        yield "without last column", value[..., :-1]
    if "float" in str(value.dtype) and math.prod(value.shape):
        for odd in (math.nan, math.inf, 1e30):
            changed = value.detach().clone() if isinstance(value, torch.Tensor) else value.copy()
            changed.reshape(-1)[0] = odd
            yield f"with {odd}", changed


def alike(one: Any, other: Any) -> bool:
    """Whether two results are the same, where they are arrays, tensors, tables or numbers."""
    if isinstance(one, torch.Tensor | np.ndarray | float | int):
        one, other = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for x in (one, other))
        if one.dtype.kind not in "iufb" or other.dtype.kind not in "iufb":
            return True
        return one.shape == other.shape and bool(np.allclose(one, other, 1e-4, 1e-5, equal_nan=True))
    if isinstance(one, pd.DataFrame):
        return isinstance(other, pd.DataFrame) and one.round(4).to_string() == other.round(4).to_string()
    return True


TARGETS = (Target("examples", prepare, attempt),)
