"""`emg-lens list`."""

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from emg_lens.commands import terminal

START = "Start here (no recordings needed): emg-lens run NAME"
REAL = "Real data: emg-lens run NAME --data FOLDER (times on two CPU cores, where known)"
GPU = "Needs a GPU: emg-lens run NAME --data FOLDER --device cuda"


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
        terminal.out.print(Text(title, "bold"), Padding(shown, (0, 0, 1, 1)), sep="\n")
