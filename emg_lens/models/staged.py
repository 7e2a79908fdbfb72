"""Encoders with several stages: one transformer per modality, and optionally one more over all tokens.

The stages share one residual stream of all tokens. The stage of a modality works only on the tokens of this modality
(`TokenLayout.stages`), so no attention edge joins two modalities there. In the fusion stage all tokens meet. Hook names
contain the stage: `stages.emg.blocks.0.attn.hook_attn_scores`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NoReturn

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from emg_lens.layout import CLS, NO_INDEX, Stage, TokenLayout
from emg_lens.lens.config import Embedding, EncoderConfig, Norm, Number, check_names_of_parts
from emg_lens.lens.staged_cache import StagedCache
from emg_lens.models.components import Block, ChannelEmbed
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.validation import ArgumentError

FUSION = "fusion"
"""Name of the stage on all tokens."""
FusionLayers = Annotated[int, Field(ge=0, le=10_000)]


@dataclass
class StagedConfig(EncoderConfig):
    """`EncoderConfig` of an encoder with one stage per modality, with the sizes of the IsoNet paper (§3).

    Every modality has its own linear map from patches to tokens (`embedding="shared"`; `"dedicated"` = one per
    channel), and its own CLS token. Blocks are post-LN. Positions cannot be rotary, because stages of different length
    share them.

    Attributes:
        patch_samples: Samples in a token; the paper's tubelets have 40.
        n_layers: Layers from the input to the readout; parallel layers of the modalities count once.
        n_fusion_layers: Number of last layers that belong to the fusion stage.
    """

    d_model: PositiveInt = 512
    n_heads: Number = 8
    n_layers: Number = 5
    d_mlp: PositiveInt = 128
    patch_samples: PositiveInt | None = 40
    embedding: Embedding = "shared"
    norm: Norm = "post"
    n_fusion_layers: FusionLayers = 0

    model_name = "staged-encoder"
    fuses: ClassVar[bool] = False
    """Whether there is a fusion stage, with its own CLS token at position 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != "post" or not self.cls_token or self.rotates or self.positions == "relative":
            given = f"norm={self.norm!r}, cls_token={self.cls_token}, positions={self.positions!r}"
            raise ArgumentError(f"{given}; {self.model_name} needs norm='post', cls_token=True and added positions")
        if self.readout == "each":
            raise ArgumentError(f"readout='each'; {self.model_name} has one output per trial: expected readout='cls'")
        check_names_of_parts(self.modalities)
        if FUSION in self.modalities:
            raise ArgumentError(f"a modality cannot be named {FUSION!r} in {self.model_name}: a stage has this name")
        least = 1 if self.fuses else 0
        if not least <= self.n_fusion_layers < self.n_layers or (self.n_fusion_layers and not self.fuses):
            raise ArgumentError(
                f"n_fusion_layers={self.n_fusion_layers}, n_layers={self.n_layers}; {self.model_name} needs"
                + (f" {least} or more fusion layers, and others before them" if self.fuses else " n_fusion_layers=0")
            )

    @property
    def spans(self) -> dict[str, range]:
        """Positions of each modality, with its CLS token first."""
        spans, start = {}, int(self.fuses)
        for name, n_channels in self.modalities.items():
            n_tokens = self.n_patches * (n_channels if self.tokens == "channel" else 1)
            spans[name] = range(start, start + 1 + n_tokens)
            start = spans[name].stop
        return spans

    @property
    def layout(self) -> TokenLayout:
        """Meaning of each position, and the stages with their layers and positions."""
        rows: list[tuple[str, str, int, int]] = [(f"{CLS}.{FUSION}", CLS, NO_INDEX, NO_INDEX)] * self.fuses
        for name, n_channels in self.modalities.items():
            rows.append((f"{CLS}.{name}", CLS, NO_INDEX, NO_INDEX))
            own = self.layout_of({name: n_channels}, cls=False)
            rows += zip(own.names, [name] * len(own), own.channel, own.patch, strict=True)
        n_own_layers = self.n_layers - self.n_fusion_layers
        stages = [Stage(name, range(n_own_layers), span) for name, span in self.spans.items()]
        if self.fuses:
            stages.append(Stage(FUSION, range(n_own_layers, self.n_layers), range(len(rows))))
        channels = tuple(self.modalities.items()) if self.tokens == "time" else ()
        return TokenLayout(*zip(*rows, strict=True), tuple(stages), channels)  # pyright: ignore

    n_maps = property(
        lambda self: self.n_channels if self.embedding == "dedicated" else len(self.modalities),
        doc="Number of linear maps: one per channel, or one per modality.",
    )
    cls_shape = property(lambda self: (len(self.modalities) + self.fuses,), doc="Number of CLS tokens: one per stage.")
    n_ctx = property(lambda self: self.n_tokens + self.cls_shape[0], doc="Number of positions of the residual stream.")


