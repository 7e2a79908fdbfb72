"""The tables of a study: the paper's Table 3, the extra conditions, depth, additivity, identities.

Every `layout_*` function turns the tidy result of `emg_lens.studies.statistics.comparison.compare` into a table of text
as it is to be printed, with its footnotes in `table.attrs["notes"]`; the writers of
`emg_lens.studies.report.table_formats` print both. Drops are shown as the IsoNet paper shows them, positive where
accuracy fell, although its formula (§2.3) is negative there; the tidy table keeps the sign (docs/protocol.md §4.6).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.io.files import write_text
from emg_lens.studies.report.table_formats import to_csv, to_html, to_latex, to_markdown, to_rich
from emg_lens.studies.statistics.comparison import StatisticsSpec, family_sizes
from emg_lens.sweeps.conditions import BASELINE

__all__ = ["layout_table3", "save_tables", "to_csv", "to_html", "to_latex", "to_markdown", "to_rich"]

MODE_NAMES = {"individual": "Individual", "from_beginning": "RFB", "from_end": "RFE"}
EDGE_NAMES = {"unimodal": "Uni", "cross_modal": "Cross"}
TEST_NAMES = {
    "mann-whitney": "two-sided Mann–Whitney U (unpaired, as in the paper)",
    "wilcoxon": "two-sided Wilcoxon signed-rank (paired)",
    "sign-flip": "two-sided sign-flip permutation of the mean difference (paired)",
}
CORRECTION_NAMES = {"bonferroni": "Bonferroni", "holm": "Holm", "fdr_bh": "Benjamini–Hochberg"}

NULL, SAME = "†", "‡"
EMPTY = "–"
ACCURACY, SIGNIFICANCE, DROP = "Acc.", "Sig.", "Drop %"


# --- layouts ----------------------------------------------------------------------------------------------


def layout_table3(scores: pd.DataFrame, tests: pd.DataFrame, spec: StatisticsSpec) -> pd.DataFrame:
    """The layout of the IsoNet paper's Table 3: layers and edge types down, masking modes across.

    Args:
        scores: Tidy scores, for the baseline and the number of trials.
        tests: Result of `compare`; conditions without mode or layer are left to `layout_extras`.
        spec: What set the stars, for the footnotes.

    Returns:
        Text, indexed by (Layer, Type), with the columns (mode, Acc. | Sig. | Drop %); the baseline is the
        last row. † marks structural nulls, ‡ conditions that equal an earlier one by construction.
    """
    masks = layer_conditions(tests)
    modes, kinds = list(masks["mode"].unique()), list(masks["edges"].unique())
    cells = {(r.layer, r.edges, r.mode): _cells(r) for r in masks.itertuples()}
    index, body = [], []
    for layer in sorted(masks["layer"].unique()):
        for kind in kinds:
            index.append((layer_name(layer), edge_name(kind)))
            body.append([c for mode in modes for c in cells.get((layer, kind, mode), (EMPTY,) * 3)])
    baseline = scores.loc[scores["condition"] == BASELINE].groupby("subject")["accuracy"].mean().mean()
    index.append(("Baseline", EMPTY))
    body.append([_accuracy(baseline), *[EMPTY] * (3 * max(len(modes), 1) - 1)])
    columns = [[MODE_NAMES[mode] for mode in modes] or ["All"], [ACCURACY, SIGNIFICANCE, DROP]]
    table = pd.DataFrame(
        body,
        index=pd.MultiIndex.from_tuples(index, names=["Layer", "Type"]),
        columns=pd.MultiIndex.from_product(columns),
    )
    table.attrs["notes"] = [*study_notes(scores, tests, spec), *_mark_notes(masks)]
    return table


def layout_extras(tests: pd.DataFrame, spec: StatisticsSpec) -> pd.DataFrame | None:
    """Conditions outside the layer-by-layer scheme, one a row; with the expected accuracy if there is one."""
    extras = tests.drop(index=layer_conditions(tests).index)
    return _one_a_row(extras, spec) if len(extras) else None


def layout_expected(tests: pd.DataFrame, spec: StatisticsSpec) -> pd.DataFrame | None:
    """Layer conditions beside the accuracy expected of them (a paper's, a simulation's), if any is given."""
    masks = layer_conditions(tests)
    known = masks[masks["expected"].notna()] if "expected" in masks else masks.iloc[:0]
    return _one_a_row(known, spec) if len(known) else None


def layout_depth(tests: pd.DataFrame) -> pd.DataFrame | None:
    """Accuracy by the number of layers cut, from the beginning and from the end, counted in two ways.

    "Layers cut" counts masked layers; "Live layers cut" only those that add a live edge to the cut, so that
    both directions are compared at the same depth (docs/protocol.md §4.9, 5).
    """
    masks = layer_conditions(tests)
    paths = masks[masks["mode"] != "individual"]
    if not len(paths):
        return None
    nominal, effective = {}, {}
    n_layers = masks["layer"].max() + 1
    for kind in paths["edges"].unique():
        for mode in paths["mode"].unique():
            path = paths[(paths["edges"] == kind) & (paths["mode"] == mode)]
            forwards = mode == "from_beginning"
            path = path.sort_values("layer", ascending=forwards)
            depth = (path["layer"] + 1 if forwards else n_layers - path["layer"]).astype(int)
            nominal[f"{edge_name(kind)} {MODE_NAMES[mode]}"] = dict(zip(depth, path["mean"], strict=True))
            live = path[~path["structural_null"] & ~path["equivalent_to"].duplicated()]
            effective[f"{edge_name(kind)} {MODE_NAMES[mode]}"] = dict(enumerate(live["mean"], start=1))
    table = pd.concat(
        {"Layers cut": pd.DataFrame(nominal), "Live layers cut": pd.DataFrame(effective)}, axis=1
    ).sort_index()
    table.index = pd.Index([str(i) for i in table.index], name="Number")
    return table.map(_accuracy)


def layout_additivity(tests: pd.DataFrame) -> pd.DataFrame | None:
    """Sum of the single-layer drops beside the drop with every layer cut: they need not agree.

    Drops in percentage points (pp); the all-layer drop also relative to the baseline, and relative to the
    baseline's distance from chance (docs/protocol.md §4.6).
    """
    masks = layer_conditions(tests)
    first, last = masks["layer"].min(), masks["layer"].max()
    every = ((masks["mode"] == "from_beginning") & (masks["layer"] == last)) | (
        (masks["mode"] == "from_end") & (masks["layer"] == first)
    )
    rows = []
    for kind in masks["edges"].unique():
        single = masks[(masks["edges"] == kind) & (masks["mode"] == "individual")]
        whole = masks[(masks["edges"] == kind) & every].head(1)
        if len(single) and len(whole):
            drops = [-single["difference_pp"].sum(), *-whole[["difference_pp", "delta_percent"]].iloc[0]]
            drops.append(whole["chance_corrected_drop_percent"].iloc[0])
            rows.append([edge_name(kind), *(_number(drop) for drop in drops)])
    columns = ["Single-layer drops, summed (pp)", "All layers cut (pp)", DROP, "Drop % above chance"]
    return pd.DataFrame(rows, columns=["Type", *columns]) if rows else None


def identities(scores: pd.DataFrame) -> pd.DataFrame:
    """Conditions that must equal an earlier one, and how far apart they were measured.

    Returns:
        `condition`, `equal_to`, `reason`, and `max_abs_difference` of the accuracies over subjects (0 when
        all is well). Empty without the audit columns.
    """
    rows = []
    if {"equivalent_to", "structural_null"} <= set(scores.columns):
        accuracy = scores.groupby(["subject", "condition"])["accuracy"].mean().unstack("condition")
        for r in scores.drop_duplicates("condition").itertuples():
            other = BASELINE if r.structural_null else r.equivalent_to
            if r.condition in (other, BASELINE) or other not in accuracy:
                continue
            reason = "no cut edge reaches the readout" if r.structural_null else "the same live edges are cut"
            apart = (accuracy[r.condition] - accuracy[other]).abs().max()
            rows.append((r.condition, other, reason, float(apart)))
    return pd.DataFrame(rows, columns=["condition", "equal_to", "reason", "max_abs_difference"])


def save_tables(
    folder: str | Path, scores: pd.DataFrame, tests: pd.DataFrame, spec: StatisticsSpec, title: str = ""
) -> list[Path]:
    """Write `table.csv` (the tidy tests), `table.md` and `table.tex` (Table 3, then the extras)."""
    tables = {title: layout_table3(scores, tests, spec), "Extra conditions": layout_extras(tests, spec)}
    shown = {name: table for name, table in tables.items() if table is not None}
    texts = {
        "table.csv": to_csv(tests),
        "table.md": "\n".join(to_markdown(table, name) for name, table in shown.items()),
        "table.tex": "\n".join(to_latex(table, name) for name, table in shown.items()),
    }
    for name, text in texts.items():
        write_text(Path(folder) / name, text)
    return [Path(folder) / name for name in texts]


# --- footnotes --------------------------------------------------------------------------------------------


def study_notes(scores: pd.DataFrame, tests: pd.DataFrame, spec: StatisticsSpec) -> list[str]:
    """What a reader needs to read the numbers: cohort, drop, tests and families, chance, granularity."""
    sizes = {family: family_sizes(tests, family) for family in ("mode", "all", "distinct")}
    chosen = ", ".join(f"{MODE_NAMES.get(name, name)} {n}" for name, n in sizes[spec.family].items())
    notes = [
        f"n = {scores['subject'].nunique()} subjects, the unit of analysis; accuracies are means over them.",
        f"{DROP} = 100 (baseline − masked) / baseline: relative, positive where accuracy fell.",
        f"Sig.: {TEST_NAMES[spec.test]}, {CORRECTION_NAMES[spec.correction]} within family “{spec.family}” "
        f"(number of tests: {chosen}). * p < .05, ** < .01, *** < .001, **** < .0001, ns: not significant.",
        f"Tests by other counts: {_sizes_in_words(sizes)}.",
    ]
    if "chance" in tests and tests["chance"].notna().any():
        notes.append(f"Chance accuracy: {tests['chance'].mean():.3f}.")
    if "n_test" in scores and scores["n_test"].notna().all():
        fewest, most = int(scores["n_test"].min()), int(scores["n_test"].max())
        trials = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        one = 100 / max(fewest, 1)
        notes.append(f"{trials} test trials a subject: one trial moves its accuracy by {one:.2f} pp.")
    return notes


def _mark_notes(rows: pd.DataFrame) -> list[str]:
    notes = []
    if rows["structural_null"].any():
        notes.append(
            f"{NULL} Structural null: no cut edge has a path to the readout, so the result equals the"
            " baseline whatever the weights are; it says nothing about the layer."
        )
    same = _equalities(rows)
    if same:
        notes.append(f"{SAME} The same live edges as an earlier condition, equal to it: {'; '.join(same)}.")
    return notes


def _equalities(rows: pd.DataFrame) -> list[str]:
    """`"RFB L1 = Individual L1"`, said once where it holds for every edge type."""
    masks = layer_conditions(rows)
    place = {r.condition: f"{MODE_NAMES[r.mode]} {layer_name(r.layer)}" for r in masks.itertuples()}
    said: dict[str, list[str]] = {}
    for r in rows[~rows["structural_null"]].itertuples():
        if r.equivalent_to != r.condition:
            here, other = (place.get(c, c) for c in (r.condition, r.equivalent_to))
            said.setdefault(f"{here} = {other}", []).append(edge_name(r.edges))
    everywhere = masks["edges"].nunique()
    return [
        text if len(kinds) == everywhere or " = " + kinds[0] in text else f"{text} ({', '.join(kinds)})"
        for text, kinds in said.items()
    ]


def _sizes_in_words(sizes: dict[str, dict[str, int]]) -> str:
    words = {"mode": "within a mode", "all": "in all", "distinct": "distinct and able to matter"}
    counts = {family: sorted(set(by_name.values())) for family, by_name in sizes.items()}
    return ", ".join(f"{' or '.join(map(str, counts[family])) or '0'} {w}" for family, w in words.items())


# --- parts ------------------------------------------------------------------------------------------------


def layer_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """The conditions of the layer-by-layer scheme: a mode of the paper, and a layer."""
    return tests[tests["mode"].isin(list(MODE_NAMES)) & tests["layer"].notna()]


def layer_name(layer: float) -> str:
    """The papers' name of a 0-based layer: `"L1"` for 0."""
    return f"L{int(layer) + 1}"


