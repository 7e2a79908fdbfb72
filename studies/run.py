"""The study runner: every subject once, in parallel, each finished one kept, then tables, figures and report.

A run lives in `<out>/<study>/<hash of the spec>/`. Starting it again continues where it stopped.
"""

import gc
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import joblib
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from emg_lens.data.registry import data_fingerprint
from emg_lens.data.registry import subjects as list_subjects
from emg_lens.io.files import write_text
from emg_lens.studies.results import RECORD, StudyResult
from emg_lens.studies.spec import COMING, Study, StudyError
from emg_lens.studies.statistics.comparison import family_sizes, power_warnings

POLL_SECONDS = 0.3

SMALLEST_PART = 0.1
"""Of a subject: less is not worth reading its recordings twice."""

_ONE_AT_A_TIME = threading.Lock()
"""torch's random state and number of threads belong to the process, so threads of one process take turns."""


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before it starts.

    Attributes:
        subjects: All subjects of the study, in order.
        n_train: Training trials of each: what its part of the run costs.
        folder: The run's folder.
        fingerprint: Of the data.
        warnings: What the user should know before waiting: significance that n subjects cannot reach, odd data.
    """

    subjects: tuple[str, ...]
    n_train: dict[str, int]
    folder: Path
    fingerprint: str
    warnings: tuple[str, ...]


def run_study(
    study: Study,
    data: str | Path | None = None,
    out: str | Path = "runs",
    jobs: int | None = None,
    device: str = "cpu",
    console: Console | None = None,
) -> StudyResult:
    """Run a study, or continue it, and write its tables, figures and report.

    Args:
        study: The study.
        data: Folder of the data set; None for simulated cohorts.
        out: Where runs are kept.
        jobs: Subjects at a time; default one a processor core. The numbers do not depend on it.
        device: A torch device.
        console: Where warnings and progress go; default the terminal's standard error.

    Raises:
        StudyError: The study does not fit the data or the machine; nothing has been written.
        DataError: A missing or damaged recording; nothing has been written.
    """
    console = console or Console(stderr=True)
    data = None if data is None else Path(data).expanduser().absolute()  # workers may stand elsewhere
    jobs = jobs or os.cpu_count() or 1
    _check_device(device)
    out = Path(out).expanduser().absolute()
    plan = _plan_of_begun(study, data, out) or prepare(study, data, out, jobs, console)
    for warning in plan.warnings:
        console.print(f"[yellow]note:[/yellow] {warning}", highlight=False, soft_wrap=True)
    _open_folder(study, data, plan)
    folders = {s: plan.folder / "subjects" / s for s in plan.subjects}
    todo = [s for s in plan.subjects if not folders[s].exists()]
    parts = wrap_around([plan.n_train[s] for s in todo], joblib.effective_n_jobs(jobs))
    if len(todo) < len(plan.subjects):
        console.print(
            f"continuing {plan.folder}: {len(plan.subjects) - len(todo)} of {len(plan.subjects)} subjects are done"
        )
    if jobs > 1:  # this process has nothing else to do
        threading.Thread(target=_import_for_the_end).start()
    with _progress_bars(console, {s: _progress_file(folders[s]) for s in todo}):
        _parallel(jobs, [(_subject_task, (study, data, todo[i], folders[todo[i]], device, end)) for i, end in parts])
    _tidy(plan.folder / "subjects")
    result = StudyResult.collect(study, plan.folder, plan.subjects)
    result.write()
    return result


def prepare(study: Study, data: Path | None, out: Path, jobs: int, console: Console) -> Plan:
    """Check the study against the data: every recording is read once, every edge set resolved. Writes nothing.

    Raises:
        StudyError, DataError: What does not fit, in one line.
    """
    study.check()
    cohort = study.cohort
    if cohort.dataset in COMING:
        raise StudyError(f"the loader of {cohort.dataset!r} is not written yet; 'emg-lens list' shows what can run")
    subjects = list_subjects(cohort.dataset, data, **cohort.options)
    if cohort.subjects is not None:
        subjects = _chosen(subjects, cohort.subjects)
    with console.status(f"reading {len(subjects)} subjects"):
        facts = _parallel(jobs, [(_describe, (study, data, s, s == subjects[0])) for s in subjects])
    channels = {json.dumps(f["modalities"]) for f in facts}
    if len(channels) > 1:
        raise StudyError(f"subjects differ in their channels: {' and '.join(sorted(channels))}; choose modalities")
    sizes = family_sizes(facts[0]["plan"], study.statistics.family)
    warnings = power_warnings(len(subjects), sizes, study.statistics)
    counts = {f["n_classes"] for f in facts}
    if len(counts) > 1:
        few = [f"{s} ({f['n_classes']})" for s, f in zip(subjects, facts, strict=True) if f["n_classes"] < max(counts)]
        warnings.append(f"subjects with fewer than {max(counts)} classes: {', '.join(few)}")
    n_train = {s: f["n_train"] for s, f in zip(subjects, facts, strict=True)}
    return Plan(tuple(subjects), n_train, _run_folder(study, out), _fingerprint(study, data), tuple(warnings))


def _describe(study: Study, data: Path | None, subject: str, with_plan: bool) -> dict:
    from emg_lens.studies.subject import describe  # in the worker: this process needs no models

    return describe(study, data, subject, with_plan)


def _chosen(known: tuple[str, ...], wanted: tuple[str | int, ...]) -> tuple[str, ...]:
    names = {str(w) for w in wanted}
    missing = names - set(known)
    if missing:
        raise StudyError(f"no subject {sorted(missing)} in the data; known: {', '.join(known)}")
    return tuple(s for s in known if s in names)


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise StudyError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None


def _run_folder(study: Study, out: Path) -> Path:
    return out / study.name / study.digest()


def _plan_of_begun(study: Study, data: Path | None, out: Path) -> Plan | None:
    """The plan of a run that was begun before: its data were checked then. None for a new one."""
    folder = _run_folder(study, out)
    if not (folder / RECORD).exists():
        return None
    known, fingerprint = json.loads((folder / RECORD).read_text()), _fingerprint(study, data)
    if known["fingerprint"] != fingerprint:
        raise StudyError(
            f"{folder} was made with other data (fingerprint {known['fingerprint']}, now {fingerprint});"
            " give another --out, or delete that folder"
        )
    return Plan(tuple(known["n_train"]), known["n_train"], folder, fingerprint, tuple(known["warnings"]))


def _fingerprint(study: Study, data: Path | None) -> str:
    return data_fingerprint(study.cohort.dataset, data, **study.cohort.options)


def _open_folder(study: Study, data: Path | None, plan: Plan) -> None:
    facts = {"folder": str(data) if data else None, "fingerprint": plan.fingerprint}
    facts |= {"warnings": plan.warnings, "n_train": plan.n_train}
    try:
        (plan.folder / "subjects").mkdir(parents=True, exist_ok=True)
        write_text(plan.folder / "spec.yaml", study.to_yaml())
        write_text(plan.folder / "environment.json", json.dumps(environment(), indent=1))
        write_text(plan.folder / RECORD, json.dumps(facts, indent=1))
    except OSError as error:
        raise StudyError(f"cannot write to {str(plan.folder)!r}: {error.strerror}; give another --out") from None


def _import_for_the_end() -> None:
    """Tables and figures need a second of imports; now nobody waits for them."""
    for name in ("emg_lens.studies.report.page", "scipy.stats", "statsmodels.stats.multitest"):
        importlib.import_module(name)


def _tidy(subjects: Path) -> None:
    """Remove progress files, and what workers that were killed have left half written."""
    for left in subjects.glob(".*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def environment() -> dict[str, str]:
    """Versions and machine that a run's numbers belong to."""
    packages = ("emg-lens", "torch", "transformer-lens", "numpy", "scipy", "pandas", "statsmodels")
    return {
        "python": platform.python_version(),
        **{p: importlib.metadata.version(p) for p in packages},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


# --- subjects side by side --------------------------------------------------------------------------------


def _subject_task(study: Study, data: Path | None, subject: str, folder: Path, device: str, share: float) -> None:
    from emg_lens.studies.subject import run_subject  # in the worker, as above

    progress = _progress_file(folder)

    def tell(fraction: float) -> None:
        progress.write_text(f"{fraction:.4f}")

    if not folder.exists():  # a cluster runs a finished task again where its answer was lost with a worker
        with _ONE_AT_A_TIME:
            run_subject(study, data, subject, folder, device, tell, share)
    if multiprocessing.parent_process() is not None:
        gc.freeze()  # a worker's last collection would take a second over all that it has imported


def wrap_around(costs: Sequence[float], n_workers: int) -> list[tuple[int, float]]:
    """Tasks, some in two parts, in the order in which workers, each taking the next as it gets free, are done soonest.

    McNaughton's rule (1959): the tasks lie end to end, longest first, and each worker gets a piece of the same length.
    A task on the border of two pieces is begun first thing by the later worker, and ended last thing by the earlier.

    Args:
        costs: What each task takes, in any unit.
        n_workers: Tasks at a time.

    Returns:
        `(task, share)` in order of start: task number, and the share of it that is done when this part ends.
    """
    left, n_left, start = sum(costs), n_workers, 0.0  # the work and workers from this one on, and when it is free
    length = max([left / n_left, *costs])
    parts: list[tuple[float, int, float]] = []  # start, task, share
    for task in sorted(range(len(costs)), key=lambda i: -costs[i]):
        cost = costs[task]
        over = (start + cost - length) / cost
        if over < SMALLEST_PART or n_left == 1:
            parts.append((start, task, 1.0))
            start += cost
            continue
        if over <= 1 - SMALLEST_PART:
            parts += [(0.0, task, over), (start, task, 1.0)]
            left, start = left - length, over * cost
        else:
            parts.append((0.0, task, 1.0))
            left, start = left - start, cost
        n_left -= 1
        length = max(left / n_left, cost)
    return [(task, share) for _, task, share in sorted(parts)]


def _progress_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.progress")


def _parallel(jobs: int, tasks: list[tuple[Callable, tuple]]) -> list:
    """Run the tasks; an error in one stops the run, after the finished ones are safe on disk."""
    workers = joblib.Parallel(n_jobs=min(jobs, max(len(tasks), 1)))
    return list(workers(joblib.delayed(function)(*arguments) for function, arguments in tasks) or [])


@contextmanager
def _progress_bars(console: Console, files: Mapping[str, Path]) -> Iterator[None]:
    """Show each subject's fraction, read from its progress file (workers may live in other processes or machines)."""
    if not files:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    stop = threading.Event()
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as progress:
        total = progress.add_task("all subjects", total=len(files))
        bars = {s: progress.add_task(f"subject {s}", total=1.0, visible=False) for s in files}

        def poll() -> None:
            done = dict.fromkeys(files, 0.0)
            while not stop.wait(POLL_SECONDS):
                for subject, file in files.items():
                    fraction = _fraction(file, done[subject])
                    running = 0 < fraction < 1
                    if fraction != done[subject] or running:
                        progress.update(bars[subject], completed=fraction, visible=running)
                    done[subject] = fraction
                progress.update(total, completed=sum(done.values()))

        watcher = threading.Thread(target=poll, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def _fraction(file: Path, before: float) -> float:
    if (file.parent / file.name.removeprefix(".").removesuffix(".progress")).exists():
        return 1.0
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return before
