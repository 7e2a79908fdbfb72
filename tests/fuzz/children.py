"""Run cases in forked child processes with limits of memory and time; replace a child that ends early."""

import json
import os
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import psutil
from verdicts import ANNOUNCER, Target, Verdict

ADDRESS_SPACE, LEAST_FREE = 4 * 2**30, 2 * 2**30
"""Limit of address space of a child, and its least part in addition to the imports (large for torch with CUDA)."""
CPU_SECONDS, WALL_SECONDS = 20.0, 240.0
"""Limits of one case; the machine may be busy."""
CASES_A_CHILD = 100

Ended = tuple[str, int, Verdict, float]
"""Target, case, verdict, and duration in seconds."""


@dataclass
class Child:
    """A child process and its cases."""

    pid: int
    pipe: int
    target: Target
    cases: deque[int]
    cpu_at_start: float = 0.0
    started: float = field(default_factory=time.monotonic)
    current: int | None = None
    change: str = ""
    is_late: bool = False
    rest: bytes = b""


def run_cases(
    work: Sequence[tuple[Target, Any, Sequence[int]]], seed: int, scratch: Path, at_once: int, until: float
) -> Iterator[Ended]:
    """Run the cases of some targets, and yield each one when it ends.

    Args:
        work: Targets, their prepared objects, and their cases.
        seed: Seed of all random numbers.
        scratch: Folder for the cases' files.
        at_once: Number of children at a time.
        until: Value of `time.monotonic()` after which no case is started; those that run are completed.
    """
    waiting = deque(
        (target, made, cases[first : first + CASES_A_CHILD])
        for first in range(0, max(len(cases) for *_, cases in work), CASES_A_CHILD)
        for target, made, cases in work
        if first < len(cases)
    )
    prepared = {target.name: made for target, made, _ in work}
    selector, children = selectors.DefaultSelector(), []
    try:
        while waiting or children:
            over = time.monotonic() >= until
            if over:
                waiting.clear()
            while waiting and len(children) < at_once:
                children.append(_start(*waiting.popleft(), seed, scratch))
                selector.register(children[-1].pipe, selectors.EVENT_READ)
            selector.select(0.2)
            for child in list(children):
                ended, status = os.waitpid(child.pid, os.WNOHANG)
                n_cases = len(child.cases)
                yield from _arrived(child)
                if over and not ended and (child.current is None or len(child.cases) < n_cases):
                    child.cases.clear()
                    child.current = None
                    os.kill(child.pid, signal.SIGKILL)
                    ended, status = os.waitpid(child.pid, 0)
                if ended:
                    children.remove(child)
                    selector.unregister(child.pipe)
                    _end(child)
                    if child.current is not None:
                        took = time.monotonic() - child.started
                        yield child.target.name, child.cases.popleft(), _early_end(child, status), took
                    elif child.cases:
                        raise RuntimeError(f"a child of {child.target.name} ended between two cases: status {status}")
                    if child.cases and not over:
                        waiting.appendleft((child.target, prepared[child.target.name], list(child.cases)))
                elif _is_late(child):
                    child.is_late = True
                    os.kill(child.pid, signal.SIGKILL)
    finally:
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            _end(child)


def _start(target: Target, made: Any, cases: Sequence[int], seed: int, scratch: Path) -> Child:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        os.set_blocking(reading, False)
        return Child(pid, reading, target, deque(cases))
    os.close(reading)
    try:
        os.setpgid(0, 0)
        _work(target, made, cases, seed, scratch, writing)
    finally:
        os._exit(0)


def _work(target: Target, made: Any, cases: Sequence[int], seed: int, scratch: Path, pipe: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end
    most = max(ADDRESS_SPACE, psutil.Process().memory_info().vms + LEAST_FREE)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    ANNOUNCER.announce = lambda words: _send(pipe, {"change": words})
    for case in cases:
        folder = Path(tempfile.mkdtemp(prefix=f"{target.name}-{case}-", dir=scratch))
        _send(pipe, {"begin": case})
        rng = np.random.default_rng([seed, crc32(target.name.encode()), case])
        try:
            verdict = target.attempt(made, rng, folder)
        except BaseException as error:  # an error of the fuzz itself, or not an Exception
            import traceback

            verdict = Verdict("raw", "", f"{type(error).__name__} in the fuzz: {error}"[:200], traceback.format_exc())
        _send(pipe, {"end": case, **verdict.__dict__})
        shutil.rmtree(folder, ignore_errors=True)


def _send(pipe: int, message: dict) -> None:
    text = json.dumps({k: v[:6000] if isinstance(v, str) else v for k, v in message.items()}).encode() + b"\n"
    while text:
        text = text[os.write(pipe, text) :]


def _arrived(child: Child) -> Iterator[Ended]:
    """Yield the verdicts that a child has sent."""
    with suppress(BlockingIOError):
        while block := os.read(child.pipe, 2**16):
            child.rest += block
    *lines, child.rest = child.rest.split(b"\n")
    for line in lines:
        message = json.loads(line)
        if "begin" in message:
            child.current, child.started, child.cpu_at_start = (
                message["begin"],
                time.monotonic(),
                _cpu_seconds(child.pid),
            )
            child.change = ""
        elif "end" not in message:
            child.change = message["change"]
        else:
            child.cases.popleft()
            child.current = None
            yield child.target.name, message.pop("end"), Verdict(**message), time.monotonic() - child.started


def _early_end(child: Child, status: int) -> Verdict:
    """Return the verdict of a case during which its child ended."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if child.is_late:
        return Verdict("hang", child.change, f"no answer in {CPU_SECONDS:g} s")
    if number == signal.SIGKILL:
        return Verdict("memory", child.change, "killed")
    return Verdict("crash", child.change, signal.Signals(number).name if number else f"exit {os.WEXITSTATUS(status)}")


def _is_late(child: Child) -> bool:
    late = time.monotonic() - child.started
    if child.current is None or late < CPU_SECONDS:
        return False
    return late > WALL_SECONDS or _cpu_seconds(child.pid) - child.cpu_at_start > CPU_SECONDS


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a child and of its own children."""
    try:
        process = psutil.Process(pid)
        return sum(sum(one.cpu_times()[:4]) for one in [process, *process.children(recursive=True)])
    except psutil.Error:
        return 0.0


def _end(child: Child) -> None:
    """Close the pipe of a child, and kill the processes that it started."""
    os.close(child.pipe)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
