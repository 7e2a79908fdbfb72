"""The IsoNet paper's Table 3 as tidy scores, for the tests in this folder."""

import numpy as np
import pandas as pd

BASELINE_MEAN = 0.914
# Accuracy and printed drop: individual, from the beginning, from the end (Table 3).
PRINTED = {
    ("unimodal", 0): ((0.909, 0.6), (0.909, 0.6), (0.286, 68.7)),
    ("cross_modal", 0): ((0.911, 0.3), (0.911, 0.3), (0.636, 30.4)),
    ("unimodal", 1): ((0.689, 24.6), (0.682, 25.3), (0.289, 68.4)),
    ("cross_modal", 1): ((0.860, 5.9), (0.858, 6.1), (0.639, 30.1)),
    ("unimodal", 2): ((0.637, 30.3), (0.460, 49.7), (0.406, 55.6)),
    ("cross_modal", 2): ((0.803, 12.1), (0.745, 18.5), (0.694, 24.0)),
    ("unimodal", 3): ((0.633, 30.7), (0.286, 68.7), (0.633, 30.7)),
    ("cross_modal", 3): ((0.813, 11.1), (0.636, 30.4), (0.813, 11.1)),
    ("unimodal", 4): ((0.914, 0.0), (0.286, 68.7), (0.914, 0.0)),
    ("cross_modal", 4): ((0.914, 0.0), (0.636, 30.4), (0.914, 0.0)),
}
MODES = ("individual", "from_beginning", "from_end")
EDGES = ("unimodal", "cross_modal")
# With CLS exempt and a CLS readout (docs/isonet-protocol.md §4.7): what each condition's live cut equals.
EQUAL = {
    ("individual", 4): "baseline",
    ("from_end", 4): "baseline",
    ("from_beginning", 0): "individual/L1",
    ("from_beginning", 4): "from_beginning/L4",
    ("from_end", 0): "from_beginning/L4",
    ("from_end", 3): "individual/L4",
}


def conditions() -> pd.DataFrame:
    """Tags, audit and mean accuracy of the 31 conditions."""
    rows = [("baseline", None, "", np.nan, BASELINE_MEAN, True, "baseline")]
    for m, mode in enumerate(MODES):
        for layer in range(5):
            for kind in EDGES:
                name, other = f"{kind}/{mode}/L{layer + 1}", EQUAL.get((mode, layer))
                null = other == "baseline"
                same = name if other is None else other if null else f"{kind}/{other}"
                rows.append((name, kind, mode, layer, PRINTED[kind, layer][m][0], null, same))
    columns = ["condition", "edges", "mode", "layer", "accuracy", "structural_null", "equivalent_to"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(
        edges_cut=100,
        live_edges_cut=np.where(table["structural_null"], 0, 80),
        rows_fully_cut=0,
        max_abs_delta_logit=np.where(table["structural_null"], 0.0, 3.0),
    )


def paper_scores(n_subjects: int = 40, spread: float = 0.03, seed: int = 0, n_test: int = 34) -> pd.DataFrame:
    """Scores of a cohort with the means of the paper.

    With `spread=0` every subject has the mean; else subjects differ, in steps of one of `n_test` trials.
    """
    rng = np.random.default_rng(seed)
    about = conditions()
    skill = rng.normal(0, spread, n_subjects)
    drawn, parts = {}, []
    for row in about.to_dict("records"):
        key = row["equivalent_to"]
        if key not in drawn:
            drawn[key] = np.full(n_subjects, row["accuracy"])
            if spread:
                noisy = drawn[key] + skill + rng.normal(0, spread, n_subjects)
                drawn[key] = np.round(np.clip(noisy, 0, 1) * n_test) / n_test
        subjects = [f"s{i + 1}" for i in range(n_subjects)]
        parts.append(pd.DataFrame({**row, "subject": subjects, "accuracy": drawn[key], "n_test": n_test}))
    return pd.concat(parts, ignore_index=True)


def with_extras(scores: pd.DataFrame, **expected: float) -> pd.DataFrame:
    """Add conditions outside the layer scheme, each at 0.9 times the baseline."""
    base = scores[scores["condition"] == "baseline"]
    base = base.assign(accuracy=0.9 * base["accuracy"], structural_null=False)
    extras = [
        base.assign(condition=name, edges=name, equivalent_to=name, expected=value) for name, value in expected.items()
    ]
    return pd.concat([scores, *extras], ignore_index=True)
