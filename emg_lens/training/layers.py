"""Which parameters of a model stand in which layer, and which are its head: what fine-tuning treats apart."""

from typing import Any

from emg_lens.training.objectives import FitError


def lr_scales(model: Any, layer_decay: float) -> dict[str, float]:
    """Learning rate of each parameter as a share of the recipe's: `layer_decay ** (n_layers - layer)`.

    docs/pretraining.md §11.1.

    Args:
        model: A model that says where its parameters stand (`parameter_layers`); with `layer_decay=1` any.
        layer_decay: What a layer's rate is of that of the layer above it.

    Raises:
        FitError: The model does not say in which layer a parameter stands.
    """
    names = [name for name, _ in model.named_parameters()]
    if layer_decay == 1:
        return dict.fromkeys(names, 1.0)
    layers = {name: _layer_of(model, name) for name in names}
    return {name: layer_decay ** (model.cfg.n_layers - layer) for name, layer in layers.items()}


def names_of_head(model: Any) -> set[str]:
    """Names of the parameters of a model's head, or of its heads.

    Raises:
        FitError: The model does not say what its head is.
    """
    found = {name for name, _ in model.named_parameters() if name.startswith(model.head_parameters)}
    if not model.head_parameters or not found:
        raise FitError(
            f"fitted='head' needs to know the head of {type(model).__name__}, and its head_parameters are"
            f" {model.head_parameters}: expected what the names of the head's parameters begin with"
        )
    return found


def _layer_of(model: Any, name: str) -> int:
    """The layer of a parameter: -1 for the embedding, `n_layers` for what stands behind the last block."""
    layers = {layer for prefix, layer in model.parameter_layers.items() if name.startswith(prefix)}
    if len(layers) != 1 or not model.cfg.n_layers:
        raise FitError(
            f"layer_decay needs the layer of every parameter, and {type(model).__name__}.parameter_layers does not tell"
            f" that of {name!r}; fit it with layer_decay=1"
        )
    return layers.pop()
