"""Plans of the circuits of compiled encoders: which edges transmit a bit, and how the bits become a decision.

A *wire* is an attention edge that copies one feature of its source into another feature of its destination. A *route*
is a chain of two wires: from a channel through another channel to CLS. Neurons at CLS combine the features that arrive.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

CLS_POSITION = 0
WIRE_HEADS = 2
"""Heads of each layer that hold wires; the other heads are random."""
ATTENTION = 0.25
"""Attention weight of a wire, small enough that its size does not reveal the wire."""
SATURATED_ATTENTION = 1 - 1e-6
LEADER_ODDS, SECOND_ODDS = 200.0, 20.0
"""exp(score) of two wires in one row, relative to the self-edge: attention .905 and .090, and .952 for the second wire
without the first."""
DECOY_ATTENTION, DECOY_GAIN, MOST_DECOYS = 0.95, 3.0, 6
CLIP_GAIN = 1.2
"""A clipped sum is this much beyond the limit with one route alone, so its gradient is 0."""
DEAD_ZONE = 0.05
"""|sum| below this counts as 0, so that rounding of a sum of 0 has no gradient."""


@dataclass(frozen=True)
class Wire:
    """An attention edge that copies the feature `read` of src, multiplied by `gain`, into the feature `write` of dest.

    `score` is its attention score; the self-edge of the row has the score 0.
    """

    layer: int
    head: int
    dest: int
    src: int
    read: str
    write: str
    score: float
    gain: float


@dataclass(frozen=True)
class Neuron:
    """A ReLU neuron: `write` += `gain` * relu(sum of weight * feature + bias)."""

    layer: int
    reads: dict[str, float]
    bias: float
    write: str
    gain: float


@dataclass(frozen=True)
class Plan:
    """A circuit: wires, neurons, and the readout of CLS; the logits are minus and plus (readout + bias).

    `carriers` gives, for each channel with a known bit, the index of the bit of the trial (0 or 1). The label is bit 0,
    or whether the two bits are equal (`compares_bits`).
    """

    carriers: dict[int, int]
    routes: tuple[tuple[Wire, ...], ...]
    readout: dict[str, float]
    bias: float = 0.0
    neurons: tuple[Neuron, ...] = ()
    negative: tuple[Wire, ...] = ()
    decoys: tuple[Wire, ...] = ()
    compares_bits: bool = False
    routes_together: bool = False
    """Whether the decision needs all routes, not any one of them."""

    @property
    def sufficient(self) -> tuple[tuple[Wire, ...], ...]:
        """The smallest sets of wires that keep the decision."""
        return (sum(self.routes, ()),) if self.routes_together else self.routes

    @property
    def wires(self) -> tuple[Wire, ...]:
        """All wires, with those that only lower the margin or have no reader."""
        return (*sum(self.routes, ()), *self.negative, *self.decoys)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of all features that the circuit reads or writes, each once."""
        wires = [name for wire in self.wires for name in (wire.read, wire.write)]
        return tuple(dict.fromkeys([*wires, *(name for one in self.neurons for name in (*one.reads, one.write))]))


@dataclass
class Places:
    """Random places in a model: `channels` (token positions) and `heads` in random order, and pairs of layers."""

    n_layers: int
    n_tokens: int
    rng: np.random.Generator
    channels: list[int] = field(init=False)
    heads: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.channels = (1 + self.rng.permutation(self.n_tokens - 1)).tolist()
        self.heads = self.rng.permutation(WIRE_HEADS).tolist()

    def route(self, number: int, before: int | None = None, attention: float = ATTENTION) -> tuple[Wire, Wire]:
        """Plan route 0 or 1 in two random layers, all before the layer `before`."""
        first, second = np.sort(self.rng.choice(before or self.n_layers, 2, replace=False)).tolist()
        src, via = self.channels[2 * number : 2 * number + 2]
        head, middle = self.heads[number], f"middle {number}"
        return (
            _wire(first, head, via, src, signal_of(src), middle, attention),
            _wire(second, head, CLS_POSITION, via, middle, f"route {number}", attention),
        )

    def carriers(self, *bits: int) -> dict[int, int]:
        """Give the sources of the first routes these bits."""
        return {self.channels[2 * number]: bit for number, bit in enumerate(bits)}

    @property
    def last(self) -> int:
        """The last layer."""
        return self.n_layers - 1


def signal_of(position: int) -> str:
    """Return the name of the feature that holds the bit of a channel."""
    return f"signal {position}"


def _wire(layer: int, head: int, dest: int, src: int, read: str, write: str, attention: float) -> Wire:
    return Wire(layer, head, dest, src, read, write, math.log(attention / (1 - attention)), 1 / attention)


def _clipped(layer: int, reads: dict[str, float], write: str) -> tuple[Neuron, Neuron]:
    """Plan neurons that write 1 + the weighted sum, clipped to [-1, 1]."""
    return Neuron(layer, reads, 1.0, write, 1.0), Neuron(layer, reads, -1.0, write, -1.0)


def _single(places: Places) -> Plan:
    return Plan(places.carriers(0), (places.route(0),), {"route 0": 1.0})


