"""What a file says of a model: an architecture and its settings."""

from typing import Any

from pydantic import ConfigDict, Field

from emg_lens.validation import SpecModel


class ModelSpec(SpecModel):
    """An architecture and its own settings; what the data decide (channels, samples, classes) is not said here.

    Attributes:
        architecture: A known architecture (`emg-lens list`). All other keys are fields of its configuration.
        pretrained: Weights to begin with, but for the head, which is fresh: a file or a folder, `$NAME` for an
            environment variable (`emg_lens.models.pretrained`); `None` = all weights are fresh.
    """

    model_config = ConfigDict(extra="allow")

    architecture: str = "isonet"
    pretrained: str | None = Field(default=None, min_length=1)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the study gives."""
        return dict(self.model_extra or {})

    def summary(self) -> str:
        """The architecture and the settings that were given, in a line."""
        given = ", ".join(f"{name} {value}" for name, value in self.settings.items() if value not in ("", None))
        begun = f", from the weights of {self.pretrained}" if self.pretrained else ""
        return f"{self.architecture}{', ' * bool(given)}{given}{begun}"
