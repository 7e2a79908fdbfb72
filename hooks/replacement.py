"""The ways in which what a token carries can be replaced (docs/protocol.md §4.8)."""

from typing import Literal, get_args

By = Literal["zero", "mean", "resample", "permute"]
WAYS: tuple[By, ...] = get_args(By)
FROM_REFERENCE: tuple[By, ...] = ("mean", "resample")
"""Those that take values from reference trials."""
