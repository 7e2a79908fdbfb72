"""Runs that are killed and started again at once, over and over: nothing lost, nothing left.

`python tests/bench/kills.py [--kills 100] [--seed 0]` runs three small studies (plain; two factors and seeds; trials of
a user's own file) with `emg-lens run`, ends each run at a random moment in one of four ways, starts it again at once,
and so on until it is finished; then from anew. Every finished run is compared with an undisturbed one, byte for byte
but for times that are measured, and every process that a killed run has started must be gone soon after.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from emg_lens.data import TrialSet

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))
from tiny import TINY  # noqa: E402

GONE_SECONDS = 20
LONGEST = 1.3
"""Of an undisturbed run, the latest moment of a kill: some runs are finished before."""
MARK = "EMG_LENS_KILLS"
MEASURED = ("seconds", "folder", "fit.json", "checksum")
"""Entries of JSON files that may differ, at any depth: times, places, and checksums of files that hold them."""


class Kill(NamedTuple):
    """A way to end a run: a signal, to whom, and what the command then says it ended with."""

    name: str
    number: int
    group: bool
    code: int


KILLS = (
    Kill("SIGKILL, parent alone", signal.SIGKILL, False, -signal.SIGKILL),
    Kill("SIGKILL, whole group", signal.SIGKILL, True, -signal.SIGKILL),
    Kill("SIGTERM, parent alone", signal.SIGTERM, False, 128 + signal.SIGTERM),
    Kill("Ctrl-C, whole group", signal.SIGINT, True, 128 + signal.SIGINT),
    Kill("Ctrl-C, parent alone", signal.SIGINT, False, 128 + signal.SIGINT),
)


class KilledStudy:
    """One study that is run in a folder, undisturbed once, then killed until it is finished, again and again."""

    def __init__(self, folder: Path, name: str, epochs: int, trials: Path | None = None, **changes: object) -> None:
        content = {**yaml.safe_load(TINY), "name": name, **changes}
        content["training"]["epochs"] = epochs
        if trials is not None:
            content["conditions"] = {"layer_masks": {}}
        self.spec, self.folder, self.trials = folder / f"{name}.yaml", folder / name, trials
        self.spec.write_text(yaml.safe_dump(content, sort_keys=False))
        self.seconds = 0.0

    def start(self, out: str, mark: str = "") -> subprocess.Popen:
        """Start the command, in a process group of its own; what it prints goes to a file beside the runs."""
        command = [sys.executable, "-m", "emg_lens", "run", str(self.spec), "--out", str(self.folder / out)]
        command += ["--jobs", "2", *(["--data", str(self.trials)] if self.trials else [])]
        self.folder.mkdir(exist_ok=True)
        with self._printed.open("wb") as printed:
            environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"}
            return subprocess.Popen(
                command, stdout=printed, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def run_undisturbed(self) -> None:
        """The run that others are compared with, and how long it takes."""
        started = time.monotonic()
        assert self.start("undisturbed").wait() == 0, self.printed()
        self.seconds = time.monotonic() - started

    def printed(self) -> str:
        """What the last command printed."""
        return self._printed.read_text(errors="replace")

    def differences(self) -> list[str]:
        """Files of the killed run that are not those of the undisturbed one."""
        one, other = (_contents(self.folder / out) for out in ("undisturbed", "killed"))
        return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))

    def start_anew(self) -> None:
        """Forget the killed run."""
        shutil.rmtree(self.folder / "killed", ignore_errors=True)

    @property
    def _printed(self) -> Path:
        return self.folder / "printed.txt"


def three_studies(folder: Path, epochs: int) -> list[KilledStudy]:
    """The three, in a folder of their own."""
    rng, y = np.random.default_rng(0), np.tile(np.arange(3), 16)
    x = rng.normal(size=(48, 3, 20)) + y[:, None, None]
    given = {"subject": np.repeat(["A", "B"], 24), "repetition": np.arange(48) // 3 % 8}
    TrialSet.from_arrays(x=x, y=y, **given, channels={"emg": 2, "acc": 1}, fs=20.0).save(folder / "mine.h5")
    factors = {"sensors": {"both": {}, "width": {"model": {"d_mlp": 24}}}, "seed": 2}
    own = {"cohort": {"dataset": "trials"}, "split": {"by": "repetition", "test": [1, 5]}}
    return [
        KilledStudy(folder, "plain", epochs),
        KilledStudy(folder, "factors", epochs // 3, factors=factors),
        KilledStudy(folder, "own", 2 * epochs, folder / "mine.h5", **own),
    ]


class Tally(NamedTuple):
    """What became of one kill."""

    study: str
    kill: str
    after_s: float
    code: int
    faults: list[str]


def kill_again_and_again(
    studies: list[KilledStudy], n_kills: int, seed: int, kinds: tuple[Kill, ...] = KILLS
) -> Iterator[Tally]:
    """Kill runs of the studies in turn, each until it is finished; what was killed must be gone in time.

    Yields:
        One a kill, and one a finished run (`kill` is then `"finished"`).
    """
    rng, watched, done, turns = random.Random(seed), dict[str, float](), 0, itertools.cycle(studies)
    for study in studies:
        study.run_undisturbed()
    while done < n_kills:
        study = next(turns)
        study.start_anew()
        finished = False
        while not finished:
            kill, mark = kinds[done % len(kinds)], f"{os.getpid()}.{seed}.{done}"
            moment, started = rng.uniform(0, LONGEST * study.seconds) if done < n_kills else np.inf, time.monotonic()
            process = study.start("killed", mark)
            while process.poll() is None and time.monotonic() - started < moment:
                time.sleep(0.005)
            if process.poll() is None:
                (os.killpg if kill.group else os.kill)(process.pid, kill.number)
                watched[mark] = time.monotonic()
            code = process.wait()
            finished = code == 0 or mark not in watched  # it may end in the moment of the kill
            if finished:
                watched.pop(mark, None)
                faults = [f"exit code {code}: {study.printed()[-500:]}"] if code else []
                faults += [f"other bytes: {name}" for name in study.differences()]
                yield Tally(study.folder.name, "finished", time.monotonic() - started, code, faults)
                continue
            done += 1
            faults = []
            if code not in (kill.code, -kill.number):  # while Python starts or ends, the signal itself ends it
                faults.append(f"exit code {code}, expected {kill.code}")
            if "Traceback" in study.printed() and kill.number != signal.SIGKILL:
                faults.append(f"a traceback: {study.printed()[-500:]}")
            faults += [f"left after {GONE_SECONDS} s: {left}" for left in _left(watched)]
            yield Tally(study.folder.name, kill.name, time.monotonic() - started, code, faults)
    while watched:
        time.sleep(0.1)
        for left in _left(watched):
            yield Tally("", "left", GONE_SECONDS, 0, [f"left after {GONE_SECONDS} s: {left}"])


def _left(watched: dict[str, float]) -> list[str]:
    """Processes that were started by a run that was killed too long ago; runs without any are watched no more."""
    alive = {mark: names for mark in watched if (names := _processes(mark))}
    late = {mark for mark, since in watched.items() if mark in alive and time.monotonic() - since > GONE_SECONDS}
    for mark in [mark for mark in watched if mark not in alive or mark in late]:
        del watched[mark]
    return [name for mark in late for name in alive[mark]]


def _processes(mark: str) -> list[str]:
    """Command lines of all processes with this mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
        except OSError:  # it has ended
            continue
    return found


def _without_measured(content: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in content.items() if key not in MEASURED}


def _contents(out: Path) -> dict[str, object]:
    """Read what must be equal in two runs, by file name. The lock is the only hidden file that may exist."""
    found: dict[str, object] = {}
    for file in sorted(file for file in out.rglob("*") if file.is_file()):
        name = str(file.relative_to(out))
        if file.name.startswith(".lock") or file.suffix in (".png", ".pdf") or file.name == "report.html":
            continue
        found[name] = file.read_bytes()
        if file.suffix == ".json":
            found[name] = json.loads(file.read_text(), object_hook=_without_measured)
    return found


def main() -> None:
    """Print what became of every kill, and exit with 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    folder, wrong, finished = Path(tempfile.mkdtemp(prefix="kills-")), 0, 0
    for tally in kill_again_and_again(three_studies(folder, options.epochs), options.kills, options.seed):
        finished += tally.kill == "finished"
        wrong += bool(tally.faults)
        print(f"{tally.study:8} {tally.kill:24} {tally.after_s:6.2f} s  code {tally.code}", *tally.faults, flush=True)  # noqa: T201
    print(f"{options.kills} kills, {finished} runs finished, {wrong} faults")  # noqa: T201
    shutil.rmtree(folder)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
