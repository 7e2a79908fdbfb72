"""The command line `emg-lens` (also `python -m emg_lens`): run `emg-lens --help` for its commands."""

import itertools
import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    from emg_lens.errors import EmgLensError, printable
    from emg_lens.io.os_errors import remedy
    from emg_lens.io.stopping import STOPPED, stop_again, stop_at_once, stop_on_signals
    from emg_lens.io.terminal import flush_or_drop, open_standard_streams
except KeyboardInterrupt:  # before `main` handles signals
    sys.exit(128 + signal.SIGINT)

PIPE_WIDTH = 120
"""Width of tables that are printed to a file or a pipe, unless COLUMNS is set."""

START = "Start here (no recordings needed): emg-lens run NAME"
REAL = "Real data: emg-lens run NAME --data FOLDER (times on two CPU cores, where known)"
GPU = "Needs a GPU: emg-lens run NAME --data FOLDER --device cuda"

app = typer.Typer(
    name="emg-lens",
    help="Cut attention connections in a multimodal biosignal transformer and measure how much accuracy falls."
    " Example: emg-lens run quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
out = Console(width=None if (sys.stdout and sys.stdout.isatty()) or "COLUMNS" in os.environ else PIPE_WIDTH)
err = Console(stderr=True)

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder or file of the data set; not needed for simulated cohorts.")
]
PartsOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder that contains the folders of the corpus; not needed for simulated data."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for runs.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
) -> None:
    """Ablation studies of multimodal biosignal encoders."""


