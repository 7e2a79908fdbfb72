"""What a model's head reads of each trial: these vectors, a map of them in two dimensions, and their neighbours."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from emg_lens.validation import ArgumentError, checked

TRIALS_A_FORWARD = 128
MOST_COMPONENTS = 50
"""Of longer vectors, so many principal components are mapped (van der Maaten and Hinton 2008, §4.2: 30)."""

Vectors = Float[np.ndarray, "trial value"]


@checked
def readout_vectors(model: nn.Module, x: Float[Tensor, "trial channel time"]) -> Vectors:
    """What goes into the head of a model for each trial, side by side: of an IsoNet the final CLS vector.

    Args:
        model: A model that says what its head is (`head_parameters`); run in eval mode and left as it was.
        x: Standardised trials.

    Raises:
        ArgumentError: The model does not say what its head is, has none, or does not run it once in a forward.
    """
    head = _head(model)
    found: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: found.append(args[0].detach().flatten(1).cpu()))
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        with torch.inference_mode():
            for some in x.split(TRIALS_A_FORWARD):
                before = len(found)
                model(some.to(device))
                if len(found) != before + 1 or len(found[-1]) != len(some):
                    raise ArgumentError(
                        f"the head of {type(model).__name__} ran {len(found) - before} times in a forward of"
                        f" {len(some)} trials; expected once, with a row a trial"
                    )
    finally:
        hook.remove()
        model.train(was_training)
    return torch.cat(found).float().numpy()


@checked
def readout_map(
    vectors: Vectors, *, perplexity: PositiveFloat = 30.0, seed: NonNegativeInt = 0
) -> Float[np.ndarray, "trial 2"]:
    """t-SNE of vectors (van der Maaten and Hinton 2008), scikit-learn's: near ones stay near.

    Distances between far points, sizes and densities of clusters mean nothing; `neighbour_fractions` counts what does.

    Args:
        vectors: `readout_vectors`; of more than 50 values, their first 50 principal components are mapped.
        perplexity: About how many neighbours each has; a third of the trials less one at most.
        seed: Of the principal components' solver and of the descent.

    Raises:
        ArgumentError: Fewer than four trials, or values that are not finite.
    """
    from sklearn.decomposition import PCA  # a second of imports, which nobody waits for who maps nothing
    from sklearn.manifold import TSNE

    _check_vectors(vectors, 4)
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
    """How many of each trial's nearest trials have its label, and how many of all others do.

    Windows of a trial's own movement do not count, in neither: they are near because they overlap.

    Args:
        vectors: `readout_vectors`; near by Euclidean distance.
        labels: Of each trial: its class, whose it is.
        movement: What it was cut from; default, each is a movement of its own.
        n_neighbours: How many are looked at.

    Returns:
        The share among the nearest, and that among all trials of other movements, for each trial.

    Raises:
        ArgumentError: Fewer trials of other movements than neighbours, other numbers of labels, values not finite.
    """
    _check_vectors(vectors, 2)
    repetition_id = np.arange(len(vectors)) if repetition_id is None else repetition_id
    if len(labels) != len(vectors) or len(repetition_id) != len(vectors):
        raise ArgumentError(f"{len(labels)} labels and {len(repetition_id)} repetition ids for {len(vectors)} trials")
    _, of, counts = np.unique(repetition_id, return_inverse=True, return_counts=True)
    fewest = len(vectors) - int(counts.max())
    if fewest < n_neighbours:
        raise ArgumentError(f"n_neighbours={n_neighbours}, and a trial has {fewest} trials of other movements")
    every = torch.from_numpy(vectors).double()
    near, expected = np.empty(len(vectors)), np.empty(len(vectors))
    for first in range(0, len(vectors), TRIALS_A_FORWARD):
        some = slice(first, first + TRIALS_A_FORWARD)
        same: Bool[np.ndarray, "some trial"] = labels[some, None] == labels[None, :]
        others: Bool[np.ndarray, "some trial"] = of[some, None] != of[None, :]
        distances = torch.cdist(every[some], every).masked_fill_(torch.from_numpy(~others), torch.inf)
        nearest = distances.topk(n_neighbours, dim=1, largest=False).indices.numpy()
        near[some] = np.take_along_axis(same, nearest, axis=1).mean(axis=1)
        expected[some] = (same & others).sum(axis=1) / others.sum(axis=1)
    return near, expected


def _head(model: nn.Module) -> nn.Module:
    own: Any = getattr(model, "head_parameters", ())
    name = own[0].rstrip(".") if own else ""
    part = dict(model.named_modules()).get(name) if name else None
    if part is None:
        raise ArgumentError(
            f"{type(model).__name__} does not say what its head is: expected head_parameters that begin with the name"
            f" of a module and a dot, got {own}"
        )
    return part


def _check_vectors(vectors: Vectors, least: int) -> None:
    if len(vectors) < least or not np.isfinite(vectors).all():
        raise ArgumentError(f"vectors are {list(np.shape(vectors))}; expected finite values of {least} trials or more")
