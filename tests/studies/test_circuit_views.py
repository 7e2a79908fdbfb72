"""Views of circuits, flow and roles of heads: numbers against scikit-learn and scipy, sentences, and figures."""

import inspect
import warnings
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import hypergeom, spearmanr
from sklearn.metrics import jaccard_score
from synthetic import cell_of, tidy
from tiny import TINY

from emg_lens.analysis import find_circuit
from emg_lens.plotting.saving import to_svg
from emg_lens.studies.report.view import VIEWS, views_of
from emg_lens.studies.report.views.circuit import (
    KEPT,
    circuit_sentences,
    figure_edges,
    figure_sizes,
    layout_circuits,
    layout_shared_edges,
    layout_similarity,
    layout_sources,
)
from emg_lens.studies.report.views.flow import figure_flow, layout_flow
from emg_lens.studies.report.views.head_roles import figure_roles, layout_head_roles, layout_stability
from emg_lens.studies.results.circuit_similarity import (
    circuit_sets,
    jaccard,
    number_of_subjects,
    similarity,
)
from emg_lens.studies.statistics.intervals import mean_interval
from emg_lens.studies.study import Study

TOKENS = ["cls", "emg.0", "emg.1", "emg.2", "acc.0", "acc.1"]
EDGES = [
    (layer, dest, src) for layer in (0, 1) for dest in TOKENS for src in TOKENS[1:]
    if dest != src and (layer == 0 or dest == "cls")
]  # fmt: skip