class StagedEmbed(ChannelEmbed):
    """Tokens of all stages: the fusion stage's CLS token, then each modality's CLS token and tokens.

    `W_E [modality, sample, d_model]`, or one map per channel; `cls [token, d_model]`.
    """

    multiply_accumulates = ChannelEmbed.multiply_accumulates

    def __init__(self, cfg: StagedConfig) -> None:
        super().__init__(cfg)
        self.fuses = cfg.fuses
        if cfg.embedding == "shared":
            of_modality = [k for k, n in enumerate(cfg.modalities.values()) for _ in range(n)]
            self.map_of_channel = torch.tensor(of_modality)

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch pos d_model"]:
        """Compute tokens in the layout's order."""
        assert self.cls is not None
        cls = self.cls.expand(len(x), -1, -1)
        pieces = [cls[:, :1]] * self.fuses
        for k, own in enumerate(self.tokens(x)):
            pieces += [cls[:, k + self.fuses, None], own]
        return torch.cat(pieces, dim=1)


class SideBySide:
    """A layer in which each stage works on its own positions; positions of no stage stay unchanged."""

    mixes_only_by_attention = folds = True

    def __init__(self, blocks: Sequence[tuple[range, Block]]) -> None:
        self.blocks = tuple(blocks)

    def __call__(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Compute the residual stream after the layer."""
        pieces, last = [], 0
        for span, block in self.blocks:
            pieces += [resid[:, last : span.start], block(resid[:, span.start : span.stop])]
            last = span.stop
        return torch.cat([*pieces, resid[:, last:]], dim=1)


def blocks_of(layer: Any) -> tuple[Any, ...]:
    """Return the blocks of a layer: one for each stage, or the one that the layer is."""
    return tuple(block for _, block in layer.blocks) if isinstance(layer, SideBySide) else (layer,)


def blocks_with_positions(layer: Any, n_ctx: int) -> list[tuple[Any, int]]:
    """Return the blocks of a layer, each with the number of positions that it works on."""
    return [(b, len(span)) for span, b in layer.blocks] if isinstance(layer, SideBySide) else [(layer, n_ctx)]


class StagedEncoder(HookedBiosignalEncoder):
    """An encoder with several stages on one residual stream.

    ```python
    logits, cache = model.run_with_cache(x)
    cache["stages.fusion.blocks.0.attn.hook_pattern"]  # [batch, head, dest, src], over all tokens
    cache.stage("emg")["pattern", 0]  # the pattern of a modality's stage, under TransformerLens's short name
    model.run_with_hooks(x, fwd_hooks=cut(model, cross_modal().at(stage="fusion", layers=0)))
    ```

    Functions of TransformerLens that need one stack of blocks (`W_Q` of all layers, decompositions of the residual
    stream, bridges) raise an error.

    Attributes:
        stages: The `blocks` of each stage, by name.
    """

    cfg: StagedConfig

    def add_embedding(self) -> None:
        """Make the embedding of all stages."""
        self.embed = StagedEmbed(self.cfg)

    def add_blocks(self, permanent_mask: Bool[Tensor, "layer head dest src"] | None) -> None:
        """Make the blocks of every stage."""
        self.stages = nn.ModuleDict()
        for stage in self.layout.stages:
            masks = [None] * len(stage.layers) if permanent_mask is None else permanent_mask[stage.edges]
            blocks = [Block(self.cfg, layer, mask) for layer, mask in zip(stage.layers, masks, strict=True)]
            self.stages[stage.name] = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})

    @property
    def blocks(self) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The layers on the whole residual stream, made of the current blocks of `stages`."""
        return tuple(self._layer(layer) for layer in range(self.cfg.n_layers))

    @property
    def parameter_layers(self) -> dict[str, int]:
        """The layer of each group of parameters; parallel blocks belong to one layer."""
        blocks = {
            f"stages.{stage.name}.blocks.{k}.": layer
            for stage in self.layout.stages
            for k, layer in enumerate(stage.layers)
        }
        return super().parameter_layers | blocks

    @property
    def cache_type(self) -> type[StagedCache]:
        """The class of the activation cache."""
        return StagedCache

    def blocks_with(self, submodule: str) -> NoReturn:
        """Raise an error, because there is no single list of blocks."""
        self._stack(submodule)

    def all_head_labels(self) -> NoReturn:
        """Raise an error, as `blocks_with`."""
        self._stack("all_head_labels")

    def _stack(self, parameter: str) -> NoReturn:
        first = FUSION if self.cfg.fuses else next(iter(self.stages))
        raise ArgumentError(
            f"{parameter} needs one stack of blocks, and {type(self).__name__} has the stages"
            f" {', '.join(self.stages)}; read model.stages[{first!r}]['blocks'][layer]"
        )

    def _layer(self, layer: int) -> SideBySide | Block:
        here = [stage for stage in self.layout.stages if layer in stage.layers]
        blocks: list[Any] = [self.stages[stage.name]["blocks"][layer - stage.layers.start] for stage in here]  # pyright: ignore
        if len(here) == 1 and len(here[0].positions) == len(self.layout):
            return blocks[0]
        return SideBySide([(stage.positions, block) for stage, block in zip(here, blocks, strict=True)])
