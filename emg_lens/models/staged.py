"""Encoders of several stages: a transformer a modality, side by side, and perhaps one more over all their tokens.

The stages share one residual stream of all tokens. In the layers of the modalities' own transformers each works on its
tokens alone (`TokenLayout.stages`), so no attention edge joins two modalities there; in the layers of the fusion stage
all tokens meet. Hook names carry the stage: `stages.emg.blocks.0.attn.hook_attn_scores`.
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
"""Name of the stage in which all tokens meet."""
FusionLayers = Annotated[int, Field(ge=0, le=10_000)]


@dataclass
class StagedConfig(EncoderConfig):
    """`EncoderConfig` of an encoder with a stage for each modality, with the sizes of the IsoNet paper (§3).

    Every modality has its own linear map from patches to tokens (`embedding="shared"`; `"dedicated"` = one a channel),
    and a CLS token of its own. Blocks are post-LN. Positions cannot be rotary: towers of different length share them.

    Attributes:
        patch_samples: Samples a token; the paper's tubelets have 40.
        n_layers: Layers from the input to the readout; those of all modalities run side by side, and count once.
        n_fusion_layers: The last so many layers are the fusion stage's.
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
    """Whether there is a fusion stage, with a CLS token of its own at position 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != "post" or not self.cls_token or self.rotates or self.positions == "relative":
            given = f"norm={self.norm!r}, cls_token={self.cls_token}, positions={self.positions!r}"
            raise ArgumentError(f"{self.model_name} has post-LN blocks, CLS and positions that are added; got {given}")
        if self.readout == "each":
            raise ArgumentError(f"{self.model_name} reads a trial as a whole; expected readout='cls', got 'each'")
        check_names_of_parts(self.modalities)
        if FUSION in self.modalities:
            raise ArgumentError(f"a modality of {self.model_name} cannot be named {FUSION!r}, which is a stage")
        least = 1 if self.fuses else 0
        if not least <= self.n_fusion_layers < self.n_layers or (self.n_fusion_layers and not self.fuses):
            raise ArgumentError(
                f"n_fusion_layers={self.n_fusion_layers} of n_layers={self.n_layers}; {self.model_name} has"
                + (f" {least} or more, and others before them" if self.fuses else " none")
            )

    @property
    def n_own_layers(self) -> int:
        """Layers of a modality's own stage."""
        return self.n_layers - self.n_fusion_layers

    @property
    def spans(self) -> dict[str, range]:
        """Positions of each modality, its CLS token in front."""
        found, start = {}, int(self.fuses)
        for name, n_channels in self.modalities.items():
            n_tokens = self.n_patches * (n_channels if self.tokens == "channel" else 1)
            found[name] = range(start, start + 1 + n_tokens)
            start = found[name].stop
        return found

    @property
    def layout(self) -> TokenLayout:
        """What each position stands for, and which meet in which layers."""
        rows: list[tuple[str, str, int, int]] = [(f"{CLS}.{FUSION}", CLS, NO_INDEX, NO_INDEX)] * self.fuses
        for name, n_channels in self.modalities.items():
            rows.append((f"{CLS}.{name}", CLS, NO_INDEX, NO_INDEX))
            own = self.layout_of({name: n_channels}, cls=False)
            rows += zip(own.names, [name] * len(own), own.channel, own.patch, strict=True)
        stages = [Stage(name, range(self.n_own_layers), span) for name, span in self.spans.items()]
        if self.fuses:
            stages.append(Stage(FUSION, range(self.n_own_layers, self.n_layers), range(len(rows))))
        channels = tuple(self.modalities.items()) if self.tokens == "time" else ()
        return TokenLayout(*zip(*rows, strict=True), tuple(stages), channels)  # pyright: ignore

    @property
    def n_ctx(self) -> int:
        """Positions of the residual stream."""
        return self.n_tokens + len(self.modalities) + self.fuses

    @property
    def n_weights(self) -> int:
        """Values of the matrices of all stages, embeddings included."""
        n_maps = self.n_channels if self.embedding == "dedicated" else len(self.modalities)
        embedding = self.d_model * (n_maps * (self.patch_samples or self.n_samples) + self.n_ctx)
        n_blocks = len(self.modalities) * self.n_own_layers + self.n_fusion_layers
        return embedding + n_blocks * self.d_model * (4 * self.d_model + 2 * self.d_mlp)


