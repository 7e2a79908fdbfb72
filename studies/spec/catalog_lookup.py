"""The studies that are shipped, in `catalog/`."""

from importlib import resources
from importlib.resources.abc import Traversable


def catalogue() -> tuple[str, ...]:
    """Names of the shipped studies."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml")))


def catalogue_text(name: str) -> str:
    """The file of a shipped study."""
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def _folder() -> Traversable:
    return resources.files("emg_lens.studies") / "catalog"
