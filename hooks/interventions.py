"""Interventions on tokens, and reading interventions from arguments and study files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from emg_lens.hooks.algebra import EdgeError, EdgeSet, index_tuple
from emg_lens.hooks.edge_interventions import EdgeCut
from emg_lens.hooks.edges import none
from emg_lens.hooks.intervention_base import INTERVENTIONS, Context, Intervention, verified_hooks
from emg_lens.hooks.replacement_options import FROM_REFERENCE, By, Seed, Within
from emg_lens.layout import TokenLayout
from emg_lens.validation import check_fields, short

if TYPE_CHECKING:  # a study can be read without torch
    from jaxtyping import Bool
    from torch import Tensor, nn

INPUT = "input"
"""The value of `Replace.at` for the model's input."""


class _OnTokens(Intervention):
    """An intervention on tokens, which are its first field; trials do not depend on each other."""

    needs_all_trials: ClassVar[bool] = False
    tokens: str | int | tuple[str | int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _one_or_several(self.tokens, "tokens"))
        check_fields(self)


@INTERVENTIONS.named("replace")
@dataclass(frozen=True, repr=False)
class Replace(_OnTokens):
    """Replace the values of some tokens by values that do not depend on the trial.

    Attributes:
        tokens: Group names, token names or positions. At the input also channels of any layout, such as `"emg.3"`.
        by: `"zero"`; `"mean"` over the reference trials; `"resample"`: the values of a random reference trial, the same
            trial for all replaced tokens; `"permute"`: the values of another trial of the same input.
        at: `"input"` replaces the signals (the IsoNet paper's zeroed modality, §4.1, where trials are standardised).
            A hook point with activations `[batch, pos, ...]`, such as `"hook_embed"`, replaces activations.
        seed: Random seed of `"resample"` and `"permute"`.

    Example:
        >>> import torch
        >>> from emg_lens import Replace, TokenLayout
        >>> layout = TokenLayout.channels({"emg": 2, "acc": 1})
        >>> Replace("acc").on_input(torch.ones(1, 3, 2), layout, reference=None)
        tensor([[[1., 1.],
                 [1., 1.],
                 [0., 0.]]])
    """

    tokens: str | int | tuple[str | int, ...]
    by: By = "zero"
    at: str = INPUT
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.at:
            raise EdgeError("at='' is empty; give at='input' or the name of a hook point such as 'hook_embed'")

    @property
    def changes_input(self) -> bool:
        """Whether `at` is the input."""
        return self.at == INPUT

    @property
    def needs_all_trials(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether random trials are chosen for the whole batch."""
        return self.by in ("resample", "permute")

    def on_input(self, x: "Tensor", layout: TokenLayout, reference: "Tensor | None") -> "Tensor":
        """Return `x` with the samples of these tokens replaced; `EdgeError` for tokens without samples, such as CLS."""
        from emg_lens.hooks.values import input_mask, replacement

        if not self.changes_input:
            return x
        if self.by in FROM_REFERENCE and (reference is None or not len(reference)):
            raise EdgeError(f"by={self.by!r} needs values from other trials; give reference=<training trials>")
        where = input_mask(layout, self.tokens, x.shape[1:]).to(x.device)
        return x.where(~where, replacement(self.by, x, reference, self.seed))

    def applied(self, model: "nn.Module", layout: TokenLayout, reference: "Tensor | None" = None) -> Context:
        """Return a context in which every forward replaces the values, at the input or at the hook point."""
        from emg_lens.hooks.values import replace

        if self.changes_input:
            return _changed_first_argument(model, lambda x: self.on_input(x, layout, reference), str(self))
        source = reference if self.by in FROM_REFERENCE else None
        hooks = replace(model, self.tokens, self.by, self.at, layout, reference=source, seed=self.seed)
        return verified_hooks(model, hooks, str(self))


@INTERVENTIONS.named("shuffle")
@dataclass(frozen=True, repr=False)
class Shuffle(_OnTokens):
    """Change the order of some tokens, in the same way for all trials (`emg_lens.hooks.shuffle`).

    Attributes:
        tokens: Group names, token names or positions.
        within: Which tokens exchange places: `"all"`; `"channel"`: the patches of each channel; `"patch"`: the channels
            of each patch.
        at: Hook point with activations `[batch, pos, ...]`.
        seed: Random seed of the order.

    Example:
        >>> from emg_lens import Condition, Shuffle
        >>> Condition("patch order destroyed", Shuffle("emg", within="channel")).interventions
        (Shuffle('emg', within='channel'),)
    """

    tokens: str | int | tuple[str | int, ...]
    within: Within = "all"
    at: str = "hook_embed"
    seed: Seed = 0

    def applied(self, model: "nn.Module", layout: TokenLayout, reference: "Tensor | None" = None) -> Context:  # noqa: ARG002
        """Return a context in which every forward uses the changed order."""
        from emg_lens.hooks.token_order import shuffle

        hooks = shuffle(model, self.tokens, self.within, self.at, layout, seed=self.seed)
        return verified_hooks(model, hooks, str(self))


@INTERVENTIONS.named("cut_mlp")
@dataclass(frozen=True, repr=False)
class CutMLP(_OnTokens):
    """Set the MLP output of some tokens to zero.

    Attributes:
        tokens: Group names, token names or positions.
        layers: 0-based; -1 is the last layer; default: all.

    Example:
        >>> from emg_lens import CutMLP, TokenLayout
        >>> layout = TokenLayout.channels({"emg": 2, "acc": 1})
        >>> CutMLP("acc", layers=1).writes(layout, n_layers=2, n_heads=2)  # [layer, pos]; the token acc.0, in layer 1
        tensor([[False, False, False, False],
                [False, False, False,  True]])
    """

    tokens: str | int | tuple[str | int, ...]
    layers: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", _one_or_several(self.layers, "layers"))
        super().__post_init__()

    def writes(self, layout: TokenLayout, n_layers: int, n_heads: int) -> "Bool[Tensor, 'layer pos'] | None":  # noqa: ARG002
        """Return these tokens in these layers: an MLP reads and writes one token at a time."""
        from emg_lens.hooks.values import mlp_rows

        return mlp_rows(layout, self.tokens, self.layers, n_layers)

    def applied(self, model: "nn.Module", layout: TokenLayout, reference: "Tensor | None" = None) -> Context:  # noqa: ARG002
        """Return a context in which every forward sets the MLP output to zero."""
        from emg_lens.hooks.values import cut_mlp

        return verified_hooks(model, cut_mlp(model, self.tokens, self.layers, layout), str(self))


Interventions = Intervention | EdgeSet | tuple["Intervention | EdgeSet", ...]
"""One intervention or several; an edge set is read as an `EdgeCut`."""


def as_interventions(given: Interventions) -> tuple[Intervention, ...]:
    """Return one intervention or several as a tuple; an edge set becomes an `EdgeCut`, and `none()` is left out."""
    interventions = []
    for one in given if isinstance(given, tuple | list) else (given,):
        if isinstance(one, EdgeSet):
            one = EdgeCut(one)  # pyright: ignore[reportCallIssue] - registering hides its fields
        if isinstance(one, EdgeCut) and one.edges == none():
            continue
        if not isinstance(one, Intervention):
            kind = "a list of hooks, which a sweep cannot verify" if isinstance(given, list) else short(one)
            raise EdgeError(
                f"got {kind}; expected an edge set or an intervention, for example cross_modal(), Replace('acc') or"
                " CutMLP('emg')"
            )
        interventions.append(one)
    return tuple(interventions)


def read_interventions(spec: Mapping[str, Any]) -> tuple[Intervention, ...]:
    """Read the interventions of a condition in a study file: `{"replace": "acc", "by": "zero", "edges": "unimodal()"}`.

    Each key is the key of a registered intervention (its value is the first field), or another field of such an
    intervention.
    """
    kinds = {key: INTERVENTIONS[key] for key in spec if key in INTERVENTIONS}
    rest, interventions = {key: value for key, value in spec.items() if key not in kinds}, []
    for key, kind in kinds.items():
        first, *others = fields(kind)  # pyright: ignore[reportArgumentType]
        options = {f.name: _frozen(rest.pop(f.name)) for f in others if f.name in rest}
        missing = [f.name for f in others if f.default is MISSING and f.name not in options]
        if missing:
            raise EdgeError(f"{key!r} also needs {', '.join(missing)}")
        try:
            interventions.append(kind(**{first.name: _frozen(spec[key]), **options}))
        except TypeError as error:
            raise EdgeError(f"{key}={spec[key]!r}: {error}") from None
    if rest:
        known = {key: [f.name for f in fields(kind)[1:]] for key, kind in INTERVENTIONS.items()}  # pyright: ignore
        texts = [f"{key} ({', '.join(options)})" if options else key for key, options in known.items()]
        raise EdgeError(f"unknown key {next(iter(rest))!r}; known interventions and their options: {'; '.join(texts)}")
    return tuple(interventions)


def _one_or_several(values: object, what: str) -> int | str | tuple[int | str, ...]:
    """Return one index or name as it is, several as a tuple."""
    items = index_tuple(values, what, names=what == "tokens")
    return items[0] if isinstance(values, str | int) else items


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@contextmanager
def _changed_first_argument(model: "nn.Module", change: Any, what: str) -> Iterator[None]:
    """Change the first argument of every call of the model."""
    from emg_lens.hooks.hook_points import DeadHookError

    runs = 0

    def before(module: Any, args: tuple) -> tuple:  # noqa: ARG001
        nonlocal runs
        runs += 1
        return (change(args[0]), *args[1:])

    handle = model.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
    if not runs:
        raise DeadHookError(
            f"{what} had no effect: the model was not called. Call model(x) in the context; run_with_hooks ignores it"
        )
