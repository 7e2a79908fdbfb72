"""`HookedBiosignalEncoder`: a transformer over channels or channel patches that is a TransformerLens model.

It is named after TransformerLens's `HookedAudioEncoder`. Its input is one float tensor `[batch, channel, time]`, with
modalities concatenated along `channel` in the layout's order. This file builds and runs it; hooks, caches, handles and
weights in TransformerLens's form are in `emg_lens.lens.surface`.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from emg_lens.hooks import none
from emg_lens.layout import where_modalities_meet
from emg_lens.lens.config import EncoderConfig
from emg_lens.lens.handles import Handles, Labels, look_up
from emg_lens.lens.points import Point, has_hook
from emg_lens.lens.surface import TransformerLensSurface
from emg_lens.models.components import Block, ChannelEmbed, HiddenTokens, LayerNorm, PosEmbed, Unembed
from emg_lens.models.declarations import why_undeclared
from emg_lens.validation import ArgumentError, check_argument, short

ReturnType = Literal["logits", "both", "loss"] | None


class HookedBiosignalEncoder(TransformerLensSurface):
    """Transformer encoder for biosignals with TransformerLens hook points.

    Attributes:
        cfg: The configuration, with TransformerLens's field names; a copy of the given one.
        layout: Meaning of each position of the residual stream.
        runs_blocks_in_order: Declares that `forward` runs `residual_in`, the blocks in order, `ln_final` and `head`. A
            subclass that overrides `forward` must declare it anew; otherwise sweeps run the model only as a whole.

    Example:
        >>> import torch
        >>> from emg_lens import EncoderConfig, HookedBiosignalEncoder
        >>> cfg = EncoderConfig({"emg": 4}, n_samples=20, n_classes=2, class_names=["rest", "fist"], d_model=16)
        >>> model = HookedBiosignalEncoder(cfg)
        >>> logits, cache = model.run_with_cache(torch.randn(8, 4, 20))  # input [batch, channel, time]
        >>> tuple(cache["pattern", 2].shape)  # batch, head, dest, src: CLS and four channels
        (8, 4, 5, 5)
        >>> parts, labels = cache.decompose_resid(pos_slice=0, return_labels=True)
        >>> tuple(cache.logit_attrs(parts, "fist", pos_slice=0).shape)  # what each part adds to the logit of "fist"
        (10, 8)
    """

    runs_blocks_in_order = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        cfg = self.cfg
        self.add_embedding()
        self.hook_embed = Point()  # [batch, pos, d_model]
        if cfg.adds_positions:
            self.add_positions()
            self.hook_pos_embed = Point()  # [batch, pos, d_model]
        self.add_blocks(self.permanent_mask())
        self.ln_final = LayerNorm(cfg) if cfg.norm == "pre" else nn.Identity()
        if cfg.readout != "none":
            self.add_readout()
        self.setup()

    def add_embedding(self) -> None:
        """Make `embed`, the map from signals to tokens."""
        self.embed = ChannelEmbed(self.cfg)

    def add_positions(self) -> None:
        """Make `pos_embed`, which adds the vectors `W_pos [pos, d_model]` to the tokens."""
        self.pos_embed = PosEmbed(self.cfg)

    def add_blocks(self, permanent_mask: Bool[Tensor, "layer head dest src"] | None) -> None:
        """Make the blocks, without the edges in `permanent_mask`."""
        masks = [None] * self.cfg.n_layers if permanent_mask is None else permanent_mask
        self.blocks = nn.ModuleList(Block(self.cfg, layer, mask) for layer, mask in enumerate(masks))

    def add_readout(self) -> None:
        """Make `unembed`, the map from the output of `pool` to logits."""
        normal = self.cfg.initial_weights == "normal"
        self.unembed = Unembed(self.cfg.d_model, self.cfg.n_classes, normal=normal)

    @property
    def head_parameters(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Prefixes of the names of head parameters: `unembed`, and the prefixes of a second head."""
        own = ("unembed.",) * (self.cfg.readout != "none")
        return (*own, self.auxiliary_parameters) if self.auxiliary_parameters else own

    @property
    def parameter_layers(self) -> dict[str, int]:
        """The layer of each group of parameters: embeddings, blocks, and then the final norm and the heads."""
        layers = {"embed.": -1, "pos_embed.": -1}
        for layer, block in enumerate(self.blocks):
            layers |= {f"{name}.": layer for name, module in self.named_modules() if module is block}
        return layers | dict.fromkeys(("ln_final.", *self.head_parameters), self.cfg.n_layers)

    def permanent_mask(self) -> Bool[Tensor, "layer head dest src"] | None:
        """Return the attention edges that this model does not have (`cfg.masked_edges`), or None if it has all."""
        if self.cfg.permanent_mask == none():
            return None
        permanent_mask = self.cfg.permanent_mask.mask(self.layout, self.cfg.n_layers, self.cfg.n_heads)
        if not permanent_mask.any():
            raise ArgumentError(
                f"masked_edges={str(self.cfg.permanent_mask)!r} selects no edge of this model"
                f"{where_modalities_meet(self.layout)}; leave it out to keep all edges"
            )
        return permanent_mask

    # --- running ------------------------------------------------------------------------------------------

    def forward(
        self,
        input: Shaped[Tensor, "batch channel_or_pos time_or_d_model"] | Handles,
        return_type: ReturnType = "logits",
        *,
        labels: Labels | None = None,
        masked: HiddenTokens | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Any:
        """Compute logits `[batch, class]`, the loss, or the residual stream `[batch, pos, d_model]`.

        With `readout="each"` there are logits for every token except CLS: `[batch, pos, class]`.

        Args:
            input: Signals `[batch, channel, time]` or their handles; with `start_at_layer`, the residual stream.
            return_type: `"logits"`; `"both"` (models with two heads); `"loss"`, the mean cross-entropy of the logits
                against `labels`; or `None` (nothing).
            labels: Class index of each trial, for the loss; default: those given to `handles`.
            masked: Tokens to hide, in the layout's order; the learned mask token replaces them (models with
                `mask_token=True`).
            start_at_layer: Use `input` as the residual stream before this block (negative counts from the end).
            stop_at_layer: Return the residual stream before this block instead of logits.

        Returns:
            Logits, loss or residual stream, as asked for.

        Raises:
            ArgumentError: Input of another shape, handles outside their context, a layer that does not exist, a loss
                without labels, hidden tokens without a mask token or with `start_at_layer`, or an unknown
                `return_type`.
        """
        first, last = self._layer_range(start_at_layer, stop_at_layer)
        if start_at_layer is not None:
            if masked is not None:
                raise ArgumentError("masked=... hides tokens of the input; leave it out with start_at_layer")
            resid = self._check_residual(input)
        else:
            if isinstance(input, Tensor) and input.ndim == 2 and not input.is_floating_point():
                input, known = look_up(input, self.cfg.n_ctx)
                labels = known if labels is None else labels
            resid = self.residual_in(input, masked)
        cls_alone = stop_at_layer is None and return_type in ("logits", "loss") and self._trains_cls_alone()
        for block in self.blocks[first:last]:
            resid = block(resid, 1) if cls_alone and block is self.blocks[-1] else block(resid)
        if stop_at_layer is not None:
            return resid
        resid = self.ln_final(resid)
        return self._loss(resid, labels) if return_type == "loss" else self.head(resid, return_type)

    def _trains_cls_alone(self) -> bool:
        """Whether training can skip the other positions of the last block, because only CLS is read.

        This is assumed only for a readout, a norm and a block with the declarations, and without hooks.
        """
        if not (self.training and self.cfg.readout == "cls" and self.reads_first_row_only):
            return False
        last = self.blocks[-1]
        if why_undeclared(self, "readout_positions") or why_undeclared(last, "folds"):
            return False
        if type(self.ln_final) is not nn.Identity and why_undeclared(self.ln_final, "mixes_only_by_attention"):
            return False
        return not any(has_hook(part) for whole in (last, self.ln_final) for part in whole.modules())  # pyright: ignore

    def residual_in(
        self, x: Shaped[Tensor, "batch channel time"], masked: HiddenTokens | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Compute the residual stream before block 0: embeddings (the mask token where `masked`) plus positions."""
        self.check_signals(x)
        if masked is not None and not self.cfg.mask_token:
            raise ArgumentError("masked=...: this model has no mask token; build it with mask_token=True")
        tokens = self.embed(x)
        resid = self.hook_embed(tokens if masked is None else self.embed.hide(tokens, masked))
        if self.cfg.adds_positions:
            vectors = self.pos_embed(resid)
            if has_hook(self.hook_pos_embed):  # a hook may edit them in place
                vectors = vectors.clone()
            resid = resid + self.hook_pos_embed(vectors)
        return resid

    def head(self, resid: Float[Tensor, "batch pos d_model"], return_type: ReturnType = "logits") -> Any:
        """Compute the output that `return_type` names from the final residual stream."""
        match return_type:
            case None:
                return None
            case "logits" if self.cfg.readout == "none":
                return resid
            case "logits":
                return self.unembed(self.pool(resid))
        raise ArgumentError(f"return_type={return_type!r}; expected 'logits', 'loss' or None")

    def _loss(self, resid: Float[Tensor, "batch pos d_model"], labels: Labels | None) -> Float[Tensor, ""]:
        if self.cfg.readout == "none":
            raise ArgumentError("return_type='loss' needs logits, and a model with readout='none' has none")
        if self.cfg.readout == "each":
            raise ArgumentError(
                "return_type='loss' is the cross-entropy of one class per trial, and readout='each' gives logits for"
                " every token; compute the loss from model(x)"
            )
        if labels is None:
            raise ArgumentError(
                "return_type='loss' needs labels: model(x, return_type='loss', labels=y), or handles(x, y)"
            )
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != resid.shape[:1]:
            raise ArgumentError(f"labels={short(labels)}; expected torch.int64 class indices for {len(resid)} trials")
        if int(labels.min()) < 0 or int(labels.max()) >= self.cfg.n_classes:
            raise ArgumentError(f"labels={labels.tolist()[:8]}; expected 0 to {self.cfg.n_classes - 1}")
        return F.cross_entropy(self.head(resid), labels.to(resid.device))

    def pool(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch *token d_model"]:
        """Return the vectors that `unembed` reads: CLS, or the mean of all other positions, or each of these."""
        if self.cfg.readout == "cls":
            return resid[:, 0]
        others = resid[:, int(self.cfg.cls_token) :]
        return others if self.cfg.readout == "each" else others.mean(dim=1)

    @property
    def readout_positions(self) -> Int[Tensor, " position"]:
        """Positions of the last residual stream that reach the outputs.

        This declares what `head` and `pool` read. A subclass that overrides one of them must define it anew; otherwise
        all positions count as read.
        """
        if self.cfg.readout == "cls":
            return torch.tensor([0])
        first = 0 if self.cfg.readout == "none" else int(self.cfg.cls_token)
        return torch.arange(first, len(self.layout))

    @property
    def reads_first_row_only(self) -> bool:
        """Whether `readout_positions` is position 0 alone: `head` then also takes a residual stream of one row."""
        return self.readout_positions.tolist() == [0]

    def _layer_range(self, start: int | None, stop: int | None) -> tuple[int, int]:
        n = self.cfg.n_layers
        for name, layer in (("start_at_layer", start), ("stop_at_layer", stop)):
            check_argument(name, layer, int | None)
            if layer is not None and not -n <= layer <= n:
                raise ArgumentError(f"{name}={layer}; expected {-n} to {n}, for the {n} layers of this model")
        first = 0 if start is None else start % n if start < 0 else start
        last = n if stop is None else stop % n if stop < 0 else stop
        return first, last

    def _check_residual(self, resid: Tensor) -> Tensor:
        if tuple(resid.shape[1:]) != (self.cfg.n_ctx, self.cfg.d_model):
            raise ArgumentError(
                f"input has shape {list(resid.shape)}; with start_at_layer, expected the residual stream"
                f" [batch, {self.cfg.n_ctx}, {self.cfg.d_model}]"
            )
        return resid


def count_parameters(model: nn.Module, names: Iterable[str] = ()) -> int:
    """Count the trainable values of the whole model or of the named children."""
    modules = [model.get_submodule(name) for name in names] or [model]
    return sum(p.numel() for module in modules for p in module.parameters())
