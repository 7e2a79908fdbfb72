"""`emg-lens check`."""

from pathlib import Path
from typing import Annotated

import typer

from emg_lens.commands import terminal
from emg_lens.commands.options import DataOption


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
    terminal.say(f"{study.name}: {study.model.summary()}; {epochs} epochs{variants}")
    sets = [spec.cohort.dataset for _, spec in study.cells]
    on_disk = [name for name in sets if describe_dataset(name).needs_root]
    check_views(study)
    if data is None and on_disk:
        unchecked = ", ".join(check_without_data(study))
        terminal.say(f"The study file is valid. Not checked without recordings: {unchecked}.")
        terminal.say(f"To check the study against {on_disk[0]} recordings, add --data FOLDER.")
        return
    plan = prepare(study, data, run_folder(study, Path("runs")), 1, terminal.err)
    for note in (*plan.warnings, *plan.notes):
        print_note(terminal.err, note)
    names = {name for cell in plan.subjects for name in cell}
    terminal.say(
        f"The study is valid: {len(names)} subjects, {len(plan.n_train)} models to train. Its run goes to {plan.folder}"
    )
