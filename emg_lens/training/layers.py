"""Find the layer of each parameter and the parameters of the head, for fine-tuning."""

from typing import Any

from emg_lens.training.objectives import FitError


def lr_scales(model: Any, layer_decay: float) -> dict[str, float]:
    """Learning rate of each parameter, as a fraction of the recipe's: `layer_decay ** (n_layers - layer)`.

    docs/pretraining.md §11.1.
    """
    names = [name for name, _ in model.named_parameters()]
    if layer_decay == 1:
        return dict.fromkeys(names, 1.0)
    layers = {name: _layer_of(model, name) for name in names}
    return {name: layer_decay ** (model.cfg.n_layers - layer) for name, layer in layers.items()}


def names_of_head(model: Any) -> set[str]:
    """Names of the parameters in a model's output heads."""
    names = {name for name, _ in model.named_parameters() if name.startswith(model.head_parameters)}
    if not model.head_parameters or not names:
        raise FitError(
            f"fitted='head' needs the head of {type(model).__name__}, but no parameter name starts with one of"
            f" head_parameters={model.head_parameters}; expected the prefixes of the head's parameter names,"
            " e.g. ('unembed.',)"
        )
    return names


def _layer_of(model: Any, name: str) -> int:
    """Layer of a parameter: -1 for the embedding, `n_layers` for everything after the last block."""
    layers = {layer for prefix, layer in model.parameter_layers.items() if name.startswith(prefix)}
    if len(layers) != 1 or not model.cfg.n_layers:
        raise FitError(
            f"layer_decay needs the layer of every parameter, but {type(model).__name__}.parameter_layers does not"
            f" declare the layer of {name!r}; fit it with layer_decay=1"
        )
    return layers.pop()
