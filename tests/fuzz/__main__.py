"""Seeded fuzz: `python tests/fuzz --cases 1000 [--target NAME ...] [--seed S] [--seconds T] [--case N]`."""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from math import ceil
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["HDF5_USE_FILE_LOCKING"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / folder) for folder in ("data", "studies", "training")]


def main() -> int:
    """Run the cases, print a table, and return 1 if there are faults."""
    given = _arguments()
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: stop the children and print the faults
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="emg-lens-fuzz-", ignore_cleanup_errors=True) as scratch:
        os.environ["XDG_CACHE_HOME"] = f"{scratch}/cache"
        return _run(given, Path(scratch), began)


def _run(given: argparse.Namespace, scratch: Path, began: float) -> int:
    from children import run_cases
    from targets import targets

    known = {target.name: target for target in targets()}
    unknown = [name for name in given.target if name not in known]
    if unknown:
        sys.exit(f"no target {unknown[0]!r}; known: {', '.join(known)}")
    chosen = [known[name] for name in given.target or known]
    work = []
    for target in chosen:
        (folder := scratch / "specimens" / target.name).mkdir(parents=True)
        cases = range(given.first, given.first + ceil(given.cases * target.fraction))
        work.append((target, target.prepare(folder), cases if given.case is None else [given.case]))
    (scratch / "cases").mkdir()
    counts, causes, spent = defaultdict(Counter), defaultdict(list), Counter()
    until = time.monotonic() + given.seconds
    with suppress(KeyboardInterrupt):  # then print the faults
        for name, case, verdict, seconds in run_cases(work, given.seed, scratch / "cases", given.jobs, until):
            counts[name][verdict.outcome] += 1
            spent[name] += seconds
            causes[name, verdict.outcome, verdict.cause].append((case, verdict))
            if given.case is not None:
                sys.stdout.write(f"{verdict.outcome} | {verdict.change} | {verdict.cause}\n{verdict.trace}\n")
    return _report(counts, causes, spent, given.seed, time.monotonic() - began)


def _report(counts: dict, causes: dict, spent: Counter, seed: int, seconds: float) -> int:
    """Print the table, and one line per cause of faults."""
    from rich.console import Console
    from rich.table import Table
    from verdicts import CLASSES, FAULTS

    console = Console(width=150, highlight=False)
    table = Table("target", *CLASSES, "cases", "ms a case", title=f"seed {seed}, {seconds:.0f} s")
    for name, outcomes in counts.items():
        table.add_row(
            name,
            *(str(outcomes[outcome] or "") for outcome in CLASSES),
            str(outcomes.total()),
            f"{1000 * spent[name] / outcomes.total():.0f}",
        )
    console.print(table)
    faults = sorted(key for key in causes if key[1] in FAULTS)
    for name, outcome, cause in faults:
        cases = sorted(causes[name, outcome, cause], key=lambda one: one[0])
        first, verdict = cases[0]
        line = f"{name}: {outcome}, {len(cases)}x: {cause} | {verdict.change[:100]} | "
        console.print(line + f"--target {name} --seed {seed} --case {first}", markup=False, soft_wrap=True)
    return 1 if faults else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="of each target")
    parser.add_argument("--target", action="append", default=[], help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="after which no new case is started")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, default=None, help="only this one, with its traceback")
    parser.add_argument("--jobs", type=int, default=2, help="children at a time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