@app.command("list")
def list_() -> None:
    """List the shipped studies, pre-trainings, data sets and models.

    Example: emg-lens list
    """
    from emg_lens.data.registry import DATASETS, describe_dataset
    from emg_lens.models.registry import architecture_names
    from emg_lens.studies.spec.catalog_lookup import catalogue, catalogue_summary
    from emg_lens.studies.spec.study_spec import StudySpec
    from emg_lens.training.pretraining.spec import PretrainingSpec, shipped_pretrainings

    groups: dict[str, list[tuple[str, ...]]] = {START: [], REAL: [], GPU: []}
    data_of = {name: StudySpec.load(name).cohort.dataset for name in catalogue()}
    for name, data in sorted(data_of.items(), key=lambda study: (study[1], study[0] != "quickstart")):
        question, time = catalogue_summary(name)
        rows = groups[GPU if time == "GPU" else REAL if describe_dataset(data).needs_root else START]
        if not any(data_of.get(row[0].strip()) == data for row in rows):
            rows.append((f"{data}:",))
        rows.append((f"  {name}", question, time.replace("GPU", "")))
    groups["Data sets"] = [(name, data_set.description) for name, data_set in DATASETS.items()]
    pretrainings = [(name, PretrainingSpec.load(name).title) for name in shipped_pretrainings()]
    groups["Pre-trainings (emg-lens pretrain NAME --data FOLDER)"] = pretrainings
    groups["Models"] = [(", ".join(architecture_names()),)]
    for title, rows in groups.items():
        shown = Table.grid(padding=(0, 1, 0, 0))
        for row in rows:
            shown.add_row(*row)
        out.print(Text(title, "bold"), Padding(shown, (0, 0, 1, 1)), sep="\n")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a study or pre-training, or a study file (.yaml).")],
) -> None:
    """Print a study or pre-training as YAML, with all defaults.

    Example: emg-lens show quickstart > mine.yaml
    """
    from emg_lens.studies.spec.study_spec import StudySpec
    from emg_lens.training.pretraining.spec import PretrainingSpec, shipped_pretrainings

    text = (PretrainingSpec if name in shipped_pretrainings() else StudySpec).load(name).to_yaml()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError as error:
        odd = text[error.start : error.end]
        raise EmgLensError(f"standard output cannot hold {odd!r} of this text; set PYTHONIOENCODING=utf-8") from None
    if out.is_terminal:
        out.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
    else:
        sys.stdout.write(text)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Name of a study, or a study file (.yaml).")],
    data: DataOption = None,
) -> None:
    """Check a study file. With --data, or for simulated data, also check the recordings.

    Example: emg-lens check mine.yaml
    """
    from emg_lens.data.registry import describe_dataset
    from emg_lens.studies.fits.stand_ins import check_without_data
    from emg_lens.studies.runner import check_views
    from emg_lens.studies.runs.plan import prepare, run_folder
    from emg_lens.studies.runs.progress import print_note
    from emg_lens.studies.spec.study_spec import StudySpec

    study = StudySpec.load(name)
    study.check()
    cells = len(study.cells)
    epochs = " or ".join(dict.fromkeys(f"{spec.training.epochs}" for _, spec in study.cells))
    variants = f"; {cells} variants of model or data" if cells > 1 else ""
    _say(f"{study.name}: {study.model.summary()}; {epochs} epochs{variants}")
    sets = [spec.cohort.dataset for _, spec in study.cells]
    on_disk = [name for name in sets if describe_dataset(name).needs_root]
    check_views(study)
    if data is None and on_disk:
        unchecked = ", ".join(check_without_data(study))
        _say(f"The study file is valid. Not checked without recordings: {unchecked}.")
        _say(f"To check the study against {on_disk[0]} recordings, add --data FOLDER.")
        return
    plan = prepare(study, data, run_folder(study, Path("runs")), 1, err)
    for note in (*plan.warnings, *plan.notes):
        print_note(err, note)
    names = {name for cell in plan.subjects for name in cell}
    _say(
        f"The study is valid: {len(names)} subjects, {len(plan.n_train)} models to train. Its run goes to {plan.folder}"
    )


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Name of a study, or a study file (.yaml).")],
    data: DataOption = None,
    out_folder: OutOption = Path("runs"),
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Number of parallel fits; default: one per core.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Device: cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Run a study, or resume a stopped run.

    Example: emg-lens run isonet-table3-db5 --data ~/ninapro_db5
    """
    from emg_lens.studies.runner import run_study
    from emg_lens.studies.spec.study_spec import StudySpec

    result = run_study(StudySpec.load(name), data, out_folder, jobs, device, console=err)
    _print_result(result)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run (it contains spec.yaml).")],
) -> None:
    """Write tables, figures and report of a run again from its saved results.

    Example: emg-lens report runs/quickstart/0123456789
    """
    from emg_lens.studies.result import StudyResult, finished_fits

    n_read, result = -1, None
    while n_read < len(finished_fits(folder)):  # repeat if a fit finished in the meantime
        result = StudyResult.load(folder)
        result.write()
        n_read = len(result.folders)
    _print_result(result)


@app.command()
def data(
    dataset: Annotated[str, typer.Argument(help="Name of a data set (emg-lens list).")],
    folder: Annotated[
        Path | None, typer.Argument(help="Folder or file of the data set; not needed for simulated cohorts.")
    ] = None,
) -> None:
    """Summarise a data folder: subjects, gestures, sampling rates, repairs.

    Example: emg-lens data ninapro-db5 ~/ninapro_db5
    """
    from emg_lens.data.summary import summarise

    with err.status(escape(printable(f"reading {dataset}"))):
        table, notes = summarise(dataset, folder)
    _print_table(table.drop(columns="signals"))
    if table["signals"].nunique() == 1:
        _say(f"Signals of all subjects: {table['signals'].iloc[0]}")
    else:
        _print_table(table[["subject", "signals"]])
    for note, count in notes.items():
        _say(f"note ({count} of {table['recordings'].sum()} recordings): {note}")


@app.command()
def corpus(
    name: Annotated[str, typer.Argument(help="Name of a pre-training, or its file (.yaml); its corpus is written.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the shards.")],
    data: PartsOption = None,
) -> None:
    """Write windows of data sets as shards for pre-training, one file per subject.

    Example: emg-lens corpus pretrain-myo --data ~/emg --out ~/corpora/myo
    """
    from emg_lens.data.corpus_writer import write_corpus
    from emg_lens.training.pretraining.spec import PretrainingSpec

    spec = PretrainingSpec.load(name)
    with err.status("writing windows"):
        table = write_corpus(spec.corpus.parts, data, out_folder)
    shown = Table("part", "subjects", "windows", "channels", "skipped (constant)")
    for part, rows in table.groupby("dataset", sort=False):
        sums = (len(rows), rows["windows"].sum(), rows["channels"].max(), rows["constant"].sum())
        shown.add_row(Text(printable(str(part))), *map(str, sums))
    out.print(shown)


@app.command()
def cost(
    names: Annotated[list[str], typer.Argument(help="Models (emg-lens list).")],
    channels: Annotated[
        list[int], typer.Option("--channels", min=1, help="Number of EMG channels; may be repeated.")
    ] = [8, 16],
    samples: Annotated[list[int], typer.Option("--samples", min=1, help="Samples per window; may be repeated.")] = [
        200,
        1000,
    ],
    outputs: Annotated[int, typer.Option("--outputs", min=0, help="Number of classes or target values.")] = 6,
    settings: Annotated[
        list[str], typer.Option("--set", help="Setting of the model, such as d_model=64; may be repeated.")
    ] = [],
) -> None:
    """Print parameters, operations, memory and time per window for each number of channels and each length.

    The table also names the nearest memory of a GAP9 microcontroller that can hold the weights if it is empty.

    Example: emg-lens cost tinymyo --channels 8 --channels 16 --samples 1000
    """
    from emg_lens.analysis.cost import cost_cells, model_costs
    from emg_lens.models.registry import architecture

    given = dict(map(_setting, settings))
    models = {}
    for name, n_channels, n_samples in itertools.product(names, channels, samples):
        entry, classes = architecture(name), [str(k) for k in range(outputs)]
        config = entry.configure(given, modalities={"emg": n_channels}, n_samples=n_samples, class_names=classes)
        models[f"{name}, {n_channels} x {n_samples}"] = entry.model(config)
    with err.status("running the models"):
        table = cost_cells(model_costs(models))
    _print_table(table)


def _setting(text: str) -> tuple[str, Any]:
    """Parse `"d_model=64"` into name and value."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r}; expected NAME=VALUE, such as d_model=64", param_hint="--set")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise typer.BadParameter(f"{text!r}; {value!r} is not a valid YAML value", param_hint="--set") from None


