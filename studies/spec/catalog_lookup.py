"""Names and texts of the shipped studies."""

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
