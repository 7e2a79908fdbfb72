"""`HookedBiosignalEncoder`: a transformer over channels or channel patches, with the surface of a TransformerLens model.

Named after TransformerLens's own `HookedAudioEncoder`. Input is one float tensor `[batch, channel, time]`, modalities
concatenated along `channel` in the layout's order. The contract it keeps is that of TransformerLens's analysis
utilities: hook names, weight shapes, `cfg` fields, `run_with_cache`, `start_at_layer`, ...
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from emg_lens.components import Block, ChannelEmbed, LayerNorm, PosEmbed, Unembed
from emg_lens.config import EncoderConfig
from emg_lens.hooks import parse_edges
from emg_lens.layout import TokenLayout

GATES = {
    "hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_attn_in": "use_attn_in",
    "hook_mlp_in": "use_hook_mlp_in",
}
"""Hook points that fire only while a switch of `cfg` is on, and that switch (`model.set_<switch>(True)`)."""

ReturnType = Literal["logits", "both"] | None


class HookedBiosignalEncoder(
    HookedRootModule,
    PyTorchModelHubMixin,
    library_name="emg-lens",
    tags=["biosignals", "emg", "transformer-lens"],
):
    """Transformer encoder for biosignals with TransformerLens hook points.

    Attributes:
        cfg: The configuration, with TransformerLens's field names.
        layout: What each position of the residual stream stands for.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.cfg = config
        self.layout: TokenLayout = config.layout
        self.embed = ChannelEmbed(config)
        self.hook_embed = HookPoint()  # [batch, pos, d_model]
        if config.positions in ("learned", "sinusoidal"):
            self.pos_embed = PosEmbed(config)
            self.hook_pos_embed = HookPoint()  # [batch, pos, d_model]
        severed = self.severed_mask()
        self.blocks = nn.ModuleList(
            Block(config, layer, severed[layer] if severed is not None and severed[layer].any() else None)
            for layer in range(config.n_layers)
        )
        self.ln_final = LayerNorm(config) if config.norm == "pre" else nn.Identity()
        if config.readout != "none":
            self.unembed = Unembed(config)
        self.setup()

    def setup(self) -> None:
        """Name the hook points; the 3.x names `blocks.{l}.hook_{q,k,v}_input` are aliases of those in `attn`."""
        super().setup()
        for layer in range(self.cfg.n_layers):
            for name in ("hook_q_input", "hook_k_input", "hook_v_input"):
                point = self.hook_dict[f"blocks.{layer}.attn.{name}"]
                self.hook_dict[f"blocks.{layer}.{name}"] = self.mod_dict[f"blocks.{layer}.{name}"] = point

    def severed_mask(self) -> Bool[Tensor, "layer head dest src"] | None:
        """The attention edges this model does not have (`cfg.severed_edges`), or None if it has all."""
        if not self.cfg.severed_edges:
            return None
        return parse_edges(self.cfg.severed_edges).mask(self.layout, self.cfg.n_layers, self.cfg.n_heads)

    # --- running ------------------------------------------------------------------------------------------

    def forward(
        self,
        input: Float[Tensor, "batch channel time"] | Float[Tensor, "batch pos d_model"],
        return_type: ReturnType = "logits",
        *,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Any:
        """Logits `[batch, class]`, or the residual stream `[batch, pos, d_model]`.

        Args:
            input: Signals `[batch, channel, time]`; the residual stream where `start_at_layer` is given.
            return_type: `"logits"`, `"both"` (models with two heads) or `None` (nothing).
            start_at_layer: Take `input` as the residual stream entering this block (negative counts from the end).
            stop_at_layer: Return the residual stream entering this block instead of logits.

        Raises:
            ValueError: Input of another shape, a layer that does not exist, or an unknown `return_type`.
        """
        first, last = self._layer_range(start_at_layer, stop_at_layer)
        resid = self.residual_in(input) if start_at_layer is None else self._check_residual(input)
        for block in self.blocks[first:last]:
            resid = block(resid)
        if stop_at_layer is not None:
            return resid
        return self.head(self.ln_final(resid), return_type)

    def residual_in(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream that enters block 0: embeddings plus positions.

        Raises:
            ValueError: Input of another shape than the configuration promises.
        """
        expected = (self.cfg.n_channels, self.cfg.n_samples)
        if x.ndim != 3 or tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"input has shape {list(x.shape)}; expected [batch, {expected[0]} channels, {expected[1]} samples]"
                f" with channels ordered {self.cfg.modalities}"
            )
        resid = self.hook_embed(self.embed(x))
        if self.cfg.positions in ("learned", "sinusoidal"):
            resid = resid + self.hook_pos_embed(self.pos_embed(resid))
        return resid

    def head(self, resid: Float[Tensor, "batch pos d_model"], return_type: ReturnType = "logits") -> Any:
        """Logits of the final residual stream, as `return_type` asks."""
        match return_type:
            case None:
                return None
            case "logits" if self.cfg.readout == "none":
                return resid
            case "logits":
                return self.unembed(self.pool(resid))
        raise ValueError(f"return_type={return_type!r}; this model knows 'logits' and None")

    def pool(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch d_model"]:
        """The vector that the logits are read from: CLS, or the mean of all positions but CLS."""
        if self.cfg.readout == "cls":
            return resid[:, 0]
        return resid[:, int(self.cfg.cls_token) :].mean(dim=1)

    @property
    def readout_positions(self) -> Int[Tensor, " position"]:
        """Positions of the last residual stream that reach the logits."""
        if self.cfg.readout == "cls":
            return torch.tensor([0])
        first = int(self.cfg.cls_token) if self.cfg.readout == "mean" else 0
        return torch.arange(first, len(self.layout))

    def example_input(self, batch: int = 1, seed: int = 0) -> Float[Tensor, "batch channel time"]:
        """Standard-normal input of the right shape, on the model's device."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, self.cfg.n_channels, self.cfg.n_samples, generator=generator)
        return x.to(self.cfg.device)

    def _layer_range(self, start: int | None, stop: int | None) -> tuple[int, int]:
        n = self.cfg.n_layers
        for name, layer in (("start_at_layer", start), ("stop_at_layer", stop)):
            if layer is not None and not -n <= layer <= n:
                raise ValueError(f"{name}={layer}; this model has {n} layers")
        first = 0 if start is None else start % n if start < 0 else start
        last = n if stop is None else stop % n if stop < 0 else stop
        return first, last

    def _check_residual(self, resid: Tensor) -> Tensor:
        if tuple(resid.shape[1:]) != (self.cfg.n_ctx, self.cfg.d_model):
            raise ValueError(
                f"start_at_layer takes the residual stream [batch, {self.cfg.n_ctx}, {self.cfg.d_model}],"
                f" got {list(resid.shape)}"
            )
        return resid

    def _apply(self, fn: Callable, recurse: bool = True) -> "HookedBiosignalEncoder":
        super()._apply(fn, recurse)
        parameter = next(self.parameters())
        self.cfg.device, self.cfg.dtype = parameter.device, parameter.dtype
        return self

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> "HookedBiosignalEncoder":
        """Load weights; unlike the hub's default, a missing or unexpected key is an error."""
        with contextlib.redirect_stdout(None):  # the hub library announces itself on stdout
            return super()._from_pretrained(strict=strict, **kwargs).eval()

    # --- the TransformerLens surface ----------------------------------------------------------------------

    def run_with_cache(
        self,
        *model_args: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        names_filter: Any = None,
        **model_kwargs: Any,
    ) -> tuple[Any, Any]:
        """As in TransformerLens: output and `ActivationCache` (or a plain dict). Gated points that are off are left out."""
        if names_filter is None or callable(names_filter):
            names_filter = self._open_points(names_filter)
        out, cache = super().run_with_cache(
            *model_args, names_filter=names_filter, remove_batch_dim=remove_batch_dim, **model_kwargs
        )
        if not return_cache_object:
            return out, cache
        return out, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    def _open_points(self, wanted: Callable[[str], bool] | None) -> Callable[[str], bool]:
        return lambda name: self.closed_gate(name) is None and (wanted is None or wanted(name))

    def closed_gate(self, name: str) -> str | None:
        """The switch that must be turned on before hook point `name` fires; `None` if it fires now."""
        gate = GATES.get(name.rsplit(".", 1)[-1])
        return None if gate is None or getattr(self.cfg, gate) else gate

    def _enable_hook_with_name(self, name: str, hook: Callable, dir: Literal["fwd", "bwd"]) -> None:
        if name not in self.hook_dict:
            raise KeyError(f"no hook point {name!r}; model.hook_dict lists them")
        gate = self.closed_gate(name)
        if gate is not None:
            raise ValueError(f"hook point {name!r} does not fire while cfg.{gate} is off: model.set_{gate}(True)")
        super()._enable_hook_with_name(name, hook, dir)

    def check_hooks_to_add(
        self, hook_point: HookPoint, hook_point_name: str, hook: Callable, *args: Any, **kwargs: Any
    ) -> None:
        """Refuse hooks on gated points that are off (called by `add_hook`)."""
        super().check_hooks_to_add(hook_point, hook_point_name, hook, *args, **kwargs)
        gate = self.closed_gate(hook_point_name)
        if gate is not None:
            raise ValueError(
                f"hook point {hook_point_name!r} does not fire while cfg.{gate} is off: model.set_{gate}(True)"
            )

    def set_use_attn_result(self, value: bool) -> None:
        """Compute `attn.hook_result`, each head's own contribution to the residual stream."""
        self.cfg.use_attn_result = value

    def set_use_split_qkv_input(self, value: bool) -> None:
        """Give queries, keys and values of every head their own copy of the input, hookable one by one."""
        self.cfg.use_split_qkv_input = value

    def set_use_attn_in(self, value: bool) -> None:
        """Give every head its own copy of the residual stream at `hook_attn_in`."""
        self.cfg.use_attn_in = value

    def set_use_hook_mlp_in(self, value: bool) -> None:
        """Fire `hook_mlp_in` on the MLP's copy of the residual stream."""
        self.cfg.use_hook_mlp_in = value

    def blocks_with(self, submodule: str) -> list[tuple[int, nn.Module]]:
        """`(layer, block)` of every block that has this submodule."""
        return [(layer, block) for layer, block in enumerate(self.blocks) if hasattr(block, submodule)]

    def to_single_token(self, label: str) -> int:
        """Class index of a gesture label.

        Raises:
            KeyError: Unknown label; the message lists the known ones.
        """
        if label not in self.cfg.class_names:
            raise KeyError(f"unknown class {label!r}; known: {self.cfg.class_names}")
        return self.cfg.class_names.index(label)

    def tokens_to_residual_directions(
        self, tokens: str | int | Sequence[str] | Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Columns of `W_U`: the direction in the residual stream that each class is read from."""
        if isinstance(tokens, str):
            return self.W_U[:, self.to_single_token(tokens)]
        if isinstance(tokens, Sequence):
            tokens = torch.tensor([self.to_single_token(t) if isinstance(t, str) else int(t) for t in tokens])
        return self.W_U.T[tokens]

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Sum of the output biases of all blocks before `layer` (with `mlp_input`, of this layer's attention too)."""
        total = torch.zeros(self.cfg.d_model, device=self.cfg.device)
        for block in self.blocks[:layer]:
            total = total + block.attn.b_O + (block.mlp.b_out if include_mlp_biases else 0)
        return total + self.blocks[layer].attn.b_O if mlp_input else total

    def _stack(self, parameter: str) -> Tensor:
        module, name = parameter.split(".")
        return torch.stack([getattr(getattr(block, module), name) for block in self.blocks])

    W_E = property(lambda self: self.embed.W_E, doc="[channel, sample, d_model]")
    W_pos = property(lambda self: self.pos_embed.W_pos, doc="[pos, d_model]")
    W_U = property(lambda self: self.unembed.W_U, doc="[d_model, class]")
    b_U = property(lambda self: self.unembed.b_U, doc="[class]")
    W_Q = property(lambda self: self._stack("attn.W_Q"), doc="[layer, head, d_model, d_head]")
    W_K = property(lambda self: self._stack("attn.W_K"), doc="[layer, head, d_model, d_head]")
    W_V = property(lambda self: self._stack("attn.W_V"), doc="[layer, head, d_model, d_head]")
    W_O = property(lambda self: self._stack("attn.W_O"), doc="[layer, head, d_head, d_model]")
    b_Q = property(lambda self: self._stack("attn.b_Q"), doc="[layer, head, d_head]")
    b_K = property(lambda self: self._stack("attn.b_K"), doc="[layer, head, d_head]")
    b_V = property(lambda self: self._stack("attn.b_V"), doc="[layer, head, d_head]")
    b_O = property(lambda self: self._stack("attn.b_O"), doc="[layer, d_model]")
    W_in = property(lambda self: self._stack("mlp.W_in"), doc="[layer, d_model, d_mlp]")
    b_in = property(lambda self: self._stack("mlp.b_in"), doc="[layer, d_mlp]")
    W_out = property(lambda self: self._stack("mlp.W_out"), doc="[layer, d_mlp, d_model]")
    b_out = property(lambda self: self._stack("mlp.b_out"), doc="[layer, d_model]")

    def all_head_labels(self) -> list[str]:
        """`L0H0`, `L0H1`, ... in the order of TransformerLens's per-head stacks."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]


def count_parameters(model: nn.Module, names: Iterable[str] = ()) -> int:
    """Number of trainable values, of the whole model or of the named children."""
    modules = [model.get_submodule(name) for name in names] or [model]
    return sum(p.numel() for module in modules for p in module.parameters())
