"""TransformerLens's attention hook points in any torch model.

`adapt` finds the attention of a model by running it once: whatever calls torch's `softmax` over
`[batch, head, dest, src]`, `scaled_dot_product_attention` or `multi_head_attention_forward` inside a module that reads
a residual stream. Each such module gets the hook points `hook_attn_scores` and `hook_pattern`. They are live: they
stand where the tensors are used (`kernel`), so that -inf in the scores cuts an edge, in `model(x)` and in
`adapt(model)(x)` alike. While nobody listens, the module runs as it did.
"""

import functools
import weakref
from types import SimpleNamespace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.attention_kernel import KernelMode
from emg_lens.hooks.attention_search import LocatedAttention, find_attention
from emg_lens.hooks.hook_points import PATTERN, SCORES
from emg_lens.hooks.model_inputs import Inputs, example_inputs
from emg_lens.validation import ArgumentError, checked

_known: "weakref.WeakKeyDictionary[nn.Module, list[LocatedAttention]]" = weakref.WeakKeyDictionary()
"""What was found in models that were adapted before: a cut that is in place may hide it from another look."""


@checked
def adapt(model: nn.Module, inputs: Inputs | None = None) -> "AdaptedModel":
    """Hook points for the attention of a torch or Hugging Face model that TransformerLens does not know.

    ```python
    with cutting(adapt(model, x), cross_modal(), layout=layout) as report:
        logits = model(x)
    ```

    The model keeps its weights, its `state_dict` and its results. Two things change, for good: its attention modules
    carry two hook points each, and `nn.TransformerEncoder` no longer takes torch's fused path, in which there is no
    attention to get at. That path writes zeros at padded positions, the explicit one what the layers give; every
    other number is the same up to rounding.

    Args:
        model: Any module whose attention ends in torch's softmax or fused attention: `nn.TransformerEncoder`, models
            of transformers, one's own.
        inputs: A small input to run it on (tensor, tuple of arguments, or mapping of keyword arguments), with as many
            positions as are meant to be cut; a model of transformers can do without.

    Raises:
        EdgeError: `model` has hook points already, or its layers cannot be told apart: one module that attends several
            times in a forward, other numbers of heads in other layers.
        DeadHookError: No attention is found, or a module that is called attention shows none.
        ArgumentError: No example input can be made for this model; pass `inputs`.
    """
    return AdaptedModel(model, inputs)


class AdaptedModel(HookedRootModule):
    """A torch model under TransformerLens's names: `run_with_hooks`, `run_with_cache`, `cut`, `cutting` work on it.

    Layers count the self-attentions in the order in which they run: `blocks.<layer>.attn`; in an encoder and
    a decoder, `encoder_blocks.<layer>.attn`, `decoder_blocks.<layer>.self_attn`, `decoder_blocks.<layer>.cross_attn`.

    Attributes:
        original_model: The model itself, not a copy.
        attention: Path of each attention under TransformerLens's names -> its path in `original_model`.
        cfg: `n_layers` (of the first stack), `n_heads`, and `d_vocab` where the model reads words.
    """

    def __init__(self, model: nn.Module, inputs: Inputs | None = None) -> None:
        super().__init__()
        if hasattr(model, "hook_dict"):
            raise EdgeError(f"{type(model).__name__} has TransformerLens's hook points: use it as it is, without adapt")
        if inputs is None and not hasattr(model, "config"):
            raise ArgumentError(f"cannot make an example input for {type(model).__name__}: pass inputs=a small batch")
        self.original_model = model
        vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
        self.cfg: Any = SimpleNamespace(d_vocab=vocabulary)
        found = _known.get(model)
        if found is None or not all(hasattr(model.get_submodule(entry.path), PATTERN) for entry in found):
            found = find_attention(model, inputs if inputs is not None else example_inputs(self, n_tokens=8))
            _known[model] = found
        if inputs is not None:
            self.example_input = functools.partial(_given, inputs)
        self.cfg.n_heads = _heads_of(found, model)
        self.attention: dict[str, str] = {}
        for stack, paths in _stacks(found).items():
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
        """Whether the model itself is in training mode, whichever of the two was switched."""
        return self.original_model.training

    @training.setter
    def training(self, mode: bool) -> None:
        """Nothing: `train` and `eval` reach the model as a part of this one."""

    def setup(self) -> None:
        """Put the hook points in place and name them; modules of the model are not renamed."""
        _take_the_explicit_path(self.original_model)
        self.mod_dict, self.hook_dict = {}, {}
        for name, path in self.attention.items():
            attention = self.original_model.get_submodule(path)
            if not hasattr(attention, PATTERN):
                attention.forward = _HookedForward(attention)
            for point_name in (SCORES, PATTERN):
                point = getattr(attention, point_name)
                point.name = f"{name}.{point_name}"
                self.mod_dict[point.name] = self.hook_dict[point.name] = point

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """`original_model(...)`."""
        return self.original_model(*args, **kwargs)


def _given(inputs: Inputs, batch: int = 1) -> Inputs:  # noqa: ARG001
    return inputs


class _HookedForward:
    """Stands in for the forward of an attention module: passes scores and pattern through its hook points, if heard."""

    def __init__(self, attention: nn.Module) -> None:
        self.forward, self.attention = attention.forward, attention
        functools.update_wrapper(self, self.forward, updated=())
        attention.add_module(SCORES, HookPoint())
        attention.add_module(PATTERN, HookPoint())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not any(getattr(self.attention, name).has_hooks() for name in (SCORES, PATTERN)):
            return self.forward(*args, **kwargs)
        with KernelMode([self]):
            return self.forward(*args, **kwargs)

    def before(self, scores: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        return getattr(self.attention, SCORES)(scores)

    def after(self, pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        return getattr(self.attention, PATTERN)(pattern)


def _take_the_explicit_path(model: nn.Module) -> None:
    """No fused inference path in `nn.TransformerEncoder`: it goes past the attention module."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # read by nothing but the choice of the path


def _heads_of(found: list[LocatedAttention], model: nn.Module) -> int:
    heads = {entry.path: entry.n_heads for entry in found}
    if len(set(heads.values())) > 1:
        raise EdgeError(
            f"layers of {type(model).__name__} have different numbers of heads: {heads}; adapt one stage alone"
        )
    return found[0].n_heads


def _stacks(found: list[LocatedAttention]) -> dict[str, dict[str, list[str]]]:
    """Name of a stack -> name of an attention in a block -> its path in every layer."""
    cross = [entry.path for entry in found if entry.cross]
    own = [entry.path for entry in found if not entry.cross]
    if not cross:
        return {"blocks": {"attn": own}}
    readers = {path.rpartition(".")[0] for path in cross}
    decoder = [path for path in own if path.rpartition(".")[0] in readers]
    encoder = [path for path in own if path not in decoder]
    stacks = {"encoder_blocks": {"attn": encoder}, "decoder_blocks": {"self_attn": decoder, "cross_attn": cross}}
    return {
        stack: {name: paths for name, paths in parts.items() if paths}
        for stack, parts in stacks.items()
        if any(parts.values())
    }
