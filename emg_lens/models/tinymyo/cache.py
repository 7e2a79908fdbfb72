"""`ActivationCache` for a model in which the direction of a class depends on the position."""

from collections.abc import Sequence
from typing import Any

from emg_lens.lens.cache import BiosignalCache, Selection, Stack, as_slice


class PositionReadCache(BiosignalCache):
    """Activations of a run of a model with `directions_at_positions`, in which `W_U` is not one matrix."""

    def logit_attrs(
        self,
        residual_stack: Stack,
        tokens: str | int | Sequence[str | int] | Any,
        incorrect_tokens: str | int | Sequence[str | int] | Any = None,
        pos_slice: Selection = None,
        batch_slice: Selection = None,
        has_batch_dim: bool = True,
    ) -> Any:
        """Compute what each part adds to the logit of a class, `[part, batch, pos]`; arguments as in TransformerLens.

        The sum over the parts of `decompose_resid`, averaged over positions, is the logit without `b_U` and the
        contribution of `ln_final.b`.
        """
        model: Any = self.model
        directions = model.directions_at_positions(tokens)
        if incorrect_tokens is not None:
            directions = directions - model.directions_at_positions(incorrect_tokens)
        directions = as_slice(pos_slice).apply(directions, dim=-2)
        parts = self.apply_ln_to_stack(
            residual_stack, layer=-1, pos_slice=pos_slice, batch_slice=batch_slice, has_batch_dim=has_batch_dim
        )
        return (parts * directions).sum(-1)