def drawn(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_svg(figure).rstrip().endswith(b"</svg>")
    return figure


def circuit_rows(fit, members, circuit=0.9, random=0.4, without=0.6):
    """The table of the analysis for one fit."""
    names = [f"L{layer + 1} {src} → {dest}" for layer, dest, src in EDGES]
    edges = pd.DataFrame(EDGES, columns=["layer", "dest", "src"])
    edges = edges.assign(part="edge", edge=names, score=np.linspace(1, 0, len(EDGES)), in_circuit=members)
    kept = pd.DataFrame(
        [
            ("unmasked model", len(EDGES), 1.0, 0.95),
            ("route 1", int(np.sum(members)), circuit, 0.9),
            ("random edges", int(np.sum(members)), random, 0.5),
            ("without the routes", len(EDGES) - int(np.sum(members)), without, 0.7),
        ],
        columns=["kept", "groups", "fraction", "accuracy"],
    ).assign(part="kept")
    sizes = pd.DataFrame({"part": "size", "groups": [1, 2, 5, 10], "fraction": [0.1, 0.5, 0.8, 1.0], "random": 0.2})
    return pd.concat([edges, kept, sizes], ignore_index=True).assign(fit=fit)


def cell(name, tables, subjects=None):
    """A cell with one fit per table, and the table of one analysis."""
    fits = list(tables)
    subjects = subjects or fits
    scores = tidy(baseline=[0.9] * len(fits)).assign(fit=fits, subject=subjects)
    made = cell_of(scores.drop_duplicates("subject"))
    return replace(made, scores=scores, analyses={name: pd.concat(tables.values(), ignore_index=True)})


def members(rng, n):
    chosen = np.zeros(len(EDGES), bool)
    chosen[rng.choice(len(EDGES), n, replace=False)] = True
    return chosen


@pytest.fixture
def circuits():
    rng = np.random.default_rng(0)
    kept = {"circuit": [0.9, 0.85, 0.95, 0.8, 0.9, 1.0], "without": [0.6, 0.5, 0.7, 0.6, 0.55, 0.65]}
    return cell("circuit", {
        f"s{i}": circuit_rows(f"s{i}", members(rng, 4 + i), kept["circuit"][i], 0.3 + 0.02 * i, kept["without"][i])
        for i in range(6)
    })  # fmt: skip


# --- circuits ---------------------------------------------------------------------------------------------


def test_the_table_of_circuits_has_every_subject_and_the_mean_with_its_interval(circuits):
    table = layout_circuits(circuits)
    assert list(table["Subject"]) == ["s0", "s1", "s2", "s3", "s4", "s5", "Mean [95 % CI]"]
    assert list(table["Edges in the circuit"])[:6] == ["4", "5", "6", "7", "8", "9"]
    assert set(table["Candidate edges"]) == {str(len(EDGES))}
    low, high = mean_interval(np.array([90, 85, 95, 80, 90, 100.0]))
    assert table["Kept by the circuit, %"].iloc[-1] == f"90 [{low:.0f}, {high:.0f}]"
    assert list(table["Kept without the circuit, %"])[:2] == ["60", "50"]
    assert table["Accuracy, circuit"].iloc[-1] == "0.900"


def test_the_sentences_follow_from_the_numbers(circuits):
    size, kept, rest = circuit_sentences(circuits)
    assert size.startswith(f"On average 6.5 of {len(EDGES)} edges between channels (range 4–9 over 6 subjects)")
    assert "clearly more than random sets" in kept
    assert rest.endswith("less than 90 %, so the other edges alone are not sufficient.")
    assert "on the training trials of the search (at most 64 for each model)" in size
    alike = cell("circuit", {
        f"s{i}": circuit_rows(f"s{i}", members(np.random.default_rng(i), 5), 0.5, 0.5 + (-1) ** i * 0.1, 0.2)
        for i in range(6)
    })  # fmt: skip
    _, kept, rest = circuit_sentences(alike)
    assert "not clearly more than random sets" in kept and "not sufficient" in rest
    enough = cell("circuit", {
        f"s{i}": circuit_rows(f"s{i}", members(np.random.default_rng(i), 5), without=0.92) for i in range(6)
    })  # fmt: skip
    assert list(circuit_sentences(enough))[-1].endswith("at least 90 %, so the other edges alone are sufficient too.")
    few = cell("circuit", {name: circuit_rows(name, members(np.random.default_rng(1), 5)) for name in ("a", "b")})
    assert "compared with random sets" in list(circuit_sentences(few))[1], "two subjects have no interval"


def test_a_model_without_a_circuit_is_named(circuits):
    scores = pd.concat([circuits.scores, tidy(baseline=[0.1]).assign(fit="s9", subject="s9")])
    assert "1 of 7 models is left out" in layout_circuits(replace(circuits, scores=scores)).attrs["notes"][-1]


def test_the_percentage_in_the_text_is_the_default_of_the_search():
    assert inspect.signature(find_circuit).parameters["keep"].default == KEPT / 100


def test_the_jaccard_index_is_that_of_scikit_learn(circuits):
    sets = circuit_sets(circuits.analyses["circuit"].query("part == 'edge'").assign(subject=lambda t: t["fit"]))
    expected = np.mean([jaccard_score(a, b) for a, b in combinations(sets.members, 2)])
    assert similarity(sets, same_subject=False).mean == pytest.approx(expected)
    assert similarity(sets, same_subject=True) is None
    assert f"{expected:.3f}" == layout_similarity(circuits)["Jaccard index"].iloc[0]
    assert np.allclose(np.diag(jaccard(sets.members)), 1)


def test_random_circuits_have_the_expected_jaccard_index_and_sizes(circuits):
    sets = circuit_sets(circuits.analyses["circuit"].query("part == 'edge'").assign(subject=lambda t: t["fit"]))
    layer, to_cls = sets.edges["layer"].to_numpy(), (sets.edges["dest"] == "cls").to_numpy()
    for match in (False, True):
        random = sets.random(match)
        for one in (0, 1):
            assert (random[..., layer == one].sum(-1) == sets.members[:, layer == one].sum(-1)).all()
        assert (random[..., to_cls].sum(-1) == sets.members[:, to_cls].sum(-1)).all() == match
    # Two fits with 3 and 5 of the 25 edges of the first layer: the number of common edges is hypergeometric.
    two = np.zeros((2, len(EDGES)), bool)
    two[0, :3] = two[1, :5] = True
    pair = replace(sets, subjects=np.array(["a", "b"]), members=two, candidates=sets.candidates[:2])
    n, common = int((layer == 0).sum()), np.arange(4)
    expected = (hypergeom(n, 3, 5).pmf(common) * common / (8 - common)).sum()
    random = similarity(pair, same_subject=False).random
    assert random.mean() == pytest.approx(expected, abs=3 * random.std() / np.sqrt(len(random)))


def test_edges_that_all_share_are_found_and_compared_with_random_sets():
    same = np.zeros(len(EDGES), bool)
    rng, tables = np.random.default_rng(3), {}
    inner = [i for i, (layer, dest, _) in enumerate(EDGES) if layer == 0 and dest != "cls"]
    for i in range(6):
        mine = same.copy()
        mine[[inner[4], *rng.choice(inner[5:], 2, replace=False)]] = True
        tables[f"s{i}"] = circuit_rows(f"s{i}", mine)
    shared = layout_shared_edges(cell("circuit", tables))
    layer, dest, src = EDGES[inner[4]]
    assert shared["Edge"].iloc[0] == f"L1 {src} → {dest}" and shared["Subjects"].iloc[0] == "6 of 6"
    assert int(shared["Random sets"].iloc[0][0]) < 6
    assert "1 of them is in more circuits than random sets share" in shared.attrs["notes"][0]


def test_an_edge_counts_for_a_subject_if_most_models_of_the_subject_have_it():
    sets = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1]], bool)
    assert number_of_subjects(sets, np.array(["a", "a", "b"])).tolist() == [2, 0, 1]


