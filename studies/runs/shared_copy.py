"""Copy a run's folder without absolute paths, so that it can be given to others."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from emg_lens.io.checksums import CHECKSUMS, read_json, write_json
from emg_lens.io.run_folder import ENVIRONMENT, write_run_files
from emg_lens.studies.fits.fit_store import MODEL_CARD, WEIGHTS, check_fit, write_fit_checksums
from emg_lens.studies.runs.run_files import read_record, read_spec
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec

PLACEHOLDER_FOLDER = "FOLDER"
"""Takes the place of the folder of the recordings, as in `emg-lens run NAME --data FOLDER`."""
OF_MODELS = (WEIGHTS, "config.json", "input_statistics.safetensors", "target_statistics.safetensors")
"""Files of a fit that only a user of its model needs."""
_LEFT_OUT = (CHECKSUMS, MODEL_CARD)
_POSIX = re.compile(r"""(?<![\w./:~<>+-])~?/(?:[^\s/'"<>:;,|()\[\]]+/)+[^\s/'"<>:;,|()\[\]]*""")
_WINDOWS = re.compile(r"""\b[A-Za-z]:[\\/](?:[^\s\\/'"<>:;,|]+[\\/])*[^\s\\/'"<>:;,|]*""")
SHORTEST = 6
"""Shorter names of folders, such as `/root`, are no person's."""


def copy_for_sharing(
    folder: Path, target: Path, fits: Sequence[str], models: bool, done: Callable[[float], None] = lambda _: None
) -> None:
    """Copy the files of finished fits, and what a report needs, without absolute paths.

    Args:
        folder: The run's folder.
        target: A new folder.
        fits: Names of the folders of the finished fits.
        models: Whether weights, configuration and standardization of the models are copied.
        done: Called with the fraction of fits that are copied.

    Raises:
        StudyError: A file is damaged, or an absolute path remains in a file that cannot be changed.
    """
    study, record = read_spec(folder), read_record(folder)
    private = private_texts(study, folder, record["folder"])
    (target / "fits").mkdir(parents=True)
    environment = read_json(folder / ENVIRONMENT)
    write_json(target / ENVIRONMENT, without_paths(environment, private))
    shared = StudySpec.from_content(without_paths(study.model_dump(mode="json"), private))
    record["folder"] = None if record["folder"] is None else PLACEHOLDER_FOLDER
    write_run_files(target, shared.to_yaml(), without_paths(record, private))
    for k, name in enumerate(fits):
        check_fit(folder / "fits" / name)
        _copy_fit(folder / "fits" / name, target / "fits" / name, private, () if models else OF_MODELS)
        done((k + 1) / len(fits))
    for name in fits if (folder / "readouts").is_dir() else ():
        if (folder / "readouts" / f"{name}.safetensors").is_file():
            (target / "readouts").mkdir(exist_ok=True)
            shutil.copyfile(folder / "readouts" / f"{name}.safetensors", target / "readouts" / f"{name}.safetensors")


def _copy_fit(source: Path, target: Path, private: Sequence[str], left_out: Iterable[str]) -> None:
    without = shutil.ignore_patterns(*_LEFT_OUT, *left_out)
    shutil.copytree(source, target, ignore=without, copy_function=shutil.copyfile)
    for path in sorted(target.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(without_paths(content, private), indent=1), encoding="utf-8")
    write_fit_checksums(target)


def private_texts(study: StudySpec, folder: Path, data: str | None) -> list[str]:
    """Return the paths that must not be in an archive, the longest first: those in the study, of data, run and home."""
    weights = [spec.model.pretrained for _, spec in study.cells if spec.model.pretrained]
    weights += [str(Path(os.path.expandvars(one)).expanduser()) for one in weights]
    places = [folder.absolute(), folder.resolve(), Path.cwd(), *(Path(one) for one in (data,) if one)]
    with suppress(RuntimeError):  # a user without a home folder
        places.append(Path.home())
    texts = {
        *weights,
        *_texts(study.model_dump(mode="json")),
        *map(str, places),
        *(str(place.resolve()) for place in places),
    }
    return sorted((text for text in texts if Path(text).is_absolute() and len(text) >= SHORTEST), key=len, reverse=True)


def _texts(content: Any) -> Iterator[str]:
    """Every text in nested content, except keys."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for one in content.values() if isinstance(content, dict) else content:
            yield from _texts(one)


def without_paths(content: Any, private: Sequence[str]) -> Any:
    """Replace every absolute path in nested content by its last part, and the home folder by `~`.

    Example:
        >>> without_paths({"notes": ["read /home/ann/emg/S1.mat (ratio 1/10)"], "n": 3}, [])
        {'notes': ['read S1.mat (ratio 1/10)'], 'n': 3}
    """
    if isinstance(content, dict):
        return {without_paths(key, private): without_paths(value, private) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_paths(one, private) for one in content]
    if not isinstance(content, str):
        return content
    for text in private:
        short = "~" if _is_home(text) else Path(text).name
        content = re.sub(re.escape(text) + r"(?![\w-])", lambda _, short=short: short, content)
    content = _POSIX.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], content)
    return _WINDOWS.sub(lambda found: re.split(r"[\\/]", found[0].rstrip("\\/"))[-1], content)


def check_without_paths(folder: Path, private: Sequence[str]) -> None:
    """Check that no file of a folder holds one of these texts.

    Raises:
        StudyError: A file does.
    """
    wanted = [text.encode() for text in private]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        found = [text for text in wanted if text in content]
        if found:
            raise StudyError(
                f"{path.relative_to(folder)} holds the path {found[0].decode(errors='replace')!r}, which would be"
                " shared; run the study again from names without this path"
            )


def _is_home(text: str) -> bool:
    try:
        return Path(text) in (Path.home(), Path.home().resolve())
    except RuntimeError:
        return False
