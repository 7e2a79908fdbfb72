"""Names of layers, cuts, groups and routes in pictures and tables. Imports nothing heavy."""

NULL = "†"
"""Mark of a structural null: a condition that cannot matter, whatever the model has learned."""
MODE_TITLES = {
    "individual": "Single layers",
    "from_beginning": "From the first layer on (RFB)",
    "from_end": "From the last layer back (RFE)",
}
UNGROUPED = "(ungrouped)"
"""Name for tokens outside every group; the brackets avoid a clash with the name of a group."""
EVERY, SOME, ONLY, LOWERS = "in every route", "in some routes", "in the circuit", "lowers the metric"
"""Kinds of edges of a circuit, next to `only in route 1`, `only in route 2`, ..."""
MOST_ROUTES = 4
"""Up to this many routes of a circuit have their own colour."""
CUTS_IN_WORDS = {"unimodal": "unimodal edges cut", "cross_modal": "cross-modal edges cut"}


def layer_name(layer: float) -> str:
    """Name of a 0-based layer as the papers print it: `"L1"` for 0."""
    return f"L{int(layer) + 1}"


def cut_in_words(kind: str) -> str:
    """The cut of an edge type in words: `"cross-modal edges cut"`; other names get "cut" appended."""
    return CUTS_IN_WORDS.get(kind, f"{kind} cut")
