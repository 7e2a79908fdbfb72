"""Hook points that take almost no time without a hook, and that refuse hooks which could not fire.

Both are TransformerLens hook points; `emg_lens.models.components` uses them.
"""

from typing import Any

from torch import Tensor

from emg_lens.lens.config import EncoderConfig
from emg_lens.transformer_lens_imports import HookPoint
from emg_lens.validation import ArgumentError


def has_hook(*points: HookPoint) -> bool:
    """Whether one of these points has a hook of any kind."""
    for point in points:
        if point._forward_hooks or point._forward_pre_hooks or point._backward_hooks or point._backward_pre_hooks:
            return True
    return False


class Point(HookPoint):
    """A hook point that skips torch's call machinery while it has no hook."""

    mixes_only_by_attention = folds = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x` after its hooks."""
        if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
            return super().__call__(x)
        return x


class GatedPoint(Point):
    """A hook point that fires only while a switch of the configuration is on, and takes hooks only then.

    TransformerLens accepts hooks on such points at any time, and they silently never run (docs/transformerlens.md §2).
    """

    mixes_only_by_attention = folds = True

    def __init__(self, cfg: EncoderConfig, switch: str) -> None:
        super().__init__()
        self.cfg, self.switch = cfg, switch

    @property
    def is_open(self) -> bool:
        """Whether the point fires."""
        return getattr(self.cfg, self.switch)

    def add_hook(self, *args: Any, **kwargs: Any) -> Any:
        """As in TransformerLens."""
        if not self.is_open:
            raise ArgumentError(
                f"hook point {self.name!r} does not fire while cfg.{self.switch} is off: model.set_{self.switch}(True)"
            )
        return super().add_hook(*args, **kwargs)
