"""Wrap our encoders in a `TransformerBridge`, for tools that need one.

Each bridge component runs the encoder's module unchanged and uses the module's own hook points. So every hook acts,
fires once, and receives the same tensor as on the plain model (docs/transformerlens.md §9).
"""

import copy
from typing import Any

from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import ArchitectureAdapter, TransformerBridge
from transformer_lens.model_bridge.generalized_components import BlockBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.lens.handles import check_positions
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.validation import ArgumentError

ARCHITECTURE = "HookedBiosignalEncoder"
"""Name of our encoders in TransformerLens, also for `IsoNet` and other subclasses."""
SHARED_FIELDS = (
    "model_name", "d_model", "d_head", "d_mlp", "n_layers", "n_heads", "n_ctx", "d_vocab", "d_vocab_out", "act_fn",
    "eps", "attention_dir", "normalization_type", "positional_embedding_type", "dtype",
    "use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in",
)  # fmt: skip
"""Fields of our configurations that TransformerLens's has under the same name."""


class Part(GeneralizedComponent):
    """A module of the encoder inside a bridge: it runs unchanged, and its hook points are the bridge's.

    `hook_in` and `hook_out`, which every bridge component has, are additional points around it.
    """

    def set_original_component(self, original_component: nn.Module) -> None:
        """Wrap a module and use its hook points."""
        super().set_original_component(original_component)
        self.config = getattr(original_component, "cfg", None)  # TransformerLens writes set_use_* switches there
        for name, child in original_component.named_children():
            if isinstance(child, HookPoint):
                child.__class__ = HookPoint  # the bridge checks gated points itself, and also hooks closed ones
                setattr(self, name, child)


class PosEmbedPart(Part):
    """Position vectors, copied for each trial, so that a hook that edits in place does not change the weights."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the position vectors of each trial."""
        return self.hook_out(self.original_component(self.hook_in(tokens)).clone())  # pyright: ignore


class AttentionPart(Part):
    """Attention: `hook_attn_scores` and `hook_pattern` act, empty rows give zero, `hook_result` is supported."""

    supports_attn_result = True


class BlockPart(Part, BlockBridge):
    """A block: a `BlockBridge` (for `stop_at_layer`) with the block's own hook points instead of aliases."""

    hook_aliases = {f"hook_{name}_input": f"attn.hook_{name}_input" for name in "qkv"}

    def forward(self, resid: Tensor) -> Tensor:
        """Run the block, or stop before it if `stop_at_layer` says so."""
        self._check_stop_at_layer(resid)
        return GeneralizedComponent.forward(self, resid)

    @property
    def residual_contribution_scale(self) -> float:
        """Factor of the terms added to the residual stream; TransformerLens's path tools read it first."""
        if self.config.norm == "post":  # pyright: ignore
            raise RuntimeError(
                "post-LN blocks normalise the residual stream after every sum, so paths between two components are not"
                " additive; use activation patching, or cut their attention edges"
            )
        return 1.0


class BiosignalAdapter(ArchitectureAdapter):
    """The description of a `HookedBiosignalEncoder` for TransformerLens."""

    supports_generation = False
    supports_causal_loss = False
    supports_compatibility_mode = False  # that mode rewrites Hugging Face weights; ours have TransformerLens's shapes
    supports_hf_output_attentions = False

    def __init__(self, cfg: TransformerBridgeConfig) -> None:
        super().__init__(cfg)
        parts = {"ln1": Part("ln1"), "attn": AttentionPart("attn"), "ln2": Part("ln2"), "mlp": Part("mlp")}
        self.component_mapping = {
            "embed": Part("embed"),
            "pos_embed": PosEmbedPart("pos_embed"),
            "blocks": BlockPart("blocks", submodules=parts),
            "ln_final": Part("ln_final"),
            "unembed": Part("unembed"),
        }

    def prepare_model(self, hf_model: HookedBiosignalEncoder) -> None:
        """Keep only the components of this encoder, and accept the input under TransformerLens's keyword."""
        if isinstance(hf_model.embed, Part):  # its hook points would be taken over twice, and fire twice
            raise ArgumentError("this encoder is already wrapped by a TransformerBridge; bridge the unwrapped model")
        self.component_mapping = {name: part for name, part in self.components.items() if hasattr(hf_model, name)}
        hf_model.register_forward_pre_hook(_take_pixel_values, with_kwargs=True)


