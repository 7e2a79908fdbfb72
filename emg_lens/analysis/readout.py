"""Readout vectors (input of the model's head, one per trial): collect them, map them to 2-D, count neighbours."""

from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from emg_lens.hooks.evaluation import evaluating
from emg_lens.validation import ArgumentError, checked

TRIALS_A_FORWARD = 128
MOST_COMPONENTS = 50
"""Number of principal components that are mapped of longer vectors (van der Maaten and Hinton 2008, §4.2: 30)."""

Vectors = Float[np.ndarray, "trial value"]


@checked
def readout_vectors(model: nn.Module, x: Float[Tensor, "trial channel time"]) -> Vectors:
    """Collect the input of a model's head for each trial. For an IsoNet this is the final CLS vector.

    Args:
        model: A model that declares its head (`head_parameters`). It runs in evaluation mode; its mode is restored.
        x: Standardized trials `[trial, channel, time]`.

    Returns:
        One row per trial `[trial, value]`.

    Raises:
        ArgumentError: The model declares no head, or a forward pass does not run the head exactly once.

    Example:
        >>> import torch
        >>> from emg_lens import build_model
        >>> from emg_lens.analysis import readout_vectors
        >>> model = build_model("isonet", modalities={"emg": 4}, n_samples=20, n_classes=3, d_model=16, n_heads=2)
        >>> readout_vectors(model, torch.randn(5, 4, 20)).shape
        (5, 16)
    """
    head = _head(model)
    vectors: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: vectors.append(args[0].detach().flatten(1).cpu()))
    device = next(model.parameters()).device
    try:
        with evaluating(model), torch.inference_mode():
            for some in x.split(TRIALS_A_FORWARD):
                before = len(vectors)
                model(some.to(device))
                if len(vectors) != before + 1 or len(vectors[-1]) != len(some):
                    raise ArgumentError(
                        f"the head of {type(model).__name__} ran {len(vectors) - before} times in a forward pass of"
                        f" {len(some)} trials; expected one run, with one row per trial"
                    )
    finally:
        hook.remove()
    return torch.cat(vectors).float().numpy()


@checked
def readout_map(
    vectors: Vectors, *, perplexity: PositiveFloat = 30.0, seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
) -> Float[np.ndarray, "trial 2"]:
    """Map vectors to two dimensions with t-SNE (van der Maaten and Hinton 2008; scikit-learn's implementation).

    Neighbours stay neighbours. Large distances, and sizes and densities of clusters, have no meaning;
    `neighbour_fractions` measures what the map shows.

    Args:
        vectors: Readout vectors `[trial, value]`. If they have more than 50 values, their first 50 principal components
            are mapped.
        perplexity: Approximate number of neighbours of each point; at most (trials - 1) / 3.
        seed: Seed of the principal components' solver and of t-SNE.

    Returns:
        Coordinates `[trial, 2]`.

    Raises:
        ArgumentError: Fewer than four trials, or values that are not finite.
    """
    from sklearn.decomposition import PCA  # takes a second to import
    from sklearn.manifold import TSNE

    _check_vectors(vectors, 4)
    vectors = np.ascontiguousarray(vectors, vectors.dtype.newbyteorder("="))  # t-SNE depends on the order in memory
    most = min(vectors.shape[0] - 1, MOST_COMPONENTS)
    if vectors.shape[1] > most:
        vectors = PCA(most, random_state=seed).fit_transform(vectors)
    at_most = (len(vectors) - 1) / 3
    start = "pca" if vectors.shape[1] > 1 else "random"
    tsne = TSNE(2, perplexity=min(perplexity, at_most), init=start, random_state=seed, n_jobs=1)
    return tsne.fit_transform(vectors).astype(np.float32)


@checked
def neighbour_fractions(
    vectors: Vectors,
    labels: Shaped[np.ndarray, " trial"],
    repetition_id: Shaped[np.ndarray, " trial"] | None = None,
    *,
    n_neighbours: PositiveInt = 10,
) -> tuple[Float[np.ndarray, " trial"], Float[np.ndarray, " trial"]]:
    """Compute the fraction of nearest trials with the same label, and the chance level, for each trial.

    Trials of the same repetition are left out of both fractions, because overlapping windows are always near.

    Args:
        vectors: Readout vectors `[trial, value]`, compared by Euclidean distance.
        labels: Label of each trial `[trial]`, e.g. its class or its subject.
        repetition_id: Repetition that each trial was cut from; default: every trial is a separate repetition.
        n_neighbours: Number of nearest trials.

    Returns:
        Fraction among the nearest trials, and fraction among all trials of other repetitions, for each trial.

    Raises:
        ArgumentError: Fewer trials of other repetitions than neighbours, another number of labels, or values that are
            not finite.
    """
    _check_vectors(vectors, 2)
    repetition_id = np.arange(len(vectors)) if repetition_id is None else repetition_id
    if len(labels) != len(vectors) or len(repetition_id) != len(vectors):
        raise ArgumentError(
            f"{len(labels)} labels and {len(repetition_id)} repetition ids for {len(vectors)} trials; expected one of"
            " each per trial"
        )
    _, of, counts = np.unique(repetition_id, return_inverse=True, return_counts=True)
    fewest = len(vectors) - int(counts.max())
    if fewest < n_neighbours:
        raise ArgumentError(
            f"n_neighbours={n_neighbours}, but a trial has only {fewest} trials of other repetitions; reduce it"
        )
    points = torch.from_numpy(vectors.astype(float))
    near, expected = np.empty(len(vectors)), np.empty(len(vectors))
    for first in range(0, len(vectors), TRIALS_A_FORWARD):
        some = slice(first, first + TRIALS_A_FORWARD)
        same: Bool[np.ndarray, "some trial"] = labels[some, None] == labels[None, :]
        others: Bool[np.ndarray, "some trial"] = of[some, None] != of[None, :]
        distances = torch.cdist(points[some], points).masked_fill_(torch.from_numpy(~others), torch.inf)
        nearest = distances.topk(n_neighbours, dim=1, largest=False).indices.numpy()
        near[some] = np.take_along_axis(same, nearest, axis=1).mean(axis=1)
        expected[some] = (same & others).sum(axis=1) / others.sum(axis=1)
    return near, expected


def _head(model: nn.Module) -> nn.Module:
    declared: Any = getattr(model, "head_parameters", ())
    name = declared[0].rstrip(".") if declared else ""
    part = dict(model.named_modules()).get(name) if name else None
    if part is None:
        raise ArgumentError(
            f"{type(model).__name__} does not declare its head: head_parameters is {declared}; expected the name of a"
            " module followed by a dot, e.g. ('unembed.',)"
        )
    return part


def _check_vectors(vectors: Vectors, least: int) -> None:
    ours = vectors.ndim == 2 and vectors.shape[1] and vectors.dtype.kind == "f"
    if not ours or len(vectors) < least or not np.isfinite(vectors).all():
        raise ArgumentError(
            f"vectors {vectors.dtype} {list(vectors.shape)} have too few trials or values that are not finite; expected"
            f" finite floating-point values [trial, value] of at least {least} trials"
        )
