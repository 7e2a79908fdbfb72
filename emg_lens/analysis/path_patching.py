"""Path patching: the effect that another input has through one path of attention edges (Wang et al. 2022, §3.1).

Each step of the path is a set of edges. Only the values that are read over these edges change
(`emg_lens.hooks.patch_edges`); their attention weights stay as they are.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.hooks import EdgeError, EdgeSet
from emg_lens.hooks.carried_values import Values, reading_hooks, values_of_edges
from emg_lens.hooks.cuts import masks_of
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import layer_of
from emg_lens.hooks.intervention_base import Context, verified_hooks
from emg_lens.layout import TokenLayout
from emg_lens.lens.model_outputs import OutputFunction, output_tensor
from emg_lens.sweeps.settings import SweepInputError, check_inputs, device_of
from emg_lens.validation import checked


@checked
def patch_paths(
    model: nn.Module,
    x: Tensor,
    corrupt: Tensor,
    path: Sequence[EdgeSet],
    layout: TokenLayout | None = None,
    output: OutputFunction | None = None,
) -> Float[Tensor, "trial *output"]:
    """Patch one path of attention edges: what changes if only this path carries the corrupt input?

    The first step's edges carry the values of the corrupt run. Every later step's edges carry the values of a run on
    `x` in which only the step before is patched. The result is the output of a run on `x` in which only the last step
    is patched. So a change can reach the output only through an edge of every step, in order.

    In each of these runs only the values on the edges of one step are set. Everything after them is computed anew: the
    attention weights of later layers, MLPs, and norms. The weights of a step's own edges are those of the run on `x`,
    up to changes that the step itself makes if it spans several layers. Between the layers of two steps, and after
    the last step, a change may also pass through other edges. To exclude this, give steps in consecutive layers.

    Args:
        model: A TransformerLens model with working `hook_v`, `hook_pattern` and `hook_z`. It is run in evaluation mode.
        x: The clean input `[trial, channel, time]`; for other models their own kind of input.
        corrupt: Another input of the same shape. Trial i is paired with trial i of `x`.
        path: Edge sets; all layers of a step come after all layers of the step before.
        layout: Meaning of the positions; default `model.layout`.
        output: Function of what the model returns that makes the tensor `[trial, ...]`, as for `sweep`.

    Returns:
        Output of the model with the path patched, `[trial, class]`; without gradients.

    Raises:
        EdgeError: The path has no step, steps are not in the order of layers, edges do not fit the model, or the model
            lacks one of the hook points.
        SweepInputError: No trials, values that are not finite, or inputs of different shapes.

    Example:
        >>> from emg_lens import build_model, flow
        >>> from emg_lens.analysis import patch_paths
        >>> model = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=2,
        ...                     d_model=8, n_heads=2, n_layers=2, d_mlp=8)
        >>> x = model.example_input(4)
        >>> path = [flow("acc", "emg").at(layers=0), flow("emg", "cls").at(layers=1)]  # ACC -> EMG -> CLS
        >>> patch_paths(model, x, x.flip(0), path).shape
        torch.Size([4, 2])
    """
    check_inputs(x, corrupt)
    if x.shape != corrupt.shape:
        raise SweepInputError(
            f"corrupt is {list(corrupt.shape)}; expected the shape of x, {list(x.shape)}: one corrupt trial for each"
        )
    _check_order(model, path, layout)
    x, corrupt = x.to(device_of(model)), corrupt.to(device_of(model))
    with evaluating(model), torch.no_grad():
        values = values_of_edges(model, path[0], layout, corrupt)
        for edges, following in pairwise(path):
            with _reading(model, edges, layout, values):
                values = values_of_edges(model, following, layout, x)
        with _reading(model, path[-1], layout, values):
            return output_tensor(model, model(x), output, len(x))


def _reading(model: nn.Module, edges: EdgeSet, layout: TokenLayout | None, values: Mapping[str, Values]) -> Context:
    """Return a context in which these values are read over some edges."""
    hooks = reading_hooks(model, edges, layout, lambda path, v: values[path])  # noqa: ARG005
    return verified_hooks(model, hooks, f"patch_paths: {edges}")


def _check_order(model: nn.Module, path: Sequence[EdgeSet], layout: TokenLayout | None) -> None:
    """Check that there are steps, and that each begins after the last layer of the step before."""
    if not path:
        raise EdgeError("path is empty; expected edge sets in order of layers, for example [flow('acc', 'cls')]")
    last, previous = -1, None
    for edges in path:
        layers = [layer_of(place) for place in masks_of(model, edges, layout)]
        if not layers:
            raise EdgeError(f"path has the step {edges}, which selects no edge; expected one edge or more in each step")
        if min(layers) <= last:
            raise EdgeError(
                f"path: {edges} begins in layer {min(layers)}, and the step before it, {previous}, ends in layer"
                f" {last}; expected later layers in every step: restrict them with .at(layers=...)"
            )
        last, previous = max(layers), edges
