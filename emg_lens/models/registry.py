"""The registry of architectures: name, configuration, model, and default objective.

Register an `Architecture` as an entry point `emg_lens.models`, or in this process with `ARCHITECTURES.add`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from pydantic import PositiveInt

from emg_lens.errors import EmgLensError, did_you_mean
from emg_lens.registry import Registry
from emg_lens.validation import OutputCount, checked

FROM_DATA = ("modalities", "n_samples", "n_classes", "class_names", "modality_order")
"""Fields of a configuration that the data decide."""


class ModelError(EmgLensError, ValueError):
    """A model that cannot be built with these settings."""


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    Attributes:
        name: Name of the architecture, as users write it.
        config: The class of its configuration, a dataclass with the fields of `SignalConfig` and its own.
        model: The class of the model, built from a configuration.
        objective: Name of the objective that it is fitted for by default. None = it gives an output at every time step,
            for which no objective is the usual one; a study then names its objective.
    """

    name: str
    config: type
    model: type
    objective: str | None = "classification"

    @property
    def default_objective(self) -> str:
        """Return `objective`."""
        if self.objective is None:
            raise ModelError(
                f"model {self.name!r} gives an output at every time step and has no default objective; name one"
                " (objective: ...), or classify whole trials with readout: mean and objective: classification"
            )
        return self.objective

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration's own fields and their defaults: the further keys of `model` in a study file."""
        own = [f for f in fields(self.config) if f.name not in FROM_DATA and f.init]
        defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in own}
        return {name: None if value is MISSING else value for name, value in defaults.items()}

    def configure(
        self, settings: Mapping[str, Any], *, modalities: Mapping[str, int], n_samples: int, class_names: Sequence[str]
    ) -> Any:
        """Make the configuration for these data."""
        unknown = [name for name in settings if name not in self.settings]
        if unknown:
            hint, known = did_you_mean(unknown[0], self.settings), ", ".join(self.settings)
            raise ModelError(f"model {self.name!r} has no setting {unknown[0]!r}; {hint}known: {known}")
        data = {"modalities": dict(modalities), "n_samples": n_samples, "n_classes": len(class_names)}
        try:
            return self.config(**data, class_names=list(class_names), **settings)
        except (TypeError, ValueError) as error:
            raise ModelError(f"model {self.name!r}: {error}") from None


ARCHITECTURES: Registry[Architecture] = Registry("model", "emg_lens.models", Architecture)


@checked
def architecture(name: str) -> Architecture:
    """Return the architecture of this name."""
    return ARCHITECTURES[name]


def architecture_names() -> tuple[str, ...]:
    """Return the names of all known architectures."""
    return ARCHITECTURES.names()


@checked
def build_model(
    name: str,
    *,
    modalities: Mapping[str, int],
    n_samples: PositiveInt,
    n_classes: OutputCount,
    class_names: Sequence[str] = (),
    **settings: Any,
) -> Any:
    """Build a model with random weights.

    Args:
        name: One of `architecture_names()`.
        modalities: Channels of each modality, in the order of the input's channel axis.
        n_samples: Samples per channel of one trial.
        n_classes: Number of classes, or of targets of a regression.
        class_names: Their names; default `"0"`, `"1"`, ...
        **settings: Further fields of the architecture's configuration.

    Returns:
        The model, in training mode.

    Raises:
        UnknownNameError: No such model.
        ModelError: An unknown setting, or a value that does not fit.

    Example:
        >>> from emg_lens import build_model
        >>> model = build_model("isonet", modalities={"emg": 8, "acc": 3}, n_samples=50, n_classes=6, d_model=64)
        >>> tuple(model(model.example_input(4)).shape)
        (4, 6)
    """
    entry = architecture(name)
    names = list(class_names) or [str(k) for k in range(n_classes)]
    if len(names) != n_classes:
        raise ModelError(f"{len(names)} class_names for n_classes={n_classes}; expected one name per class")
    return entry.model(entry.configure(settings, modalities=modalities, n_samples=n_samples, class_names=names))
