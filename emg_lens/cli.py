"""The command `emg-lens` (also `python -m emg_lens`): list, show, check, run, report, data, corpus, pretrain, cost."""

import itertools
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    from emg_lens.errors import EmgLensError, printable
except KeyboardInterrupt:  # before `main` listens
    sys.exit(128 + signal.SIGINT)

STOPPED = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}
"""Exit codes of Ctrl-C and of `kill`, as shells have them."""
PIPE_WIDTH = 120
"""Columns of a table that is printed into a file or a pipe."""

app = typer.Typer(
    name="emg-lens",
    help="What does a gesture decision lose when attention is cut? Example: emg-lens run quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True)

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder (or file) of the data set; none for simulated cohorts.")
]
PartsOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder that the folders of the corpus are below; none for simulated ones."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Where runs are kept.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
) -> None:
    """Ablation studies of multimodal biosignal encoders."""


@app.command("list")
def list_() -> None:
    """List the shipped studies and pre-trainings, and the data sets they can read.

    Example: emg-lens list
    """
    from emg_lens.data.registry import dataset_names, describe_dataset
    from emg_lens.models.registry import architecture_names
    from emg_lens.studies.spec.catalog_lookup import catalogue
    from emg_lens.studies.spec.study_spec import StudySpec
    from emg_lens.training.pretraining.spec import PretrainingSpec, shipped_pretrainings

    studies = Table("study", "data set", "question", title="Studies", title_justify="left")
    for name in catalogue():
        study = StudySpec.load(name)
        studies.add_row(name, study.cohort.dataset, study.title)
    datasets = Table("data set", "what it is", title="Data sets", title_justify="left")
    for name in dataset_names():
        datasets.add_row(name, describe_dataset(name).description)
    pretrainings = Table("pre-training", "data sets", "what it is", title="Pre-trainings", title_justify="left")
    for name in shipped_pretrainings():
        spec = PretrainingSpec.load(name)
        pretrainings.add_row(name, ", ".join(part.dataset for part in spec.corpus.parts.values()), spec.title)
    out.print(studies, pretrainings, datasets)
    out.print(f"Models: {', '.join(architecture_names())}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A study's or pre-training's name, or a study's file.")]) -> None:
    """Print a study, or a shipped pre-training, with every default written out.

    Example: emg-lens show quickstart > mine.yaml
    """
    from emg_lens.studies.spec.study_spec import StudySpec
    from emg_lens.training.pretraining.spec import PretrainingSpec, shipped_pretrainings

    text = (PretrainingSpec if name in shipped_pretrainings() else StudySpec).load(name).to_yaml()
    if out.is_terminal:
        out.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
    else:
        sys.stdout.write(text)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A study's name or .yaml file.")],
    data: DataOption = None,
) -> None:
    """Check a study file; with --data, or a cohort that needs none, against the recordings too.

    Example: emg-lens check mine.yaml
    """
    from emg_lens.data.registry import describe_dataset
    from emg_lens.studies.runs.plan import prepare
    from emg_lens.studies.runs.progress import print_note
    from emg_lens.studies.spec.study_spec import StudySpec

    study = StudySpec.load(name)
    study.check()
    cells = len(study.cells)
    epochs = " or ".join(dict.fromkeys(f"{spec.training.epochs}" for _, spec in study.cells))
    levels = f"{cells} combination{'s' * (cells != 1)} of levels"
    out.print(printable(f"{study.name}: {study.model.summary()}; {epochs} epochs; {levels}"), markup=False)
    sets = [spec.cohort.dataset for _, spec in study.cells]
    on_disk = [name for name in sets if describe_dataset(name).needs_root]
    if data is None and on_disk:
        out.print(f"the file is in order; add --data FOLDER to check it against {on_disk[0]} recordings")
        return
    plan = prepare(study, data, Path("runs"), 1, err)
    for warning in plan.warnings:
        print_note(err, warning)
    for note in plan.notes:
        print_note(err, note)
    names = {name for cell in plan.subjects for name in cell}
    out.print(
        f"in order: {len(names)} subjects, {len(plan.n_train)} fits; a run would live in {printable(str(plan.folder))}",
        highlight=False,
        markup=False,
    )


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A study's name or .yaml file.")],
    data: DataOption = None,
    out_folder: OutOption = Path("runs"),
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Fits at a time; default one a core.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Run a study, or continue one that was stopped.

    Example: emg-lens run isonet-table3-db5 --data ~/ninapro_db5
    """
    from emg_lens.studies.runs.execution import run_study
    from emg_lens.studies.spec.study_spec import StudySpec

    result = run_study(StudySpec.load(name), data, out_folder, jobs, device, console=err)
    _print_result(result)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder (the one that holds spec.yaml).")],
) -> None:
    """Write table, figures and report of a run again, from its scores.

    Example: emg-lens report runs/quickstart/0123456789
    """
    from emg_lens.studies.result import StudyResult, finished_fits

    result = None
    while result is None or len(result.folders) < len(finished_fits(folder)):  # a run may end meanwhile
        result = StudyResult.load(folder)
        result.write()
    _print_result(result)


@app.command()
def data(
    dataset: Annotated[str, typer.Argument(help="Name of a data set (emg-lens list).")],
    folder: Annotated[Path | None, typer.Argument(help="Its folder (or file); none for simulated cohorts.")] = None,
) -> None:
    """Say what is in a data folder: subjects, movements, rates, repairs.

    Example: emg-lens data ninapro-db5 ~/ninapro_db5
    """
    from emg_lens.data.summary import summarise

    with err.status(escape(printable(f"reading {dataset}"))):
        table, notes = summarise(dataset, folder)
    _print_table(table)
    for note, count in notes.items():
        out.print(
            f"note ({count} of {table['recordings'].sum()} recordings): {printable(note)}",
            highlight=False,
            markup=False,
        )


@app.command()
def corpus(
    name: Annotated[str, typer.Argument(help="A pre-training's name or .yaml file, for its corpus.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Where the shards go.")],
    data: PartsOption = None,
) -> None:
    """Write windows of data sets as shards for pre-training, one file a subject.

    Example: emg-lens corpus pretrain-myo --data ~/emg --out ~/corpora/myo
    """
    from emg_lens.data.corpus_writer import write_corpus
    from emg_lens.training.pretraining.spec import PretrainingSpec

    spec = PretrainingSpec.load(name)
    with err.status("writing windows"):
        table = write_corpus(spec.corpus.parts, data, out_folder)
    shown = Table("part", "subjects", "windows", "channels", "left out: no change")
    for part, rows in table.groupby("dataset", sort=False):
        sums = (len(rows), rows["windows"].sum(), rows["channels"].max(), rows["constant"].sum())
        shown.add_row(Text(printable(str(part))), *map(str, sums))
    out.print(shown)


@app.command()
def cost(
    names: Annotated[list[str], typer.Argument(help="Models (emg-lens list).")],
    channels: Annotated[list[int], typer.Option("--channels", min=1, help="EMG channels; may be repeated.")] = [8, 16],
    samples: Annotated[list[int], typer.Option("--samples", min=1, help="Of a window; may be repeated.")] = [200, 1000],
    outputs: Annotated[int, typer.Option("--outputs", min=0, help="Classes, or targets.")] = 6,
    settings: Annotated[list[str], typer.Option("--set", help="A model's setting: d_model=64; may be repeated.")] = [],
) -> None:
    """Parameters, operations, memory and time of one window, for each number of channels and each length.

    Beside the bytes of the weights stands the nearest memory of a GAP9 that would hold them, were it empty.

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
    """`"d_model=64"` as its name and value."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r}; expected NAME=VALUE, such as d_model=64", param_hint="--set")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise typer.BadParameter(f"{text!r}; {value!r} is no value", param_hint="--set") from None


@app.command("pretrain")
def pretrain_(
    name: Annotated[str, typer.Argument(help="A pre-training's name or .yaml file.")],
    data: PartsOption = None,
    out_folder: OutOption = Path("runs"),
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that read ahead.")] = 0,
    precision: Annotated[str, typer.Option("--precision", help="no, bf16.")] = "no",
    device: Annotated[str, typer.Option("--device", help="auto, cpu.")] = "auto",
    log_to: Annotated[str | None, typer.Option("--log", help="tensorboard, wandb; where they are installed.")] = None,
) -> None:
    """Pre-train an encoder by masked reconstruction, or continue where it was stopped.

    Several processes or machines: accelerate launch -m emg_lens pretrain ...

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
        precision=precision,  # pyright: ignore[reportArgumentType] - a word that is none is refused
        device=device,  # pyright: ignore[reportArgumentType]
        log_to=log_to,  # pyright: ignore[reportArgumentType]
        console=err,
    )
    last = run.losses.iloc[-1]
    told = f"{int(last['step'])} steps: masked loss {last['train_masked']:.4f} in training"
    whose = f" (left out: {', '.join(run.validation.subjects)})" if run.validation.subjects else ""
    out.print(printable(f"{told}, {last['validation_masked']:.4f} in validation{whose}"), highlight=False, markup=False)
    out.print(printable(str(run.folder)), highlight=False, markup=False)


