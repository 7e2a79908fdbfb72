"""Add TransformerLens's attention hook points to any torch model.

Each attention module gets `hook_attn_scores` and `hook_pattern`, which edit the tensors that the module uses
(`attention_kernel`). Without hooks, the module runs unchanged.
"""

import functools
from types import SimpleNamespace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.attention_axes import ScoreAxes, TokenAxes
from emg_lens.hooks.attention_calls import LocatedAttention
from emg_lens.hooks.attention_kernel import KernelMode
from emg_lens.hooks.attention_search import find_attention
from emg_lens.hooks.hook_points import PATTERN, SCORES, check_hooks, needs_scores, unknown_point
from emg_lens.hooks.model_inputs import Inputs, example_inputs
from emg_lens.registry import UnknownNameError
from emg_lens.transformer_lens_imports import HookedRootModule, HookPoint
from emg_lens.validation import ArgumentError, checked


@checked
def adapt(model: nn.Module, inputs: Inputs | None = None) -> "AdaptedModel":
    """Add hook points to the attention of a torch or Hugging Face model.

    The weights, the `state_dict` and the results of the model do not change. Two changes are permanent. Each attention
    module gets two hook points. And `nn.TransformerEncoder` no longer uses torch's fused path, which has no accessible
    attention: that path writes zeros at padded positions, the explicit path writes the output of the layers. All other
    numbers agree up to rounding.

    Args:
        model: A module whose attention uses torch's softmax or fused attention: `nn.TransformerEncoder`, a model of
            transformers, or your own.
        inputs: A small input (tensor, tuple of arguments, or mapping of keyword arguments), with as many positions as
            the edges that you cut. Not needed for a model of transformers.

    Returns:
        A model on which `run_with_hooks`, `run_with_cache`, `cut`, `cutting` and `sweep` work.

    Raises:
        EdgeError: The model has hook points already; one module attends several times in a forward; or layers have
            different numbers of heads.
        DeadHookError: The model has no such attention, or a module named attention does not use it.
        ArgumentError: No example input can be made for this model; pass `inputs`.

    Example:
        >>> import torch
        >>> from emg_lens import TokenLayout, adapt, cross_modal, cutting
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        >>> x, layout = torch.randn(1, 4, 8), TokenLayout.groups({"emg": [0, 1], "acc": [2, 3]}, n_tokens=4)
        >>> with cutting(adapt(model, x), cross_modal(), layout=layout) as report:
        ...     output = model(x)
        >>> [entry.edges_cut for entry in report.layers]
        [16, 16]
    """
    return AdaptedModel(model, inputs)