class StagedEmbed(ChannelEmbed):
    """The tokens of all stages: each modality's, its CLS token in front, and the fusion stage's CLS token before them.

    `W_E [modality, sample, d_model]`, or one map a channel; `cls [token, d_model]`.
    """

    multiply_accumulates = ChannelEmbed.multiply_accumulates

    def __init__(self, cfg: StagedConfig) -> None:
        super().__init__(cfg)
        self.fuses = cfg.fuses
        if cfg.embedding == "shared":
            of_modality = [k for k, n in enumerate(cfg.modalities.values()) for _ in range(n)]
            self.map_of_channel = torch.tensor(of_modality)

    def count_maps(self, cfg: EncoderConfig) -> int:
        """One a channel, or one a modality."""
        return cfg.n_channels if cfg.embedding == "dedicated" else len(cfg.modalities)

    def cls_shape(self, cfg: EncoderConfig) -> tuple[int, ...]:
        """One a stage."""
        assert isinstance(cfg, StagedConfig)
        return (len(cfg.modalities) + cfg.fuses,)

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch pos d_model"]:
        """Tokens in the layout's order."""
        assert self.cls is not None
        cls = self.cls.expand(len(x), -1, -1)
        pieces = [cls[:, :1]] * self.fuses
        for k, own in enumerate(self.tokens(x)):
            pieces += [cls[:, k + self.fuses, None], own]
        return torch.cat(pieces, dim=1)


class SideBySide:
    """A layer in which each stage works on its own positions; those of no stage stay as they are."""

    def __init__(self, blocks: Sequence[tuple[range, Block]]) -> None:
        self.blocks = tuple(blocks)

    def __call__(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream behind the layer."""
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
    """An encoder of several stages on one residual stream.

    ```python
    logits, cache = model.run_with_cache(x)
    cache["stages.fusion.blocks.0.attn.hook_pattern"]  # [batch, head, dest, src], over all tokens
    cache.stage("emg")["pattern", 0]  # the same of a modality's own stage, under TransformerLens's short names
    model.run_with_hooks(x, fwd_hooks=cut(model, cross_modal().at(stage="fusion", layers=0)))
    ```

    What TransformerLens computes from the weights or the stream of one stack (`W_Q` of all layers, decompositions of
    the residual stream, bridges) is refused here, with a message.

    Attributes:
        stages: Each stage's `blocks`, by name.
    """

    cfg: StagedConfig

    def add_embedding(self) -> None:
        """The embedding of all stages."""
        self.embed = StagedEmbed(self.cfg)

    def add_blocks(self, permanent_mask: Bool[Tensor, "layer head dest src"] | None) -> None:
        """The blocks of every stage."""
        self.stages = nn.ModuleDict()
        for stage in self.layout.stages:
            own = None if permanent_mask is None else permanent_mask[stage.edges]
            blocks = [
                Block(self.cfg, layer, own[k] if own is not None and own[k].any() else None)
                for k, layer in enumerate(stage.layers)
            ]
            self.stages[stage.name] = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})

    @property
    def blocks(self) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What happens in each layer, on the whole residual stream: the blocks of `stages`, as they are now."""
        return tuple(self._layer(layer) for layer in range(self.cfg.n_layers))

    @property
    def parameter_layers(self) -> dict[str, int]:
        """As of any encoder; blocks that work side by side are of one layer."""
        blocks = {
            f"stages.{stage.name}.blocks.{k}.": layer
            for stage in self.layout.stages
            for k, layer in enumerate(stage.layers)
        }
        return super().parameter_layers | blocks

    @property
    def cache_type(self) -> type[StagedCache]:
        """What holds the activations of a run."""
        return StagedCache

    def blocks_with(self, submodule: str) -> NoReturn:
        """Refused: which block is the next is not one list here.

        Raises:
            ArgumentError: Always.
        """
        self._stack(submodule)

    def all_head_labels(self) -> NoReturn:
        """Refused, as `blocks_with`."""
        self._stack("all_head_labels")

    def _stack(self, parameter: str) -> NoReturn:
        raise ArgumentError(
            f"{parameter}: {type(self).__name__} has the stages {', '.join(self.stages)}, not one stack of blocks; read"
            f" model.stages[{FUSION if self.cfg.fuses else next(iter(self.stages))!r}]['blocks'][layer]"
        )

    def _layer(self, layer: int) -> SideBySide | Block:
        here = [stage for stage in self.layout.stages if layer in stage.layers]
        found: list[Any] = [self.stages[stage.name]["blocks"][layer - stage.layers.start] for stage in here]  # pyright: ignore
        if len(here) == 1 and len(here[0].positions) == len(self.layout):
            return found[0]
        return SideBySide([(stage.positions, block) for stage, block in zip(here, found, strict=True)])
