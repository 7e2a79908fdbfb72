"""Random rounds: cuts in several threads, cuts after surgery on the model, and sweeps that are interrupted and resumed.

Each round is compared with a plain twin of the model, which adds -inf to its own scores inside the softmax. `make
fuzz-cuts` prints how many rounds were right, refused, crashed, or silently wrong.
"""

import copy
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from random import Random
from typing import Any

import torch
from plain_twins import HEADS, LAYERS, LAYOUT, SURGERY, WIDTH, Masks, Model, expected
from torch import Tensor, nn
from toy import RandomEdges

from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeSet, adapt, cutting
from emg_lens.sweeps import Condition, sweep


def random_edges(rng: Random, n_layers: int) -> tuple[EdgeSet, Masks]:
    """Return edges, and their masks from the set of edges that the words mean."""
    while True:
        edges, meant = RandomEdges(rng, LAYOUT, n_layers, HEADS).draw(2)
        if meant:
            mask = torch.zeros(n_layers, HEADS, len(LAYOUT), len(LAYOUT), dtype=torch.bool)
            mask[tuple(torch.tensor(sorted(meant)).T)] = True
            return edges, {layer: own for layer, own in enumerate(mask) if own.any()}


class Wrong(Exception):
    """A result differs from that of the twin."""


class Round:
    """A model and its twin.

    Attributes:
        changes: What was done to both.
        may_refuse: Whether an error of one line is a right answer from now on.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        fused, weights = rng.random() < 0.5, rng.randrange(1000)
        self.model = Model(fused, weights).eval()
        self.twin = copy.deepcopy(self.model)
        self.x = torch.randn(rng.randint(1, 5), len(LAYOUT), WIDTH, generator=torch.Generator().manual_seed(seed))
        self.changes: list[str] = []
        self.may_refuse = False

    def operate(self) -> str:
        name, seed = self.rng.choice([*SURGERY, *["nothing"] * 4]), self.rng.randrange(10**6)
        for model in (self.model, self.twin):
            torch.manual_seed(seed)
            SURGERY[name](model, Random(seed))
        self.changes.append(name)
        return name

    def compare(self, found: Tensor, masks: Masks) -> None:
        off = float((found - expected(self.twin, self.x, masks)).abs().nan_to_num(nan=torch.inf).max())
        if not off <= 1e-5:
            raise Wrong(f"off by {off:.2g}")

    def cut(self, adapted: nn.Module, *edges: EdgeSet) -> Tensor:
        """Run the model, or its adapted form, inside one context for each edge set."""
        with torch.no_grad(), ExitStack() as contexts:
            for own in edges:
                contexts.enter_context(cutting(adapted, own, LAYOUT))
            return (self.model if len(edges) % 2 else adapted)(self.x)


def in_threads(case: Round) -> None:
    """Run cuts, nested cuts and plain forwards at the same time, on a model that may not be tested yet."""
    adapted, start = adapt(case.model, case.x), threading.Barrier(4)
    if case.rng.random() < 0.5:
        case.cut(adapted, random_edges(case.rng, LAYERS)[0])
    sizes = (1, case.rng.choice([1, 2]), case.rng.choice([0, 1]), 0)
    jobs = [[random_edges(case.rng, LAYERS) for _ in range(size)] for size in sizes]

    def run(job: list[tuple[EdgeSet, Masks]]) -> list[Tensor]:
        start.wait()
        return [case.cut(adapted, *(edges for edges, _ in job)) for _ in range(2)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        results = [future.result() for future in [pool.submit(run, job) for job in jobs]]
    for outs, job in zip(results, jobs, strict=True):
        given = [masks for _, masks in job]
        union = {layer: torch.stack([m[layer] for m in given if layer in m]).any(0) for m in given for layer in m}
        for out in outs:
            case.compare(out, union)


def after_surgery(case: Round) -> None:
    """Cut, change the model, and cut again, with a new call of `adapt` or without."""
    adapted = adapt(case.model, case.x)
    edges, masks = random_edges(case.rng, LAYERS)
    case.compare(case.cut(adapted, edges), masks)
    for _ in range(case.rng.choice([1, 1, 2])):
        case.operate()
    again = case.rng.random() < 0.5
    case.may_refuse = "one layer twice" in case.changes or not (again or set(case.changes) == {"nothing"})
    case.compare(case.cut(adapted), {})
    if again:
        adapted = adapt(case.model, case.x)
    edges, masks = random_edges(case.rng, len(case.model.layers))
    case.compare(case.cut(adapted, edges), masks)
    case.compare(case.cut(adapted), {})


def after_a_stop(case: Round) -> None:
    """Stop a sweep, change the model or the input, and resume the sweep."""
    cuts = {f"c{number}": random_edges(case.rng, LAYERS) for number in range(case.rng.randint(1, 4))}
    conditions = [Condition(name, edges) for name, (edges, _) in cuts.items()]
    last, size = case.rng.random(), case.rng.choice([None, 1, 2, 3])

    def stop(fraction: float) -> None:
        if fraction >= last:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"layout": LAYOUT, "batch_size": size, "checkpoint": f"{folder}/sweep.safetensors"}
        with suppress(KeyboardInterrupt):
            sweep(adapt(case.model, case.x), case.x, conditions, on_progress=stop, **options)
        if case.rng.random() < 0.3:
            case.x = case.x.flip(0) * 1.1
            case.changes.append("the input")
        case.may_refuse = case.operate() != "nothing" or "the input" in case.changes
        result = sweep(adapt(case.model, case.x), case.x, conditions, **options)
    for name, masks in {"baseline": {}, **{name: masks for name, (_, masks) in cuts.items()}}.items():
        case.compare(result.logits[name], masks)


SITUATIONS = (in_threads, after_surgery, after_a_stop)


def judge(seed: int) -> tuple[str, str, str]:
    """Return the situation of a round, its outcome, and details."""
    happens, case, detail = SITUATIONS[seed % len(SITUATIONS)], Round(seed), ""
    try:
        happens(case)
        outcome = "right"
    except Wrong as error:
        outcome, detail = "silently wrong", str(error)
    except EmgLensError as error:
        outcome, detail = "refused" if case.may_refuse else "falsely refused", str(error)
    except Exception as error:  # noqa: BLE001 - a crash is an outcome
        outcome, detail = "crashed", f"{type(error).__name__}: {error}"
    return happens.__name__, outcome, f"{', '.join(case.changes)}: {detail}"


if __name__ == "__main__":
    sys.setswitchinterval(1e-5)  # threads meet in the middle of a change
    first, counted = int([*sys.argv, "0"][2]), Counter()
    for seed in range(first, first + int(sys.argv[1])):
        situation, outcome, detail = judge(seed)
        counted[situation, outcome] += 1
        if outcome not in ("right", "refused"):
            sys.stdout.write(f"{seed}: {situation}: {outcome}: {detail}\n")
    sys.stdout.write("\n".join(f"{situation:15} {n} {outcome}" for (situation, outcome), n in sorted(counted.items())))
    sys.stdout.write("\n")
    sys.exit(any(outcome not in ("right", "refused") for _, outcome in counted))
