"""Interventions as values: what is done to a fitted model while it runs.

`EdgeCut`, `Replace`, `Shuffle` and `CutMLP` are immutable values; a `Condition` holds one or several. Each says of
itself what it can: which edges it cuts, and whether it does nothing but change the input. Planner, audit and executors
use that; what they cannot plan is `applied` to the model, verified, around its own forward.

A new kind of intervention is a frozen dataclass derived from `Intervention`, registered under the key that study files
use for it: the key's value is its first field, its other fields are options beside it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from emg_lens.hooks.algebra import EdgeError, EdgeSet, listed
from emg_lens.hooks.edges import Nothing, none
from emg_lens.hooks.parse import parse_edges
from emg_lens.hooks.replacement import FROM_REFERENCE, By, Seed, Within
from emg_lens.layout import TokenLayout
from emg_lens.registry import Registry
from emg_lens.validation import check_fields, short

if TYPE_CHECKING:  # a study can be read without torch
    from jaxtyping import Bool
    from torch import Tensor, nn

INPUT = "input"
"""`Replace.at` for the model's input itself."""


class Intervention(ABC):
    """Something done to a model; an immutable, hashable value whose text is its Python."""

    @property
    def edges(self) -> EdgeSet:
        """The attention edges it cuts; none, unless it says so."""
        return none()

    @property
    def changes_input(self) -> bool:
        """Whether `on_input` is all it does (beside cutting `edges`)."""
        return False

    @property
    def needs_all_trials(self) -> bool:
        """Whether what happens to a trial depends on the others of its batch: then they are never cut into batches.

        True unless a kind of intervention knows better.
        """
        return True

    def on_input(self, x: "Tensor", layout: TokenLayout, reference: "Tensor | None") -> "Tensor":  # noqa: ARG002
        """The changed input `[trial, channel, time]`.

        Args:
            x: All trials of the sweep.
            layout: What the positions stand for.
            reference: Trials that means and resampled values come from, where the intervention needs any.
        """
        return x

    def writes(self, layout: TokenLayout, n_layers: int) -> "Bool[Tensor, 'layer pos'] | None":  # noqa: ARG002
        """Which positions' outputs of which layers it changes, where it changes nothing else (beside cutting `edges`).

        Where none of them has a path to the readout, nothing happens to the output, and a sweep knows it. None = not
        known, or something else: then it may change whatever it likes.

        Raises:
            EdgeError: Tokens or layers that do not fit.
        """
        return None

    @abstractmethod
    def applied(
        self, model: "nn.Module", layout: TokenLayout, reference: "Tensor | None" = None
    ) -> AbstractContextManager[object]:
        """A context in which `model` runs with the intervention; on exit it raises if that did not happen.

        What has to be found out about the model is found out in this call, before the context is entered: several
        interventions are found out about first and entered together.
        """

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        values = [(f, getattr(self, f.name)) for f in fields(self)]  # pyright: ignore[reportArgumentType]
        given = [f"{f.name}={value!r}" for f, value in values[1:] if value != f.default]
        return f"{type(self).__name__}({', '.join([repr(value) for _, value in values[:1]] + given)})"


class EachTrial(Intervention):
    """One that does the same to every trial by itself, and needs no reference trials."""

    @property
    def needs_all_trials(self) -> bool:
        """No."""
        return False

    def applied(
        self,
        model: "nn.Module",
        layout: TokenLayout,
        reference: "Tensor | None" = None,  # noqa: ARG002
    ) -> AbstractContextManager[object]:
        """As it is `in_place`."""
        return self.in_place(model, layout)

    @abstractmethod
    def in_place(self, model: "nn.Module", layout: TokenLayout) -> AbstractContextManager[object]:
        """`applied`, whatever the reference trials."""


INTERVENTIONS: Registry[type[Intervention]] = Registry("intervention", "emg_lens.interventions")
"""By the key that study files use."""


@INTERVENTIONS.named("edges")
@dataclass(frozen=True, repr=False)
class EdgeCut(EachTrial):
    """Attention edges cut: their scores become -inf before the softmax.

    Attributes:
        cut: Which; an edge set or its text.
    """

    cut: EdgeSet

    def __post_init__(self) -> None:
        if isinstance(self.cut, str):
            object.__setattr__(self, "cut", parse_edges(self.cut))
        if not isinstance(self.cut, EdgeSet):
            raise EdgeError(f"EdgeCut takes an edge set such as cross_modal(), got {short(self.cut)}")

    @property
    def edges(self) -> EdgeSet:
        """The attention edges it cuts."""
        return self.cut

    def in_place(self, model: "nn.Module", layout: TokenLayout) -> AbstractContextManager[object]:
        """`cutting` these edges."""
        from emg_lens.hooks.cuts import cutting

        return cutting(model, self.cut, layout)

    def __str__(self) -> str:
        return str(self.cut)