def _saturated(places: Places) -> Plan:
    return Plan(places.carriers(0), (places.route(0, attention=SATURATED_ATTENTION),), {"route 0": 1.0})


def _distractor(places: Places) -> Plan:
    plan = _single(places)
    used = {(wire.layer, wire.head, wire.dest) for wire in plan.wires}
    rows = [
        (layer, head, dest)
        for layer in range(places.n_layers)
        for head in range(WIRE_HEADS)
        for dest in range(1 if layer == places.last else places.n_tokens)
        if (layer, head, dest) not in used
    ]
    decoys = []
    for row in places.rng.permutation(len(rows))[:MOST_DECOYS]:
        layer, head, dest = rows[row]
        src = int(places.rng.choice([one for one in places.channels[2:] if one != dest]))
        wire = _wire(layer, head, dest, src, signal_of(src), "never read", DECOY_ATTENTION)
        decoys.append(replace(wire, gain=DECOY_GAIN))
    return replace(plan, carriers=plan.carriers | {wire.src: 0 for wire in decoys}, decoys=tuple(decoys))


def _negative(places: Places) -> Plan:
    src, layer = places.channels[2], int(places.rng.integers(places.n_layers))
    wire = _wire(layer, places.heads[1], CLS_POSITION, src, signal_of(src), "against", ATTENTION)
    readout = {"route 0": 1.5, "against": -0.5}
    return Plan(places.carriers(0, 0), (places.route(0),), readout, negative=(wire,))


def _xor(places: Places) -> Plan:
    neurons = tuple(
        Neuron(places.last, {"route 0": sign, "route 1": sign}, -DEAD_ZONE, "equal", 2 / (2 - DEAD_ZONE))
        for sign in (1.0, -1.0)
    )
    return Plan(
        places.carriers(0, 1), (places.route(0), places.route(1)), {"equal": 1.0}, -1.0, neurons,
        compares_bits=True, routes_together=True,
    )  # fmt: skip


def _backup(places: Places) -> Plan:
    neurons = _clipped(places.last, {"route 0": CLIP_GAIN, "route 1": CLIP_GAIN}, "decision")
    return Plan(places.carriers(0, 0), (places.route(0), places.route(1)), {"decision": 1.0}, -1.0, neurons)


def _renorm(places: Places) -> Plan:
    (lead_in, lead), (second_in, _) = places.route(0), places.route(1)
    layer = lead.layer
    second_in = replace(second_in, layer=int(places.rng.integers(layer)))
    lead = replace(lead, score=math.log(LEADER_ODDS), gain=1.0)
    second = replace(lead, src=second_in.dest, read=second_in.write, score=math.log(SECOND_ODDS))
    neurons = _clipped(places.last, {"route 0": CLIP_GAIN}, "decision")
    return Plan(places.carriers(0, 0), ((lead_in, lead), (second_in, second)), {"decision": 1.0}, -1.0, neurons)


def _standby(places: Places) -> Plan:
    early = places.last - 1
    size = [Neuron(early, {"route 0": sign}, 0.0, "size 0", 1.0) for sign in (1.0, -1.0)]
    gated = [
        Neuron(places.last, {"route 1": sign, "size 0": -2.0}, 0.0, "standby", sign) for sign in (1.0, -1.0)
    ]  # 0 while |route 0| is at least half of |route 1|
    neurons = (*_clipped(early, {"route 0": CLIP_GAIN}, "decision"), *size, *gated)
    routes = (places.route(0, before=places.last), places.route(1))
    return Plan(places.carriers(0, 0), routes, {"decision": 1.0, "standby": 1.0}, -1.0, neurons)


PLANS: dict[str, Callable[[Places], Plan]] = {
    "single": _single,
    "xor": _xor,
    "distractor": _distractor,
    "saturated": _saturated,
    "backup": _backup,
    "renorm": _renorm,
    "standby": _standby,
    "negative": _negative,
}
DESCRIPTIONS = {
    "single": "One chain of two edges carries the label: a channel is read by another channel, which CLS reads.",
    "xor": "Two chains carry one bit each, and the label is whether the two bits are equal.",
    "distractor": "One chain carries the label; other edges have more attention and larger values that nothing reads.",
    "saturated": "One chain carries the label over edges with attention 1 - 1e-6, so score gradients vanish.",
    "backup": "Two chains carry the same label, and a clipped sum makes each of them enough.",
    "renorm": "Two chains end in one row of one head; if the leading edge is cut, attention moves to the second.",
    "standby": "Two chains carry the same label, and a ReLU gate blocks the second while the first carries it.",
    "negative": "One chain carries the label, and one more edge into CLS lowers the margin.",
}


def edge_mask(wires: Sequence[Wire], n_layers: int, n_heads: int, n_tokens: int) -> np.ndarray:
    """Return a mask `[layer, head, dest, src]` that is True at the edges of the wires."""
    mask = np.zeros((n_layers, n_heads, n_tokens, n_tokens), bool)
    for wire in wires:
        mask[wire.layer, wire.head, wire.dest, wire.src] = True
    return mask
