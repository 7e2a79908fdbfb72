"""Our encoders as a `TransformerBridge`, for tools that take nothing else.

An option, not the main road: `HookedBiosignalEncoder` has the hooks, weights and methods that TransformerLens's
utilities read. TransformerLens announces analyses for bridges only, though, and this file is the way there.

Most bridges fire `hook_attn_scores` and `hook_pattern` on tensors that are already consumed (docs/transformerlens.md
§5). Here nothing is fired anew: each bridge component runs the encoder's module as it is and takes over that module's
own hook points. So every hook is live, fires once, and sees what it sees on the plain model.

```python
bridge = to_bridge(model)
bridge.run_with_hooks(x, fwd_hooks=cut(bridge, cross_modal()))
```

Installed, the package announces `BiosignalAdapter` to TransformerLens under the entry-point group
`transformer_lens.architectures`; elsewhere `register_bridge()` does.
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
from emg_lens.lens.cache import BiosignalCache
from emg_lens.lens.config import EncoderConfig
from emg_lens.lens.post_norm_cache import PostNormCache
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.validation import ArgumentError

ARCHITECTURE = "HookedBiosignalEncoder"
"""Name under which TransformerLens knows our encoders, `IsoNet` and other subclasses included."""


class Part(GeneralizedComponent):
    """A module of the encoder inside a bridge: runs unchanged, its hook points are the bridge's.

    `hook_in` and `hook_out`, which every bridge component has, are further points around it.
    """

    def set_original_component(self, original_component: nn.Module) -> None:
        """Wrap a module and take over its hook points."""
        super().set_original_component(original_component)
        self.config = getattr(original_component, "cfg", None)  # TransformerLens writes set_use_* switches there
        for name, child in original_component.named_children():
            if isinstance(child, HookPoint):
                child.__class__ = HookPoint  # the bridge guards gated points itself, and caches by hooking closed ones
                setattr(self, name, child)


class PosEmbedPart(Part):
    """Position vectors: a copy a trial, so that a hook which edits in place leaves the weights alone."""

    def forward(self, tokens: Tensor) -> Tensor:
        """The position vectors of each trial."""
        return self.hook_out(self.original_component(self.hook_in(tokens)).clone())  # pyright: ignore


class AttentionPart(Part):
    """Attention: `hook_attn_scores` and `hook_pattern` act, empty rows are zero, `hook_result` can be had."""

    supports_attn_result = True


class BlockPart(Part, BlockBridge):
    """A block: `BlockBridge` for `stop_at_layer`, with the residual stream's own hook points in place of aliases."""

    hook_aliases = {f"hook_{name}_input": f"attn.hook_{name}_input" for name in "qkv"}

    def forward(self, resid: Tensor) -> Tensor:
        """Run the block, or stop before it if the bridge was told to."""
        self._check_stop_at_layer(resid)
        return GeneralizedComponent.forward(self, resid)

    @property
    def residual_contribution_scale(self) -> float:
        """Factor of what is added to the residual stream; TransformerLens's path tools ask for it before they start.

        Raises:
            RuntimeError: This is a post-LN block, where there is none.
        """
        if self.config.norm == "post":  # pyright: ignore
            raise RuntimeError(
                "post-LN blocks normalise the residual stream after every sum, so paths between two components are not"
                " additive; use activation patching, or cut their attention edges"
            )
        return 1.0


class BiosignalAdapter(ArchitectureAdapter):
    """Tells TransformerLens how a `HookedBiosignalEncoder` is built."""

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
        """Keep only the components this encoder has, and let it take the input under TransformerLens's keyword.

        Raises:
            ArgumentError: The encoder is inside a bridge already.
        """
        if isinstance(hf_model.embed, Part):  # its hook points would be taken over twice, and fire twice
            raise ArgumentError("this encoder is already wrapped by a TransformerBridge; bridge the unwrapped model")
        self.component_mapping = {name: part for name, part in self.components.items() if hasattr(hf_model, name)}
        hf_model.register_forward_pre_hook(_take_pixel_values, with_kwargs=True)


