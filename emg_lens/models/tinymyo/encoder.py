"""TinyMyo (Fasulo et al. 2025): a foundation model of surface EMG; a token is a patch of a channel.

`docs/tinymyo-model.md` §9 describes the published variants and what each part computes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from emg_lens.lens.cache import BiosignalCache
from emg_lens.lens.signals import ModelFileError
from emg_lens.models.components import Unembed
from emg_lens.models.encoder import HookedBiosignalEncoder, ReturnType, count_parameters
from emg_lens.models.registry import Architecture
from emg_lens.models.tinymyo.cache import PositionReadCache
from emg_lens.models.tinymyo.checkpoints import (
    EXPECTED_INPUT,
    LoadReport,
    PublishedFile,
    differences,
    find_file,
    is_of_head,
    read_published,
    write_published,
)
from emg_lens.models.tinymyo.config import POSITIONS_OF, Head, Rope, TinyMyoConfig
from emg_lens.models.tinymyo.heads import ChannelUnembed, SampleUnembed, SequenceUnembed
from emg_lens.models.tinymyo.weights import FREQUENCIES, entries, moves, to_ours, to_theirs
from emg_lens.validation import ArgumentError, OutputCount, checked


class ChannelVectors(nn.Module):
    """Learned vectors of channels, `W_channel [slot, d_model]`; a model with fewer channels uses the first ones."""

    def __init__(self, cfg: TinyMyoConfig) -> None:
        super().__init__()
        self.n_channels, self.n_patches = cfg.n_channels, cfg.n_patches
        self.W_channel = nn.Parameter(torch.empty(cfg.channel_slots, cfg.d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights."""
        nn.init.trunc_normal_(self.W_channel, std=0.02, a=-0.02, b=0.02)

    @property
    def W_pos(self) -> Float[Tensor, "pos d_model"]:  # noqa: N802
        """The vector that is added at each position."""
        return repeat(self.W_channel[: self.n_channels], "channel d -> (channel patch) d", patch=self.n_patches)

    def forward(self, tokens: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Return the vectors for the tokens of each trial; all trials share one memory."""
        return self.W_pos.expand(len(tokens), -1, -1)


class TinyMyo(HookedBiosignalEncoder):
    """The EMG foundation model.

    With classes, the logits are a mean over positions, and each position has its own direction for a class
    (`directions_at_positions`).

    Attributes:
        load_report: What was read from a published file, or None.

    Example:
        >>> import torch
        >>> from emg_lens.models import TinyMyo, TinyMyoConfig
        >>> config = TinyMyoConfig({"emg": 4}, n_samples=100, n_classes=0, head="reconstruction", n_layers=2)
        >>> model = TinyMyo(config).eval()
        >>> x = model.example_input(2)
        >>> hidden = torch.rand(2, len(model.layout)) < 0.5  # one truth value per token
        >>> tuple(model(x, masked=hidden).shape)  # the reconstructed samples
        (2, 4, 100)
    """

    cfg: TinyMyoConfig
    load_report: LoadReport | None = None

    def __init__(self, config: TinyMyoConfig) -> None:
        super().__init__(config)  # from_pretrained reads the annotation of `config`

    def add_positions(self) -> None:
        """Make the vectors of channels."""
        self.pos_embed = ChannelVectors(self.cfg)

    def add_readout(self) -> None:
        """Make the head, `unembed`."""
        cfg, normal = self.cfg, self.cfg.initial_weights == "normal"
        if cfg.head == "reconstruction":
            assert cfg.patch_samples is not None
            self.unembed = SampleUnembed(cfg.d_model, cfg.patch_samples, normal=normal)
        elif cfg.head == "regression":
            length = None if cfg.pooled else cfg.output_samples or cfg.n_samples
            self.unembed = SequenceUnembed(cfg.n_channels, cfg.d_model, cfg.n_classes, length, cfg.dropout)
        elif cfg.fusion == "concat":
            self.unembed = ChannelUnembed(cfg.n_channels, cfg.d_model, cfg.n_classes, normal=normal)
        else:
            self.unembed = Unembed(cfg.d_model, cfg.n_classes, normal=normal)

    def pool(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch *part d_model"]:
        """Return the mean over patches of each channel, or of all channels."""
        if self.cfg.fusion == "mean":
            return resid.mean(dim=1)
        return self._by_channel(resid).mean(dim=2)

    def head(self, resid: Float[Tensor, "batch pos d_model"], return_type: ReturnType = "logits") -> Any:
        """Compute logits `[batch, class]`, samples `[batch, channel, time]`, or targets `[batch, (sample,) target]`."""
        if return_type != "logits" or self.cfg.head == "classification":
            return super().head(resid, return_type)
        if self.cfg.head == "regression":
            return self.unembed(self._by_channel(resid))
        return rearrange(
            self._by_channel(self.unembed(resid)), "batch channel patch sample -> batch channel (patch sample)"
        )

    # --- what classes are read from -----------------------------------------------------------------------

    @property
    def cache_type(self) -> type[BiosignalCache]:
        """The class of the activation cache."""
        return PositionReadCache if self._reads_channels_apart else BiosignalCache

    @property
    def _reads_channels_apart(self) -> bool:
        return isinstance(self.unembed, ChannelUnembed)

    @property
    def W_U(self) -> Float[Tensor, "d_model output"]:  # noqa: N802
        """Directions of the classes, or of the samples of a patch, if they are equal at all positions."""
        if self._reads_channels_apart:
            raise ArgumentError(
                "W_U: with fusion='concat' a class has one direction per channel; use"
                " model.directions_at_positions(class), unembed.W_U [channel, d_model, class] or cache.logit_attrs"
            )
        if self.cfg.head == "regression":
            raise ArgumentError("W_U: the regression head has convolutions, so targets have no direction")
        own: Any = self.unembed
        return own.W_U

    def directions_at_positions(
        self, tokens: str | int | Sequence[str | int] | Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch pos d_model"]:
        """Return the direction in the residual stream at each position along which a class is read.

        The mean over positions of the stream (after `ln_final`) times its direction is the logit without `b_U`.
        """
        if not self._reads_channels_apart:
            directions = self.tokens_to_residual_directions(tokens)
            return repeat(directions, "... d_model -> ... pos d_model", pos=self.cfg.n_ctx)
        own: Any = self.unembed
        of_labels = rearrange(own.W_U, "channel d_model label -> label channel d_model")
        of_channels = of_labels[self._class_indices(tokens)]
        return repeat(
            of_channels * self.cfg.n_channels,
            "... channel d_model -> ... (channel patch) d_model",
            patch=self.cfg.n_patches,
        )

    # --- published files ----------------------------------------------------------------------------------

    @classmethod
    @checked
    def from_published(
        cls,
        source: str | Path,
        *,
        filename: str | None = None,
        revision: str | None = None,
        rope: Rope | None = None,
        modalities: Mapping[str, int] | None = None,
        n_samples: PositiveInt = 1000,
        head: Head | None = None,
        n_classes: OutputCount | None = None,
        strict: bool = True,
        **settings: Any,
    ) -> Self:
        """Load a published file (`docs/tinymyo-model.md` §9.3) into a model in evaluation mode.

        ```python
        model = TinyMyo.from_published("PulpBio/TinyMyo", filename="UCI_EMG/base.safetensors", n_samples=1000)
        print(model.load_report)
        TinyMyo.from_published("base.safetensors", head="classification", n_classes=6, modalities={"emg": 8})  # fresh
        ```

        The published weights have the licence CC BY-ND 4.0: do not distribute a converted copy.

        Args:
            source: A file (`.safetensors`, or Lightning's `.ckpt`), a folder, or a repository of the hub.
            filename: The file in a folder or a repository.
            revision: Branch, tag or commit of a repository.
            rope: Index of the rotary positions: `"none"`, `"token"` or `"time"`. `None` = as the file says; if it does
                not say, `"none"` with a note in the report.
            modalities: Channels of each modality; `None` = `{"emg": n}` with the channels of the file's head, or 16.
            n_samples: Samples in a window; the weights fit any number.
            head: A new head with `n_classes` outputs instead of the file's; `None` = the file's head.
            n_classes: Outputs of a new head.
            strict: Whether missing or unexpected names are an error; otherwise they are listed in the report.
            **settings: Further fields of `TinyMyoConfig`.

        Returns:
            The model; `model.load_report` describes what was read.

        Raises:
            ModelFileError: A missing or damaged file, tensors that do not fit, missing or unexpected names, a head for
                other channels than `modalities`, or a `rope` that contradicts the file.
            ModelError: An unknown setting, or a value that does not fit.
        """
        published = read_published(find_file(source, filename, revision))
        rope_in_file, rope_source = published.rope
        if rope is not None and rope_in_file is not None and rope != rope_in_file:
            raise ModelFileError(
                f"{published.source}: rope={rope!r}, and {rope_source}, which is rope={rope_in_file!r}"
            )
        notes = list(published.notes)
        if rope_in_file is None and rope is None:
            notes.append(
                "rope is not stated in the file and was set to 'none'; read docs/tinymyo-model.md §9.1 before you use"
                " these weights"
            )
        if "n_heads" not in settings and not any(name.endswith(FREQUENCIES) for name in published.state):
            notes.append("n_heads is not stated in the file and was set to 3, as in the published model")
        if rope is not None and rope_in_file is None:
            rope_source = "as requested; not stated in the file"
        if head is None and n_classes is not None:
            raise ModelFileError(f"n_classes={n_classes} needs a new head: give head='classification' too")
        own_head = published.head if head is None else {"head": head, "n_classes": n_classes or 0}
        n_channels = own_head.pop("n_channels", None)
        if head is None and own_head["head"] == "regression" and not settings.keys() & {"output_samples", "pooled"}:
            notes.append("pooled and output_samples were not set: the output is a value per sample, as published")
        if own_head.get("fusion") == "mean" and modalities is None:
            notes.append("its head fits any number of channels; 16 were assumed, as in pre-training: set modalities")
        modalities = dict(modalities or {"emg": n_channels or 16})
        if n_channels not in (None, sum(modalities.values())):
            raise ModelFileError(
                f"{published.source}: its head reads {n_channels} channels, and modalities={modalities} have"
                f" {sum(modalities.values())}; give the channels it was trained with, or head='classification' and"
                " n_classes=... for a new head"
            )
        own = {"positions": POSITIONS_OF[rope or rope_in_file or "none"], **published.sizes, **own_head}
        names = [str(k) for k in range(own.pop("n_classes"))]
        cfg = TINYMYO.configure(own | settings, modalities=modalities, n_samples=n_samples, class_names=names)
        model = cls(cfg)
        model._take(published, rope_source, tuple(notes), own_head=head is None, strict=strict)
        return model.eval()

    @classmethod
    def from_published_trunk(cls, file: Path, settings: Mapping[str, Any]) -> Self:
        """Read a published file for a fit with these settings of `TinyMyoConfig`; the head is a fresh placeholder."""
        rope_of: dict[Any, Rope] = {positions: word for word, positions in POSITIONS_OF.items()}
        rope = rope_of.get(settings.get("positions"))
        given = {name: settings[name] for name in ("n_heads",) if name in settings}
        placeholder: dict[str, Any] = {"modalities": {"emg": 1}, "head": "classification", "n_classes": 2}
        return cls.from_published(file, rope=rope, **placeholder, **given)

    def _take(
        self, published: PublishedFile, rope_source: str, notes: tuple[str, ...], *, own_head: bool, strict: bool
    ) -> None:
        expected = self.to_upstream()
        missing, unexpected = differences(published, self.cfg, expected, own_head=own_head)
        if strict and missing + unexpected:
            raise ModelFileError(
                f"{published.source} does not fit TinyMyo: {len(missing)} names are missing ({', '.join(missing[:3])}),"
                f" {len(unexpected)} unexpected ({', '.join(unexpected[:3])}); strict=False loads the rest"
            )
        taken = to_ours({k: v for k, v in published.state.items() if own_head or not is_of_head(k)}, self.cfg)
        self.load_state_dict(taken, strict=False)
        loaded = [entry for entry in entries(self.cfg) if set(entry[1]) <= set(taken)]
        self.load_report = LoadReport(
            source=published.source,
            rope=self.cfg.rope,
            rope_source=rope_source,
            n_tensors=len(loaded),
            reshaped=tuple(f"{there} -> {', '.join(names)}" for there, names, axes in loaded if moves(axes)),
            missing=tuple(missing),
            unexpected=tuple(unexpected),
            fresh=() if own_head else tuple(name for name in self.state_dict() if name.startswith("unembed.")),
            n_parameters=count_parameters(self),
            n_encoder=count_parameters(self) - count_parameters(self, ["unembed"]),
            notes=notes,
            expects=EXPECTED_INPUT[self.cfg.head],
        )

    def to_upstream(self) -> dict[str, Tensor]:
        """Return the weights under the published names and axes, as `from_published` reads them, bit for bit.

        With `rope="token"` they include the rotation's frequencies of each block, by which such files are recognised.
        """
        return to_theirs(self.state_dict(), self.cfg)

    @checked
    def save_published(self, path: str | Path, prefix: str = "") -> None:
        """Write `to_upstream()` to a file, `.safetensors` or Lightning's `.ckpt`.

        Do not distribute published weights, or weights fine-tuned from them (CC BY-ND 4.0).

        Args:
            path: The file.
            prefix: Prefix of every name; Lightning's is `"model."`.

        Raises:
            ModelFileError: The file's name has another ending.
        """
        write_published(Path(path), self.to_upstream(), prefix)

    def _by_channel(self, x: Float[Tensor, "batch pos value"]) -> Float[Tensor, "batch channel patch value"]:
        return rearrange(x, "batch (channel patch) value -> batch channel patch value", patch=self.cfg.n_patches)

    def _loss(self, resid: Float[Tensor, "batch pos d_model"], labels: Any) -> Float[Tensor, ""]:
        if self.cfg.head != "classification":
            raise ArgumentError(
                f"return_type='loss' is the cross-entropy of classes, but this model's head is {self.cfg.head!r}; use"
                " its own objective"
            )
        return super()._loss(resid, labels)

    @property
    def readout_positions(self) -> Int[Tensor, " position"]:
        """All positions reach the outputs."""
        return torch.arange(len(self.layout))


TINYMYO = Architecture("tinymyo", TinyMyoConfig, TinyMyo)
