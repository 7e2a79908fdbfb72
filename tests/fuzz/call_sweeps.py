"""Fits, sweeps, conditions and analyses of a small model."""

import math
from typing import Any

import torch
from call_edges import LAYOUT, PATCHES
from nonsense import NOT_COUNT, NOT_FRACTION, NOT_FROM_ZERO, NOT_POSITIVE, NOT_WHOLE, call
from toy_cohort import make_model, make_trials

from emg_lens import (
    Condition,
    CutMLP,
    Replace,
    TokenLayout,
    TrainingRecipe,
    cross_modal,
    every,
    fit,
    flow,
    head_masks,
    layer_masks,
    none,
    sweep,
    unimodal,
)
from emg_lens.analysis import activation_shift, random_edges, superset_ablations
from emg_lens.data import Batch

X, Y = make_trials(12)
CUTS = [Condition("uni", unimodal()), Condition("cross", cross_modal().at(layers=1))]
BEYOND = Condition("a", every().at(layers=99))
NOT_INPUT = (None, "x", X.numpy(), X[:0], X[0], X[:, :2], X[..., :3], X * math.nan, X * math.inf, X.double(), X.long())
NOT_REFERENCE = ("x", X[:, :2], X * math.nan, X[:0], X[0])
NOT_CONDITIONS = (None, "x", unimodal(), CUTS[0], [unimodal()], ["unimodal()"], {"a": CUTS[0]}, CUTS * 2, [BEYOND])
NOT_LAYOUT = ("x", PATCHES, TokenLayout.channels({"emg": 2}), {"emg": 4})
NOT_MODEL = (None, "isonet", torch.nn.Linear(2, 2))
NOT_KINDS = (None, unimodal(), "unimodal()", {}, {"a": "x("}, {"a": None}, {1: unimodal()}, {"": unimodal()})
NOT_CHECKPOINT = ("/nowhere/at/all/x", "/", [])


def fitted(model: Any, x: Any, targets: Any, epochs: Any, seed: Any, **options: Any) -> Any:
    """Fit one epoch."""
    recipe = TrainingRecipe(epochs=epochs, batch_size=6, seed=seed)
    return fit(make_model() if model is None else model, Batch(x, targets), options.pop("recipe") or recipe, **options)


def swept(**options: Any) -> Any:
    """Sweep a small model."""
    return sweep(make_model(), **options)


def done(condition: Condition) -> Any:
    """Sweep one condition."""
    return swept(x=X, conditions=[condition], reference=X)


