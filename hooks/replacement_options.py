"""The ways in which what a token carries can be replaced, or its place changed (docs/isonet-protocol.md §4.8)."""

from typing import Annotated, Literal, get_args

from pydantic import Field

By = Literal["zero", "mean", "resample", "permute"]
WAYS: tuple[By, ...] = get_args(By)
Within = Literal["all", "channel", "patch"]
"""Among which tokens places are changed."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
FROM_REFERENCE: tuple[By, ...] = ("mean", "resample")
"""Those that take values from reference trials."""