def test_two_seeds_of_a_subject_are_compared_with_each_other(circuits):
    rng = np.random.default_rng(5)
    tables = {f"s{i}-{seed}": circuit_rows(f"s{i}-{seed}", members(rng, 6)) for i in range(3) for seed in (0, 1)}
    both = cell("circuit", tables, subjects=["s0", "s0", "s1", "s1", "s2", "s2"])
    table = layout_similarity(both)
    assert list(table["Pairs"]) == ["12", "3"]
    assert layout_circuits(both)["Subject"].tolist() == ["s0", "s1", "s2", "Mean"]
    assert "no more similar than random sets" in table.attrs["notes"][0]


def test_two_searches_in_one_model_are_compared(circuits):
    table, rng = circuits.analyses["circuit"], np.random.default_rng(7)
    is_edge = (table["part"] == "edge").to_numpy()
    second = np.where(is_edge, rng.random(len(table)) < 0.3, np.nan)
    again = replace(circuits, analyses={"circuit": table.assign(in_second_circuit=second)})
    shown = layout_similarity(again).set_index("Circuits of").loc["two searches in one model"]
    assert any(note.startswith("Two searches in one model") for note in layout_similarity(again).attrs["notes"])
    assert any("needs 128 training trials" in note for note in layout_similarity(circuits).attrs["notes"])
    edges = table.assign(second=second)[is_edge]
    expected = [
        jaccard_score(one["in_circuit"].astype(bool), one["second"].astype(bool)) for _, one in edges.groupby("fit")
    ]
    assert shown["Jaccard index"] == f"{np.mean(expected):.3f}" and shown["Pairs"] == "6"


def test_sources_are_counted_over_subjects(circuits):
    table = layout_sources(circuits).set_index("Source")
    rows = circuits.analyses["circuit"].query("part == 'edge' and in_circuit == True")
    for name in TOKENS[1:]:
        per_fit = rows[rows["src"] == name].groupby("fit").size()
        assert table.loc[name, "Subjects"] == f"{len(per_fit)} of 6"
        assert table.loc[name].iloc[-1].split(" ")[0] == f"{per_fit.sum() / 6:.1f}"


def test_the_figures_of_circuits_show_the_counts(circuits):
    drawn(figure_sizes(circuits))
    figure = drawn(figure_edges(circuits))
    shown = np.ma.masked_invalid(np.asarray(figure.axes[0].images[0].get_array(), float))
    rows = circuits.analyses["circuit"].query("part == 'edge' and in_circuit == True and layer == 0")
    counts = rows.groupby(["dest", "src"]).size()
    for (dest, src), n in counts.items():
        assert shown[TOKENS.index(dest), TOKENS.index(src)] == n
    assert shown.sum() == counts.sum()
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == TOKENS


