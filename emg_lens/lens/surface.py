"""The interface that makes our encoders TransformerLens models: hooks, caches, switches, weights, labels.

`HookedBiosignalEncoder` inherits it. It follows TransformerLens's analysis utilities (`docs/transformerlens.md`), and
raises errors where TransformerLens would ignore a mistake.
"""

import difflib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from operator import attrgetter
from typing import Any, Literal, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from emg_lens.hooks.algebra import is_whole
from emg_lens.hooks.hook_points import check_hooks
from emg_lens.lens.cache import BiosignalCache
from emg_lens.lens.config import EncoderConfig
from emg_lens.lens.handles import Handles, Labels, Signals, check_positions, open_handles
from emg_lens.lens.points import GatedPoint, has_hook
from emg_lens.lens.post_norm_cache import PostNormCache
from emg_lens.lens.signals import SignalModel
from emg_lens.registry import UnknownNameError
from emg_lens.transformer_lens_imports import FactoredMatrix, HookPoint, Slice, SliceInput, composition_scores
from emg_lens.validation import ArgumentError, check_argument, checked, short

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
"""Hook points by name, by several names, or by a function of the name; `None` = all that fire."""
Direction = Literal["fwd", "bwd"]
Composition = Literal["Q", "K", "V"]


class TransformerLensSurface(SignalModel):
    """Attributes and methods of a model that TransformerLens's users and utilities need."""

    cfg: EncoderConfig
    blocks: nn.ModuleList
    tokenizer = None

    def setup(self) -> None:
        """Name the hook points; the 3.x names `blocks.{l}.hook_{q,k,v}_input` are aliases of those in `attn`."""
        super().setup()
        for name, point in list(self.hook_dict.items()):
            block, _, own_name = name.rpartition(".attn.")
            if own_name in ("hook_q_input", "hook_k_input", "hook_v_input"):
                self.hook_dict[f"{block}.{own_name}"] = self.mod_dict[f"{block}.{own_name}"] = point

    # --- hooks --------------------------------------------------------------------------------------------

    def select_points(self, wanted: NamesFilter) -> dict[str, HookPoint]:
        """Return the hook points that match a filter, each once, by name.

        A function of the name ignores points that are switched off.
        """
        check_argument("hook points", wanted, NamesFilter)
        if wanted is None or callable(wanted):
            matches = [p for name, p in self.hook_dict.items() if wanted is None or wanted(name)]
            points = [point for point in matches if _is_open(point)]
            if not points:
                raise ArgumentError(f"the hook filter matches no hook point{_switched_off(matches)}")
        else:
            points = [self._point(name) for name in ([wanted] if isinstance(wanted, str) else wanted)]
        return {str(point.name): point for point in points}

    def _point(self, name: str) -> HookPoint:
        if name not in self.hook_dict:
            close = difflib.get_close_matches(name, self.hook_dict, n=3)
            hint = f"did you mean one of {close}?" if close else "model.hook_dict lists all"
            raise UnknownNameError(f"no hook point {name!r}; {hint}")
        point = self.hook_dict[name]
        if not _is_open(point):
            raise ArgumentError(f"hook point {name!r} does not fire{_switched_off([point])}")
        return point

    def add_hook(self, name: str | Callable[[str], bool], hook: Callable, *args: Any, **kwargs: Any) -> None:
        """As in TransformerLens, with the errors of `select_points`."""
        check_argument("hook", hook, Callable)
        for own_name, point in self.select_points(name).items():
            self.check_and_add_hook(point, own_name, hook, *args, **kwargs)

    def _enable_hook(self, name: str | Callable[[str], bool], hook: Callable, dir: Direction) -> None:
        for point in self.select_points(name).values():
            point.add_hook(hook, dir=dir, level=self.context_level)

    # --- caches -------------------------------------------------------------------------------------------

    def run_with_cache(
        self,
        *model_args: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        names_filter: NamesFilter = None,
        **model_kwargs: Any,
    ) -> tuple[Any, Any]:
        """As in TransformerLens: return outputs and an `ActivationCache` (or a dict), without points switched off.

        The cache's decompositions add up for this model, also if it is post-LN (`BiosignalCache`, `PostNormCache`).
        Some utilities use the last position by default (`direct_logit_attribution`, `logit_lens`); give them `pos=0` or
        `positions=0`, the CLS position.
        """
        out, cache = super().run_with_cache(
            *model_args, names_filter=names_filter, remove_batch_dim=remove_batch_dim, **model_kwargs
        )
        for alias, point in self.hook_dict.items():
            for suffix in ("", "_grad"):
                if f"{point.name}{suffix}" in cache:
                    cache[alias + suffix] = cache[f"{point.name}{suffix}"]
        if not return_cache_object:
            return out, cache
        return out, self.cache_type(cache, self, has_batch_dim=not remove_batch_dim)

    @property
    def cache_type(self) -> type[BiosignalCache]:
        """The class of the activation cache, with decompositions that add up for this model."""
        return BiosignalCache if self.cfg.norm == "pre" else PostNormCache

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: Slice | SliceInput = None,
    ) -> tuple[dict[str, Tensor], list, list]:
        """As in TransformerLens; `pos_slice` also works for activations with a head axis."""
        cache, positions = {} if cache is None else cache, Slice.unwrap(pos_slice)

        def save(tensor: Tensor, hook: HookPoint, suffix: str) -> None:
            """Store an activation (or its gradient)."""
            if remove_batch_dim and tensor.shape[0] != 1:
                raise ArgumentError(f"remove_batch_dim=True needs one trial, got {tensor.shape[0]}; give one trial")
            kept = tensor.detach().to(device)[0] if remove_batch_dim else tensor.detach().to(device)
            of_edges = str(hook.name).endswith(("hook_attn_scores", "hook_pattern"))  # [..., dest, src]
            cache[f"{hook.name}{suffix}"] = positions.apply(kept, dim=-2 if of_edges else 0 if remove_batch_dim else 1)

        names = list(self.select_points(names_filter))
        self.is_caching = True
        fwd = [(name, partial(save, suffix="")) for name in names]
        return cache, fwd, [(name, partial(save, suffix="_grad")) for name in names] if incl_bwd else []

    def add_caching_hooks(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As in TransformerLens: add hooks that fill the returned dict in every forward, until `reset_hooks`."""
        cache, fwd, bwd = self.get_caching_hooks(*args, **kwargs)
        for name, hook in fwd:
            self.hook_dict[name].add_hook(hook)
        for name, hook in bwd:
            self.hook_dict[name].add_hook(hook, dir="bwd")
        return cache

    # --- switches -----------------------------------------------------------------------------------------

    def set_use_attn_result(self, value: bool) -> None:
        """Compute `attn.hook_result`, the contribution of each head to the residual stream."""
        self._switch("use_attn_result", value)

    def set_use_split_qkv_input(self, value: bool) -> None:
        """Give queries, keys and values of every head their own copy of the residual stream, each with a hook."""
        self._switch("use_split_qkv_input", value, excludes="use_attn_in")

    def set_use_attn_in(self, value: bool) -> None:
        """Give every head its own copy of the residual stream at `hook_attn_in`."""
        self._switch("use_attn_in", value, excludes="use_split_qkv_input")

    def set_use_hook_mlp_in(self, value: bool) -> None:
        """Fire `hook_mlp_in` on the MLP's copy of the residual stream."""
        self._switch("use_hook_mlp_in", value)

    def _switch(self, switch: str, value: bool, excludes: str | None = None) -> None:
        if value and excludes is not None and getattr(self.cfg, excludes):
            raise ArgumentError(f"{switch} and {excludes} exclude each other; call model.set_{excludes}(False) first")
        points = (p for p in self.hook_dict.values() if isinstance(p, GatedPoint) and p.switch == switch)
        hooked = [point.name for point in points if has_hook(point)]
        if hooked and not value:
            raise ArgumentError(f"{hooked[0]!r} has hooks, which {switch}=False would disable; call reset_hooks()")
        setattr(self.cfg, switch, value)

    # --- handles: signals as tokens -----------------------------------------------------------------------

    @checked
    def handles(self, x: Signals, labels: Labels | None = None) -> AbstractContextManager[Handles]:
        """Make stand-ins `[batch, pos]` (int64) for signals, for utilities that take tokens and sweep positions.

        ```python
        with model.handles(clean) as clean_tokens, model.handles(corrupt) as corrupt_tokens:
            _, clean_cache = model.run_with_cache(clean_tokens)
            get_act_patch_resid_pre(model, corrupt_tokens, clean_cache, metric)  # [layer, pos]
        ```

        The model accepts a handle wherever it accepts signals. Rows can be sliced, shuffled, batched and mixed between
        open contexts; columns cannot. Outside its context a handle raises an error.

        Args:
            x: Trials.
            labels: Class index of each trial, for `return_type="loss"` (`transformer_lens.tools.training.train`, with
                items `{"tokens": tokens[i]}`).
        """
        self.check_signals(x)
        return open_handles(x, self.cfg.n_ctx, labels)

    def run_with_hooks(self, *model_args: Any, **kwargs: Any) -> Any:
        """As in TransformerLens, except that tools do not take the samples of signals for positions (use `handles`)."""
        check_positions(model_args)
        for name in ("fwd_hooks", "bwd_hooks"):
            check_hooks(kwargs.get(name, []), name)
        return super().run_with_hooks(*model_args, **kwargs)

    def to_tokens(self, *_: Any, **__: Any) -> NoReturn:
        """Raise an error, because signals have no tokens; `handles` makes stand-ins."""
        raise ArgumentError("signals have no tokens; use handles: `with model.handles(x) as tokens: ...`")

    def to_str_tokens(self, *_: Any, **__: Any) -> list[str]:
        """Return the names of the positions, for axes and attention views; they do not depend on the input."""
        return list(self.layout.names)

    # --- labels and weights -------------------------------------------------------------------------------

    def to_single_token(self, label: str) -> int:
        """Return the class index of a gesture label."""
        if label not in self.cfg.class_names:
            raise UnknownNameError(f"unknown class {label!r}; known: {self.cfg.class_names}")
        return self.cfg.class_names.index(label)

    def tokens_to_residual_directions(
        self, tokens: str | int | Sequence[str | int] | Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Return columns of `W_U`: the direction in the residual stream along which each class is read."""
        return self.W_U.T[self._class_indices(tokens)]

    def _class_indices(self, tokens: str | int | Sequence[str | int] | Tensor) -> int | Tensor:
        if isinstance(tokens, str):
            return self.to_single_token(tokens)
        if isinstance(tokens, Sequence):
            return torch.tensor([self.to_single_token(t) if isinstance(t, str) else int(t) for t in tokens])
        return tokens

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Sum the output biases of all blocks before `layer` (with `mlp_input`, also of this layer's attention)."""
        if not (is_whole(layer) and 0 <= layer <= self.cfg.n_layers - mlp_input):
            raise ArgumentError(f"layer={short(layer)}; expected 0 to {self.cfg.n_layers - mlp_input}")
        if self.cfg.norm == "post" and (layer > 0 or mlp_input):
            raise ArgumentError(
                "a post-LN model has no constant bias, because biases pass norms that depend on the input; use the part"
                " 'bias' of cache.get_full_resid_decomposition(return_labels=True)"
            )
        b_O: Tensor = self.b_O
        total = b_O[: layer + mlp_input].sum(0)
        return total + self.b_out[:layer].sum(0) if include_mlp_biases else total

    def all_composition_scores(self, mode: Composition) -> Float[Tensor, "layer head later_layer later_head"]:
        """Compute composition scores of all pairs of heads (Elhage et al. 2021, "Q-, K-, and V-Composition").

        A score is the norm of a product of two heads' weights, divided by the norms of both: how much the input of the
        later head can depend on the output of the first. Norms between the heads are left out, with their gains.

        Args:
            mode: The input of the later head: `"Q"` queries, `"K"` keys or `"V"` values.

        Returns:
            The scores; zero where the second layer is not later than the first.
        """
        check_argument("mode", mode, Composition)
        right = {"Q": self.QK, "K": self.QK.T, "V": self.OV}[mode]
        layers = torch.arange(self.cfg.n_layers, device=self.cfg.device)
        later = layers[:, None, None, None] < layers[None, None, :, None]
        return composition_scores(self.OV, right, broadcast_dims=True) * later

    def tl_parameters(self) -> dict[str, Tensor]:
        """Return the parameters by name for `SVDInterpreter`.

        The norms of a post-LN model are left out: `SVDInterpreter` would multiply the gain of `ln2` into `W_in`, which
        in such a model reads the stream after `ln1`.
        """
        norms = (".ln1.", ".ln2.") if self.cfg.norm == "post" else ()
        return {name: p for name, p in self.named_parameters() if not any(norm in name for norm in norms)}

    def blocks_with(self, submodule: str) -> list[tuple[int, nn.Module]]:
        """Return `(layer, block)` for every block with this submodule."""
        return [(layer, block) for layer, block in enumerate(self.blocks) if submodule in dict(block.named_children())]

    def all_head_labels(self) -> list[str]:
        """Return `L0H0`, `L0H1`, ... in the order of TransformerLens's per-head stacks."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]

    def _stack(self, parameter: str) -> Tensor:
        return torch.stack([attrgetter(parameter)(block) for block in self.blocks])

    W_E = property(lambda self: self.embed.W_E, doc="[channel, sample, d_model]")
    W_pos = property(lambda self: self.pos_embed.W_pos, doc="[pos, d_model]")
    W_U = property(lambda self: self.unembed.W_U, doc="[d_model, class]")
    b_U = property(lambda self: self.unembed.b_U, doc="[class]")
    W_Q = property(lambda self: self._stack("attn.W_Q"), doc="[layer, head, d_model, d_head]")
    W_K = property(lambda self: self._stack("attn.W_K"), doc="[layer, head, d_model, d_head]")
    W_V = property(lambda self: self._stack("attn.W_V"), doc="[layer, head, d_model, d_head]")
    W_O = property(lambda self: self._stack("attn.W_O"), doc="[layer, head, d_head, d_model]")
    QK = property(lambda self: FactoredMatrix(self.W_Q, self.W_K.mT), doc="[layer, head, d_model, d_model]")
    OV = property(lambda self: FactoredMatrix(self.W_V, self.W_O), doc="[layer, head, d_model, d_model]")
    b_Q = property(lambda self: self._stack("attn.b_Q"), doc="[layer, head, d_head]")
    b_K = property(lambda self: self._stack("attn.b_K"), doc="[layer, head, d_head]")
    b_V = property(lambda self: self._stack("attn.b_V"), doc="[layer, head, d_head]")
    b_O = property(lambda self: self._stack("attn.b_O"), doc="[layer, d_model]")
    W_in = property(lambda self: self._stack("mlp.W_in"), doc="[layer, d_model, d_mlp]")
    b_in = property(lambda self: self._stack("mlp.b_in"), doc="[layer, d_mlp]")
    W_out = property(lambda self: self._stack("mlp.W_out"), doc="[layer, d_mlp, d_model]")
    b_out = property(lambda self: self._stack("mlp.b_out"), doc="[layer, d_model]")


def _is_open(point: HookPoint) -> bool:
    return not isinstance(point, GatedPoint) or point.is_open


def _switched_off(points: Sequence[HookPoint]) -> str:
    """Return the end of a message about points that are switched off; empty if none is."""
    switches = sorted({point.switch for point in points if isinstance(point, GatedPoint) and not point.is_open})
    if not switches:
        return ""
    return f" while cfg.{' and cfg.'.join(switches)} is off: " + ", ".join(f"model.set_{s}(True)" for s in switches)
