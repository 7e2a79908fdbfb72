"""Trained encoders in which the decision must pass over one known edge."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt
from torch import Tensor

from emg_lens.data.batch import Batch
from emg_lens.hooks import EdgeSet, edge_dropout, edges_from_mask
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.training.fitting import fit
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import checked

MODALITIES = {"emg": 3, "acc": 3}
N_SAMPLES, N_LAYERS, N_HEADS = 16, 3, 2
N_TRAINING, N_TEST = 512, 256
NOISE = 0.5
"""Standard deviation of the noise; the templates have the standard deviation 1."""
RECIPE = TrainingRecipe(epochs=80, batch_size=64, lr=2e-3, schedule="cosine", warmup_epochs=5, anneal_epochs=0)


@dataclass(frozen=True, eq=False)
class TrainedTask:
    """A trained model whose decision must pass over one known channel edge.

    The label is whether the bits of emg.0 and acc.0 are equal. The other channels are decoys: their bits do not
    influence the label.

    Attributes:
        model: The encoder, in evaluation mode.
        x: Training trials `[trial, channel, time]`.
        y: Labels `[trial]` of the training trials, 0 or 1.
        x_test: Test trials `[trial, channel, time]`.
        y_test: Labels `[trial]` of the test trials.
        bridge: The edges from acc.0 to emg.0, in one layer: the only way by which both bits can meet.
        readout: The edges from emg.0 to CLS, in the last layer: the only way from there to the logits.
        decoys: All edges from decoy channels that the model has, except self-edges.
        accuracy: Accuracy for the test trials.
    """

    model: HookedBiosignalEncoder
    x: Float[Tensor, "trial channel time"]
    y: Int[Tensor, " trial"]
    x_test: Float[Tensor, "trial channel time"]
    y_test: Int[Tensor, " trial"]
    bridge: EdgeSet
    readout: EdgeSet
    decoys: EdgeSet
    accuracy: float

    @property
    def layout(self) -> TokenLayout:
        """Meaning of the token positions."""
        return self.model.layout


@checked
def trained_encoder(seed: NonNegativeInt = 0, *, dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5) -> TrainedTask:
    """Train an encoder whose decision must pass over one known edge, to test attribution methods on.

    A compiled encoder has no working LayerNorm and no learned weights; this one has both. Its truth is partial, by
    permanently masked edges: CLS cannot read acc.0, no other channel can read acc.0 or emg.0, and emg.0 can read acc.0
    only in one layer, the *bridge*. So the bridge and the readout of emg.0 are necessary. All edges from decoys are
    open, but no decoy carries information about the label. In training, all decoy edges are cut in half of the trials
    (`edge_dropout`), so that the model also works without them. Training takes about 5 seconds.

    Args:
        seed: Seed of the layer of the bridge, of the trials, of the weights and of training.
        dropout: Probability that a trial is without the decoy edges in training. With 0, the model never had such
            trials. The bridge and the readout alone then keep only 78 to 93 % of the range of the margin, and
            `find_circuit` adds decoys.

    Returns:
        The model, its trials, and its known edges.

    Example:
        >>> from emg_lens.analysis.ground_truth.trained import trained_encoder
        >>> task = trained_encoder(seed=0)
        >>> task.accuracy >= 0.98
        True
    """
    rng = np.random.default_rng(seed)
    layout = TokenLayout.channels(MODALITIES, cls=True)
    bridge, readout, decoys = known_edges(layout, layer=int(rng.integers(N_LAYERS - 1)))
    own = np.broadcast_to(np.eye(len(layout), dtype=bool), bridge.shape)
    masked = edges_from_mask(~(bridge | readout | decoys | own))
    config = EncoderConfig(
        MODALITIES, N_SAMPLES, n_classes=2, d_model=32, n_heads=N_HEADS, n_layers=N_LAYERS, d_mlp=64, norm="post",
        act_fn="relu", masked_edges=str(masked),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HookedBiosignalEncoder(config)
    x, y = _trials(rng)
    with edge_dropout(model, edges_from_mask(decoys), dropout) if dropout else nullcontext():
        fit(model, Batch(x[:N_TRAINING], y[:N_TRAINING]), RECIPE.model_copy(update={"seed": seed}))
    x_test, y_test = x[N_TRAINING:], y[N_TRAINING:]
    with torch.no_grad():
        accuracy = float((model(x_test).argmax(1) == y_test).double().mean())
    return TrainedTask(
        model, x[:N_TRAINING], y[:N_TRAINING], x_test, y_test, edges_from_mask(bridge), edges_from_mask(readout),
        edges_from_mask(decoys), accuracy,
    )  # fmt: skip


def known_edges(layout: TokenLayout, layer: int) -> tuple[Bool[np.ndarray, "layer head dest src"], ...]:
    """Return the bridge in this layer, the readout of emg.0, and all edges from decoys except self-edges."""
    shape = (N_LAYERS, N_HEADS, len(layout), len(layout))
    cls, emg, acc = (layout.names.index(name) for name in ("cls", "emg.0", "acc.0"))
    bridge, readout, decoys = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)
    bridge[layer, :, emg, acc] = True
    readout[-1, :, cls, emg] = True
    decoys[..., [i for i in range(len(layout)) if i not in (cls, emg, acc)]] = True
    return bridge, readout, decoys & ~np.eye(len(layout), dtype=bool)


def _trials(rng: np.random.Generator) -> tuple[Float[Tensor, "trial channel time"], Int[Tensor, " trial"]]:
    """Make trials: a random bit for each channel times its template, plus noise."""
    n_channels, n_trials = sum(MODALITIES.values()), N_TRAINING + N_TEST
    templates = rng.normal(size=(n_channels, N_SAMPLES))
    bits = rng.integers(2, size=(n_trials, n_channels))
    x = (2 * bits - 1)[:, :, None] * templates + NOISE * rng.normal(size=(n_trials, n_channels, N_SAMPLES))
    y = bits[:, 0] == bits[:, MODALITIES["emg"]]
    return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.int64)
