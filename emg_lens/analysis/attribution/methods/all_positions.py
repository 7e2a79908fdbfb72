"""Values of edges of all layers in one tensor, so that they can be multiplied through the layers.

In a model with stages, a layer has several attention modules, each on some of the positions.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.analysis.attribution.differentiation import checked_paths, record
from emg_lens.analysis.attribution.question import PerPlace, Question
from emg_lens.hooks.hook_points import PATTERN, Place, StageLayer, layer_of


def attention_weights(question: Question, x: Tensor) -> dict[Place, Float[Tensor, "trial head dest src"]]:
    """Run the model on some trials and return its attention weights."""
    recorded = record(question, x)
    return {place: recorded[f"{path}.{PATTERN}"] for place, path in checked_paths(question).items()}


def assemble(question: Question, values: PerPlace) -> Float[Tensor, "trial layer head dest src"]:
    """Put values of edges into one tensor; edges that the model does not have get 0."""
    some = next(iter(values.values()))
    full = some.new_zeros(len(some), *question.candidates.shape)
    for place, own in values.items():
        where = _positions(question, place)
        full[:, layer_of(place), :, where, where] = own
    return full


def take_apart(
    question: Question, full: Float[Tensor, "trial layer head dest src"], values: PerPlace
) -> dict[Place, Float[Tensor, "trial head dest src"]]:
    """Return the part of each place in `values`: the inverse of `assemble`."""
    where = {place: _positions(question, place) for place in values}
    return {place: full[:, layer_of(place), :, own, own] for place, own in where.items()}


def readout_share(
    question: Question, mixing: Float[Tensor, "trial layer dest src"]
) -> Float[Tensor, "trial layer_or_end pos"]:
    """Multiply the mixing matrices of the layers from the readout backwards.

    The readout is the mean over its positions. Row l holds the share of each position of the output of layer l - 1.
    """
    share = mixing.new_zeros(len(mixing), mixing.shape[-1])
    share[:, question.readout] = 1 / len(question.readout)
    shares = [share]
    for layer in reversed(range(mixing.shape[1])):
        shares.append(torch.einsum("bi,bij->bj", shares[-1], mixing[:, layer]))
    return torch.stack(shares[::-1], 1)


def _positions(question: Question, place: Place) -> slice:
    if not isinstance(place, StageLayer):
        return slice(None)
    own = question.layout.stage(place.stage).positions
    return slice(own.start, own.stop)
