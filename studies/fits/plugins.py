"""Packages of others that decide the numbers of a fit: their versions and sources."""

import re

from emg_lens.registry import plugin_versions
from emg_lens.studies.fits.fit_unit import Fit

AFTER_FITS = {"title", "question", "statistics", "reference", "views", "factors"}
"""Keys of a study that do not change the files of a fit."""


def plugins_of(fit_unit: Fit) -> dict[str, str]:
    """Return version and source of each package of others that a fit uses, by name of the package.

    These packages offer the model, data set, objective, metrics, interventions or analyses that the study names.
    """
    return plugin_versions(names_in(fit_unit))


def names_in(fit_unit: Fit) -> frozenset[str]:
    """Return every text and key in the study of a fit; names of plug-ins are among them."""
    return frozenset(re.findall(r'"([^"]+)"', fit_unit.spec.model_dump_json(exclude=AFTER_FITS)))