class AdaptedModel(HookedRootModule):
    """A torch model with TransformerLens's names; made by `adapt`.

    Layers are numbered in the order in which they run: `blocks.<layer>.attn`. An encoder-decoder has
    `encoder_blocks.<layer>.attn`, `decoder_blocks.<layer>.self_attn` and `decoder_blocks.<layer>.cross_attn`.

    Attributes:
        original_model: The model itself, not a copy.
        attention: For each attention, its name in TransformerLens and its path in `original_model`.
        cfg: `n_layers` (of the first stack), `n_heads`, and `d_vocab` if the model reads words.
        n_positions: Number of positions in the first attention with the inputs of `adapt`; None without inputs.
    """

    def __init__(self, model: nn.Module, inputs: Inputs | None = None) -> None:
        super().__init__()
        if hasattr(model, "hook_dict"):
            raise EdgeError(f"{type(model).__name__} has TransformerLens's hook points already; use it without adapt")
        if inputs is None and not hasattr(model, "config"):
            raise ArgumentError(f"cannot make an example input for {type(model).__name__}; pass inputs=<a small batch>")
        self.original_model = model
        self.allow_routes = False
        vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
        self.cfg: Any = SimpleNamespace(d_vocab=vocabulary)
        located = find_attention(model, inputs if inputs is not None else example_inputs(self, n_tokens=8))
        if inputs is not None:
            self.example_input = functools.partial(_given, inputs)
        _check_heads(model, located)
        self.cfg.n_heads = located[0].n_heads
        self.n_positions = None if inputs is None else located[0].n_dest
        self.attention: dict[str, str] = {}
        self._axes = {entry.path: (entry.score_axes, entry.token_axes) for entry in located}
        self._heads = {entry.path: _head_settings(model.get_submodule(entry.path)) for entry in located}
        for stack, paths in _stacks(type(model).__name__, located).items():
            self.cfg.n_layers = getattr(self.cfg, "n_layers", len(max(paths.values(), key=len)))
            blocks = [SimpleNamespace() for _ in max(paths.values(), key=len)]
            for name, layers in paths.items():
                for layer, path in enumerate(layers):
                    setattr(blocks[layer], name, model.get_submodule(path))
                    self.attention[f"{stack}.{layer}.{name}"] = path
            setattr(self, stack, blocks)
        self.setup()

    @property
    def training(self) -> bool:  # pyright: ignore
        """Whether the original model is in training mode."""
        return self.original_model.training

    @training.setter
    def training(self, mode: bool) -> None:
        """Do nothing: `train` and `eval` reach the original model as a submodule."""

    def setup(self) -> None:
        """Add the hook points and name them; modules of the model keep their names."""
        _disable_fused_path(self.original_model)
        self.mod_dict, self.hook_dict = _HookPoints(), _HookPoints()
        for name, path in self.attention.items():
            attention = self.original_model.get_submodule(path)
            if not hasattr(attention, PATTERN):
                attention.forward = _HookedForward(attention, *self._axes[path])
            for point_name in (SCORES, PATTERN):
                point = getattr(attention, point_name)
                point.name = f"{name}.{point_name}"
                self.mod_dict[point.name] = self.hook_dict[point.name] = point

    def check_layers(self) -> None:
        """Check that every attention is still where `adapt` found it, with the same heads, before a cut is tested.

        Raises:
            EdgeError: A layer was moved, replaced or removed since, or its heads were changed.
        """
        for name, path in self.attention.items():
            try:
                point = getattr(self.original_model.get_submodule(path), PATTERN, None)
            except AttributeError:
                point = None
            if point is not self.hook_dict[f"{name}.{PATTERN}"]:
                raise EdgeError(
                    f"{path} of {type(self.original_model).__name__} was moved, replaced or removed after adapt; call"
                    " adapt again and use its result"
                )
            now, kind = _head_settings(self.original_model.get_submodule(path)), type(self.original_model).__name__
            for setting, before in self._heads[path].items():
                if now.get(setting) != before:
                    raise EdgeError(
                        f"{path} of {kind} has {setting}={now.get(setting)}, but had {before} when it was adapted; set"
                        " it back, or call adapt again and use its result"
                    )

    def run_with_hooks(self, *model_args: Any, **kwargs: Any) -> Any:
        """As in TransformerLens, with a check of the hooks."""
        for name in ("fwd_hooks", "bwd_hooks"):
            check_hooks(kwargs.get(name, []), name)
        return super().run_with_hooks(*model_args, **kwargs)

    def get_caching_hooks(self, *args: Any, **kwargs: Any) -> tuple[dict, list, list]:
        """As in TransformerLens, but refuse a filter that no hook point matches."""
        cache, forward, backward = super().get_caching_hooks(*args, **kwargs)
        if not forward:
            raise ArgumentError(f"names_filter matches no hook point; the model has {', '.join(self.hook_dict)}")
        return cache, forward, backward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run `original_model`."""
        return self.original_model(*args, **kwargs)


class _HookPoints(dict[str, Any]):
    """Hook points by name; a message explains which ones an adapted model has."""

    def __missing__(self, name: str) -> Any:
        raise UnknownNameError(unknown_point(self, name))


def _head_settings(attention: nn.Module) -> dict[str, int]:
    return {name: value for name, value in vars(attention).items() if "head" in name and isinstance(value, int)}


def _given(inputs: Inputs, batch: int = 1) -> Inputs:  # noqa: ARG001
    return inputs


class _HookedForward:
    """The forward of an attention module whose scores and pattern pass through hook points, if those have hooks."""

    def __init__(self, attention: nn.Module, axes: ScoreAxes, token_axes: TokenAxes) -> None:
        self.forward, self.attention = attention.forward, attention
        self.axes, self.token_axes = axes, token_axes
        functools.update_wrapper(self, self.forward, updated=())
        attention.add_module(SCORES, HookPoint())
        attention.add_module(PATTERN, HookPoint())

    def __eq__(self, other: object) -> bool:
        """Whether two modules run the same code; hook points are at their softmax, whatever their settings are."""
        if not isinstance(other, _HookedForward):
            return NotImplemented
        code = [getattr(one.forward, "__func__", one.forward) for one in (self, other)]
        return code[0] == code[1] and (self.axes, self.token_axes) == (other.axes, other.token_axes)

    __hash__ = object.__hash__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hooked = any(getattr(self.attention, name).has_hooks() for name in (SCORES, PATTERN))
        if not (hooked and needs_scores(self.attention)):
            return self.forward(*args, **kwargs)
        with KernelMode([self], self.axes):
            return self.forward(*args, **kwargs)

    def before(self, scores: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        return getattr(self.attention, SCORES)(scores)

    def after(self, pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        return getattr(self.attention, PATTERN)(pattern)


def _disable_fused_path(model: nn.Module) -> None:
    """Disable the fused inference path of `nn.TransformerEncoder`, which does not call the attention module."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # torch reads it only to choose the path


