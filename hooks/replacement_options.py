"""Options of interventions on tokens (docs/isonet-protocol.md §4.8)."""

from typing import Annotated, Literal

from pydantic import Field

By = Literal["zero", "mean", "resample", "permute"]
Within = Literal["all", "channel", "patch"]
"""The tokens that exchange places: all tokens, tokens of the same channel, or tokens of the same patch."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
FROM_REFERENCE: tuple[By, ...] = ("mean", "resample")
"""The options that need reference trials."""
