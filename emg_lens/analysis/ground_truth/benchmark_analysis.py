"""A study's analysis of attribution methods: on encoders with known circuits, and on the fitted model."""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, from_numpy

from emg_lens.analysis.attribution.fit_trials import evaluation_trials, metric_for, search_trials
from emg_lens.analysis.attribution.question import Question
from emg_lens.analysis.attribution.run import attribute
from emg_lens.analysis.fit_analysis import FitAnalysis
from emg_lens.analysis.ground_truth.benchmark import Method, benchmark_attribution, named_methods
from emg_lens.data.batch import Batch
from emg_lens.sweeps.conditions import Condition

FITTED, RANDOM = "fitted", "random order"
"""Name of the fitted model in the column `variant`, and of the method that knows nothing."""
RANDOM_ORDERS = 10
"""Number of random orders of the groups for each model. The table has the mean over them."""
KEPT = 0.9
"""Fraction of the metric's range that the edges needed keep."""
GROWTH = 1.1
"""Ratio of two numbers of top-ranked edges that are tried one after the other."""
MOST_CUTS = 2000
"""With more edges, methods that run the model for every edge are left out."""
RUNS_PER_EDGE = ("cut", "contexts")
COLUMNS = [
    "variant", "method", "average_precision", "edges_needed", "candidates", "forward_passes", "backward_passes"
]  # fmt: skip
MOST_COMPILED_TRIALS = 16


class AttributionBenchmark(FitAnalysis):
    """All registered attribution methods except `shapley`, and random orders, on two kinds of models.

    Columns: `variant`, `method`, `average_precision`, `edges_needed`, `candidates`, `forward_passes`,
    `backward_passes`.

    * `variant` = a circuit of `compiled_encoder`: how well the method ranks the true head edges
      (`benchmark_attribution`). Each fit uses another seed, which is a checksum of its weights.
    * `variant` = `fitted`: the method ranks the edges between channels of the fitted model on training trials.
      `edges_needed` is the number of top-ranked edges that keep 90 % of the metric's range on test trials.

    The rows of the method `random order` are means over 10 random orders. Each fit uses other ones.
    """

    def run(self, model: Any, batch: Batch, conditions: Sequence[Condition]) -> pd.DataFrame:  # noqa: ARG002
        """Return the table."""
        seed = zlib.crc32(next(model.parameters()).detach().cpu().numpy().tobytes())
        random = {f"{RANDOM} {i}": partial(random_order, seed=(seed, i)) for i in range(RANDOM_ORDERS)}
        methods = named_methods(None) | random
        n_trials = 4 * max(1, min(MOST_COMPILED_TRIALS, len(batch)) // 4)
        known = benchmark_attribution(methods, seeds=[seed], n_trials=n_trials, curves=False)
        table = pd.concat([known, _on_the_fitted_model(model, batch, methods)], ignore_index=True)
        table["method"] = table["method"].replace(dict.fromkeys(random, RANDOM))
        means = table.reindex(columns=COLUMNS).groupby(COLUMNS[:2], sort=False).mean()
        return means.reset_index()


def random_order(question: Question, seed: int | tuple[int, ...]) -> Tensor:
    """Give the groups random scores: the method that knows nothing."""
    values = np.random.default_rng(seed).random(len(question.groups))
    return from_numpy(np.broadcast_to(values, (len(question.x), len(values))).copy())


def _on_the_fitted_model(model: Any, batch: Batch, methods: Mapping[str, Method]) -> pd.DataFrame:
    """Count the top-ranked edges that keep 90 % of the range; no rows if the metric does not fall without edges."""
    (x, y), (x_test, y_test), rows = search_trials(batch), evaluation_trials(batch), []
    metric = metric_for(y)
    for name, method in methods.items():
        if name in RUNS_PER_EDGE and rows and rows[0]["candidates"] > MOST_CUTS:
            continue
        result = attribute(model, x, y, method=method, by="channel", metric=metric)
        question, n = result.question.on(x_test, y_test), len(result.table)
        full, all_cut = question.bounds.mean(1)
        if full <= all_cut:
            break
        rank = np.argsort(np.argsort(-result.table["score"].to_numpy(), kind="stable"))
        sizes = sorted({*np.ceil(GROWTH ** np.arange(np.log(n) / np.log(GROWTH))).astype(int).tolist(), n})
        kept = question.fraction_kept([rank < size for size in sizes])
        needed = sizes[int(np.argmax(kept >= KEPT))]  # all edges keep 100 %
        passes = {key: result.audit[key] for key in ("forward_passes", "backward_passes")}
        rows.append({"variant": FITTED, "method": name, "edges_needed": needed, "candidates": n} | passes)
    return pd.DataFrame(rows)


ATTRIBUTION_BENCHMARK = AttributionBenchmark()
