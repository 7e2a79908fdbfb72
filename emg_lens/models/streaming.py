"""Outputs of causal models while samples arrive, with cached keys and values or a recurrent state.

`model.stream()` of `tinymyo-gestures` and `lstm-gestures` makes a `SignalStream`. It computes every time step once, and
equals the model on one window that holds all samples so far (docs/tinymyo-model.md §9.6).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emg_lens.lens.points import has_hook
from emg_lens.lens.signals import SignalModel
from emg_lens.models.declarations import why_undeclared
from emg_lens.validation import ArgumentError


class SignalStream:
    """A model that receives a recording piece by piece, in evaluation mode and without hooks.

    Attributes:
        n_steps: Time steps that were returned so far. Step j is computed from samples up to
            `first + j * every`, with `first, every = model.cfg.step_grid`.

    Example:
        >>> import torch
        >>> from emg_lens import build_model
        >>> model = build_model("tinymyo-gestures", modalities={"emg": 16}, n_samples=200, n_classes=9, n_layers=2)
        >>> x, stream = model.eval().example_input(1), model.stream()
        >>> pieces = [stream.push(piece) for piece in x.split(50, dim=-1)]  # 50 samples at a time
        >>> [piece.shape[1] for piece in pieces], stream.n_steps
        ([3, 5, 5, 5], 18)
        >>> bool(((torch.cat(pieces, dim=1) - model(x)).abs() < 1e-5).all())
        True
    """

    def __init__(self, model: SignalModel, embed: Callable[[Tensor], Tensor], advance: Callable[[Tensor], Tensor]):
        self.model, self.embed, self.advance = model, embed, advance
        self.n_steps = 0
        self.waiting: Tensor | None = None
        """Samples that the next time steps still need, `[batch, channel, time]`."""

    @torch.no_grad()
    def push(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch step output"]:
        """Add samples, and return the outputs of the time steps that are complete with them (none, one or several).

        Args:
            x: The next samples of each recording of the batch, any number of them.

        Raises:
            ArgumentError: Samples that do not fit the model or those before, a model in training mode, or with hooks.
        """
        cfg: Any = self.model.cfg
        if self.model.training:
            raise ArgumentError("the model is in training mode, where dropout acts; call model.eval() first")
        hooked = [name for name, point in self.model.hook_dict.items() if has_hook(point)]
        if hooked:
            raise ArgumentError(f"the model has hooks at {hooked[:3]}, which a stream would ignore; remove them")
        known = x if self.waiting is None else self.waiting
        expected = (len(known), cfg.n_channels)
        if x.ndim != 3 or tuple(x.shape[:2]) != expected or x.dtype != cfg.dtype:
            raise ArgumentError(
                f"input has shape {list(x.shape)} ({x.dtype}); expected [{expected[0]} recordings,"
                f" {expected[1]} channels, time] ({cfg.dtype})"
            )
        first, every = cfg.step_grid
        x = x if self.waiting is None else torch.cat([self.waiting, x], dim=-1)
        n_new = max((x.shape[-1] - first - 1) // every + 1, 0)
        self.waiting = x[..., n_new * every :]
        if not n_new:
            return x.new_zeros(len(x), 0, cfg.n_classes)
        outputs = self.advance(self.embed(x[..., : first + 1 + (n_new - 1) * every]))
        self.n_steps += n_new
        return outputs


class CachedBlocks:
    """The blocks of a causal encoder over new time steps, with the keys and values of the steps before.

    Args:
        model: An encoder of time steps.
        history: Number of earlier steps that a step attends to; None = all.
    """

    def __init__(self, model: Any, history: int | None) -> None:
        _check(model)
        self.model, self.history, self.n_modalities = model, history, len(model.cfg.modalities)
        kept = None if history is None else history * self.n_modalities
        self.caches = [_KeysAndValues(kept) for _ in model.blocks]
        self.n_steps = 0

    def advance(self, tokens: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos output"]:
        """Compute the outputs of new tokens, which come in the layout's order: modality by modality."""
        model, modality = self.model, self.n_modalities
        resid = rearrange(tokens, "batch (modality step) d -> batch (step modality) d", modality=modality)
        first, n_new = self.n_steps, tokens.shape[1] // modality
        step = torch.arange(first, first + n_new, device=tokens.device).repeat_interleave(modality)
        self.n_steps += n_new
        rotary = model.blocks[0].attn.rotary
        tables = None if rotary is None else rotary.tables(step)
        for block, cache in zip(model.blocks, self.caches, strict=True):
            q, k, v = (t.transpose(1, 2) for t in block.attn.project(*block.attention_inputs(resid), tables=tables))
            keys, values = cache.extend(torch.stack([k, v]))
            z = F.scaled_dot_product_attention(q, keys, values, attn_mask=self._allowed(step, keys.shape[2]))
            resid = block.after_attention(resid, block.attn.output(z.transpose(1, 2)))
        outputs = model.unembed(model.ln_final(resid))
        return rearrange(outputs, "batch (step modality) k -> batch (modality step) k", modality=modality)

    def _allowed(self, step: Int[Tensor, " dest"], n_held: int) -> Bool[Tensor, "dest src"] | None:
        """Return the edges from the cached tokens to the new ones; None = all."""
        if len(step) == self.n_modalities:
            return None
        last = int(step[-1])
        held = torch.arange(last + 1 - n_held // self.n_modalities, last + 1, device=step.device)
        lag = step[:, None] - held.repeat_interleave(self.n_modalities)
        return (lag >= 0) if self.history is None else (lag >= 0) & (lag <= self.history)


class _KeysAndValues:
    """Keys and values of one layer, in memory with room for more, so that a step does not copy those before.

    Args:
        kept: Number of tokens to keep before new ones are added; None = all.
    """

    def __init__(self, kept: int | None) -> None:
        self.kept, self.start, self.stop = kept, 0, 0
        self.memory: Tensor | None = None

    def extend(self, new: Float[Tensor, "two batch head new d_head"]) -> Float[Tensor, "two batch head held d_head"]:
        """Add tokens, and return all that are held."""
        if self.kept is not None:
            self.start = max(self.start, self.stop - self.kept)
        n_new, n_held = new.shape[3], self.stop - self.start
        if self.memory is None or self.stop + n_new > self.memory.shape[3]:
            larger = new.new_empty(*new.shape[:3], 2 * (n_held + n_new), new.shape[4])
            if self.memory is not None:
                larger[..., :n_held, :] = self.memory[..., self.start : self.stop, :]
            self.memory, self.start, self.stop = larger, 0, n_held
        self.memory[..., self.stop : self.stop + n_new, :] = new
        self.stop += n_new
        return self.memory[..., self.start : self.stop, :]


def _check(model: Any) -> None:
    """Refuse an encoder that cannot compute its outputs step by step."""
    cfg, name = model.cfg, type(model).__name__
    reasons = (
        (cfg.attention_dir != "causal", "attention_dir='causal'", f"attention_dir={cfg.attention_dir!r}"),
        (cfg.front_end != "compressed", "front_end='compressed'", f"front_end={cfg.front_end!r}"),
        (cfg.readout != "each", "readout='each'", f"readout={cfg.readout!r}"),
        (
            bool(cfg.masked_edges),
            "masked_edges='' (to limit the past, give history)",
            f"masked_edges={cfg.masked_edges!r}",
        ),
        (
            cfg.positions not in ("none", "rotary_time") and (cfg.positions != "rotary" or len(cfg.modalities) > 1),
            "positions='rotary_time' or 'none'",
            f"positions={cfg.positions!r}",
        ),
    )
    for fails, expected, given in reasons:
        if fails:
            raise ArgumentError(f"{given}: {name} cannot compute its outputs step by step; expected {expected}")
    for part in (model, *model.blocks, *(block.attn for block in model.blocks)):
        declaration = "runs_blocks_in_order" if part is model else "folds"
        if reason := why_undeclared(part, declaration):
            raise ArgumentError(f"{name} cannot compute its outputs step by step: {reason}")
