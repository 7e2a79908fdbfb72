"""`ActivationCache` for encoders of several stages: each stage's activations under TransformerLens's short names."""

from typing import Any, NoReturn

from emg_lens.arguments import ArgumentError
from emg_lens.lens.cache import BiosignalCache

OF_ONE_STACK = (
    "accumulated_resid",
    "apply_ln_to_stack",
    "compute_head_results",
    "decompose_resid",
    "get_full_resid_decomposition",
    "get_neuron_results",
    "logit_attrs",
    "stack_head_results",
    "stack_neuron_results",
)
"""Methods that add up what one stack of blocks writes."""


class StagedCache(BiosignalCache):
    """Activations of one run of an encoder of several stages, by full name: `stages.emg.blocks.0.attn.hook_pattern`.

    Decompositions of the residual stream are refused: a token's stream is written to by one stage, and then by another.
    """

    def stage(self, name: str) -> "StagedCache":
        """The activations of one stage: `cache.stage("fusion")["pattern", 0]`.

        Raises:
            UnknownNameError: No such stage.
        """
        self.model.layout.stage(name)  # pyright: ignore[reportAttributeAccessIssue]
        prefix = f"stages.{name}."
        own = {key.removeprefix(prefix): value for key, value in self.cache_dict.items() if key.startswith(prefix)}
        return StagedCache(own, self.model, has_batch_dim=self.has_batch_dim)


def _refused(method: str) -> Any:
    def refuse(self: StagedCache, *_: Any, **__: Any) -> NoReturn:
        raise ArgumentError(
            f"{method} adds up one stack of blocks, and {type(self.model).__name__} has stages; read activations by"
            " name, cache.stage(name)['resid_post', layer], or cut attention edges"
        )

    refuse.__doc__ = "Refused: see `StagedCache`."
    return refuse


for _method in OF_ONE_STACK:
    setattr(StagedCache, _method, _refused(_method))
