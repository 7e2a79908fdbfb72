"""Circuits: how few attention edges keep the decision, how similar they are, and which electrodes they read."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from emg_lens.analysis.attribution.fit_trials import SEARCH_TRIALS, TEST_TRIALS
from emg_lens.analysis.circuits.circuit import RANDOM
from emg_lens.layout import CLS
from emg_lens.plotting.edge_maps import token_order
from emg_lens.studies.report.circuit_figures import draw_edge_maps, draw_sizes
from emg_lens.studies.report.fit_values import attributed_metric, mean_heading, mean_with_interval, with_subjects
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import count, number, value
from emg_lens.studies.results.circuit_similarity import (
    CircuitSets,
    Similarity,
    circuit_sets,
    number_of_subjects,
    shared_by_chance,
    similarity,
    sources_by_chance,
)
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.statistics.intervals import mean_interval

KEPT = 90
"""Percentage of the metric's range that a circuit keeps on the trials of the search: the default of `find_circuit`."""
SEARCHES = "two searches in one model"
SEARCHED = f"the training trials of the search (at most {SEARCH_TRIALS} for each model)"
CIRCUIT, WITHOUT, UNMASKED = "route 1", "without the routes", "unmasked model"
"""Sets of kept edges in the table of the analysis."""
MOST_EDGES = 20
"""Most rows of the table of shared edges."""
METHOD = (
    "The search keeps the floor (self-edges) and cuts all other edges outside the circuit (renormalising deletion). It"
    f" ranks edges and selects them on at most {SEARCH_TRIALS} evenly spaced training trials; this table is measured on"
    f" at most {TEST_TRIALS} evenly spaced test trials for each model. A set that is selected on few trials keeps less"
    " on all others, also on other training trials. “Kept” is the fraction of the range between all candidate"
    " edges cut (0 %) and the unmasked model (100 %). Random sets"
    " have as many edges in every layer, and as many of them to and from CLS. The search stops at the first sufficient"
    " set. Other sets may also be sufficient."
)