def _take_pixel_values(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:  # noqa: ARG001
    """Rename the keyword `pixel_values`, under which a bridge passes float input to its model."""
    if "pixel_values" in kwargs:
        kwargs["input"] = kwargs.pop("pixel_values")
    return args, kwargs


def bridge_config(cfg: EncoderConfig) -> TransformerBridgeConfig:
    """Make TransformerLens's configuration from an encoder's."""
    shared = {name: getattr(cfg, name) for name in SHARED_FIELDS}
    # is_visual_model: the kind of bridge that takes float input [batch, channel, ...]
    return TransformerBridgeConfig(architecture=ARCHITECTURE, device=str(cfg.device), is_visual_model=True, **shared)


class EncoderBridge(TransformerBridge):
    """A `TransformerBridge` around one of our encoders.

    Attributes:
        layout: Meaning of each position of the residual stream.
    """

    layout: TokenLayout  # of `original_model`, like `example_input` and the other attributes of the encoder

    def run_with_cache(self, *args: Any, return_cache_object: bool = True, **kwargs: Any) -> tuple[Any, Any]:
        """As in TransformerLens, with the encoder's own kind of cache, in which decompositions add up."""
        out, cache = super().run_with_cache(*args, return_cache_object=return_cache_object, **kwargs)  # pyright: ignore
        if isinstance(cache, dict):
            return out, cache
        own_kind: Any = self.original_model.cache_type
        return out, own_kind(cache.cache_dict, self, has_batch_dim=cache.has_batch_dim)

    def run_with_hooks(self, *model_args: Any, **kwargs: Any) -> Any:
        """As in TransformerLens, except that tools do not take the samples of signals for positions (use `handles`)."""
        check_positions(model_args)
        return super().run_with_hooks(*model_args, **kwargs)

    def to_single_token(self, string: str) -> int:
        """Return the class index of a gesture label, so that labels can be used as TransformerLens's tokens."""
        return self.original_model.to_single_token(string)  # pyright: ignore

    def _is_valid_bridge_path(self, hf_path: str) -> bool:  # noqa: ARG002
        """Keep every weight in the state dict; TransformerLens would keep only `weight` and `bias`."""
        return True

    def _validate_attention_fork_supported(self, flag_name: str) -> None:
        """Accept every `set_use_*` switch; TransformerLens would accept them only for its own classes."""


def register_bridge() -> None:
    """Register our architecture with TransformerLens where the package's entry points are not installed.

    A bridge of `build_bridge_from_module(encoder, ARCHITECTURE, tl_config=bridge_config(encoder.cfg))` lacks the
    additions of `EncoderBridge`: its `state_dict` has none of our weights.
    """
    ArchitectureAdapterFactory.discover_entry_points()  # first, because it warns about names that are taken
    ArchitectureAdapterFactory.register_adapter(ARCHITECTURE, BiosignalAdapter)


def to_bridge(model: HookedBiosignalEncoder) -> EncoderBridge:
    """Wrap a copy of `model` in a bridge: `bridge.run_with_hooks(x, fwd_hooks=cut(bridge, cross_modal()))`.

    TransformerLens puts its components into the wrapped module, so the encoder is copied with its weights: `model`
    stays unchanged, and training one does not train the other. Hooks on `model` are not copied.

    Use `bridge.original_model(...)` for `return_type="both"` and `"loss"`. For `start_at_layer` use `model`, because
    TransformerLens resumes only from token embeddings.

    Raises:
        ArgumentError: `model` is not one of our encoders, has several stages, or is already inside a bridge.
    """
    if not isinstance(model, HookedBiosignalEncoder):
        raise ArgumentError(f"model is a {type(model).__name__}; to_bridge needs a HookedBiosignalEncoder")
    if model.layout.stages:
        raise ArgumentError(
            f"a bridge needs one stack of blocks, and {type(model).__name__} has several stages; use it unwrapped"
        )
    encoder = copy.deepcopy(model)
    encoder.reset_hooks(including_permanent=True)
    adapter = BiosignalAdapter(bridge_config(encoder.cfg))
    adapter.prepare_model(encoder)
    return EncoderBridge(encoder, adapter, tokenizer=None)
