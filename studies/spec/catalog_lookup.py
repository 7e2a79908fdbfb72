"""Names and texts of the shipped studies."""

from importlib import resources
from importlib.resources.abc import Traversable


def catalogue() -> tuple[str, ...]:
    """List the names of the shipped studies, which `Study.load` and `emg-lens run` accept.

    Example:
        >>> from emg_lens.studies import catalogue
        >>> "quickstart" in catalogue()
        True
    """
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml")))


def catalogue_text(name: str) -> str:
    """Return the YAML text of a shipped study."""
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def _folder() -> Traversable:
    return resources.files("emg_lens.studies") / "catalog"
