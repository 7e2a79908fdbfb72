"""TinyMyo's blocks with other front ends and an output at every time step; docs/tinymyo-model.md §9.4.

Front end, positions, attention mask, norm and readout are fields of the configuration and can be combined freely.
`TinyMyoGestures` and `TinyMyoSpeech` are the two published combinations.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from emg_lens.lens.config import AttentionDirection, Fraction, Norm, PositionKind, Readout, TokenKind
from emg_lens.lens.signals import ModelFileError
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.front_ends import FRONT_ENDS, SequenceEmbed
from emg_lens.models.registry import Architecture
from emg_lens.models.streaming import CachedBlocks, SignalStream
from emg_lens.models.tinymyo.checkpoints import find_file, is_of_head, read_published
from emg_lens.models.tinymyo.config import PublishedBlocks
from emg_lens.models.tinymyo.weights import block_entries, taken_from
from emg_lens.validation import ArgumentError, checked

FrontEndKind = Literal["compressed", "residual"]
Halvings = Annotated[int, Field(ge=1, le=20)]
"""Number of halvings; after twenty, a window of a million samples is one token."""


@dataclass
class SequenceConfig(PublishedBlocks):
    """`EncoderConfig` with time steps as tokens: a front end maps all channels of a modality to one token per step.

    `act_fn` is also the non-linearity of the front end, and `dropout` also that of `"compressed"`.

    Attributes:
        front_end: `"compressed"` = range compression and one convolution; `"residual"` = residual convolution blocks.
        kernel_samples: Samples in one step (`"compressed"`).
        stride: Samples from one step to the next (`"compressed"`).
        compression_range: Largest value after compression (`"compressed"`), in the unit of the input.
        compression_midpoint: Input value that is compressed to half of this range (`"compressed"`).
        n_halvings: Number of residual blocks, each of which halves the rate (`"residual"`).
    """

    tokens: TokenKind = "time"
    positions: PositionKind = "rotary_time"
    readout: Readout = "each"
    drop_path: Fraction = 0.0
    front_end: FrontEndKind = "compressed"
    kernel_samples: PositiveInt = 21
    stride: PositiveInt = 10
    compression_range: PositiveFloat = 64.0
    compression_midpoint: PositiveFloat = 32.0
    n_halvings: Halvings = 3

    model_name = "tinymyo-sequence"
    has_times = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_patches < 1:
            raise ArgumentError(
                f"n_samples={self.n_samples} is too short for one time step; expected at least"
                f" kernel_samples={self.kernel_samples}"
            )
        if self.tokens != "time" or self.cls_token or self.patch_samples is not None or self.mask_token:
            raise ArgumentError(
                f"tokens={self.tokens!r}, cls_token={self.cls_token}, patch_samples={self.patch_samples},"
                f" mask_token={self.mask_token}; with a front end, expected tokens='time', cls_token=False,"
                " patch_samples=None and mask_token=False"
            )

    @property
    def n_patches(self) -> int:
        """Number of time steps of each modality."""
        return FRONT_ENDS[self.front_end].n_steps(self)

    @property
    def step_grid(self) -> tuple[int, int]:
        """Sample of the first time step in a window, and samples from one step to the next.

        With `front_end="compressed"` it is the last sample that the step uses, with `"residual"` the middle one.
        """
        return FRONT_ENDS[self.front_end].step_grid(self)

    @property
    def n_weights(self) -> int:
        """Number of values in the matrices of attention, MLPs and unembedding."""
        return self.d_model * (self.n_classes + self.n_layers * (4 * self.d_model + 2 * self.d_mlp))


@dataclass
class TinyMyoGesturesConfig(SequenceConfig):
    """`SequenceConfig` with the published sizes for discrete gestures: causal pre-LN blocks with rotary positions."""

    attention_dir: AttentionDirection = "causal"

    model_name = "tinymyo-gestures"


@dataclass
class TinyMyoSpeechConfig(SequenceConfig):
    """`SequenceConfig` with the published sizes for silent speech: post-LN blocks with relative positions.

    The vectors of the positions keep their random initial values, as in the published code; `train_positions=True`
    trains them.
    """

    front_end: FrontEndKind = "residual"
    norm: Norm = "post"
    positions: PositionKind = "relative"
    train_positions: bool = False

    model_name = "tinymyo-speech"


@dataclass(frozen=True)
class BlocksReport:
    """The report about blocks that were loaded from a published file; `print(model.blocks_report)`.

    Attributes:
        source: The file.
        taken: Published names of the loaded tensors.
        left: Published names of tensors that the model does not have: front end, head, and with post-LN the last norm.
        fresh: Our names of tensors that keep their weights.
        notes: Further remarks.
    """

    source: str
    taken: tuple[str, ...]
    left: tuple[str, ...]
    fresh: tuple[str, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        lines = [f"blocks from {self.source}", f"  taken       {len(self.taken)} tensors"]
        lines += [f"  {what:<11} {', '.join(names)}" for what, names in (("left", self.left), ("fresh", self.fresh))]
        return "\n".join(lines + [f"  note        {note}" for note in self.notes])


class SequenceEncoder(HookedBiosignalEncoder):
    """An encoder of time steps; `model(x)` gives logits `[batch, pos, class]`, one row per time step and modality.

    ```python
    model = build_model("tinymyo-gestures", modalities={"emg": 16}, n_samples=16000, n_classes=9)
    model.take_blocks("PulpBio/TinyMyo", filename="UCI_EMG/base.safetensors")
    with cutting(model, lag(50, 1597)) as report: model(x)  # no attention to more than a quarter of a second ago, at 2
    kHz
    ```
    """

    cfg: SequenceConfig
    blocks_report: BlocksReport | None = None
    """What was loaded into the blocks from a published file, or None."""

    @property
    def one_by_one(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the front end normalises batches, so that the model cannot be fitted as one of a cohort."""
        return any(isinstance(part, nn.BatchNorm1d) for part in self.embed.modules())

    def add_embedding(self) -> None:
        """Make the front ends."""
        self.embed = SequenceEmbed(self.cfg)

    @checked
    def stream(self, history: PositiveInt | None = None) -> SignalStream:
        """Compute outputs while samples arrive: keys and values of earlier time steps are cached.

        Args:
            history: Number of earlier steps that a step attends to; None = all, so that the cost of a step grows. The
                outputs equal those of a window with all samples, in which `lag(history + 1, n_steps)` is cut.

        Returns:
            The stream; `stream.push(x)` takes any number of samples and returns `[batch, step, output]`.

        Raises:
            ArgumentError: The encoder is not causal, or its outputs cannot be computed step by step.
        """
        return SignalStream(self, self.embed, CachedBlocks(self, history).advance)

    @checked
    def take_blocks(
        self, source: str | Path, *, filename: str | None = None, revision: str | None = None
    ) -> BlocksReport:
        """Load the blocks, and with pre-LN the last norm, of a published TinyMyo (`docs/tinymyo-model.md` §9.3).

        All of them are loaded, or none; everything else keeps its weights. The published weights have the licence
        CC BY-ND 4.0: do not distribute a converted copy.

        Args:
            source: A file (`.safetensors`, or Lightning's `.ckpt`), a folder, or a repository of the hub.
            filename: The file in a folder or a repository.
            revision: Branch, tag or commit of a repository.

        Returns:
            The report, also in `blocks_report`.

        Raises:
            ModelFileError: A missing or damaged file, or blocks of another number or size than the model's.
        """
        published = read_published(find_file(source, filename, revision))
        n_layers, wanted = published.sizes["n_layers"], block_entries(self.cfg)
        lacking = [there for there, _, _ in wanted if there not in published.state]
        if n_layers != self.cfg.n_layers or lacking:
            raise ModelFileError(
                f"{published.source} has {n_layers} blocks and lacks {len(lacking)} tensors of the model"
                f" ({', '.join(lacking[:3]) or 'none'}); expected {self.cfg.n_layers} blocks"
            )
        own = self.state_dict()
        for there, here, axes in wanted:
            expected = tuple(own[here[0]].shape)
            taken = taken_from(published.state[there], here, axes, self.cfg)
            if any(tensor.shape != expected for tensor in taken.values()):
                raise ModelFileError(
                    f"{published.source}: {there} has shape {list(published.state[there].shape)}; expected the shape"
                    f" for {', '.join(here)} {list(expected)}: d_model={self.cfg.d_model}, d_mlp={self.cfg.d_mlp}"
                )
            own |= taken
        self.load_state_dict(own)
        rope, _ = published.rope
        notes = list(published.notes)
        if self.cfg.norm == "post":
            notes.append("trained as pre-LN blocks, and these are post-LN: the same weights compute something else")
        if rope is None or not self.cfg.rotates:
            notes.append(
                f"trained with rope={rope or 'not stated'!r}; these blocks have positions={self.cfg.positions!r}"
            )
        filled = {name for _, here, _ in wanted for name in here}
        taken = tuple(there for there, _, _ in wanted)
        self.blocks_report = BlocksReport(
            source=published.source,
            taken=taken,
            left=tuple(sorted(set(published.state) - {*taken}, key=is_of_head)),
            fresh=tuple(name for name in own if name not in filled),
            notes=tuple(notes),
        )
        return self.blocks_report


class TinyMyoGestures(SequenceEncoder):
    """The published transformer for discrete gestures; `model(x)` is logits `[batch, pos, gesture]`."""

    cfg: TinyMyoGesturesConfig

    def __init__(self, config: TinyMyoGesturesConfig) -> None:
        super().__init__(config)  # from_pretrained reads the annotation of `config`


class TinyMyoSpeech(SequenceEncoder):
    """The published encoder for silent speech; `model(x)` is `[batch, pos, output]`, one row per time step."""

    cfg: TinyMyoSpeechConfig

    def __init__(self, config: TinyMyoSpeechConfig) -> None:
        super().__init__(config)


TINYMYO_GESTURES = Architecture("tinymyo-gestures", TinyMyoGesturesConfig, TinyMyoGestures, objective=None)
TINYMYO_SPEECH = Architecture("tinymyo-speech", TinyMyoSpeechConfig, TinyMyoSpeech, objective=None)
