"""Share a run as one zip file, from which its report can be written elsewhere without the recordings."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from emg_lens.io.archives import SUFFIX, pack, unpack
from emg_lens.io.checksums import CHECKSUMS
from emg_lens.io.os_errors import check_regular, reason_of, remedy
from emg_lens.io.run_folder import RunFolderError, writing
from emg_lens.studies.result import StudyResult
from emg_lens.studies.runs.run_files import read_record, read_spec
from emg_lens.studies.runs.shared_copy import check_without_paths, copy_for_sharing, private_texts
from emg_lens.validation import checked

RENDERED, COPIED = 0.6, 0.2
"""Fractions of the time that rendering and copying take, for progress."""


@checked
def share_run(
    run: str | Path,
    archive: str | Path | None = None,
    *,
    models: bool = False,
    done: Callable[[float], None] | None = None,
) -> Path:
    """Write a finished run as a zip file with its report, without recordings and without absolute paths.

    The archive holds the results of all finished fits with their checksums, model cards, report, tables and figures.
    The report in it is written from the files in it. The same run and the same versions give the same bytes.

    Args:
        run: Folder of the run.
        archive: The file to write or replace; default `<study>-<hash>.zip` in the current folder.
        models: Also pack weights, configuration and standardization of every model.
        done: Called with the finished fraction.

    Returns:
        Path of the archive.

    Raises:
        ArgumentError: An argument has the wrong type.
        RunFolderError: This is no run's folder, it is damaged, or the archive cannot be written.
        StudyError: No fit is finished, or a file of a fit is damaged.

    Example:
        >>> from emg_lens import Study
        >>> from emg_lens.studies import StudyResult, share_run, unpack_run
        >>> study = Study.parse('''
        ... name: small
        ... title: A small study
        ... cohort:
        ...   dataset: simulated
        ...   options: {simulation: {n_subjects: 1, emg_classes: 2, acc_classes: 1, n_repetitions: 2}}
        ...   recipe: {fs: 50}
        ... split: {by: repetition, test: [2]}
        ... model: {d_model: 8, n_heads: 2, n_layers: 1, d_mlp: 8}
        ... training: {epochs: 1}
        ... conditions: {layer_masks: null, controls: null, removals: {by: [mean]}}
        ... ''')
        >>> result = study.run(out="runs", jobs=1)
        >>> folder = unpack_run(share_run(result.folder, "small.zip"), out="elsewhere")
        >>> StudyResult.load(folder).scores.equals(result.scores)
        True
    """
    done = done or (lambda _: None)
    result = StudyResult.load(run)
    private = private_texts(result.study, result.folder, read_record(result.folder)["folder"])
    name = f"{result.study.name}-{result.study.digest()}{SUFFIX}"
    path = Path(name if archive is None else archive).expanduser()
    if path.suffix != SUFFIX:
        raise RunFolderError(f"{path}: expected a name that ends in {SUFFIX}, so that emg-lens report can read it")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Next to the archive, because the folder for temporary files may be too small.
    with writing(path), TemporaryDirectory(dir=path.parent, prefix=".share-") as temporary:
        copy = Path(temporary) / "run"
        fits = [folder.name for folder in result.folders]
        copy_for_sharing(result.folder, copy, fits, models, lambda part: done(COPIED * part))
        StudyResult.load(copy).write()
        check_without_paths(copy, [*private, temporary])
        done(COPIED + RENDERED)
        study, rest = read_spec(copy), 1 - COPIED - RENDERED
        pack(copy, f"{study.name}/{study.digest()}", path, lambda part: done(1 - rest + rest * part))
    return path


@checked
def unpack_run(archive: str | Path, out: str | Path = "runs") -> Path:
    """Unpack an archive of `share_run` into `<out>/<study>/<hash>`, and check every file.

    Args:
        archive: The zip file.
        out: Folder of all runs.

    Returns:
        The run's folder. If the archive was unpacked there before, that folder is kept.

    Raises:
        ArgumentError: An argument has the wrong type.
        ArchiveError: The archive is damaged or unsafe. Nothing is written then.
        RunFolderError: Another run is in this folder, or it cannot be written.
    """
    archive, out = Path(archive).expanduser(), Path(out).expanduser()
    is_new = not out.exists()
    try:
        check_regular(archive)
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out, prefix=".", suffix=".unpacked") as temporary:
            copy = Path(temporary) / "run"
            unpack(archive, copy)
            study = read_spec(copy)
            folder = out / study.name / study.digest()
            if not folder.exists():
                folder.parent.mkdir(exist_ok=True)
                copy.rename(folder)
            elif _list(folder) != _list(copy):
                raise RunFolderError(f"{folder} holds another run of this study; give another --out")
    except OSError as error:
        place = error.filename or archive
        raise RunFolderError(
            f"{str(archive)!r} cannot be unpacked: {place}: {reason_of(error)}; {remedy(error, 'is the path right?')}"
        ) from None
    finally:
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    return folder


@contextmanager
def opened_runs(runs: Sequence[str | Path]) -> Iterator[list[Path]]:
    """Context with the folders of runs: archives (.zip) are unpacked until the end of the context."""
    with TemporaryDirectory() as temporary:
        yield [
            unpack_run(one, Path(temporary) / str(k)) if is_archive(one) else Path(one).expanduser()
            for k, one in enumerate(runs)
        ]


def is_archive(path: str | Path) -> bool:
    """Whether a path is that of an archive, and not of a folder."""
    place = Path(path).expanduser()
    return place.suffix.lower() == SUFFIX and not place.is_dir()


def _list(folder: Path) -> bytes:
    """The list of checksums that a run's folder was unpacked with; empty for a run that was not unpacked."""
    path = folder / CHECKSUMS
    return path.read_bytes() if path.is_file() else b""
