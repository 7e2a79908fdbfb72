"""TinyMyo (Fasulo et al. 2025): a foundation model of surface EMG, a token a patch of a channel.

`docs/tinymyo-model.md` §9 says what was published under the name, in which variants, and what each part computes.
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
    """Learned vectors of channels, `W_channel [slot, d_model]`; a model of fewer channels has the first."""

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
        """What is added at each position."""
        return repeat(self.W_channel[: self.n_channels], "channel d -> (channel patch) d", patch=self.n_patches)

    def forward(self, tokens: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """The vectors of each trial's tokens, all trials in one memory."""
        return self.W_pos.expand(len(tokens), -1, -1)


class TinyMyo(HookedBiosignalEncoder):
    """The EMG foundation model.

    ```python
    model = TinyMyo(TinyMyoConfig(modalities={"emg": 16}, n_samples=1000, n_classes=0, head="reconstruction"))
    model(x, masked=hidden)  # hidden [batch, pos] of truth values -> the samples [batch, channel, time]
    cache.logit_attrs(parts, 3)  # what each part adds to sample 3 of each patch
    ```

    With classes, logits are the mean over positions of what each is read for: `directions_at_positions` says what for.
    """

    cfg: TinyMyoConfig
    load_report: LoadReport | None = None
    """Of the published file that the weights come from."""

    def __init__(self, config: TinyMyoConfig) -> None:
        super().__init__(config)  # whose annotation is what the hub builds from a saved configuration

    def add_positions(self) -> None:
        """The vectors of channels."""
        self.pos_embed = ChannelVectors(self.cfg)

    def add_readout(self) -> None:
        """The head, `unembed`."""
        cfg = self.cfg
        if cfg.head == "reconstruction":
            assert cfg.patch_samples is not None
            self.unembed = SampleUnembed(cfg.d_model, cfg.patch_samples)
        elif cfg.head == "regression":
            length = None if cfg.pooled else cfg.output_samples or cfg.n_samples
            self.unembed = SequenceUnembed(cfg.n_channels, cfg.d_model, cfg.n_classes, length, cfg.dropout)
        elif cfg.fusion == "concat":
            self.unembed = ChannelUnembed(cfg.n_channels, cfg.d_model, cfg.n_classes)
        else:
            self.unembed = Unembed(cfg)

    def pool(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch *part d_model"]:
        """What the classes are read from: the mean over patches of each channel, or of all of them."""
        if self.cfg.fusion == "mean":
            return resid.mean(dim=1)
        return self._by_channel(resid).mean(dim=2)

    def head(self, resid: Float[Tensor, "batch pos d_model"], return_type: ReturnType = "logits") -> Any:
        """Class logits `[batch, class]`, samples `[batch, channel, time]`, or targets `[batch, (sample,) target]`."""
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
        """What holds the activations of a run."""
        return PositionReadCache if self._reads_channels_apart else BiosignalCache

    @property
    def _reads_channels_apart(self) -> bool:
        return isinstance(self.unembed, ChannelUnembed)

    @property
    def W_U(self) -> Float[Tensor, "d_model output"]:  # noqa: N802
        """Directions of the classes, or of the samples of a patch, where they are those of every position.

        Raises:
            ArgumentError: Each channel is read by a map of its own, or through convolutions.
        """
        if self._reads_channels_apart:
            raise ArgumentError(
                "W_U: with fusion='concat' a class has a direction a channel: model.directions_at_positions(class)"
                " gives them all, unembed.W_U [channel, d_model, class] holds them, and cache.logit_attrs reads them"
            )
        if self.cfg.head == "regression":
            raise ArgumentError("W_U: the regression is read through convolutions; targets have no direction")
        own: Any = self.unembed
        return own.W_U

    def directions_at_positions(
        self, tokens: str | int | Sequence[str | int] | Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch pos d_model"]:
        """What the residual stream at each position is read along for a class.

        The mean over positions of the stream (behind `ln_final`) times its direction is the logit, less `b_U`.

        Raises:
            UnknownNameError: No such class.
            ArgumentError: The head has no directions.
        """
        if not self._reads_channels_apart:
            directions = self.tokens_to_residual_directions(tokens)
            return repeat(directions, "... d_model -> ... pos d_model", pos=self.cfg.n_ctx)
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        if isinstance(tokens, Sequence):
            tokens = torch.tensor([self.to_single_token(t) if isinstance(t, str) else int(t) for t in tokens])
        own: Any = self.unembed
        of_channels = rearrange(own.W_U, "channel d_model label -> label channel d_model")[tokens]
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
        """A model with the weights of a published file (`docs/tinymyo-model.md` §9.3), in evaluation mode.

        ```python
        model = TinyMyo.from_published("PulpBio/TinyMyo", filename="UCI_EMG/base.safetensors", n_samples=1000)
        print(model.load_report)
        TinyMyo.from_published("base.safetensors", head="classification", n_classes=6, modalities={"emg": 8})  # fresh
        ```

        The published weights are under CC BY-ND 4.0: what is converted here must not be passed on.

        Args:
            source: A file (`.safetensors`, or Lightning's `.ckpt`), a folder, or a repository of the hub.
            filename: Which of the files of a folder or a repository.
            revision: Of a repository: a branch, a tag or a commit.
            rope: What rotary positions run over: `"none"`, `"token"` or `"time"`; `None` = as the file says, and
                `"none"`, with a note in the report, where it does not.
            modalities: Channels of each modality; `None` = `{"emg": n}` with the channels of the file's head, or 16.
            n_samples: Samples a window; the weights fit any.
            head: A fresh head in the place of the file's, with `n_classes` outputs; `None` = the file's.
            n_classes: Outputs of a fresh head.
            strict: Whether a missing or an unexpected name is an error; else it stands in the report.
            **settings: Further fields of `TinyMyoConfig`, checked by name.

        Raises:
            ModelFileError: No such file, damaged, tensors that do not fit, names that are missing or unexpected, a
                head of other channels than `modalities`, or a rotation that contradicts the file.
            ModelError: A setting that there is not, or a value that does not fit.
        """
        found = read_published(find_file(source, filename, revision))
        told, told_by = found.rope
        if rope is not None and told is not None and rope != told:
            raise ModelFileError(f"{found.source}: rope={rope!r}, and {told_by}, which is rope={told!r}")
        notes = list(found.notes)
        if told is None and rope is None:
            notes.append(
                "rope was not told and is 'none': see docs/tinymyo-model.md §9.1 before trusting these weights"
            )
        if "n_heads" not in settings and not any(name.endswith(FREQUENCIES) for name in found.state):
            notes.append("n_heads was not told and is that of the published model, 3: the shapes of weights do not say")
        told_by = told_by if rope is None or told is not None else "as asked for; the file does not say"
        if head is None and n_classes is not None:
            raise ModelFileError(f"n_classes={n_classes} is of a fresh head: give head='classification' too")
        own_head = found.head if head is None else {"head": head, "n_classes": n_classes or 0}
        n_channels = own_head.pop("n_channels", None)
        if head is None and own_head["head"] == "regression" and not settings.keys() & {"output_samples", "pooled"}:
            notes.append("pooled and output_samples were not told: a value for each sample is given, as published")
        if own_head.get("fusion") == "mean" and modalities is None:
            notes.append("its head takes any number of channels; 16 were assumed, as in pre-training: give modalities")
        modalities = dict(modalities or {"emg": n_channels or 16})
        if n_channels not in (None, sum(modalities.values())):
            raise ModelFileError(
                f"{found.source}: its head reads {n_channels} channels, and modalities={modalities} are"
                f" {sum(modalities.values())}; give the channels it was trained with, or head='classification' and"
                " n_classes=... for a fresh one"
            )
        own = {"positions": POSITIONS_OF[rope or told or "none"], **found.sizes, **own_head}
        names = [str(k) for k in range(own.pop("n_classes"))]
        cfg = TINYMYO.configure(own | settings, modalities=modalities, n_samples=n_samples, class_names=names)
        model = cls(cfg)
        model._take(found, told_by, tuple(notes), own_head=head is None, strict=strict)
        return model.eval()

    @classmethod
    def from_published_trunk(cls, file: Path, settings: Mapping[str, Any]) -> Self:
        """Read a published file for a fit with these settings of `TinyMyoConfig`; the head is fresh and a placeholder.

        Raises:
            ModelFileError: As `from_published`.
        """
        kind = settings.get("positions")
        rope = next((word for word, positions in POSITIONS_OF.items() if positions == kind), None)
        given = {name: settings[name] for name in ("n_heads",) if name in settings}
        placeholder: dict[str, Any] = {"modalities": {"emg": 1}, "head": "classification", "n_classes": 2}
        return cls.from_published(file, rope=rope, **placeholder, **given)

    def _take(
        self, found: PublishedFile, told_by: str, notes: tuple[str, ...], *, own_head: bool, strict: bool
    ) -> None:
        expected = self.to_upstream()
        missing, unexpected = differences(found, self.cfg, expected, own_head=own_head)
        if strict and missing + unexpected:
            raise ModelFileError(
                f"{found.source} does not fit TinyMyo: {len(missing)} names are missing ({', '.join(missing[:3])}),"
                f" {len(unexpected)} unexpected ({', '.join(unexpected[:3])}); strict=False takes the rest"
            )
        known = entries(self.cfg)
        taken = to_ours({k: v for k, v in found.state.items() if own_head or not is_of_head(k)}, self.cfg)
        self.load_state_dict(taken, strict=False)
        here = {there: names for there, names, _ in known}
        self.load_report = LoadReport(
            source=found.source,
            rope=self.cfg.rope,
            rope_told_by=told_by,
            n_tensors=sum(set(names) <= set(taken) for names in here.values()),
            reshaped=tuple(
                f"{there} -> {', '.join(names)}"
                for there, names, axes in known
                if moves(axes) and set(names) <= set(taken)
            ),
            missing=tuple(missing),
            unexpected=tuple(unexpected),
            fresh=() if own_head else tuple(name for name in self.state_dict() if name.startswith("unembed.")),
            n_parameters=count_parameters(self),
            n_encoder=count_parameters(self) - count_parameters(self, ["unembed"]),
            notes=notes,
            expects=EXPECTED_INPUT[self.cfg.head],
        )

    def to_upstream(self) -> dict[str, Tensor]:
        """The weights by upstream's names, with its axes: what `from_published` reads, bit for bit.

        With `rope="token"` the rotation's frequencies too, one a block, by which such files are known.
        """
        return to_theirs(self.state_dict(), self.cfg)

    @checked
    def save_published(self, path: str | Path, prefix: str = "") -> None:
        """Write `to_upstream()` to a file, `.safetensors` or, as Lightning does, `.ckpt`.

        Published weights, and what was fine-tuned from them, must not be passed on (CC BY-ND 4.0).

        Args:
            path: The file.
            prefix: In front of every name; Lightning's is `"model."`.

        Raises:
            ModelFileError: The file's name has another ending.
        """
        write_published(Path(path), self.to_upstream(), prefix)

    def _by_channel(self, x: Float[Tensor, "batch pos value"]) -> Float[Tensor, "batch channel patch value"]:
        return rearrange(x, "batch (channel patch) value -> batch channel patch value", patch=self.cfg.n_patches)

    def _loss(self, resid: Float[Tensor, "batch pos d_model"], labels: Any) -> Float[Tensor, ""]:
        if self.cfg.head != "classification":
            raise ArgumentError(
                f"return_type='loss' is the cross-entropy of classes, and this model's head is {self.cfg.head!r}; fit"
                " it with its own objective"
            )
        return super()._loss(resid, labels)

    @property
    def readout_positions(self) -> Int[Tensor, " position"]:
        """All positions reach what comes out."""
        return torch.arange(len(self.layout))


TINYMYO = Architecture("tinymyo", TinyMyoConfig, TinyMyo)
