"""How similar circuits are: edges that subjects share, Jaccard indices, and the same of random sets of edges."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from emg_lens.layout import CLS

N_RANDOM = 200
"""Number of simulated collections of random circuits."""


@dataclass(frozen=True, eq=False)
class CircuitSets:
    """The circuits of several fits.

    Attributes:
        edges: `edge`, `layer`, `dest` and `src` of every candidate edge of any fit.
        subjects: Subject of each fit.
        members: Whether an edge is in the circuit of a fit.
        candidates: Whether an edge is a candidate in a fit.
    """

    edges: pd.DataFrame
    subjects: np.ndarray
    members: Bool[np.ndarray, "fit edge"]
    candidates: Bool[np.ndarray, "fit edge"]

    @property
    def n_subjects(self) -> int:
        """Number of subjects."""
        return len(set(self.subjects))

    def kinds(self, match_cls: bool) -> Int[np.ndarray, " edge"]:
        """Number the layers of the edges, or the combinations of a layer and an edge to CLS or to another token."""
        return self.edges["layer"].to_numpy(int) * 2 + (match_cls & (self.edges["dest"] == CLS).to_numpy())

    def random(self, match_cls: bool = False, seed: int = 0) -> Bool[np.ndarray, "random fit edge"]:
        """Choose as many candidate edges in every layer of every fit at random, `N_RANDOM` times.

        Args:
            match_cls: Also match the number of edges to CLS in every layer.
            seed: Seed of the choice.
        """
        rng, chosen = np.random.default_rng(seed), np.zeros((N_RANDOM, *self.members.shape), bool)
        kind = self.kinds(match_cls)
        for fit, (member, candidate) in enumerate(zip(self.members, self.candidates, strict=True)):
            for one in np.unique(kind):
                here = np.flatnonzero(candidate & (kind == one))
                order = rng.permuted(np.tile(here, (N_RANDOM, 1)), axis=1)[:, : member[here].sum()]
                np.put_along_axis(chosen[:, fit], order, True, axis=1)
        return chosen


@dataclass(frozen=True)
class Similarity:
    """Mean Jaccard index over pairs of circuits.

    Attributes:
        mean: Mean over pairs.
        random: Simulated means of random circuits with as many edges in every layer.
        random_to_cls: The same for random circuits with also as many edges to CLS.
        n_pairs: Number of pairs.
    """

    mean: float
    random: Float[np.ndarray, " random"]
    random_to_cls: Float[np.ndarray, " random"]
    n_pairs: int


def circuit_sets(rows: pd.DataFrame) -> CircuitSets:
    """Collect circuits from rows with `fit`, `subject`, `edge`, `layer`, `dest`, `src` and `in_circuit`."""
    edges = rows.drop_duplicates("edge")[["edge", "layer", "dest", "src"]].reset_index(drop=True)
    in_circuit = rows.pivot(index="fit", columns="edge", values="in_circuit")[edges["edge"]]
    subjects = rows.drop_duplicates("fit").set_index("fit")["subject"][in_circuit.index]
    candidates = in_circuit.notna().to_numpy()
    return CircuitSets(edges, subjects.to_numpy(str), in_circuit.eq(True).to_numpy(bool), candidates)


def number_of_subjects(members: Bool[np.ndarray, "*random fit edge"], subjects: np.ndarray) -> Int[np.ndarray, "..."]:
    """Count the subjects with an edge in more than half of their circuits."""
    most = [members[..., subjects == one, :].mean(-2) > 0.5 for one in dict.fromkeys(subjects)]  # noqa: PLR2004
    return np.sum(most, axis=0)


def shared_by_chance(sets: CircuitSets) -> Int[np.ndarray, " edge"]:
    """Return how many subjects at most share an edge of this layer and kind, in 95 % of simulated random circuits.

    Random circuits have as many edges in every layer, and as many edges to CLS.
    """
    counts, kind = number_of_subjects(sets.random(match_cls=True), sets.subjects), sets.kinds(match_cls=True)
    most = np.zeros(len(kind), int)
    for one in np.unique(kind):
        most[kind == one] = np.quantile(counts[:, kind == one].max(1), 0.95, method="higher")
    return most


def sources_by_chance(sets: CircuitSets) -> float:
    """Return the largest mean number of edges from one source, in 95 % of simulated random circuits.

    Means are over fits. Random circuits have as many edges in every layer, and as many edges to CLS.
    """
    names, random = sets.edges["src"].to_numpy(), sets.random(match_cls=True)
    by_source = [random[..., names == one].sum(-1).mean(-1) for one in np.unique(names)]
    return float(np.quantile(np.max(by_source, axis=0), 0.95))


def similarity(sets: CircuitSets, same_subject: bool) -> Similarity | None:
    """Compare circuits of different subjects, or of several fits of a subject; None without such pairs."""
    same = sets.subjects[:, None] == sets.subjects
    pairs = np.triu(same if same_subject else ~same, 1)
    if not pairs.any():
        return None
    by_layer, to_cls = (np.array([jaccard(x)[pairs].mean() for x in sets.random(match)]) for match in (False, True))
    return Similarity(float(jaccard(sets.members)[pairs].mean()), by_layer, to_cls, int(pairs.sum()))


def jaccard(members: Bool[np.ndarray, "fit edge"]) -> Float[np.ndarray, "fit fit"]:
    """Compute edges in both circuits / edges in one or both, for all pairs; 1 for two empty circuits."""
    numbers = members.astype(float)
    both, sizes = numbers @ numbers.T, numbers.sum(1)
    either = sizes[:, None] + sizes - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)
