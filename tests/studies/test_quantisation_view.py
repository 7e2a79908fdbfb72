"""View of quantised copies: numbers again from the stored tables of a small run, with scipy; sentences by count."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy import stats
from tiny import TINY

from emg_lens.analysis.quantisation.variant_analysis import FLOAT, VARIANTS
from emg_lens.plotting.saving import to_svg
from emg_lens.studies.report.quantised_values import cut_drops, head_rank_correlations, variant_scores
from emg_lens.studies.report.views.quantisation import (
    figure_quantised,
    interaction_sentences,
    layout_head_rankings,
    layout_interactions,
    layout_removed_edges,
    layout_scores,
    quantisation_answers,
)
from emg_lens.studies.study import Study

CUT = "cross_modal/from_beginning/L2"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Five subjects, cuts of layers and of heads."""
    content = yaml.safe_load(TINY)
    content["cohort"]["options"]["simulation"]["n_subjects"] = 5
    content["conditions"] = {
        "layer_masks": {"modes": ["from_beginning"]},
        "head_masks": {"edges": {"all": "every()"}},
        "removals": None,
        "controls": None,
    }
    content |= {"analyses": ["quantisation"], "views": ["quantisation"]}
    return Study.parse(yaml.safe_dump(content)).run(out=tmp_path_factory.mktemp("runs"), jobs=1)


@pytest.fixture(scope="module")
def cell(run):
    (only,) = run.cells
    return only


@pytest.fixture(scope="module")
def rows(run):
    table = run.analyses["quantisation"]
    return table[table["part"] == "score"]


def of(rows, variant, condition, column="accuracy"):
    return rows[(rows["variant"] == variant) & (rows["condition"] == condition)].sort_values("fit")[column].to_numpy()


def test_the_float_variant_has_the_scores_of_the_study(run, rows):
    assert list(dict.fromkeys(rows["variant"])) == list(VARIANTS)
    scores = run.scores[run.scores["condition"].isin(rows["condition"].unique())]
    float_rows = rows[rows["variant"] == FLOAT].set_index(["fit", "condition"])
    for row in scores.to_dict("records"):
        assert float_rows.loc[(row["fit"], row["condition"]), "accuracy"] == pytest.approx(row["accuracy"])


def test_tables_hold_means_and_t_intervals_of_paired_differences(cell, rows):
    table = layout_scores(cell).set_index("Variant")
    for variant in VARIANTS:
        values = of(rows, variant, "baseline")
        assert table.loc[variant].iloc[0].startswith(f"{values.mean():.3f}")
        change = 100 * (values - of(rows, FLOAT, "baseline"))
        if variant != FLOAT:
            assert table.loc[variant, "Subjects worse"] == f"{(change < 0).sum()} of 5"
            assert table.loc[variant, "Change, pp"].replace("−", "-").startswith(f"{change.mean() + 0.0:.1f}")
    drops = {v: 100 * (of(rows, v, "baseline") - of(rows, v, CUT)) for v in VARIANTS}
    interactions = layout_interactions(cell).set_index("Cut")
    assert list(interactions.index) == ["Uni, every layer", "Cross, every layer"], (
        "conditions that cut the same are one row"
    )
    for variant in list(VARIANTS)[1:]:
        difference = drops[variant] - drops[FLOAT]
        if difference.std():
            low, high = stats.t.interval(0.95, 4, difference.mean(), stats.sem(difference))
            expected = f"{difference.mean() + 0.0:.1f} [{low + 0.0:.1f}, {high + 0.0:.1f}]".replace("-", "−")
            assert interactions.loc["Cross, every layer", variant].replace("−0.0", "0.0") == expected.replace(
                "−0.0", "0.0"
            )


def test_rank_correlations_are_those_of_scipy(cell, rows):
    heads = [name for name in rows["condition"].unique() if "/head/" in name]
    assert len(heads) == 4
    taus = head_rank_correlations(cell)
    for variant in list(VARIANTS)[1:]:
        expected = []
        for fit in sorted(rows["fit"].unique()):
            mine = rows[rows["fit"] == fit]
            drops = [
                [of(mine, v, "baseline", "log_prob")[0] - of(mine, v, name, "log_prob")[0] for name in heads]
                for v in (FLOAT, variant)
            ]
            expected.append(stats.kendalltau(*drops).statistic)
        assert taus[variant, "tau"].mean() == pytest.approx(np.mean(expected))
    table = layout_head_rankings(cell)
    assert table.iloc[:, 0].tolist() == [*list(VARIANTS)[1:], "float, two halves of the trials"]


def test_removed_edges_have_a_row_per_layer_and_softmax(cell):
    table = layout_removed_edges(cell)
    assert table["Softmax"].tolist() == ["integer softmax"] * 2 + ["integer softmax, unscaled"] * 2
    assert table["Layer"].tolist() == ["L1", "L2"] * 2
    removed = table["Edges rounded to 0"].astype(float)
    assert removed[:2].mean() > removed[2:].mean(), "sharper attention has more small values"


def test_the_first_screen_answers_and_the_figure_is_drawn(cell, run):
    answers = [*quantisation_answers(cell)]
    assert answers[0].startswith("Rounding changes the accuracy of the float model (")
    assert "of the attention edges to zero" in answers[1] and answers[3].startswith("Rank correlation (Kendall's τ)")
    drops = cut_drops(cell)
    n = sum(variant != FLOAT for variant, _ in drops.columns)
    assert n == 2 * (len(VARIANTS) - 1) and f" of {n} combinations of a cut and a way of rounding" in answers[2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_svg(figure_quantised(cell)).rstrip().endswith(b"</svg>")
    assert "Does the quantised model keep its accuracy" in run.report()


def test_with_few_subjects_each_change_is_shown(cell):
    fits = sorted(cell.analyses["quantisation"]["fit"].unique())[:2]
    table = cell.analyses["quantisation"]
    few = {"quantisation": table[table["fit"].isin(fits)]}
    two = replace(cell, analyses=few)
    assert len(variant_scores(two)) == 2
    change = layout_scores(two).set_index("Variant").loc["4 bit", "Change, pp"]
    assert len(change.split("; ")) == 2 and "[" not in change
    assert not [*interaction_sentences(two)]
    assert "(each subject)" in next(quantisation_answers(two))


def test_without_the_analysis_nothing_is_shown(cell):
    empty = replace(cell, analyses={})
    layouts = (layout_scores, layout_interactions, layout_head_rankings, layout_removed_edges, figure_quantised)
    assert [make(empty) for make in layouts] == [None] * 5 and not [*quantisation_answers(empty)]