# --- flow -------------------------------------------------------------------------------------------------


def flow_rows(fit, scale):
    rows = [(0, "cls", "emg", 3.0), (0, "cls", "acc", 1.0), (0, "emg", "acc", -0.5), (0, "emg", "emg", 0.5),
            (1, "cls", "emg", 1.0)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["layer", "dest", "src", "score"])
    return table.assign(score=table["score"] * scale, full=4 * scale, all_cut=-scale, completeness_error=0.01, fit=fit)


def test_flow_is_in_per_cent_of_the_range_of_each_model():
    flow = cell("flow", {f"s{i}": flow_rows(f"s{i}", 1 + i) for i in range(6)})
    table = layout_flow(flow)
    assert list(table["Edges"])[:2] == ["EMG → CLS", "ACC → CLS"]
    assert [text.split(" ")[0] for text in table.iloc[:, 2]] == ["60.0", "20.0", "20.0", "10.0", "−10.0"]
    first, sums, *_ = table.attrs["notes"]
    assert first.startswith("The largest flow is EMG → CLS in L1: 60.0 %")
    assert "edges from sensors to CLS 100.0 %" in sums and "edges between modalities −10.0 %" in sums
    assert "from CLS" not in sums
    figure = drawn(figure_flow(flow))
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high and [text.get_text() for text in figure.axes[1].texts] == ["20.0"]


def test_models_whose_metric_does_not_fall_are_left_out_of_the_flow():
    wrong = flow_rows("s6", 1).assign(full=-2.0, completeness_error=30.0)
    flow = cell("flow", {**{f"s{i}": flow_rows(f"s{i}", 1 + i) for i in range(6)}, "s6": wrong})
    table = layout_flow(flow)
    assert set(table["Subjects above 0"]) == {"6 of 6", "0 of 6"}
    assert "1 model left out" in table.attrs["notes"][-1]
    assert "up to an error of at most 1.0 %" in table.attrs["notes"][-2], "models that are left out are not counted"


# --- heads ------------------------------------------------------------------------------------------------