def _check_heads(model: nn.Module, located: list[LocatedAttention]) -> None:
    """Refuse a model whose layers have different numbers of heads, and name a stage that can be adapted."""
    heads = {entry.n_heads: entry.path for entry in reversed(located)}
    if len(heads) > 1:
        found = ", ".join(f"{n} in {path}" for n, path in reversed(heads.items()))
        stage = _stage(model, located[-1], located)
        raise EdgeError(
            f"layers of {type(model).__name__} have different numbers of heads: {found}; adapt one stage, and run the"
            f" whole model as usual: cutting(adapt(model.get_submodule({stage!r}), inputs=<its input>), ...)"
        )


def _stage(model: nn.Module, entry: LocatedAttention, located: list[LocatedAttention]) -> str:
    """Return the outermost module with this attention that can be called and has one number of heads."""
    parts = entry.path.split(".")
    for n in range(1, len(parts)):
        path = ".".join(parts[:n])
        inside = {one.n_heads for one in located if one.path.startswith(f"{path}.")}
        called = type(model.get_submodule(path)).forward is not nn.Module.forward
        if called and inside == {entry.n_heads}:
            return path
    return entry.path


def _stacks(kind: str, located: list[LocatedAttention]) -> dict[str, dict[str, list[str]]]:
    """Return, for each stack and each attention in a block, its path in every layer."""
    cross = [entry.path for entry in located if entry.cross]
    if not cross:
        return {"blocks": {"attn": [entry.path for entry in located]}}
    stream = {entry.path: entry.path for entry in located}  # the first attention of its residual stream
    for entry in located:
        same = {stream[path] for path in entry.sources if path in stream} | {stream[entry.path]}
        stream = {path: min(same) if first in same else first for path, first in stream.items()}
    if len({stream[path] for path in cross}) > 1:
        raise EdgeError(
            f"several stacks of {kind} read the tokens of another stack: {', '.join(cross)}; adapt a part of the model"
            " with only one of them"
        )
    own = [entry.path for entry in located if not entry.cross]
    decoder = [path for path in own if stream[path] == stream[cross[0]]]
    encoder = [path for path in own if path not in decoder]
    stacks = {"encoder_blocks": {"attn": encoder}, "decoder_blocks": {"self_attn": decoder, "cross_attn": cross}}
    return {
        stack: {name: paths for name, paths in parts.items() if paths}
        for stack, parts in stacks.items()
        if any(parts.values())
    }
