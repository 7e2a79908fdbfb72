"""Attribution at the paper's size: 48 channels and CLS, 5 layers, 8 heads, 32 trials, one core.

`python tests/bench/attribution.py [--edges N] [--all] [--trials N]` prints a table: seconds of `shared_gates` over all
head edges next to the time of its forwards and backwards alone, and seconds of single cuts of channel edges, layer by
layer, next to the verified loop. By default N edges of each layer are cut, and the time of all edges is extrapolated;
`--all` cuts all of them. Every row runs in a fresh process, so that its peak memory (resident set, Linux) is its own.
On a machine that others use too, read CPU seconds, next to the speed of a matrix product in the same process.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from emg_lens.analysis import attribute
from emg_lens.analysis.attribution.edge_groups import group_edges
from emg_lens.hooks import edges_from_mask, self_edges
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps import Condition, sweep
from emg_lens.sweeps.live_edges import reach
from emg_lens.sweeps.target import target_of

EAP_IG_PASSES = 30
"""Default number of passes of EAP-IG (hannamw/EAP-IG, `ig_steps`)."""


def paper_model() -> IsoNet:
    """Make IsoNet at the paper's size."""
    torch.manual_seed(0)
    return IsoNet(IsoNetConfig({"emg": 16, "acc": 32}, n_samples=100, n_classes=17)).eval()


def channel_edges(model: IsoNet, layer: int) -> list[np.ndarray]:
    """Return the masks of all live channel edges of a layer, without self-edges."""
    cfg, target = model.cfg, target_of(model)
    shape = (cfg.n_layers, cfg.n_heads, cfg.n_ctx, cfg.n_ctx)
    rows = reach(torch.zeros(shape, dtype=torch.bool), target.readout).live_rows[:, None, :, None].numpy()
    candidates = rows & ~self_edges().mask(model.layout, *shape[:2]).numpy()
    groups = group_edges("channel", candidates, model.layout)
    return [groups.index == i for i in np.flatnonzero(groups.table["layer"] == layer)]


def clock(run: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and CPU seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def product_rate(rows: int, d_model: int) -> float:
    """Return GFLOP per CPU second of the product for queries, keys and values: the speed of the machine right now."""
    a, b = torch.randn(rows, d_model), torch.randn(d_model, 3 * d_model)
    a @ b
    return 40 * 6 * rows * d_model**2 / 1e9 / clock(lambda: [a @ b for _ in range(40)])[1]


def shared_gates(model: IsoNet, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Time `shared_gates` over all head edges, and its forwards and backwards without attribution."""

    def plain() -> None:
        for _ in range(8):
            leaf = x.clone().requires_grad_()
            model(leaf).sum().backward()

    plain()
    wall, cpu = clock(plain)
    found = {}
    seconds = clock(lambda: found.update(result=attribute(model, x, y, method="shared_gates", by="head")))
    n = len(found["result"].table)
    return {"edges": n, "run": n, "wall": seconds[0], "cpu": seconds[1], "other_wall": wall, "other_cpu": cpu}


def single_cuts(model: IsoNet, x: torch.Tensor, layer: int, n_edges: int) -> dict[str, float]:
    """Time single cuts of some channel edges of a layer by `sweep`, and of three of them in the verified loop."""
    masks = channel_edges(model, layer)
    chosen = np.sort(np.random.default_rng(0).choice(len(masks), min(n_edges, len(masks)), replace=False))
    cuts = [Condition(f"cut {i}", edges_from_mask(masks[i])) for i in chosen]
    none_cut, all_cut = (lambda: sweep(model, x, []), lambda: sweep(model, x, cuts))
    none_cut()
    base, some = clock(none_cut), clock(all_cut)
    loop = clock(lambda: sweep(model, x, cuts[:3], executor="loop"))
    scale = len(masks) / len(cuts)
    wall, cpu = ((some[i] - base[i]) * scale for i in (0, 1))  # thousands of cuts share one uncut run
    loops = [seconds / 4 * len(masks) for seconds in loop]
    return {
        "edges": len(masks),
        "run": len(cuts),
        "wall": wall,
        "cpu": cpu,
        "other_wall": loops[0],
        "other_cpu": loops[1],
    }


def all_cuts(model: IsoNet, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Time method `cut` over all channel edges."""
    found = {}
    seconds = clock(lambda: found.update(result=attribute(model, x, y, method="cut", by="channel")))
    n = len(found["result"].table)
    return {"edges": n, "run": n, "wall": seconds[0], "cpu": seconds[1]}


def measure(part: str, n_edges: int, trials: int) -> dict[str, float]:
    """Run one part in this process."""
    torch.set_num_threads(1)
    model = paper_model()
    x, y = model.example_input(trials), torch.arange(trials) % model.cfg.n_classes
    if part == "gates":
        found = shared_gates(model, x, y)
    elif part == "all":
        found = all_cuts(model, x, y)
    else:
        found = single_cuts(model, x, int(part), n_edges)
    rate = product_rate(trials * model.cfg.n_ctx, model.cfg.d_model)
    return found | {"rate": rate, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_a_process(part: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one part in a fresh process."""
    command = [sys.executable, __file__, "--part", part, "--edges", str(options.edges), "--trials", str(options.trials)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, default=64, help="channel edges of each layer that are cut")
    parser.add_argument("--all", action="store_true", help="cut all channel edges")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--part", help="run one part here and print JSON: gates, all, or a layer")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measure(options.part, options.edges, options.trials)))  # noqa: T201
        return
    layers = [] if options.all else [str(layer) for layer in range(paper_model().cfg.n_layers)]
    found = {part: in_a_process(part, options) for part in ["gates", *layers, *(["all"] if options.all else [])]}
    if layers:
        found["sum"] = {key: sum(found[layer][key] for layer in layers) for key in found["0"]}
        found["sum"] |= {"peak": max(found[one]["peak"] for one in layers), "rate": found["sum"]["rate"] / len(layers)}
    names = {"gates": "shared_gates, all head edges", "all": "cut, all channel edges", "sum": "cut, all channel edges"}
    table = Table(title=f"Attribution at the paper's size, {options.trials} trials, one core")
    for column in (
        "what",
        "edges",
        "run",
        "wall s",
        "CPU s",
        "compared with",
        "its wall s, CPU s",
        "ratio of CPU",
        "GFLOP/s of products",
        "peak MiB",
    ):
        table.add_column(column, justify="right")
    for part, row in found.items():
        other = "" if "other_cpu" not in row else "8 plain forward + backward" if part == "gates" else "verified loop"
        their = f"{row['other_wall']:.1f}, {row['other_cpu']:.1f}" if other else ""
        ratio = f"{row['other_cpu'] / row['cpu']:.2f}" if other else ""
        name = names.get(part) or f"cut, L{int(part) + 1}"
        counts = f"{row['edges']:,.0f}", f"{row['run']:,.0f}"
        table.add_row(
            name,
            *counts,
            f"{row['wall']:.1f}",
            f"{row['cpu']:.1f}",
            other,
            their,
            ratio,
            f"{row['rate']:.0f}",
            f"{row['peak']:.0f}",
        )
    console = Console(width=140)
    console.print(table)
    console.print(f"EAP-IG makes {EAP_IG_PASSES} forward and backward passes by default; shared_gates makes 8.")


if __name__ == "__main__":
    main()
