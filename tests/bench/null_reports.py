"""Measure how often a report shows an effect where there is none.

`python tests/bench/null_reports.py [--reports 1000] [--subjects 8] [--pool 300]` prints the table of docs/controls.md
§8.1 (some ten minutes). It trains an IsoNet for each simulated subject of `quickstart`, and makes reports on 12 cuts
with 20 size-matched random cuts each, in two ways:

* strong null: every cut is a random edge set itself, so no cut is more specific than its controls;
* weak null: the labels of the test trials are shuffled, so that no cut can change the accuracy.

The table gives the fraction of reports with any verdict "shown", and with any cut that passes without a correction for
the number of cuts.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from rich.progress import track

from emg_lens import Study
from emg_lens.analysis import random_edges, superset_ablations
from emg_lens.data.registry import subjects
from emg_lens.hooks import cross_modal, flow, unimodal
from emg_lens.studies.fits.fit_unit import fits_of
from emg_lens.studies.fits.prepared_fit import prepare_fit
from emg_lens.studies.results.findings import Findings
from emg_lens.studies.results.verdicts import ENOUGH_RANDOM, verdicts_of
from emg_lens.sweeps import BASELINE, Condition, sweep
from emg_lens.training.fitting import fit

N_RANDOM = 20
SINGLE_LAYERS = range(4)
"""Layers that are cut alone: in the last one, edges between channels have no path to the readout."""


@dataclass(frozen=True)
class Pool:
    """Predictions of trained models under many random cuts of the sizes of a study's cuts.

    Attributes:
        study: The study.
        names: Names of the study's cuts.
        baseline: Predicted classes without a cut, one array per subject.
        predicted: Predicted classes `[cut, number, trial]` with random cut number i of the size of a cut, by subject.
        targets: True classes by subject.
        supersets: Pairs of a cut and a cut that contains it.
    """

    study: Study
    names: Sequence[str]
    baseline: Sequence[Int[np.ndarray, " trial"]]
    predicted: Sequence[Int[np.ndarray, "cut number trial"]]
    targets: Sequence[Int[np.ndarray, " trial"]]
    supersets: pd.DataFrame


def cuts_of_a_report() -> list[Condition]:
    """The twelve cuts: two edge sets in single layers and in every layer, and two single conditions."""
    edges = {"unimodal": unimodal(), "cross_modal": cross_modal()}
    single = [Condition(f"{name}/L{k + 1}", of.at(layers=k)) for name, of in edges.items() for k in SINGLE_LAYERS]
    every = [Condition(name, of) for name, of in edges.items()]
    return [*single, *every, Condition("EMG", flow("emg", "cls")), Condition("ACC", flow("acc", "cls"))]


def train_and_predict(n_subjects: int, n_numbers: int) -> Pool:
    """Train the models of the quickstart study, and predict their test trials under all random cuts."""
    study, cuts = Study.load("quickstart"), cuts_of_a_report()
    content = study.model_dump(mode="json")
    content["cohort"]["options"]["simulation"]["n_subjects"] = n_subjects
    study = Study.from_content(content)
    names = subjects(study.cohort.dataset, None, **study.cohort.options)
    baseline, predicted, targets, pairs = [], [], [], pd.DataFrame()
    for one in track(fits_of(study, [names]), "models and their random cuts"):
        prepared = prepare_fit(one, None, "cpu")
        fit(prepared.model, prepared.train, one.recipe)
        conditions = [
            Condition(f"{cut.name} {number}", edges)
            for k, cut in enumerate(cuts)
            for number, edges in enumerate(random_edges(prepared.model, cut.edges, n_numbers, seed=k))
        ]
        logits = sweep(prepared.model, prepared.test.x, conditions).logits
        classes = {name: out.argmax(1).numpy().astype(np.int8) for name, out in logits.items()}
        baseline.append(classes[BASELINE])
        by_cut = [[classes[f"{cut.name} {number}"] for number in range(n_numbers)] for cut in cuts]
        predicted.append(np.array(by_cut))
        targets.append(prepared.targets.astype(np.int8))
        pairs = superset_ablations(prepared.model, cuts)
    return Pool(study, [cut.name for cut in cuts], baseline, predicted, targets, pairs)


def report(pool: Pool, rng: np.random.Generator, shuffled: bool) -> tuple[bool, bool]:
    """Make one report in which no cut is special.

    Returns:
        Whether any verdict is "shown", and whether any cut passes without the correction for the number of cuts.
    """
    chosen = rng.permutation(pool.predicted[0].shape[1])[: N_RANDOM + 1]
    unmasked, masked = [], []
    for base, predicted, truth in zip(pool.baseline, pool.predicted, pool.targets, strict=True):
        target = rng.permutation(truth) if shuffled else truth
        unmasked.append((base == target).mean())
        masked.append((predicted[:, chosen] == target).mean(-1))
    rows = {BASELINE: unmasked} | {name: [of[k, 0] for of in masked] for k, name in enumerate(pool.names)}
    controls = tidy(
        {(name, i): [of[k, i] for of in masked] for k, name in enumerate(pool.names) for i in range(1, N_RANDOM + 1)}
    )
    of, number = zip(*controls["condition"], strict=True)
    controls = controls.assign(
        condition=[f"{a}, {i}" for a, i in zip(of, number, strict=True)], control="random", of=of
    )
    controls = controls.assign(control="random", of=of)
    findings = Findings(
        study=pool.study,
        scores=tidy(rows).assign(accuracy_chance=1 / 12),
        facts=pd.DataFrame({"fit": [""]}),
        curves=pd.DataFrame(),
        controls=controls,
        analyses={} if shuffled else {"superset-ablations": pool.supersets.assign(fit="")},
    )
    ((_, verdicts),) = verdicts_of(findings)
    alone = [
        one.row["ci_high"] < 0 and one.cut.n_random_hurt_less == len(one.cut.random) >= ENOUGH_RANDOM
        for one in verdicts
    ]
    return any(one.verdict == "shown" for one in verdicts), any(alone)


def tidy(values: dict[Any, Sequence[Float[np.ndarray, ""]]]) -> pd.DataFrame:
    """Scores of the subjects under each condition."""
    rows = [(f"s{i}", name, value, "") for name, some in values.items() for i, value in enumerate(some)]
    return pd.DataFrame(rows, columns=["subject", "condition", "accuracy", "fit"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"reports": 1000, "subjects": 8, "pool": 300}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    pool, rng = train_and_predict(given.subjects, given.pool), np.random.default_rng(0)
    lines = ["| null | any verdict “shown” | any cut that passes alone |", "|:--|--:|--:|"]
    for shuffled in (False, True):
        results = [report(pool, rng, shuffled) for _ in track(range(given.reports), "reports")]
        shown, alone = np.mean(results, axis=0)
        lines.append(f"| {'shuffled labels' if shuffled else 'random cuts'} | {shown:.3f} | {alone:.3f} |")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