CALLS = {
    "TrainingRecipe": call(
        TrainingRecipe,
        epochs=((1, 5), NOT_WHOLE),
        batch_size=((1, 64), NOT_WHOLE),
        lr=((1e-3,), (0.0, *NOT_POSITIVE)),
        weight_decay=((0.0, 0.1), NOT_POSITIVE),
        anneal_epochs=((0, 5), NOT_FROM_ZERO),
        schedule=(("constant", "cosine"), ("cosin", "", None, 1)),
        warmup_epochs=((0, 5), NOT_FROM_ZERO),
        clip_norm=((None, 1.0), (0.0, -1.0, math.nan, "x", [])),
        label_smoothing=((0.0, 0.1), NOT_FRACTION),
        seed=((0, 7), (2.5, math.nan, "x", None, [])),
    ),
    "fit": call(
        fitted,
        model=((None,), NOT_MODEL[1:]),
        x=((X,), (*NOT_INPUT, X[:-1])),
        targets=(
            (Y,),
            (None, "x", Y[:-1], Y.float(), Y + 99, Y - 1, Y[None], Y * math.nan, Y.bool(), Y.numpy().astype(str)),
        ),
        epochs=((1, 2), NOT_WHOLE),
        seed=((0, 5), (2.5, math.nan, "x", None, [], -(10**30), 10**30)),
        recipe=((None,), ({"epochs": 1}, "x")),
        objective=(("classification",), ("clasification", "", None, "regression")),
        held_out=(
            (None, Batch(X, Y)),
            ("x", X, (X, Y), Batch(X * math.nan, Y), Batch(X[:, :2], Y), Batch(X, Y + 99)),
        ),
        stop_after=((None, 1), (-1, 2.5, "x", math.nan)),
        checkpoint=((None,), NOT_CHECKPOINT),
        on_epoch=((None,), ("x",)),
    ),
    "sweep": call(
        swept,
        x=((X, X[:1]), NOT_INPUT),
        conditions=(
            (CUTS, [], tuple(CUTS)),
            (
                *NOT_CONDITIONS,
                [Condition("a", flow("eeg", "cls"))],
                [Condition("baseline", every())],
                [Condition("a", Replace("eeg"))],
                [Condition("a", Replace("emg", at="hook_nothing"))],
                [Condition("a", CutMLP("emg", layers=[99]))],
            ),
        ),
        layout=((None, LAYOUT), NOT_LAYOUT),
        reference=((None, X), NOT_REFERENCE),
        executor=(("auto", "loop", "tree"), ("fast", "", None)),
        batch_size=((None, 4), (0, -1, 2.5, "4", math.nan, [4])),
        on_progress=((None,), ("x",)),
        checkpoint=((None,), NOT_CHECKPOINT),
    ),
    "accuracy": call(
        lambda y: swept(x=X, conditions=CUTS).accuracy(y),
        y=((Y, Y.tolist(), Y.numpy()), (None, "x", Y[:-1], Y[None], Y + 99, Y - 5, Y + 0.5, Y * math.nan, ["a"] * 12)),
    ),
    "Replace": call(
        lambda **given: done(Condition("a", Replace(**given))),
        tokens=(
            ("emg", ("emg", "acc"), 1, [1, 2], "emg.0"),
            (None, (), 2.5, [None], math.nan, True, "eeg", 99, [99], [[1]], ""),
        ),
        by=(("zero", "mean", "resample", "permute"), ("zeroes", "", None)),
        at=(("input", "hook_embed"), ("", None, "hook_nothing", "blocks.9.hook_resid_pre")),
        seed=((0, 5), (2.5, "x", math.nan, None, [], -(10**30))),
    ),
    "CutMLP": call(
        lambda **given: done(Condition("a", CutMLP(**given))),
        tokens=(("emg", ("emg", "acc"), 1), (None, (), 2.5, [None], math.nan, True, "eeg", 99, "")),
        layers=((None, [0], (0, 1)), (99, [99], [], "x", [None], 2.5, [0.5], True, [True, False])),
    ),
    "Condition": call(
        lambda **given: done(Condition(**given)),
        name=(("a", "a/b"), ("", None, 3)),
        intervention=((unimodal(), (Replace("emg"), unimodal())), ("x", None, [None], (unimodal(), 3))),
        tags=(({}, {"mode": "x"}), ("x", None, [1])),
    ),
    "layer_masks": call(
        layer_masks,
        edges=(({"a": unimodal()},), NOT_KINDS),
        n_layers=((1, 3, 0), NOT_COUNT[1:]),
        modes=(
            (("individual",), ["from_end", "from_beginning"]),
            ((), "individual", ("indiv",), None, (None,), ("individual", "individual")),
        ),
    ),
    "head_masks": call(
        head_masks,
        edges=(({"a": unimodal()},), NOT_KINDS),
        n_layers=((1, 3, 0), NOT_COUNT[1:]),
        n_heads=((1, 3, 0), NOT_COUNT[1:]),
    ),
    "random_edges": call(
        random_edges,
        model=((make_model(),), NOT_MODEL),
        edges=(
            (unimodal(), cross_modal().at(heads=0)),
            (None, "unimodal()", none(), every(), flow("eeg", "cls"), every().at(layers=99)),
        ),
        n=((1, 3), (-1, 2.5, "x", math.nan, None, 10**9)),
        seed=((0, 5), (-1, 2.5, "x", math.nan, None, [])),
        layout=((None, LAYOUT), NOT_LAYOUT),
    ),
    "superset_ablations": call(
        superset_ablations,
        model=((make_model(),), NOT_MODEL),
        conditions=((CUTS, []), NOT_CONDITIONS),
        layout=((None, LAYOUT), NOT_LAYOUT),
    ),
    "activation_shift": call(
        activation_shift,
        model=((make_model(),), NOT_MODEL),
        x=((X,), NOT_INPUT),
        conditions=((CUTS, []), NOT_CONDITIONS),
        reference=((None, X), NOT_REFERENCE),
        layout=((None, LAYOUT), NOT_LAYOUT),
    ),
}
