"""Names and texts of the shipped studies."""

import re
from typing import NamedTuple

from emg_lens.io.spec_file import shipped_names, shipped_text


def catalogue() -> tuple[str, ...]:
    """List the names of the shipped studies, which `Study.load` and `emg-lens run` accept.

    Example:
        >>> from emg_lens.studies import catalogue
        >>> "quickstart" in catalogue()
        True
    """
    return shipped_names("emg_lens.studies")


def catalogue_text(name: str) -> str:
    """Return the YAML text of a shipped study."""
    return shipped_text("emg_lens.studies", name)


class Summary(NamedTuple):
    """A shipped study in one line.

    Attributes:
        question: What it answers.
        time: What a run takes on two CPU cores, such as `"15 min"`; `"GPU"` if it needs one; `""` if it is not known.
    """

    question: str
    time: str


def catalogue_summary(name: str) -> Summary:
    """Read the summary of a shipped study from the first line of its file: `# Which heads matter? [15 min]`."""
    line = catalogue_text(name).splitlines()[0]
    found = re.fullmatch(r"# ([^\[]+?)(?: \[(.+)\])?", line)
    if found is None:
        raise ValueError(f"the file of {name} starts with {line!r}; expected a comment such as # Question? [15 min]")
    return Summary(found[1], found[2] or "")