@INTERVENTIONS.named("replace")
@dataclass(frozen=True, repr=False)
class Replace(Intervention):
    """What some tokens carry replaced by something that tells nothing of the trial.

    Attributes:
        tokens: Group names, token names or positions.
        by: `"zero"`; `"mean"`, over the reference trials; `"resample"`, from a random reference trial, the same one for
            all replaced tokens; `"permute"`, from another trial of the same input.
        at: `"input"`: the signals themselves (the IsoNet paper's zeroed modality, §4.1, where trials are standardised);
            or a hook point with activations `[batch, pos, ...]` such as `"hook_embed"`.
        seed: Of `"resample"` and `"permute"`.
    """

    tokens: str | int | tuple[str | int, ...]
    by: By = "zero"
    at: str = INPUT
    seed: Seed = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _one_or_several(self.tokens, "tokens"))
        check_fields(self)
        if not self.at:
            raise EdgeError("Replace needs a place, at='input' or a hook point, got at=''")

    @property
    def changes_input(self) -> bool:
        """Whether the place is the input."""
        return self.at == INPUT

    @property
    def needs_all_trials(self) -> bool:
        """Whether values come from trials that are drawn for the whole batch."""
        return self.by in ("resample", "permute")

    @property
    def needs_reference(self) -> bool:
        """Whether `by` takes values from reference trials."""
        return self.by in FROM_REFERENCE

    def on_input(self, x: "Tensor", layout: TokenLayout, reference: "Tensor | None") -> "Tensor":
        """`x` with the samples of these tokens replaced.

        Raises:
            EdgeError: Unknown tokens, CLS among them, reference trials missing, or `"permute"` of a single trial.
        """
        from emg_lens.hooks.values import input_mask, other_trials, random_trials, reference_of

        if not self.changes_input:
            return x
        source = reference_of(self.by, reference)
        where = input_mask(layout, self.tokens, x.shape[1:]).to(x.device)
        match self.by:
            case "zero":
                values = x.new_zeros(())
            case "mean":
                assert source is not None
                values = source.mean(0).to(x)
            case "resample":
                assert source is not None
                values = source[random_trials(len(source), len(x), self.seed)].to(x)
            case "permute":
                values = x[other_trials(len(x), self.seed).to(x.device)]
        return x.where(~where, values)

    def applied(
        self, model: "nn.Module", layout: TokenLayout, reference: "Tensor | None" = None
    ) -> AbstractContextManager[object]:
        """The replacement in every forward inside, at the input or at the hook point."""
        from emg_lens.hooks.values import replace

        if self.changes_input:
            return _on_first_argument(model, lambda x: self.on_input(x, layout, reference), str(self))
        source = reference if self.needs_reference else None
        hooks = replace(model, self.tokens, self.by, self.at, layout, reference=source, seed=self.seed)
        return _hooked(model, hooks, str(self))


@INTERVENTIONS.named("shuffle")
@dataclass(frozen=True, repr=False)
class Shuffle(EachTrial):
    """Some tokens in another order, the same for all trials: `emg_lens.hooks.shuffle`.

    Attributes:
        tokens: Group names, token names or positions.
        within: Among which of them: `"all"`; `"channel"`, the patches of each channel; `"patch"`, the channels of each
            patch.
        at: Hook point with activations `[batch, pos, ...]`.
        seed: Of the order.
    """

    tokens: str | int | tuple[str | int, ...]
    within: Within = "all"
    at: str = "hook_embed"
    seed: Seed = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _one_or_several(self.tokens, "tokens"))
        check_fields(self)

    def in_place(self, model: "nn.Module", layout: TokenLayout) -> AbstractContextManager[object]:
        """The other order in every forward inside."""
        from emg_lens.hooks.token_order import shuffle

        return _hooked(model, shuffle(model, self.tokens, self.within, self.at, layout, seed=self.seed), str(self))


