"""What a file says of a model: an architecture and its settings."""

from typing import Any

from pydantic import ConfigDict

from emg_lens.arguments import SpecModel


class ModelSpec(SpecModel):
    """An architecture and its own settings; what the data decide (channels, samples, classes) is not said here.

    Attributes:
        architecture: A known architecture (`emg-lens list`). All other keys are fields of its configuration.
    """

    model_config = ConfigDict(extra="allow")

    architecture: str = "isonet"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the study gives."""
        return dict(self.model_extra or {})

    def summary(self) -> str:
        """The architecture and the settings that were given, in a line."""
        given = ", ".join(f"{name} {value}" for name, value in self.settings.items() if value not in ("", None))
        return f"{self.architecture}{', ' * bool(given)}{given}"