def head_rows(fit, rng, noise):
    layer, head = np.divmod(np.arange(8), 4)
    parts = []
    for kind in ("unimodal", "cross_modal", "cls"):
        true = np.arange(8.0) if kind == "unimodal" else rng.normal(size=8)
        halves = [true + noise * rng.normal(size=8) for _ in range(2)]
        parts.append(pd.DataFrame({"layer": layer, "head": head, "kind": kind, "score": np.mean(halves, axis=0),
                                   "first_half": halves[0], "second_half": halves[1], "fit": fit}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def heads():
    rng = np.random.default_rng(1)
    return cell("head-roles", {f"s{i}": head_rows(f"s{i}", rng, 0.05) for i in range(5)})


def test_the_stability_is_the_mean_spearman_correlation_of_scipy(heads):
    table = layout_stability(heads).set_index(["Ranking by", "Between"])
    rows = heads.analyses["head-roles"]
    by_kind = {kind: some.pivot(index="fit", columns=["layer", "head"]) for kind, some in rows.groupby("kind")}
    for kind, word in (("unimodal", "unimodal"), ("cross_modal", "cross-modal")):
        scores = by_kind[kind]["score"].to_numpy()
        between = [spearmanr(a, b).statistic for a, b in combinations(scores, 2)]
        within = [
            spearmanr(a[s], b[s]).statistic for a, b in combinations(scores, 2) for s in np.split(np.arange(8), 2)
        ]
        expected = [f"{np.mean(between):.3f}", f"{np.mean(within):.3f}", "10"]
        assert [text.replace("−", "-") for text in table.loc[(word, "two subjects")]] == expected
        halves = [spearmanr(by_kind[kind]["first_half"].loc[fit], by_kind[kind]["second_half"].loc[fit]).statistic
                  for fit in by_kind[kind].index]  # fmt: skip
        assert table.loc[(word, "two halves of the test trials"), "All heads"] == f"{np.mean(halves):.3f}"


def test_only_a_stable_ranking_is_called_stable(heads):
    notes = layout_stability(heads).attrs["notes"]
    between = {note.split(" ")[1]: note for note in notes if "between two subjects" in note}
    assert "between two subjects: stable (" in between["unimodal"]
    assert "between two subjects: not stable" in between["cross-modal"]


def test_a_ranking_that_only_orders_layers_is_not_called_stable():
    rng = np.random.default_rng(2)
    tables = {f"s{i}": head_rows(f"s{i}", rng, 0.0) for i in range(5)}
    for table in tables.values():  # the layers differ by far, heads within a layer at random
        table["score"] = 100 * table["layer"] + rng.normal(size=len(table))
    notes = layout_stability(cell("head-roles", tables)).attrs["notes"]
    assert "stable only in that layers differ" in next(note for note in notes if "between two subjects" in note)


def test_the_order_of_two_heads_is_not_judged(heads):
    rows = heads.analyses["head-roles"]
    two = replace(heads, analyses={"head-roles": rows[(rows["layer"] == 0) & (rows["head"] < 2)]})
    notes = layout_stability(two).attrs["notes"]
    assert notes[0] == "The stability of the cross-modal ranking is not judged: fewer than 4 heads."
    assert not any("stable (" in note for note in notes)
    in_layers = replace(heads, analyses={"head-roles": rows[rows["head"] < 2]})
    table = layout_stability(in_layers)
    assert set(table["Heads of one layer"]) == {"–"}
    assert all("within layers not judged, fewer than 4 heads" in note for note in table.attrs["notes"][:-1])


def test_heads_are_named_with_the_number_of_subjects_in_which_they_are_first(heads):
    table = layout_head_roles(heads)
    row = table.set_index("Head").loc["L2H3"]
    assert row["First, unimodal"] == "5 of 5" and row["Mean rank, unimodal"] == "1.0"
    cross, uni, *_ = table.attrs["notes"]
    assert (
        uni == "By unimodal edges: one head is the first in more than half of the subjects (L2H3 in 5 of 5 subjects)."
    )
    first = table["First, cross-modal"].str[0].astype(int)
    assert first.sum() == 5 and cross.startswith(f"By cross-modal edges: {'one' if first.max() > 2 else 'no'} head is")
    drawn(figure_roles(heads))


def test_one_modality_has_no_cross_modal_ranking(heads):
    rows = heads.analyses["head-roles"]
    one = replace(heads, analyses={"head-roles": rows[rows["kind"] != "cross_modal"]})
    assert not any("ross" in column for column in layout_head_roles(one))
    assert set(layout_stability(one)["Ranking by"]) == {"unimodal"} and figure_roles(one) is None


# --- in a study -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_shows_the_views_of_its_analyses(tmp_path):
    parts = {
        "conditions": {"layer_masks": None, "removals": None, "controls": None},
        "training": {"epochs": 12, "lr": 0.01},
    }
    study = Study.parse(yaml.safe_dump(yaml.safe_load(TINY) | parts | {"analyses": ["circuit", "flow", "head-roles"]}))
    result = study.run(out=tmp_path, jobs=1)
    shown = [view.name for view in views_of(result)]
    assert [name for name in shown if name in ("circuit", "flow", "head-roles")] == ["circuit", "flow", "head-roles"]
    table = result.analyses["circuit"]
    sizes = table[table["in_circuit"].eq(True)].groupby("fit").size()
    (circuits,) = [
        of for title, of in VIEWS["circuit"].tables(result).items() if title == "Circuits of attention edges"
    ]
    assert [int(text) for text in circuits["Edges in the circuit"][:-1]] == sizes.tolist()
    assert "Circuits of attention edges" in (result.folder / "report.html").read_text("utf-8")