@INTERVENTIONS.named("cut_mlp")
@dataclass(frozen=True, repr=False)
class CutMLP(EachTrial):
    """What the MLP adds for some tokens set to zero.

    Attributes:
        tokens: Group names, token names or positions.
        layers: 0-based; default all.
    """

    tokens: str | int | tuple[str | int, ...]
    layers: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _one_or_several(self.tokens, "tokens"))
        if self.layers is not None:
            object.__setattr__(self, "layers", _one_or_several(self.layers, "layers"))
        check_fields(self)

    def writes(self, layout: TokenLayout, n_layers: int) -> "Bool[Tensor, 'layer pos'] | None":
        """These tokens after these layers: an MLP reads and writes a token alone."""
        from emg_lens.hooks.values import mlp_rows

        return mlp_rows(layout, self.tokens, self.layers, n_layers)

    def in_place(self, model: "nn.Module", layout: TokenLayout) -> AbstractContextManager[object]:
        """The MLP silenced in every forward inside."""
        from emg_lens.hooks.values import cut_mlp

        return _hooked(model, cut_mlp(model, self.tokens, self.layers, layout), str(self))


Interventions = Intervention | EdgeSet | tuple["Intervention | EdgeSet", ...]
"""Where interventions are wanted: one or several; an edge set is an `EdgeCut`."""


def as_interventions(given: Interventions) -> tuple[Intervention, ...]:
    """One intervention or several as a tuple; an edge set becomes an `EdgeCut`, `none()` nothing at all.

    Raises:
        EdgeError: Something that is no intervention, such as a list of hooks.
    """
    several = given if isinstance(given, tuple) else (given,)
    made = []
    for one in several:
        if isinstance(one, EdgeSet):
            one = EdgeCut(one)  # pyright: ignore[reportCallIssue] - registering hides its fields
        if isinstance(one, EdgeCut) and isinstance(one.edges, Nothing):
            continue
        if not isinstance(one, Intervention):
            kind = "a list of hooks, which a sweep cannot verify" if isinstance(one, list) else repr(one)
            raise EdgeError(
                f"expected an edge set or an intervention (EdgeCut(...), Replace('acc'), CutMLP('emg')), got {kind}"
            )
        made.append(one)
    return tuple(made)


def read_interventions(spec: Mapping[str, Any]) -> tuple[Intervention, ...]:
    """The interventions of a study file's condition: `{"replace": "acc", "by": "zero", "edges": "unimodal()"}`.

    Every key is that of a registered intervention, whose first field it gives, or a further field of one that is there.

    Raises:
        EdgeError: A key that belongs to none, or a value that does not fit.
    """
    kinds = {key: INTERVENTIONS[key] for key in spec if key in INTERVENTIONS}
    rest, made = {key: value for key, value in spec.items() if key not in kinds}, []
    for key, kind in kinds.items():
        first, *others = fields(kind)  # pyright: ignore[reportArgumentType]
        options = {f.name: _frozen(rest.pop(f.name)) for f in others if f.name in rest}
        missing = [f.name for f in others if f.default is MISSING and f.name not in options]
        if missing:
            raise EdgeError(f"{key!r} also needs {', '.join(missing)}")
        try:
            made.append(kind(**{first.name: _frozen(spec[key]), **options}))
        except TypeError as error:
            raise EdgeError(f"{key}={spec[key]!r}: {error}") from None
    if rest:
        known = {key: [f.name for f in fields(INTERVENTIONS[key])[1:]] for key in INTERVENTIONS.names()}  # pyright: ignore
        listed = "; ".join(f"{key} ({', '.join(options)})" if options else key for key, options in known.items())
        raise EdgeError(f"unknown key {next(iter(rest))!r}; known interventions and their options: {listed}")
    return tuple(made)


def _one_or_several(values: object, what: str) -> int | str | tuple[int | str, ...]:
    """An index or name as it is, several as a tuple."""
    found = listed(values, what)
    return found[0] if isinstance(values, str | int) else found


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@contextmanager
def _hooked(model: Any, hooks: list, what: str) -> Iterator[None]:
    """Hooks in place, and proof that each of them fired."""
    from emg_lens.hooks.anatomy import DeadHookError, listening

    fired = {name: 0 for name, _ in hooks}

    def counting(name: str, fn: Any) -> Any:
        def run(tensor: Any, hook: Any) -> Any:
            fired[name] += 1
            return fn(tensor, hook)

        return run

    with ExitStack() as stack:
        for name, fn in hooks:
            stack.enter_context(listening(model.hook_dict[name], counting(name, fn)))
        yield
    silent = [name for name, count in fired.items() if not count]
    if silent:
        raise DeadHookError(f"{what} never took place: {silent[0]} did not fire; was the model run?")


@contextmanager
def _on_first_argument(model: "nn.Module", change: Any, what: str) -> Iterator[None]:
    from emg_lens.hooks.anatomy import DeadHookError

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
        raise DeadHookError(f"{what} never took place: model(x) was not called; run_with_hooks passes it by")
