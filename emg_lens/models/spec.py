"""The model section of a study file: an architecture and its settings."""

from typing import Any

from pydantic import ConfigDict, Field

from emg_lens.validation import SpecModel


class ModelSpec(SpecModel):
    """An architecture and its own settings, without what the data decide (channels, samples, classes).

    Attributes:
        architecture: A known architecture (`emg-lens list`). All other keys are fields of its configuration.
        pretrained: Weights to start from (the head is not loaded): a file or a folder, with `$NAME` for an environment
            variable (`emg_lens.models.pretrained`). `None` = all weights are initialised.
    """

    model_config = ConfigDict(extra="allow")

    architecture: str = "isonet"
    pretrained: str | None = Field(default=None, min_length=1)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in the study file."""
        return dict(self.model_extra or {})

    def summary(self) -> str:
        """Describe the architecture and the given settings in one line."""
        given = ", ".join(f"{name} {value}" for name, value in self.settings.items() if value not in ("", None))
        source = f", from the weights of {self.pretrained}" if self.pretrained else ""
        return f"{self.architecture}{', ' * bool(given)}{given}{source}"
