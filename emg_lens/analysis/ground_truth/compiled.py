"""Compiled encoders: models with weights set by hand, whose decision runs through known attention edges."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt
from torch import Tensor

from emg_lens.analysis.ground_truth.circuit_plans import DESCRIPTIONS, PLANS, Places, Plan, Wire, edge_mask
from emg_lens.analysis.ground_truth.compiled_weights import N_HEADS, N_SAMPLES, CompiledWeights, compiled_config
from emg_lens.hooks import EdgeSet, edges_from_mask, none
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import Norm
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.validation import ArgumentError, checked

CircuitVariant = Literal["single", "xor", "distractor", "saturated", "backup", "renorm", "standby", "negative"]
Tier = Literal["clean", "leaky"]
DEFAULT_MODALITIES = {"emg": 7, "acc": 3}
LEAST_CHANNELS = 4
LEAK = 0.1
"""Standard deviation of what junk adds to a margin in the leaky tier: 5 % of the margin of 2."""


@dataclass(frozen=True, eq=False)
class CompiledTask:
    """A model with a known circuit, and trials that it classifies without error.

    Self-edges are never part of a circuit: they keep every row of attention non-empty, so give them as the floor.

    Attributes:
        variant: Name of the circuit.
        description: What the circuit does, in one sentence.
        model: The encoder, in evaluation mode. Its classes are 0 and 1.
        x: Trials `[trial, channel, time]`.
        y: Labels `[trial]`; both classes are equally frequent.
        truth: The edges that carry the decision.
        negative: Edges that lower the margin; `none()` if there are none.
        routes: The minimal edge sets that each keep the decision when all other edges, except self-edges, are cut.
    """

    variant: CircuitVariant
    description: str
    model: HookedBiosignalEncoder
    x: Float[Tensor, "trial channel time"]
    y: Int[Tensor, " trial"]
    truth: EdgeSet
    negative: EdgeSet
    routes: tuple[EdgeSet, ...]

    @property
    def layout(self) -> TokenLayout:
        """Meaning of the token positions."""
        return self.model.layout


@checked
def compiled_encoder(
    variant: CircuitVariant,
    seed: NonNegativeInt = 0,
    norm: Norm = "post",
    *,
    tier: Tier = "leaky",
    modalities: Mapping[str, int] | None = None,
    n_layers: Annotated[int, Field(ge=3)] = 3,
    n_trials: Annotated[int, Field(ge=4, multiple_of=4)] = 64,
) -> CompiledTask:
    """Build an encoder whose decision runs through known attention edges, to test attribution methods on.

    The edges of the circuit have ordinary attention weights. Half of the heads and most neurons are random: they read
    everything, carry most of the attention, and do not influence the circuit. The margin (logit of the label minus the
    other logit) is about 2.

    The variants:

    * `"single"`: one chain of two edges, from a channel through another channel to CLS;
    * `"xor"`: two chains with one bit each; the label is whether the bits are equal;
    * `"distractor"`: one chain, and edges with more attention and larger values that nothing reads;
    * `"saturated"`: one chain of edges with attention 1 - 1e-6, so score gradients vanish;
    * `"backup"`: two chains, each of which is enough;
    * `"renorm"`: two chains that end in one row of one head, so cutting one edge moves attention to the other;
    * `"standby"`: two chains; the second has an effect only while the first carries nothing;
    * `"negative"`: one chain, and an edge that lowers the margin.

    Args:
        variant: The circuit.
        seed: Seed of the place of the circuit, of the random weights and of the trials.
        norm: `"post"` or `"pre"`. Both have the same weights, and the same logits up to rounding.
        tier: `"clean"` = edges outside the circuit have no effect on the logits. `"leaky"` = the logits also read the
            random heads and neurons, which adds 5 % of the margin, so other edges have small effects.
        modalities: Channels of each modality, at least 4 in total; default 7 EMG and 3 accelerometer channels.
        n_layers: Number of layers.
        n_trials: Number of trials, a multiple of 4.

    Returns:
        The model, its trials, and its true edges.

    Raises:
        ArgumentError: An unknown variant, fewer than 4 channels, or another argument outside its range.

    Example:
        >>> from emg_lens.analysis.ground_truth.compiled import compiled_encoder
        >>> task = compiled_encoder("backup", seed=1)
        >>> task.description
        'Two chains carry the same label, and a clipped sum makes each of them enough.'
        >>> bool((task.model(task.x).argmax(1) == task.y).all())
        True
        >>> layer, head, dest, src = task.routes[0].mask(task.layout, n_layers=3, n_heads=4).nonzero().T
        >>> [(task.layout.names[i], task.layout.names[j]) for i, j in zip(dest, src)]  # (dest, src): dest reads src
        [('emg.4', 'acc.1'), ('cls', 'emg.4')]
    """
    modalities = DEFAULT_MODALITIES if modalities is None else modalities
    n_channels = sum(modalities.values())
    if n_channels < LEAST_CHANNELS:
        raise ArgumentError(f"modalities={dict(modalities)}; expected at least {LEAST_CHANNELS} channels in total")
    rng = np.random.default_rng(seed)
    plan = PLANS[variant](Places(n_layers, 1 + n_channels, rng))
    with torch.random.fork_rng(devices=[]):  # the weights are replaced; the caller's random numbers stay as they are
        model = HookedBiosignalEncoder(compiled_config(plan, modalities, n_layers, norm)).eval()
    templates = _unit_rows(rng.normal(size=(n_channels, N_SAMPLES))) * np.sqrt(N_SAMPLES)
    x, y = _trials(plan, templates, n_trials, rng)
    weights = CompiledWeights(plan, model, rng)
    weights.write(torch.as_tensor(templates, dtype=torch.float32))
    if tier == "leaky":
        weights.add_leak(x, LEAK)

    def edges(wires: tuple[Wire, ...]) -> EdgeSet:
        return edges_from_mask(edge_mask(wires, n_layers, N_HEADS, 1 + n_channels)) if wires else none()

    return CompiledTask(
        variant, DESCRIPTIONS[variant], model, x, y, truth=edges(sum(plan.routes, ())), negative=edges(plan.negative),
        routes=tuple(edges(wires) for wires in plan.sufficient),
    )  # fmt: skip


def _trials(
    plan: Plan, templates: np.ndarray, n_trials: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "trial channel time"], Int[Tensor, " trial"]]:
    """Make trials: the bit of each channel times its template, plus noise that is orthogonal to the template."""
    number = rng.permutation(n_trials)
    shared = np.stack([number % 2, number // 2 % 2], axis=1)  # all four pairs of bits are equally frequent
    bits = rng.integers(2, size=(n_trials, len(templates)))
    for position, index in plan.carriers.items():
        bits[:, position - 1] = shared[:, index]
    noise = rng.normal(size=(n_trials, *templates.shape))
    directions = _unit_rows(templates)
    noise -= (noise * directions).sum(-1, keepdims=True) * directions
    x = (2 * bits - 1)[:, :, None] * templates + noise
    y = shared[:, 0] == shared[:, 1] if plan.compares_bits else shared[:, 0]
    return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.int64)


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
