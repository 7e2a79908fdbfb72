"""Measure how often a report shows a head where no head is special.

`python tests/bench/null_heads.py --data ~/ninapro_db5 [--subjects S1 S3 …] [--reports 2000] [--pool 120]` prints the
table of docs/controls.md §8.1 on single heads (some ten minutes). It trains the models of `heads-db5`, and runs `pool`
size-matched random cuts of each edge set in each layer. In each report, some of them stand for the heads of the layer,
and 20 others are their random controls. The p of a head is computed in two ways: t, as in reports
(`shared_controls_p`), and ranks, as for cuts with random controls of their own (`family_wise_p`).

*shown*: fraction of reports with any head that has p ≤ .05 and an interval that excludes zero. Supersets are not
compared, so a real report shows no more heads. *p ≤ .05*: the same for any interval. *skewness* of the effects of
random cuts, and effects of the *real heads* in standard deviations of the random cuts: the smallest and the largest
value over layers and edge sets.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy
from jaxtyping import Bool, Float
from rich.progress import track

from emg_lens import Study
from emg_lens.data.registry import subjects
from emg_lens.scoring import measure
from emg_lens.studies.fits.control_conditions import is_random_cut
from emg_lens.studies.fits.fit_unit import fits_of
from emg_lens.studies.fits.prepared_fit import prepare_fit
from emg_lens.studies.results.verdicts import family_wise_p, shared_controls_p
from emg_lens.studies.spec.condition_spec import head_family
from emg_lens.studies.statistics.intervals import mean_interval
from emg_lens.sweeps import BASELINE, sweep
from emg_lens.training.fitting import fit

N_RANDOM, ALPHA = 20, 0.05
METRICS = ("log_prob", "accuracy")
COLUMNS = ("metric", "shown: t", "shown: ranks", "p ≤ .05: t", "p ≤ .05: ranks", "skewness", "real heads (SD)")


@dataclass(frozen=True)
class Pool:
    """Drops of a metric in trained models, one array `[cut, subject]` for the heads of each layer and edge set.

    Attributes:
        heads: Drops of the cuts of single heads.
        random: Drops of the random cuts that these heads share.
    """

    heads: dict[str, Float[np.ndarray, "cut subject"]]
    random: dict[str, Float[np.ndarray, "cut subject"]]

    @cached_property
    def is_clear(self) -> dict[str, Bool[np.ndarray, " cut"]]:
        """Whether the interval of each random cut's drop lies above zero."""
        return {family: np.array([mean_interval(one)[0] > 0 for one in cuts]) for family, cuts in self.random.items()}


def train_and_cut(data: Path | None, names: Sequence[str] | None, n_random: int) -> dict[str, Pool]:
    """Train the models of `heads-db5`, and measure each metric under all cuts of heads and all random cuts."""
    content = Study.load("heads-db5").model_dump(mode="json")
    content["conditions"] |= {"removals": None, "controls": {"random_edges": n_random}}
    study, scores, cuts = Study.from_content(content), [], []
    names = names or subjects(study.cohort.dataset, data, **study.cohort.options)
    for one in track(fits_of(study, [names]), "models and their cuts"):
        prepared = prepare_fit(one, data, "cpu")
        fit(prepared.model, prepared.train, one.recipe)
        logits = sweep(prepared.model, prepared.test.x, prepared.conditions).logits
        repetition, targets = prepared.tested.repetition_id, prepared.targets
        scores.append({name: measure(METRICS, out.numpy(), targets, repetition) for name, out in logits.items()})
        cuts = [cut for cut in prepared.conditions if cut.name != BASELINE]
    family = {cut.name: str(cut.tags["of"]) if is_random_cut(cut) else head_family(cut.tags) for cut in cuts}

    def drops(metric: str, random: bool) -> dict[str, Float[np.ndarray, "cut subject"]]:
        some = [cut.name for cut in cuts if is_random_cut(cut) == random]
        changes = {name: [of[BASELINE][metric] - of[name][metric] for of in scores] for name in some}
        families = dict.fromkeys(family[name] for name in some)
        return {one: np.array([changes[name] for name in some if family[name] == one]) for one in families}

    return {metric: Pool(drops(metric, random=False), drops(metric, random=True)) for metric in METRICS}


def report(pool: Pool, rng: np.random.Generator) -> list[bool]:
    """Make one report in which random cuts stand for heads, and say whether any is shown, and has p ≤ .05."""
    effects, clear = [], []
    for family, drops in pool.random.items():
        n_heads = len(pool.heads[family])
        chosen = rng.permutation(len(drops))[: n_heads + N_RANDOM]
        for head in chosen[:n_heads]:
            head_and_random = [head, *chosen[n_heads:]]
            effects.append(drops[head_and_random].mean(axis=1))
            clear.append(pool.is_clear[family][head_and_random])
    any_interval = [np.ones_like(one) for one in clear]
    ways = [(p, of) for of in (clear, any_interval) for p in (shared_controls_p, family_wise_p)]
    return [bool((np.array(p(effects, of)) <= ALPHA).any()) for p, of in ways]


def ranges(pool: Pool) -> list[str]:
    """Ranges of skewness and real heads, without layers in which random cuts change nothing."""
    means = {family: drops.mean(axis=1) for family, drops in pool.random.items() if np.ptp(drops.mean(axis=1)) > 0}
    skewness = [scipy.stats.skew(of) for of in means.values()]
    heads = [(pool.heads[family].mean(axis=1) - of.mean()) / of.std(ddof=1) for family, of in means.items()]
    return [f"{np.min(of):.1f} to {np.max(of):.1f}" for of in (skewness, np.concatenate(heads))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--subjects", nargs="+", help="default: all in the folder")
    for name, default in {"reports": 2000, "pool": 120}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given, rng = parser.parse_args(), np.random.default_rng(0)
    lines = [f"| {' | '.join(COLUMNS)} |", f"|:--|{'--:|' * (len(COLUMNS) - 1)}"]
    for metric, pool in train_and_cut(given.data, given.subjects, given.pool).items():
        rates = np.mean([report(pool, rng) for _ in track(range(given.reports), "reports")], axis=0)
        lines.append(f"| {' | '.join([metric, *(f'{rate:.3f}' for rate in rates), *ranges(pool)])} |")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