def edge_name(kind: str) -> str:
    """The papers' name of an edge type: `"Uni"` for `"unimodal"`; other names stay as they are."""
    return EDGE_NAMES.get(kind, str(kind))


def _cells(row: Any) -> Sequence[str]:
    """Accuracy, significance with its mark, and drop of one condition."""
    same = row.equivalent_to not in (row.condition, BASELINE)
    mark = NULL if row.structural_null else SAME if same else ""
    return _accuracy(row.mean), f"{row.stars}{mark}", _number(-row.delta_percent)


def _one_a_row(rows: pd.DataFrame, spec: StatisticsSpec) -> pd.DataFrame:
    has_expected = "expected" in rows and bool(rows["expected"].notna().any())
    body = []
    for r in rows.itertuples():
        accuracy, significance, drop = _cells(r)
        expected = [_accuracy(r.expected)] if has_expected else []
        interval = f"{_number(r.difference_pp)} [{_number(r.ci_low_pp)}, {_number(r.ci_high_pp)}]"
        body.append([r.condition, accuracy, *expected, significance, drop, interval])
    expected = ["Expected"] if has_expected else []
    change = f"Change, pp [{100 * spec.confidence:g} % CI]"
    table = pd.DataFrame(body, columns=["Condition", ACCURACY, *expected, SIGNIFICANCE, DROP, change])
    table.attrs["notes"] = _mark_notes(rows)
    return table


def _accuracy(value: float) -> str:
    return EMPTY if np.isnan(value) else f"{value:.3f}"


def _number(value: float) -> str:
    """One decimal, a true minus sign, and no negative zero."""
    return EMPTY if np.isnan(value) else f"{round(value, 1) + 0.0:.1f}".replace("-", "−")
