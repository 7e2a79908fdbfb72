"""All targets of the fuzz."""

from importlib import import_module

from verdicts import Target

MODULES = (
    "matlab_files",
    "hdf5_files",
    "text_files",
    "json_files",
    "described_folders",
    "trial_files",
    "model_folders",
    "published_files",
    "checkpoints",
    "expressions",
    "study_texts",
    "run_folders",
    "odd_names",
    "commands",
    "calls",
    "example_calls",
    "surroundings",
    "processes",
)


def targets() -> list[Target]:
    """Return the targets in the order of the table."""
    return [target for name in MODULES for target in import_module(name).TARGETS]
