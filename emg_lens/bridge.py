"""Our encoders as a `TransformerBridge`, for tools that take nothing else.

An option, not the main road: `HookedBiosignalEncoder` has the hooks, weights and methods that TransformerLens's
utilities read. TransformerLens announces analyses for bridges only, though, and this file is the way there.

Most bridges fire `hook_attn_scores` and `hook_pattern` on tensors that are already consumed (fact sheet "field survey",
§4.1). Here nothing is fired anew: each bridge component runs the encoder's module as it is and takes over that module's own
hook points. So every hook is live, fires once, and sees what it sees on the plain model.

```python
bridge = to_bridge(model)
bridge.run_with_hooks(x, fwd_hooks=cut(bridge, cross_modal()))
```

Installed, the package announces `BiosignalAdapter` to TransformerLens under the entry-point group
`transformer_lens.architectures`; elsewhere `register()` does.
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
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from emg_lens.config import EncoderConfig
from emg_lens.encoder import GATES, HookedBiosignalEncoder

ARCHITECTURE = "HookedBiosignalEncoder"
"""Name under which TransformerLens knows our encoders, `IsoNet` and other subclasses included."""

POSITIONS = {"learned": "standard", "sinusoidal": "standard", "rotary": "rotary", "none": "none"}


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
                setattr(self, name, child)


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


class BiosignalAdapter(ArchitectureAdapter):
    """Tells TransformerLens how a `HookedBiosignalEncoder` is built."""

    supports_generation = False
    supports_causal_loss = False
    supports_compatibility_mode = False  # that mode rewrites Hugging Face weights; ours have TransformerLens's shapes
    supports_hf_output_attentions = False

    def __init__(self, cfg: TransformerBridgeConfig) -> None:
        super().__init__(cfg)
        names = ("embed", "pos_embed", "ln_final", "unembed", "unembed_mean")
        parts = {"ln1": Part("ln1"), "attn": AttentionPart("attn"), "ln2": Part("ln2"), "mlp": Part("mlp")}
        self.component_mapping = {name: Part(name) for name in names} | {"blocks": BlockPart("blocks", submodules=parts)}

    def prepare_model(self, hf_model: HookedBiosignalEncoder) -> None:
        """Keep only the components this encoder has, and let it take the input under TransformerLens's keyword."""
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
        positional_embedding_type=POSITIONS[cfg.positions],
        is_visual_model=True,  # the kind of bridge that takes float input [batch, channel, ...]
        **{switch: getattr(cfg, switch) for switch in set(GATES.values())},
    )


def register() -> None:
    """Make our architecture known to TransformerLens where the package's entry points are not installed."""
    ArchitectureAdapterFactory.discover_entry_points()  # first: it warns about names that are taken
    ArchitectureAdapterFactory.register_adapter(ARCHITECTURE, BiosignalAdapter)


def to_bridge(model: HookedBiosignalEncoder) -> TransformerBridge:
    """A `TransformerBridge` around a copy of `model`.

    TransformerLens puts its components into the module it wraps, so the encoder is copied, weights included: `model`
    stays as it is, and training one does not train the other. Hooks on `model` are not copied. The bridge has the
    model's `.layout` and `.example_input`; the copy itself is `bridge.original_model`.

    What the bridge cannot do and the encoder can: `start_at_layer`, `return_type="both"` (ask the copy),
    `set_use_split_qkv_input` and `set_use_attn_in` (set them on `model` before), class labels as tokens.

    Raises:
        TypeError: Not an encoder of ours.
    """
    if not isinstance(model, HookedBiosignalEncoder):
        raise TypeError(f"to_bridge takes a HookedBiosignalEncoder, got {type(model).__name__}")
    register()
    encoder = copy.deepcopy(model)
    encoder.reset_hooks(including_permanent=True)
    return build_bridge_from_module(encoder, ARCHITECTURE, tl_config=bridge_config(encoder.cfg))
