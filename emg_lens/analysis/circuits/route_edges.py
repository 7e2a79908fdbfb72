"""Edges of a circuit as a table for pictures: which routes contain them, and which lower the metric."""

from typing import Any

import numpy as np
import pandas as pd

from emg_lens.plotting.words import EVERY, LOWERS, MOST_ROUTES, ONLY, SOME
from emg_lens.validation import ArgumentError


def edges_by_route(circuit: Any) -> pd.DataFrame:
    """Return the edges of all routes and the negative edges, with their kind; see `Circuit.to_frame`."""
    table = circuit.question.groups.table
    if "dest" not in table:
        raise ArgumentError("a circuit of named groups of edges has no figure; use by='modality', 'channel' or 'head'")
    lowering = sorted(circuit.negative_members.difference(*circuit.members))
    negative = table.iloc[lowering].assign(kind=LOWERS, score=np.nan, routes=0)
    n_routes = len(circuit.members)
    of_route = {name: k for k, one in enumerate(circuit.members) for name in table["edge"].iloc[sorted(one)]}

    def kind(row: dict[Any, Any]) -> str:
        if row["routes"] == n_routes:
            return ONLY if n_routes == 1 else EVERY
        return f"only in route {of_route[row['edge']] + 1}" if row["routes"] == 1 and n_routes <= MOST_ROUTES else SOME

    routes = circuit.table.assign(kind=[kind(row) for row in circuit.table.to_dict("records")])
    return pd.concat([routes, negative] if len(negative) else [routes], ignore_index=True)
