"""Refuse a run that would mix fits of old and new code of a plug-in."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from emg_lens.registry import plugin_versions
from emg_lens.studies.fits.fit_store import damaged_fit_errors, read_facts
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.fits.plugins import names_in
from emg_lens.studies.spec.errors import StudyError


def check_plugins(fits: Iterable[Fit], folder: Path) -> None:
    """Check that finished fits were computed with the plug-ins that are installed now.

    A plug-in may define another model under the same name, so fits of its old and new code must not be averaged.

    Args:
        fits: The fits of a run.
        folder: The run's folder.

    Raises:
        StudyError: A finished fit was computed with other code, or its facts cannot be read.
    """
    versions = cache(plugin_versions)
    for fit_unit in fits:
        place = folder / "fits" / fit_unit.folder_name
        if not place.exists():
            continue
        now = versions(names_in(fit_unit))
        with damaged_fit_errors(place):
            before = read_facts(place).get("plugins", now)
            changed = [name for name in [*before, *now] if before.get(name) != now.get(name)]
        if changed:
            old, new = before.get(changed[0], "not installed"), now.get(changed[0], "not installed")
            raise StudyError(
                f"fit {place.name} of {folder} was computed with other code of the plug-in {changed[0]} ({old}; now"
                f" {new}), and tables would average fits of both; give another --out, or restore the old code"
            )