def _take_pixel_values(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:  # noqa: ARG001
    """A bridge hands float input to its model as `pixel_values`."""
    if "pixel_values" in kwargs:
        kwargs["input"] = kwargs.pop("pixel_values")
    return args, kwargs


def bridge_config(cfg: EncoderConfig) -> TransformerBridgeConfig:
    """The configuration that TransformerLens wants, read off an encoder's."""
    return TransformerBridgeConfig(
        architecture=ARCHITECTURE,
        model_name=cfg.model_name,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_mlp=cfg.d_mlp,
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        n_ctx=cfg.n_ctx,
        d_vocab=cfg.n_classes,
        d_vocab_out=cfg.n_classes,
        act_fn=cfg.act_fn,
        eps=cfg.eps,
        attention_dir=cfg.attention_dir,
        normalization_type=cfg.normalization_type,
        positional_embedding_type=cfg.positional_embedding_type,
        device=str(cfg.device),
        dtype=cfg.dtype,
        is_visual_model=True,  # the kind of bridge that takes float input [batch, channel, ...]
        use_attn_result=cfg.use_attn_result,
        use_split_qkv_input=cfg.use_split_qkv_input,
        use_attn_in=cfg.use_attn_in,
        use_hook_mlp_in=cfg.use_hook_mlp_in,
    )


class EncoderBridge(TransformerBridge):
    """A `TransformerBridge` around one of our encoders.

    Attributes:
        layout: What each position of the residual stream stands for.
    """

    layout: TokenLayout  # found, like `example_input` and the rest of the encoder, on `original_model`

    def run_with_cache(self, *args: Any, return_cache_object: bool = True, **kwargs: Any) -> tuple[Any, Any]:
        """As in TransformerLens, with the encoder's own kind of cache, whose decompositions add up."""
        out, cache = super().run_with_cache(*args, return_cache_object=return_cache_object, **kwargs)  # pyright: ignore
        if isinstance(cache, dict):
            return out, cache
        kind = BiosignalCache if self.original_model.cfg.norm == "pre" else PostNormCache  # pyright: ignore
        return out, kind(cache.cache_dict, self, has_batch_dim=cache.has_batch_dim)

    def to_single_token(self, string: str) -> int:
        """Class index of a gesture label, so that labels serve wherever TransformerLens takes tokens."""
        return self.original_model.to_single_token(string)  # pyright: ignore

    def _is_valid_bridge_path(self, hf_path: str) -> bool:  # noqa: ARG002
        """Every weight belongs to the state dict; TransformerLens would keep those named `weight` and `bias`."""
        return True

    def _validate_attention_fork_supported(self, flag_name: str) -> None:
        """Our attention honours every `set_use_*` switch; TransformerLens believes that of its own classes only."""


def register_bridge() -> None:
    """Make our architecture known to TransformerLens where the package's entry points are not installed.

    `build_bridge_from_module(encoder, ARCHITECTURE, tl_config=bridge_config(encoder.cfg))` then wraps an encoder in
    place, in a plain `TransformerBridge`: hooks and cuts work, but its `state_dict` knows none of our weights, and it
    lacks what else `EncoderBridge` adds.
    """
    ArchitectureAdapterFactory.discover_entry_points()  # first, for it warns about names that are taken
    ArchitectureAdapterFactory.register_adapter(ARCHITECTURE, BiosignalAdapter)


def to_bridge(model: HookedBiosignalEncoder) -> EncoderBridge:
    """A bridge around a copy of `model`.

    TransformerLens puts its components into the module that it wraps, so the encoder is copied, weights included:
    `model` stays as it is, and training one does not train the other. Hooks on `model` are not copied.

    Left to the encoder: `start_at_layer` (TransformerLens resumes from token embeddings only), and `return_type="both"`
    and `"loss"`, which `bridge.original_model(...)` takes.

    Raises:
        ArgumentError: `model` is not one of our encoders, or one of several stages.
        ArgumentError: `model` is inside a bridge already.
    """
    if not isinstance(model, HookedBiosignalEncoder):
        raise ArgumentError(f"to_bridge takes a HookedBiosignalEncoder, got {type(model).__name__}")
    if model.layout.stages:
        raise ArgumentError(
            f"a bridge holds one stack of blocks, and {type(model).__name__} has stages; use it as it is"
        )
    encoder = copy.deepcopy(model)
    encoder.reset_hooks(including_permanent=True)
    adapter = BiosignalAdapter(bridge_config(encoder.cfg))
    adapter.prepare_model(encoder)
    return EncoderBridge(encoder, adapter, tokenizer=None)
