"""`HookedBiosignalEncoder`: a transformer over channels or channel patches, and a TransformerLens model.

Named after TransformerLens's own `HookedAudioEncoder`. Input is one float tensor `[batch, channel, time]`, modalities
concatenated along `channel` in the layout's order. How it is built and run is here; what makes it a TransformerLens
model (hooks, caches, handles, weights) is in `emg_lens.lens.surface`.
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
from emg_lens.lens.points import Point, is_heard
from emg_lens.lens.surface import TransformerLensSurface
from emg_lens.models.components import Block, ChannelEmbed, HiddenTokens, LayerNorm, PosEmbed, Unembed
from emg_lens.models.declarations import why_undeclared
from emg_lens.validation import ArgumentError, check_argument, short

ReturnType = Literal["logits", "both", "loss"] | None


class HookedBiosignalEncoder(TransformerLensSurface):
    """Transformer encoder for biosignals with TransformerLens hook points.

    ```python
    logits, cache = model.run_with_cache(x)  # x [batch, channel, time]
    cache["pattern", 2]  # [batch, head, dest, src]
    parts, labels = cache.decompose_resid(return_labels=True)
    cache.logit_attrs(parts, "fist", pos_slice=0)  # [part, batch]: what each sub-layer adds to that class's logit
    with model.handles(x) as tokens: ...  # for utilities that take tokens [batch, pos]
    ```

    Attributes:
        cfg: The configuration, with TransformerLens's field names; a copy of the one given.
        layout: What each position of the residual stream stands for.
        runs_blocks_in_order: Declares that `forward` runs `residual_in`, the blocks one after the other, `ln_final` and
            `head`; a subclass that overrides `forward` declares it anew, or is run as a whole.
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
        """Make `embed`, from signals to tokens."""
        self.embed = ChannelEmbed(self.cfg)

    def add_positions(self) -> None:
        """Make `pos_embed`, the vectors that are added to the tokens; `W_pos [pos, d_model]`."""
        self.pos_embed = PosEmbed(self.cfg)

    def add_blocks(self, permanent_mask: Bool[Tensor, "layer head dest src"] | None) -> None:
        """Make the blocks; `severed` are the edges that they do not have."""
        self.blocks = nn.ModuleList(
            Block(
                self.cfg,
                layer,
                permanent_mask[layer] if permanent_mask is not None and permanent_mask[layer].any() else None,
            )
            for layer in range(self.cfg.n_layers)
        )

    def add_readout(self) -> None:
        """Make `unembed`, from what `pool` gives to logits."""
        self.unembed = Unembed(self.cfg)

    @property
    def head_parameters(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`unembed`, and a second head where there is one."""
        own = ("unembed.",) * (self.cfg.readout != "none")
        return (*own, self.auxiliary_parameters) if self.auxiliary_parameters else own

    @property
    def parameter_layers(self) -> dict[str, int]:
        """Embeddings, the blocks of each layer, and what follows them: the final norm and the heads."""
        layers = {"embed.": -1, "pos_embed.": -1}
        for layer, block in enumerate(self.blocks):
            layers |= {f"{name}.": layer for name, module in self.named_modules() if module is block}
        return layers | dict.fromkeys(("ln_final.", *self.head_parameters), self.cfg.n_layers)

    def permanent_mask(self) -> Bool[Tensor, "layer head dest src"] | None:
        """The attention edges this model does not have (`cfg.masked_edges`), or None if it has all.

        Raises:
            ArgumentError: They are none of this model's edges.
        """
        if self.cfg.permanent_mask == none():
            return None
        permanent_mask = self.cfg.permanent_mask.mask(self.layout, self.cfg.n_layers, self.cfg.n_heads)
        if not permanent_mask.any():
            raise ArgumentError(
                f"masked_edges={str(self.cfg.permanent_mask)!r} selects no edge of this model"
                f"{where_modalities_meet(self.layout)}; leave it out to have them all"
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
        """Logits `[batch, class]`, the loss, or the residual stream `[batch, pos, d_model]`.

        With `readout="each"`, logits of every token but CLS: `[batch, pos, class]`.

        Args:
            input: Signals `[batch, channel, time]`, or handles of them; the residual stream where `start_at_layer` is
                given.
            return_type: `"logits"`; `"both"` (models with two heads); `"loss"`, the mean cross-entropy of the logits
                against `labels`; or `None` (nothing).
            labels: Class index of each trial, for the loss; default those given to `handles`.
            masked: Tokens to hide, in the layout's order: the learned mask token takes their place (models with
                `mask_token=True`).
            start_at_layer: Take `input` as the residual stream entering this block (negative counts from the end).
            stop_at_layer: Return the residual stream entering this block instead of logits.

        Raises:
            ArgumentError: Input of another shape, handles of no open context, a layer that does not exist, a loss
                without labels, tokens to hide in a residual stream or of a model without a mask token, or an unknown
                `return_type`.
        """
        first, last = self._layer_range(start_at_layer, stop_at_layer)
        if start_at_layer is not None:
            if masked is not None:
                raise ArgumentError("masked=... hides tokens of the input; with start_at_layer there are none")
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
        """Whether training can skip what the last block writes behind other positions than CLS: nobody reads it.

        It is not known about a readout, a norm or a block without the declaration, or with a hook.
        """
        if not (self.training and self.cfg.readout == "cls" and self.reads_first_row_only):
            return False
        last = self.blocks[-1]
        if why_undeclared(self, "readout_positions") or why_undeclared(last, "folds"):
            return False
        if type(self.ln_final) is not nn.Identity and why_undeclared(self.ln_final, "mixes_only_by_attention"):
            return False
        return not any(is_heard(part) for whole in (last, self.ln_final) for part in whole.modules())  # pyright: ignore

    def residual_in(
        self, x: Shaped[Tensor, "batch channel time"], masked: HiddenTokens | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream that enters block 0: embeddings (the mask token where `masked`) plus positions.

        Raises:
            ArgumentError: Input of another shape than the configuration promises, or a mask that does not fit.
        """
        self.check_signals(x)
        tokens = self.embed(x)
        resid = self.hook_embed(tokens if masked is None else self.embed.hide(tokens, masked))
        if self.cfg.adds_positions:
            vectors = self.pos_embed(resid)
            if is_heard(self.hook_pos_embed):  # which may edit them in place
                vectors = vectors.clone()
            resid = resid + self.hook_pos_embed(vectors)
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
        raise ArgumentError(f"return_type={return_type!r}; this model knows 'logits', 'loss' and None")

    def _loss(self, resid: Float[Tensor, "batch pos d_model"], labels: Labels | None) -> Float[Tensor, ""]:
        if self.cfg.readout == "none":
            raise ArgumentError("a model with readout='none' has no logits, so no loss")
        if self.cfg.readout == "each":
            raise ArgumentError(
                "return_type='loss' is the cross-entropy of one class a trial, and readout='each' gives logits of every"
                " token; compute the loss from model(x)"
            )
        if labels is None:
            raise ArgumentError(
                "return_type='loss' needs labels: model(x, return_type='loss', labels=y), or handles(x, y)"
            )
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != resid.shape[:1]:
            raise ArgumentError(f"labels={short(labels)}; expected torch.int64 class indices of {len(resid)} trials")
        if int(labels.min()) < 0 or int(labels.max()) >= self.cfg.n_classes:
            raise ArgumentError(f"labels must be 0 to {self.cfg.n_classes - 1}, got {labels.tolist()[:8]}")
        return F.cross_entropy(self.head(resid), labels.to(resid.device))

    def pool(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch *token d_model"]:
        """The vector that the logits are read from: CLS, or the mean of all positions but CLS, or each of them."""
        if self.cfg.readout == "cls":
            return resid[:, 0]
        others = resid[:, int(self.cfg.cls_token) :]
        return others if self.cfg.readout == "each" else others.mean(dim=1)

    @property
    def readout_positions(self) -> Int[Tensor, " position"]:
        """Positions of the last residual stream that reach the outputs.

        This declares what `head` and `pool` read: a subclass that overrides one of them defines it anew, or all
        positions count as read.
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
                raise ArgumentError(f"{name}={layer}; this model has {n} layers")
        first = 0 if start is None else start % n if start < 0 else start
        last = n if stop is None else stop % n if stop < 0 else stop
        return first, last

    def _check_residual(self, resid: Tensor) -> Tensor:
        if tuple(resid.shape[1:]) != (self.cfg.n_ctx, self.cfg.d_model):
            raise ArgumentError(
                f"start_at_layer takes the residual stream [batch, {self.cfg.n_ctx}, {self.cfg.d_model}],"
                f" got {list(resid.shape)}"
            )
        return resid


def count_parameters(model: nn.Module, names: Iterable[str] = ()) -> int:
    """Number of trainable values, of the whole model or of the named children."""
    modules = [model.get_submodule(name) for name in names] or [model]
    return sum(p.numel() for module in modules for p in module.parameters())
