"""The simple reference of a study (docs/statistics.md §5.7), without training the study's models.

`python tests/bench/references.py tinymyo-force --data ~/myo_force` prints the mean and the median over subjects of each
metric of the study, for the reference on all channels and on each modality. Seeds and electrode sets are averaged.
"""

import argparse
from pathlib import Path

import pandas as pd

from emg_lens.data.registry import subjects
from emg_lens.studies.fits.fit_quality import quality_table
from emg_lens.studies.fits.fit_store import TRAIN
from emg_lens.studies.fits.fit_unit import fits_of
from emg_lens.studies.fits.prepared_fit import prepare_fit
from emg_lens.studies.spec.study_spec import StudySpec


def references_of(study: StudySpec, data: Path | None) -> pd.DataFrame:
    """Return one row a combination of levels and reference: each metric's mean and median over subjects."""
    names = [c.subjects or subjects(c.dataset, data, **c.options) for c in (spec.cohort for _, spec in study.cells)]
    tables = []
    for fit in fits_of(study, names):
        prepared = prepare_fit(fit, data, "cpu")
        table = quality_table(prepared, None).query(f"model != {TRAIN!r}")
        levels = {name: fit.levels[name] for name in study.compared_factors}
        tables.append(table[["subject", "model", *prepared.facts["metrics"]]].assign(**levels))
    keys = [*study.compared_factors, "model"]
    by_subject = pd.concat(tables).groupby([*keys, "subject"], sort=False).mean()
    return by_subject.groupby(keys, sort=False).agg(["mean", "median"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="name of a shipped study, or a study file")
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    print(references_of(StudySpec.load(given.study), given.data).round(4).to_string())  # noqa: T201