def _print_table(table: Any) -> None:
    shown = Table(*table.columns)
    for row in table.itertuples(index=False):
        shown.add_row(*(Text(printable(str(cell))) for cell in row))
    out.print(shown)


def _print_result(result: object) -> None:
    for part in result.terminal():  # pyright: ignore[reportAttributeAccessIssue]
        out.print(part)


def main() -> None:
    """Run the command line; errors a user can mend are one line and exit code 2, Ctrl-C is one line too."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]  # so that it may stand anywhere in the line
    for number in STOPPED.values():
        signal.signal(number, _stop)
    told_before, sys.unraisablehook = sys.unraisablehook, _still_stop
    try:
        app()
    except EmgLensError as error:
        if debug:
            raise
        err.print(f"[bold red]error:[/bold red] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as left:
        if left.code in STOPPED:
            err.print("stopped; run the same command again to continue")
        raise
    finally:
        _stop_at_once()
        sys.unraisablehook = told_before


def _stop(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    """Leave, with workers ended and the terminal as it was; a second signal does not wait for that."""
    _stop_at_once()
    sys.exit(128 + number)


def _still_stop(ignored: object) -> None:
    """A stop that met code whose errors Python passes over (a finalizer, a callback) is made again a moment later."""
    if not isinstance(stop := getattr(ignored, "exc_value", None), SystemExit):
        sys.__unraisablehook__(ignored)  # pyright: ignore[reportArgumentType]
        return

    def again(*_: object) -> NoReturn:
        raise stop

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, 0.05)


def _stop_at_once() -> None:
    for number in STOPPED.values():
        signal.signal(number, signal.SIG_DFL)


def _plain(error: Exception) -> str:
    return escape(" ".join(str(error).split()))