@app.command("pretrain")
def pretrain_(
    name: Annotated[str, typer.Argument(help="Name of a pre-training, or its file (.yaml).")],
    data: PartsOption = None,
    out_folder: OutOption = Path("runs"),
    workers: Annotated[int, typer.Option("--workers", min=0, help="Number of processes that load data.")] = 0,
    precision: Annotated[str, typer.Option("--precision", help="Mixed precision: no, bf16.")] = "no",
    device: Annotated[str, typer.Option("--device", help="Device: auto, cpu.")] = "auto",
    log_to: Annotated[str | None, typer.Option("--log", help="Also log to tensorboard or wandb, if installed.")] = None,
) -> None:
    """Pre-train an encoder by masked reconstruction, or resume a stopped pre-training.

    To use several processes or machines: torchrun --nproc-per-node 2 -m emg_lens pretrain ...

    Example: emg-lens pretrain pretrain-myo --data ~/emg
    """
    from emg_lens.training.pretraining.run_folder import run_pretraining
    from emg_lens.training.pretraining.spec import PretrainingSpec

    spec = PretrainingSpec.load(name)
    run = run_pretraining(
        spec,
        data,
        out_folder,
        workers=workers,
        precision=precision,  # pyright: ignore[reportArgumentType] - invalid values are rejected
        device=device,  # pyright: ignore[reportArgumentType]
        log_to=log_to,  # pyright: ignore[reportArgumentType]
        console=err,
    )
    if os.environ.get("RANK", "0") != "0":  # the first of several processes prints
        return
    last = run.losses.iloc[-1]
    subjects = f" (subjects {', '.join(run.validation.subjects)})" if run.validation.subjects else ""
    losses = f"training {last['train_masked']:.4f}, validation{subjects} {last['validation_masked']:.4f}"
    _say(f"masked loss after {int(last['step'])} steps: {losses}")
    _say(str(run.folder))


def _say(text: str) -> None:
    out.print(printable(text), highlight=False, markup=False)


def _print_table(table: Any) -> None:
    shown = Table(*table.columns)
    for row in table.itertuples(index=False):
        shown.add_row(*(Text(printable(str(cell))) for cell in row))
    out.print(shown)


def _print_result(result: object) -> None:
    for part in result.terminal():  # pyright: ignore[reportAttributeAccessIssue]
        out.print(part)


def main() -> None:
    """Run the command line. User errors print one line and exit with code 2; Ctrl-C also prints one line."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]  # allowed anywhere in the command
    stop_on_signals()
    hook_before, sys.unraisablehook = sys.unraisablehook, stop_again
    show_before, warnings.showwarning = warnings.showwarning, partial(_show_warning, warnings.showwarning)
    if open_standard_streams():
        err.print("note: standard output is closed, so nothing is printed there")
    try:
        try:
            app()
        finally:
            flush_or_drop()
    except BrokenPipeError:  # `emg-lens list | head -1`
        sys.exit(1)
    except (EmgLensError, OSError) as error:
        if debug:
            raise
        text = str(error)
        if not isinstance(error, EmgLensError):  # of the operating system: a full disk, too many open files
            text = f"{error}; {remedy(error, 'run again with --debug to see where')}"
        err.print(f"[bold red]error:[/bold red] {escape(printable(text))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as exit_:
        if exit_.code in STOPPED:
            err.print("stopped; run the same command again to resume")
        raise
    finally:
        stop_at_once()
        sys.unraisablehook, warnings.showwarning = hook_before, show_before


def _show_warning(show: Callable[..., None], message: object, category: type[Warning], *place: Any) -> None:
    """Print a warning about a plug-in as a note, and others as Python does."""
    from emg_lens.registry import PluginWarning
    from emg_lens.studies.runs.progress import print_note

    if issubclass(category, PluginWarning):
        print_note(err, str(message))
    else:
        show(message, category, *place)
