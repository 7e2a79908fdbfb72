"""Weights of compiled encoders: a planned circuit, and random weights that read the circuit but never write to it.

Every feature f is stored twice, as +f and -f in the two halves of the residual stream, so the mean that LayerNorm
subtracts is 0. With a very large `eps` and the gain √eps, LayerNorm changes nothing, before or after a sub-layer. The
random heads and neurons read the whole residual stream and write to their own part of it (*junk*). No wire and no
neuron of the circuit reads this part, so cutting an edge outside the circuit cannot change what the circuit computes.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.analysis.ground_truth.circuit_plans import WIRE_HEADS, Plan, Wire, signal_of
from emg_lens.lens.config import EncoderConfig, Norm
from emg_lens.models.attention import Attention
from emg_lens.models.components import MLP
from emg_lens.models.encoder import HookedBiosignalEncoder

EPS = 1e8
N_HEADS, D_MLP, N_SAMPLES = 4, 128, 20
SMALLEST_WIDTH, SMALLEST_JUNK = 128, 32
OTHER_SCORE = -20.0
"""Score of the edges of a wire head that are neither a wire nor a self-edge: attention about 1e-9."""
SIGNAL_SCORES, POSITION_SCORES = 0.7, 1.25
"""Scales of what random queries and keys read. Scores then depend more on positions than on signals, and many random
edges have more attention than a wire, also on average over trials."""
JUNK_GAIN, CIRCUIT_READ = 0.5, 0.1
"""Scale of what random heads and neurons write, and of what they read from the circuit, whose features are larger."""


def compiled_config(plan: Plan, modalities: Mapping[str, int], n_layers: int, norm: Norm) -> EncoderConfig:
    """Choose a width that holds positions, features and junk, and lets a head address every position."""
    n_tokens = 1 + sum(modalities.values())
    width = max(SMALLEST_WIDTH, N_HEADS * n_tokens, 2 * (n_tokens + len(plan.features) + SMALLEST_JUNK))
    return EncoderConfig(
        dict(modalities), n_samples=N_SAMPLES, n_classes=2, d_model=-(-width // 8) * 8, n_heads=N_HEADS,
        n_layers=n_layers, d_mlp=D_MLP, norm=norm, act_fn="relu", eps=EPS,
    )  # fmt: skip


class CompiledWeights:
    """Writes the weights of one plan into a model.

    Args:
        plan: The circuit.
        model: The model; all its weights are replaced.
        rng: Random numbers of the random weights.
    """

    def __init__(self, plan: Plan, model: HookedBiosignalEncoder, rng: np.random.Generator) -> None:
        self.plan, self.model, self.cfg, self.rng = plan, model, model.cfg, rng
        n_tokens = model.cfg.n_ctx
        self.half = model.cfg.d_model // 2
        self.place = {name: n_tokens + k for k, name in enumerate(plan.features)}
        self.junk = slice(n_tokens + len(plan.features), self.half)
        self.n_junk = self.junk.stop - self.junk.start
        self.junk_gain = JUNK_GAIN * math.sqrt(3 / model.cfg.n_layers)

    @torch.no_grad()
    def write(self, templates: Float[Tensor, "channel time"]) -> None:
        """Write all weights; the bit of a channel is its signal's product with its template."""
        for name, weight in self.model.named_parameters():
            weight.fill_(math.sqrt(EPS) if name.endswith((".ln1.w", ".ln2.w", "ln_final.w")) else 0.0)
        self._embedding(templates)
        for layer, block in enumerate(self.model.blocks):
            self._attention(block.attn, layer)  # pyright: ignore
            self._mlp(block.mlp, layer)  # pyright: ignore
        unembed = self.model.unembed
        for name, weight in self.plan.readout.items():
            unembed.W_U[self.place[name]] = weight * torch.tensor([-1.0, 1.0])
        unembed.b_U.copy_(self.plan.bias * torch.tensor([-1.0, 1.0]))

    @torch.no_grad()
    def add_leak(self, x: Float[Tensor, "trial channel time"], deviation: float) -> None:
        """Let the logits read a random direction of the junk, which adds `deviation` to the margins of these trials."""
        read = torch.zeros(self.cfg.d_model)
        read[self.junk] = self._random(self.n_junk)
        leak = self.model(x, stop_at_layer=self.cfg.n_layers)[:, 0] @ read
        scale = torch.tensor([-0.5, 0.5]) * deviation / leak.std()
        self.model.unembed.W_U += read[:, None] * scale
        self.model.unembed.b_U -= leak.mean() * scale

    def _random(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.as_tensor(self.rng.normal(scale=scale, size=shape), dtype=torch.float32)

    def _paired(self, half: Float[Tensor, "*rows half"]) -> Float[Tensor, "*rows d_model"]:
        return torch.cat([half, -half], dim=-1)

    def _junk_rows(self, *shape: int, scale: float) -> Float[Tensor, "*rows d_model"]:
        """Make random vectors that write junk only."""
        half = torch.zeros(*shape, self.half)
        half[..., self.junk] = self._random(*shape, self.n_junk, scale=scale)
        return self._paired(half)

    def _random_reads(self, n: int, scale: float = 1.0) -> Float[Tensor, "d_model n"]:
        """Make random vectors that read the whole residual stream."""
        read = self._random(self.cfg.d_model, n, scale=scale / math.sqrt(self.cfg.d_model))
        for place in self.place.values():
            read[[place, self.half + place]] *= CIRCUIT_READ
        return read

    def _unit(self, name: str) -> Float[Tensor, " d_model"]:
        """Return the vector that writes 1 to a feature."""
        half = torch.zeros(self.half)
        half[self.place[name]] = 1.0
        return self._paired(half)

    def _embedding(self, templates: Float[Tensor, "channel time"]) -> None:
        embed, n_tokens = self.model.embed, self.cfg.n_ctx
        assert embed.cls is not None
        embed.W_E.copy_(self._junk_rows(*embed.W_E.shape[:2], scale=0.7 / math.sqrt(N_SAMPLES)))
        for position in self.plan.carriers:
            template = templates[position - 1]
            embed.W_E[position - 1] += torch.outer(template / template.square().sum(), self._unit(signal_of(position)))
        embed.cls.copy_(self._junk_rows(scale=0.7))
        positions = torch.zeros(n_tokens, self.half)
        positions[:, :n_tokens] = torch.eye(n_tokens)
        self.model.pos_embed.W_pos.copy_(self._paired(positions))

    def _attention(self, attention: Attention, layer: int) -> None:
        wires = [wire for wire in self.plan.wires if wire.layer == layer]
        for head in range(WIRE_HEADS):
            self._wire_head(attention, head, [wire for wire in wires if wire.head == head])
        d_head = self.cfg.d_head
        for head in range(WIRE_HEADS, N_HEADS):
            for weight in (attention.W_Q, attention.W_K):
                weight[head] = self._random_reads(d_head, SIGNAL_SCORES)
                weight[head, : self.cfg.n_ctx] = self._random(self.cfg.n_ctx, d_head, scale=POSITION_SCORES)
            attention.W_V[head] = self._random_reads(d_head)
            attention.W_O[head] = self._junk_rows(d_head, scale=self.junk_gain / math.sqrt(d_head))

    def _wire_head(self, attention: Attention, head: int, wires: list[Wire]) -> None:
        """Set the score of every edge of a head by position, and one value per wire."""
        n_tokens = self.cfg.n_ctx
        scores = OTHER_SCORE * (1 - torch.eye(n_tokens))
        for wire in wires:
            scores[wire.dest, wire.src] = wire.score
        attention.W_Q[head, :n_tokens, :n_tokens] = scores * math.sqrt(self.cfg.d_head)
        attention.W_K[head, :n_tokens, :n_tokens] = torch.eye(n_tokens)
        for column, wire in enumerate(wires):
            attention.W_V[head, self.place[wire.read], column] = 1.0
            attention.W_O[head, column] = wire.gain * self._unit(wire.write)

    def _mlp(self, mlp: MLP, layer: int) -> None:
        mlp.W_in.copy_(self._random_reads(D_MLP))
        mlp.W_out.copy_(self._junk_rows(D_MLP, scale=self.junk_gain / math.sqrt(D_MLP)))
        for index, neuron in enumerate(one for one in self.plan.neurons if one.layer == layer):
            mlp.W_in[:, index] = 0.0
            for name, weight in neuron.reads.items():
                mlp.W_in[self.place[name], index] = weight
            mlp.b_in[index] = neuron.bias
            mlp.W_out[index] = neuron.gain * self._unit(neuron.write)
