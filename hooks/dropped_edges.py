"""Dropout of an edge set in training: a control that separates what edges could carry from what a model relies on.

A model that was trained while the edges were often missing has learned to do without them (docs/cuts.md §6.10).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.cuts import cut
from emg_lens.hooks.hook_points import DeadHookError, attached_hook, probing
from emg_lens.hooks.model_inputs import Inputs
from emg_lens.layout import TokenLayout
from emg_lens.validation import checked

Probability = Annotated[float, Field(gt=0, le=1)]


@checked
@contextmanager
def edge_dropout(
    model: nn.Module,
    edges: EdgeSet,
    p: Probability,
    layout: TokenLayout | None = None,
    *,
    inputs: Inputs | None = None,
) -> Iterator[None]:
    """Cut `edges` at random while the model trains: in each forward, for each trial, with probability `p`.

    If a trial is chosen, all these edges are cut for it, in all layers, as `cut` does. In evaluation mode nothing is
    cut. Trials are chosen with torch's global random numbers, so `fit` gives the same weights for the same seed.

    Args:
        model: A TransformerLens model on which `cut` works. Call it as `model(x)`; `fit` does.
        edges: The edges.
        p: Probability that a trial is without the edges; 1 = all trials.
        layout: The layout of the positions; default `model.layout`.
        inputs: A small input for the verification, where none can be made from the model's configuration.

    Yields:
        Nothing.

    Raises:
        DeadHookError: `cut` does not work on this model. On exit: no forward in training mode ran. In a forward: the
            model was not called itself (`run_with_hooks` bypasses the context).
        EdgeError: `edges` does not fit the layout or the model, or selects no edge.

    Example:
        >>> import torch
        >>> from emg_lens import TrainingRecipe, build_model, cross_modal, fit
        >>> from emg_lens.data import Batch
        >>> from emg_lens.hooks import edge_dropout
        >>> model = build_model("isonet", modalities={"emg": 2, "acc": 1}, n_samples=8, n_classes=2,
        ...                     d_model=8, n_heads=2, n_layers=1, d_mlp=8)
        >>> batch = Batch(model.example_input(20), torch.arange(20) % 2)
        >>> with edge_dropout(model, cross_modal(), p=0.5):
        ...     history = fit(model, batch, TrainingRecipe(epochs=2))
        >>> len(history)
        2
    """
    hooks, trials = cut(model, edges, layout, inputs=inputs), _ChosenTrials(p)
    if not hooks:
        raise EdgeError(f"edge_dropout: {edges} selects no edge")
    called: Any = getattr(model, "original_model", model)  # an adapted model may be called itself
    with ExitStack() as stack:
        stack.callback(called.register_forward_pre_hook(trials.begin).remove)
        stack.callback(called.register_forward_hook(trials.end).remove)
        for name, fn in hooks:
            point: Any = model.hook_dict[name]  # pyright: ignore
            stack.enter_context(attached_hook(point, trials.only(fn, model)))
        yield
    if not trials.ran:
        raise DeadHookError(
            f"edge_dropout({edges}) had no effect: the model did not run in training mode; call fit, or model.train()"
            " and model(x), in the context"
        )


class _ChosenTrials:
    """The trials without the edges: chosen once in each forward, the same in all layers."""

    def __init__(self, p: float) -> None:
        self.p, self.running, self.ran = p, False, False
        self.chosen: Tensor | None = None

    def begin(self, *_: object) -> None:
        self.running, self.chosen = True, None

    def end(self, *_: object) -> None:
        self.running = False

    def only(self, fn: Callable[..., Tensor], model: nn.Module) -> Callable[..., Tensor]:
        """Restrict a hook to the chosen trials, and to training."""

        def edit(tensor: Tensor, hook: Any) -> Tensor:
            if not model.training or probing.get():
                return tensor
            if not self.running:
                raise DeadHookError(f"edge_dropout: {hook.name} ran outside a call of the model; call model(x) itself")
            if self.chosen is None:
                self.chosen = torch.rand(len(tensor)) < self.p
            self.ran = True
            return torch.where(self.chosen[:, None, None, None].to(tensor.device), fn(tensor, hook), tensor)

        return edit
