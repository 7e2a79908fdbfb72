"""The attention edges that are often missing in training, as a recipe names them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from emg_lens.hooks import EdgeError, cut, edge_dropout, none, parse_edges
from emg_lens.training.recipe import TrainingRecipe


@contextmanager
def dropping_edges(model: Any, recipe: TrainingRecipe) -> Iterator[None]:
    """Apply the recipe's edge dropout to the forwards in training mode in this context; at least one must run."""
    if recipe.edge_dropout is None:
        yield
        return
    with edge_dropout(model, parse_edges(recipe.edge_dropout.edges), recipe.edge_dropout.p):
        yield


def check_edge_dropout(model: Any, recipe: TrainingRecipe) -> None:
    """Refuse a recipe whose edge dropout would change nothing in this model.

    Raises:
        DeadHookError: Edges of this model cannot be cut by hooks.
        EdgeError: The edges are no valid expression, do not fit the model, or the model never had them.
    """
    if recipe.edge_dropout is None:
        return
    absent = getattr(model.cfg, "permanent_mask", none())
    try:
        edges = parse_edges(recipe.edge_dropout.edges)
        hooks = cut(model, edges if absent == none() else edges - absent)
    except EdgeError as error:
        raise EdgeError(f"edge_dropout: {error}") from None
    if not hooks:
        raise EdgeError(f"edge_dropout: {edges} selects no edge; give other edges, or remove edge_dropout")