def layout_circuits(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per subject: size of the circuit, and what the circuit, random sets and all others keep."""
    kept = _kept(cell)
    if not len(kept):
        return None
    confidence, n = cell.statistics.confidence, len(kept)
    columns = {"edges": 1, "candidates": 0, "circuit": 0, "random": 0, "without": 0}
    body = [[subject, *_cells(row, columns)] for subject, row in kept.iterrows()]
    mean = [mean_with_interval(kept[name].to_numpy(), digits, confidence) for name, digits in columns.items()]
    body.append([mean_heading(confidence, n), *mean])
    headings = ["Edges in the circuit", "Candidate edges", "Kept by the circuit, %"]
    headings += ["Kept by random edges, %", "Kept without the circuit, %"]
    table = pd.DataFrame(body, columns=["Subject", *headings])
    if "accuracy" in kept:
        of = [[value(x) for x in kept[name]] + [value(kept[name].mean())] for name in ("accuracy", "accuracy_circuit")]
        table["Accuracy"], table["Accuracy, circuit"] = of
    table.attrs["notes"] = [*circuit_sentences(cell), METHOD, *_without_circuit(cell)]
    return table


def circuit_sentences(cell: Cell) -> Iterator[str]:
    """Say how many edges suffice in the search, and what they, random edges and the other edges keep on test trials."""
    kept, metric, confidence = _kept(cell), attributed_metric(cell), cell.statistics.confidence
    if not len(kept):
        return
    n, low, high = len(kept), kept["edges"].min(), kept["edges"].max()
    spread = f" (range {low:.3g}–{high:.3g} over {n} subjects)" if n > 1 else ""
    yield (
        f"{'On average ' if n > 1 else ''}{kept['edges'].mean():.3g} of {kept['candidates'].mean():.4g} edges between"
        f" channels{spread} keep at least {KEPT} % of the {metric}'s range on {SEARCHED}."
    )
    means = {
        name: mean_with_interval(kept[name].to_numpy(), 0, confidence, " %", name=True)
        for name in ("circuit", "random", "without")
    }
    low, high = mean_interval((kept["circuit"] - kept["random"]).to_numpy(), confidence)
    judged = "compared with" if np.isnan(low) else "clearly more than" if low > 0 else "not clearly more than"
    yield (
        f"On test trials, these edges keep {means['circuit']}, {judged} random sets with as many edges in every"
        f" layer and to CLS: {means['random']}."
    )
    if more := int((kept["circuit"] > 100).sum()):  # noqa: PLR2004
        yield (
            f"In {more} of {count(n, 'subject')}, the circuit keeps more than 100 %: on the test trials, the"
            f" other edges lower the {metric}."
        )
    rest = kept["without"].mean()
    compared = (
        f"at least {KEPT} %, so the other edges alone are sufficient too"
        if rest >= KEPT
        else f"less than {KEPT} %, so the other edges alone are not sufficient"
    )
    yield f"Without these edges, the model keeps {means['without']}: {compared}."


def circuit_answers(cell: Cell) -> Iterator[str]:
    """Say how many edges are enough, and whether circuits are alike."""
    yield from circuit_sentences(cell)
    sets = _sets(cell)
    both = {} if sets is None else {"two subjects": similarity(sets, False), SEARCHES: _of_two_searches(cell)}
    yield from (_similar(name, one) for name, one in both.items() if one is not None)


def layout_shared_edges(cell: Cell) -> pd.DataFrame | None:
    """Lay out the edges that most subjects share."""
    sets = _sets(cell)
    if sets is None or sets.n_subjects < 2:  # noqa: PLR2004
        return None
    counts, n, names = number_of_subjects(sets.members, sets.subjects), sets.n_subjects, sets.edges["edge"]
    by_chance, scores = shared_by_chance(sets), _edges(cell).groupby("edge")["score"].mean()[names].to_numpy()
    most = [i for i in np.lexsort([-scores, -counts]) if counts[i] > n / 2]
    rows = [[names[i], f"{counts[i]} of {n}", f"{by_chance[i]} of {n}", number(scores[i], 3)] for i in most]
    columns = ["Edge", "Subjects", "Random sets", f"Mean score ({attributed_metric(cell)})"]
    table = pd.DataFrame(rows[:MOST_EDGES], columns=columns)
    more, every = (int(np.sum(of[most])) for of in (counts > by_chance, counts == n))
    table.attrs["notes"] = [
        f"{count(len(most), 'edge')} {_is(len(most))} in the circuits of more than half of the {n} subjects, {every} in"
        f" those of all. {more or 'None'} of them {_is(max(more, 1))} in more circuits than random sets share.",
        "Random sets have as many edges in every layer, and as many of them to CLS. In 95 % of simulations, no edge of"
        " the layer and kind (to CLS or not) is in the sets of more subjects.",
        *_several_fits(sets),
        *[f"The table shows the first {MOST_EDGES} of them."] * (len(most) > MOST_EDGES),
    ]
    return table if len(rows) else None


def layout_similarity(cell: Cell) -> pd.DataFrame | None:
    """Lay out the mean Jaccard index of circuits of two subjects, and of two models of a subject."""
    sets = _sets(cell)
    if sets is None:
        return None
    both = {"two subjects": similarity(sets, False), "two models of a subject": similarity(sets, True)}
    both[SEARCHES] = _of_two_searches(cell)
    both = {name: one for name, one in both.items() if one is not None}
    rows = [
        [name, value(one.mean), _simulated(one.random), _simulated(one.random_to_cls), str(one.n_pairs)]
        for name, one in both.items()
    ]
    columns = ["Circuits of", "Jaccard index", "Random sets [95 %]", "Random sets, edges to CLS matched", "Pairs"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs["notes"] = [
        *(_similar(name, one) for name, one in both.items()),
        "Jaccard index: edges in both circuits, divided by edges in one or both; mean over pairs. Random sets have as"
        " many edges in every layer. If circuits prefer edges to CLS, this alone makes them similar, so the last"
        " comparison also matches the number of edges to CLS. The brackets contain 95 % of simulated means.",
        "Two searches in one model use disjoint sets of training trials. Circuits of two subjects can hardly be"
        " more alike than these. If the two searches overlap little, the index says little about whether"
        " subjects differ."
        if SEARCHES in both
        else "A second search in the same model needs 128 training trials, and no model has as many. So it is not known"
        " how similar the circuits of one model are, and the index says little about whether subjects differ.",
    ]
    return table if len(rows) else None


def layout_sources(cell: Cell) -> pd.DataFrame | None:
    """Lay out how often each channel is the source of an edge in a circuit."""
    sets = _sets(cell)
    if sets is None:
        return None
    sources, n = sets.edges["src"].to_numpy(), sets.n_subjects
    channels = [name for name in token_order(sets.edges) if name in set(sources)]
    edges = np.array([sets.members[:, sources == name].sum(1) for name in channels], float).T
    by_subject = pd.DataFrame(edges, columns=channels).groupby(sets.subjects).mean()
    read = (by_subject > 0).sum()
    body = [
        [name, f"{read[name]} of {n}", mean_with_interval(by_subject[name].to_numpy(), 1, cell.statistics.confidence)]
        for name in sorted(channels, key=lambda name: -by_subject[name].mean())
    ]
    heading = mean_heading(cell.statistics.confidence, n).replace("Mean", "Edges per circuit")
    table = pd.DataFrame(body, columns=["Source", "Subjects", heading])
    by_chance = sources_by_chance(sets)
    above = "more" if by_subject.mean().max() > by_chance else "no more"
    everywhere, to_cls = int((read == n).sum()), sets.edges["dest"].eq(CLS).to_numpy()
    table.attrs["notes"] = [
        f"{everywhere} of {count(len(channels), 'token')} {_is(everywhere)} a source of edges in the circuits of every"
        f" subject (of at least one model). The most frequent source is {body[0][0]}, {above} frequent than the first"
        f" of random sets (edges to CLS matched; at most {number(by_chance, 1)} edges per circuit in 95 % of"
        " simulations).",
    ]
    if to_cls.any():
        fraction = sets.members[:, to_cls].sum() / max(sets.members.sum(), 1)
        table.attrs["notes"].append(f"{number(100 * fraction, 0)} % of the edges in the circuits lead to CLS.")
    return table


def figure_sizes(cell: Cell) -> Figure | None:
    """Draw the kept fraction by number of edges."""
    kept, table = _kept(cell), with_subjects(cell, "circuit")
    if not len(kept):
        return None
    rows = table[table["part"] == "size"]
    sizes = rows.groupby(["subject", "groups"])[["fraction", "random"]].mean().reset_index()
    circuits = pd.DataFrame({"groups": kept["edges"], "fraction": kept["circuit"] / 100})
    return draw_sizes(sizes, circuits, attributed_metric(cell))


def figure_edges(cell: Cell) -> Figure | None:
    """Draw in how many subjects each edge is in the circuit."""
    sets = _sets(cell)
    return None if sets is None else draw_edge_maps(sets)


def _edges(cell: Cell) -> pd.DataFrame:
    table = with_subjects(cell, "circuit")
    return table[table["part"] == "edge"] if len(table) else table


def _sets(cell: Cell) -> CircuitSets | None:
    edges = _edges(cell)
    return circuit_sets(edges) if len(edges) else None


def _of_two_searches(cell: Cell) -> Similarity | None:
    """Compare the circuits of two searches in each model, which is then both `fit` and `subject` of two circuits."""
    edges = _edges(cell)
    if "in_second_circuit" not in edges or not len(edges := edges.dropna(subset="in_second_circuit")):
        return None
    second = edges.assign(fit=edges["fit"] + " again", in_circuit=edges["in_second_circuit"])
    both = pd.concat([edges, second]).assign(subject=[*edges["fit"], *edges["fit"]])
    return similarity(circuit_sets(both), True)


def _kept(cell: Cell) -> pd.DataFrame:
    """One row per subject: numbers of edges, percentages of the range, and accuracies; means over the fits."""
    table = with_subjects(cell, "circuit")
    if not len(table):
        return table
    rows = table[table["part"] == "kept"]

    def of(name: str, column: str) -> pd.Series:
        return rows[rows["kept"] == name].groupby("subject", sort=False)[column].mean()

    parts = {"edges": of(CIRCUIT, "groups"), "candidates": of(UNMASKED, "groups")}
    names = {"circuit": CIRCUIT, "random": RANDOM, "without": WITHOUT}
    parts |= {column: 100 * of(name, "fraction") for column, name in names.items()}
    if rows["accuracy"].notna().any():
        parts |= {"accuracy": of(UNMASKED, "accuracy"), "accuracy_circuit": of(CIRCUIT, "accuracy")}
    return pd.DataFrame(parts).sort_index()


def _cells(row: pd.Series, columns: dict[str, int]) -> list[str]:
    return [number(row[name], 0 if float(row[name]).is_integer() else digits) for name, digits in columns.items()]


def _without_circuit(cell: Cell) -> Iterator[str]:
    every = cell.scores["fit"].nunique()
    missing = every - cell.analysis("circuit")["fit"].nunique()
    if missing:
        yield (
            f"{missing} of {count(every, 'model')} {_is(missing)} left out: the {attributed_metric(cell)} does not fall"
            " when all candidate edges are cut."
        )


def _several_fits(sets: CircuitSets) -> Iterator[str]:
    if len(sets.subjects) > sets.n_subjects:
        yield "An edge counts for a subject if it is in more than half of the circuits of this subject's models."


def _similar(name: str, one: Similarity) -> str:
    start = f"Circuits of {name} have a mean Jaccard index of {value(one.mean)}"
    layer, cls = (value(values.mean()) for values in (one.random, one.random_to_cls))
    above = [one.mean > np.quantile(values, 0.975) for values in (one.random, one.random_to_cls)]
    if not above[0]:
        return f"{start}: no more similar than random sets with as many edges in every layer ({layer})."
    more = f"{start}: more similar than random sets with as many edges in every layer ({layer}),"
    if above[1]:
        return f"{more} also if the random sets have as many edges to CLS ({cls})."
    return f"{more} but not if the random sets also have as many edges to CLS ({cls})."


def _simulated(values: Float[np.ndarray, " random"]) -> str:
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{value(values.mean())} [{value(low)}, {value(high)}]"


def _is(n: int) -> str:
    return "is" if n == 1 else "are"


class Circuits(View):
    """Circuits of attention edges between channels."""

    name, order = "circuit", 30
    captions = {
        "circuit-size": "How much few edges keep. All candidate edges but the given number are cut. Vertical: how much"
        " the model keeps on test trials; 100 % is the unmasked model. Blue: the edges with the highest scores. Grey:"
        " random edges, as many in every layer and to CLS. Diamonds: the circuits, which keep at least"
        f" {KEPT} % on {SEARCHED}.",
        "circuit-edges": "Which edges subjects share (random sets share edges to CLS as well, see the table)."
        " Each cell is one attention edge: the token of the row attends to the token of the column. The darker"
        " the cell, the more subjects have this edge in their circuit. Grey: not a candidate (self-edges, and edges"
        " without a path to the readout).",
    }
    cell_tables = {
        "Circuits of attention edges": layout_circuits,
        "Edges that most circuits share": layout_shared_edges,
        "Similarity of circuits": layout_similarity,
        "Sources of the edges in circuits": layout_sources,
    }
    cell_figures = {"circuit-size": figure_sizes, "circuit-edges": figure_edges}
    answers = {"How many edges are enough?": circuit_answers}

    def shows(self, findings: Findings) -> bool:
        """Whether the study found circuits."""
        return any(len(cell.analysis("circuit")) for cell in findings.cells)


CIRCUITS = Circuits()
