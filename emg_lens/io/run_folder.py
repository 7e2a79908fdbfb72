"""The folder of a run, of a study or of a pre-training: what is run, on which machine, with which data.

Each of the three files holds its checksum. One process at a time works in the folder.
"""

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any

from safetensors import SafetensorError

from emg_lens.errors import EmgLensError
from emg_lens.io.checksums import (
    PLACEHOLDER,
    DamagedFileError,
    check_file,
    read_json,
    replacing_with_checksum,
    write_json,
)
from emg_lens.io.locking import exclusive_lock
from emg_lens.io.os_errors import reason_of, remedy

SPEC, ENVIRONMENT, RECORD = "spec.yaml", "environment.json", "data.json"
"""The specification; versions and machine; the facts of the data."""
LATER = "later"
"""Key of `ENVIRONMENT`: the environments in which the run was resumed, if they differ from the first one."""


class RunFolderError(EmgLensError, ValueError):
    """A run's folder that cannot be written, is damaged, or does not belong to the run."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Context for writing: an error inside becomes one line that names what cannot be written."""
    if "\0" in str(folder):  # Python's own error is no OSError
        raise RunFolderError(f"the path {str(folder)!r} holds a null character; give another --out")
    try:
        yield
    except (OSError, SafetensorError) as error:
        advice = remedy(error, "make room")
        raise RunFolderError(
            f"cannot write to {str(folder)!r}: {reason_of(error)}; {advice}, or give another --out"
        ) from None


@contextmanager
def locked_folder(folder: Path) -> Iterator[str | None]:
    """Make the folder and hold its lock.

    Yields:
        None, or the reason why this file system gives no lock.

    Raises:
        RunFolderError: The folder cannot be made, or its path is not UTF-8.
        BusyError: Another process holds the lock.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # the library of the weights cannot read them there
        raise RunFolderError(f"the path {str(folder)!r} is not UTF-8; give another --out") from None
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder / ".lock", instead="wait until it is done, or give another --out") as without:
        yield without


def environment() -> dict[str, str]:
    """Return the versions of Python and of packages, and the machine."""
    packages = ("emg-lens", "torch", "transformer-lens", "numpy", "scipy", "pandas")
    return {
        "python": platform.python_version(),
        **{p: importlib.metadata.version(p) for p in packages},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def write_run_files(folder: Path, spec: str, record: Mapping[str, Any]) -> None:
    """Write the specification (YAML) and the record of the data with checksums; for a new run also the environment."""
    with writing(folder):
        with replacing_with_checksum(folder / SPEC) as partial:
            partial.write_text(f"# {PLACEHOLDER}\n{spec}", encoding="utf-8")
        if not (folder / ENVIRONMENT).exists():
            write_json(folder / ENVIRONMENT, environment())
        write_json(folder / RECORD, record)


def record_environment(folder: Path) -> str | None:
    """Add this environment to those of a run, and return a note if its versions are not those of the first one.

    Raises:
        RunFolderError: The file of the environments is damaged, or it cannot be written.
    """
    recorded, now = read_facts_of_run(folder, ENVIRONMENT, {}), environment()
    later = recorded.pop(LATER, [])
    if now not in (recorded, *later):
        with writing(folder):
            write_json(folder / ENVIRONMENT, {**recorded, LATER: [*later, now]})
    names = [name for name in now if name != "machine" and now[name] != recorded.get(name)]
    if not names:
        return None
    changed = ", ".join(f"{name} {recorded.get(name, 'unknown')}, now {now[name]}" for name in names)
    return f"{folder} was started with other versions ({changed}), so results of its parts may differ"


def check_spec(folder: Path) -> Path:
    """Check that the specification was not changed after the run, and return its path."""
    path = folder / SPEC
    try:
        if not check_file(path):
            raise DamagedFileError(f"{path} was changed after it was written: its checksum is missing")
    except OSError as error:
        reason = "it holds no spec.yaml" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise RunFolderError(f"{str(folder)!r} is not a run's folder: {reason}") from None
    except DamagedFileError as error:
        raise RunFolderError(f"{error}; to run a changed specification, give emg-lens your own file") from None
    return path


def read_facts_of_run(folder: Path, name: str, kinds: Mapping[str, type | UnionType]) -> dict[str, Any]:
    """Read `RECORD` or `ENVIRONMENT`; `kinds` are the keys that it must have, with the type of each value."""
    path = folder / name
    try:
        facts = read_json(path)
        wrong = [key for key, kind in kinds.items() if not isinstance(facts[key], kind)]
        if wrong:
            raise ValueError(f"{wrong[0]} has another type than was written")
        return facts
    except (OSError, ValueError, KeyError) as error:
        advice = remedy(error, f"delete {folder if name == RECORD else path} and run again")
        raise RunFolderError(f"{path} cannot be read ({error}); {advice}") from None
