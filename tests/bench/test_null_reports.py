import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from emg_lens import Study

bench = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("null_reports.py"))))


def test_reports_on_random_cuts_rarely_show_anything():
    """Twelve cuts that change each prediction with the same probability as their random cuts."""
    rng = np.random.default_rng(0)
    targets = [rng.integers(0, 12, 72) for _ in range(6)]
    names = [cut.name for cut in bench.cuts_of_a_report()]

    def cut(target, fraction):
        return np.where(rng.random((len(names), 60, 72)) < fraction, 99, target)

    pairs = pd.DataFrame({"condition": ["unimodal/L1"], "superset": ["unimodal"]})
    pool = bench.Pool(
        Study.load("quickstart"), names, targets, [cut(target, 0.3) for target in targets], targets, pairs
    )
    shown, alone = np.mean([bench.report(pool, rng, shuffled=False) for _ in range(40)], axis=0)
    assert shown <= 0.125 and alone > 0.2, "without the correction one of twelve cuts often passes"
