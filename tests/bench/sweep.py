"""The sweep engine against the naive loop and against the arithmetic it cannot avoid.

`python tests/bench/sweep.py [--part paper|scaling|small|stages|long] [--threads N] [--rounds N] [--trials N]` prints
tables.
What is compared runs interleaved in one process; times are medians. On a machine that others use too, read the
ratios, and those of CPU seconds (of all threads of the process) before those of wall time. Memory is the peak of a
fresh process each (Linux counts it), less what that process holds before the sweep; on a GPU it is torch's own peak.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait would be counted as work

import argparse
import copy
import gc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from flops import attention_flops, count
from rich.console import Console
from rich.table import Table

from emg_lens.hooks import cross_modal, every, positions, same_channel, same_patch, unimodal
from emg_lens.models import HookedBiosignalEncoder
from emg_lens.models.components import Block
from emg_lens.models.hierarchical import HierarchicalConfig, HierarchicalTransformer
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.models.tinymyo.config import TinyMyoConfig
from emg_lens.models.tinymyo.encoder import TinyMyo
from emg_lens.sweeps import Condition, SweepResult, head_masks, layer_masks, sweep
from emg_lens.sweeps.conditions import with_baseline
from emg_lens.sweeps.plan import SweepPlan, plan_sweep
from emg_lens.sweeps.settings import trials_near_the_caches
from emg_lens.sweeps.target import target_of

EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}
EXECUTORS = ("loop", "folded", "tree")
console = Console(width=120)

Seconds = tuple[float, float]
"""Wall time, CPU time of the process."""


class SomebodysBlock(Block):
    """The same arithmetic in a block that does not declare `folds`: a model of these takes the plain tree."""

    mixes_only_by_attention = True

    def forward(self, resid: torch.Tensor, n_dest: int | None = None) -> torch.Tensor:
        """As the base class."""
        return super().forward(resid, n_dest)


def for_executor(executor: str, model: HookedBiosignalEncoder) -> HookedBiosignalEncoder:
    """The model, changed so that `run_with` gets this executor."""
    for block in model.modules() if executor == "tree" else ():
        if type(block) is Block:
            block.__class__ = SomebodysBlock
    return model


def paper_model(device: str) -> IsoNet:
    """IsoNet at the paper's size: 48 channels and CLS."""
    torch.manual_seed(0)
    return IsoNet(IsoNetConfig({"emg": 12, "acc": 36}, n_samples=100, n_classes=17)).eval().to(device)


def small_model(device: str) -> IsoNet:
    """24 channels and CLS, width 64: small enough for thousands of conditions."""
    torch.manual_seed(0)
    config = IsoNetConfig({"emg": 12, "acc": 12}, n_samples=40, n_classes=17, d_model=64, d_mlp=64)
    return IsoNet(config).eval().to(device)


def run_with(executor: str, model: HookedBiosignalEncoder, x: torch.Tensor, conditions: list[Condition]) -> SweepResult:
    """The sweep, by what is to run; checked."""
    result = sweep(model, x, conditions, executor="tree" if executor == "folded" else executor)  # pyright: ignore
    if executor not in ("auto", result.executor):
        raise AssertionError(f"{result.executor} ran instead of {executor}")
    return result


def random_edges(n: int, model: IsoNet) -> list[Condition]:
    """Random rectangles of edges in random heads and layers: no two conditions alike."""
    rng, cfg = np.random.default_rng(0), model.cfg
    conditions = []
    for i in range(n):
        dest, src = (rng.choice(cfg.n_ctx, 6, replace=False) for _ in range(2))
        where = {"layers": int(rng.integers(cfg.n_layers)), "heads": int(rng.integers(cfg.n_heads))}
        conditions.append(Condition(f"random {i}", positions(dest=dest, src=src).at(**where)))
    return conditions


def clock(run: Callable[[], object], device: str) -> Seconds:
    """One run."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    gc.collect()
    synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleaved(runs: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, Seconds]:
    """Medians of wall and CPU time, after one round to warm up."""
    times: dict[str, list[Seconds]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            seconds = clock(run, device)
            if i:
                times[name].append(seconds)
    return {name: (median(t[0] for t in found), median(t[1] for t in found)) for name, found in times.items()}


def product(rows: int, d_model: int, device: str) -> tuple[Callable[[], None], int]:
    """Products of [rows, d] and [d, d] matrices for some tenths of a second, and their operations."""
    a, b = torch.randn(rows, d_model, device=device), torch.randn(d_model, d_model, device=device)
    repeats = max(1, int((3e10 if device == "cpu" else 1e13) / (2 * rows * d_model**2)))

    def run() -> None:
        for _ in range(repeats):
            a @ b

    return run, 2 * rows * d_model**2 * repeats


def mixing(model: HookedBiosignalEncoder, device: str) -> tuple[Callable[[], None], int]:
    """torch's fused attention of one block without a mask, some trials a call, and the trials of all calls.

    Its exponentials are no products: no sweep by this kernel reaches the bound of products alone.
    """
    cfg, n_trials, repeats = model.cfg, trials_near_the_caches(model.cfg.n_ctx) if device == "cpu" else 8, 20
    packed = torch.randn(n_trials, cfg.n_ctx, 3, cfg.n_heads, cfg.d_head, device=device)
    q, k, v = (t.transpose(1, 2) for t in packed.unbind(2))

    def run() -> None:
        for _ in range(repeats):
            F.scaled_dot_product_attention(q, k, v)

    return run, n_trials * repeats


def table_of(title: str, *columns: str) -> Table:
    """An empty table of numbers."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def planned(model: HookedBiosignalEncoder, conditions: list[Condition]) -> SweepPlan:
    """The plan that `sweep` makes."""
    return plan_sweep(target_of(model), with_baseline(conditions))


def paper(device: str, rounds: int, trials: int) -> None:
    """The 31 conditions of Table 3 at the paper's size."""
    models = {name: for_executor(name, paper_model(device)) for name in EXECUTORS}
    model, conditions = models["loop"], layer_masks(EDGES, 5)
    x, made = model.example_input(trials), planned(model, conditions)
    flops = count(model.cfg, made)
    # The products of a micro-batch and of the whole batch: the rate of the machine is the better of the two.
    products = {f"product of {n} rows": product(n, model.cfg.d_model, device) for n in (16 * 49, trials * 49)}
    runs: dict[str, Callable[[], object]] = {name: run for name, (run, _) in products.items()}
    for name in EXECUTORS:
        runs[name] = lambda name=name: run_with(name, models[name], x, conditions)
    times = interleaved(runs, rounds, device)
    wall_rate, cpu_rate = (max(n / times[name][i] for name, (_, n) in products.items()) for i in (0, 1))
    results = {name: run_with(name, models[name], x, conditions).logits for name in EXECUTORS}
    table = table_of(
        f"Paper size: {trials} trials, {len(made.of)} conditions, {len(made.distinct)} distinct,"
        f" nodes a layer {made.n_nodes}",
        "executor",
        "wall s",
        "CPU s",
        "loop / it (wall, CPU)",
        "of the bound (wall, CPU)",
        "max |Δ logit|",
        "peak MB",
    )
    for name in EXECUTORS:
        wall, cpu = times[name]
        ratio = f"{times['loop'][0] / wall:.2f}, {times['loop'][1] / cpu:.2f}"
        reached = f"{trials * flops.bound / wall_rate / wall:.2f}, {trials * flops.bound / cpu_rate / cpu:.2f}"
        error = max(float((results[name][c] - results["loop"][c]).abs().max()) for c in results["loop"])
        table.add_row(
            name,
            f"{wall:.2f}",
            f"{cpu:.2f}",
            ratio,
            reached,
            f"{error:.1e}",
            f"{peak('paper', name, device, trials):.0f}",
        )
    console.print(table)
    console.print(
        f"Operations a trial: loop {flops.loop / 1e9:.2f} G, bound {flops.bound / 1e9:.2f} G, ratio"
        f" {flops.loop / flops.bound:.2f}. Matrix products: {wall_rate / 1e9:.0f} GFLOP/s of wall time,"
        f" {cpu_rate / 1e9:.0f} of CPU time."
    )


def stages(device: str, rounds: int, trials: int) -> None:
    """The hierarchical transformer at the paper's size: unimodal edges in ten layers, cross-modal ones in five."""
    torch.manual_seed(0)
    config = HierarchicalConfig({"emg": 12, "acc": 36}, n_samples=1000, n_classes=17)
    model = HierarchicalTransformer(config).eval().to(device)
    theirs = for_executor("tree", copy.deepcopy(model))
    own = layer_masks({"cross_modal": cross_modal()}, 10)
    conditions = layer_masks({"unimodal": unimodal()}, 10) + [one for one in own if int(one.tags["layer"]) >= 5]
    x, some = model.example_input(trials), conditions[:: len(conditions) // 5]
    runs: dict[str, Callable[[], object]] = {
        "loop": lambda: run_with("loop", model, x, some),
        "folded": lambda: run_with("folded", model, x, conditions),
        "tree": lambda: run_with("tree", theirs, x, conditions),
        "plan": lambda: planned(model, conditions),
    }
    times = interleaved(runs, rounds, device)
    made = planned(model, conditions)
    table = table_of(
        f"Stages: {trials} trials, {len(model.layout)} tokens, {len(made.of)} conditions, nodes a layer"
        f" {made.n_nodes}; the loop on {len(some) + 1} of them",
        "executor",
        "wall s",
        "CPU s",
        "loop / it (wall, CPU)",
    )
    scale = len(made.of) / (len(some) + 1)
    loop = [seconds * scale for seconds in times["loop"]]
    for name, (wall, cpu) in times.items():
        wall, cpu = loop if name == "loop" else (wall, cpu)
        table.add_row(name, f"{wall:.2f}", f"{cpu:.2f}", f"{loop[0] / wall:.2f}, {loop[1] / cpu:.2f}")
    console.print(table)


def foundation_model(device: str) -> tuple[HookedBiosignalEncoder, list[Condition]]:
    """TinyMyo at the published size, 800 tokens, and three kinds of edges x three modes x eight layers."""
    torch.manual_seed(0)
    model = TinyMyo(TinyMyoConfig({"emg": 16}, n_samples=1000, n_classes=53, positions="rotary")).eval().to(device)
    edges = {
        "within_channel": same_channel(),
        "across_channels": every() - same_channel(),
        "same_patch": same_patch() - same_channel(),
    }
    return model, layer_masks(edges, model.cfg.n_layers)


def long(device: str, rounds: int, trials: int) -> None:
    """A foundation model of 800 tokens: the loop on some of the conditions, memory of the whole sweep."""
    model, conditions = foundation_model(device)
    theirs = for_executor("tree", foundation_model(device)[0])
    x, some, made = model.example_input(trials), conditions[:: len(conditions) // 4], planned(model, conditions)
    flops = count(model.cfg, made)
    product_run, operations = product(trials * len(model.layout), model.cfg.d_model, device)
    mixing_run, n_mixed = mixing(model, device)
    runs: dict[str, Callable[[], object]] = {
        "product": product_run,
        "mixing": mixing_run,
        "loop": lambda: run_with("loop", model, x, some),
        "folded": lambda: run_with("folded", model, x, conditions),
        "tree": lambda: run_with("tree", theirs, x, conditions),
    }
    times = interleaved(runs, rounds, device)
    rate = [operations / seconds for seconds in times.pop("product")]
    mixed = [trials * sum(made.n_nodes) * seconds / n_mixed for seconds in times.pop("mixing")]
    scale = (len(conditions) + 1) / (len(some) + 1)
    loop = [seconds * scale for seconds in times["loop"]]
    table = table_of(
        f"Long: {trials} trials, {len(model.layout)} tokens, {len(conditions)} conditions, nodes"
        f" a layer {made.n_nodes}; the loop on {len(some) + 1} of them",
        "executor",
        "wall s",
        "CPU s",
        "loop / it (wall, CPU)",
        "of the bound (wall, CPU)",
        "of that with torch's attention",
        "peak MB",
    )
    without = flops.bound - attention_flops(model.cfg, made)
    by_torch = [trials * without / r + m for r, m in zip(rate, mixed, strict=True)]
    bounds = [trials * flops.bound / r for r in rate], by_torch
    for name, (wall, cpu) in times.items():
        wall, cpu = loop if name == "loop" else (wall, cpu)
        reached = [", ".join(f"{b / t:.2f}" for b, t in zip(bound, (wall, cpu), strict=True)) for bound in bounds]
        held = "" if name == "loop" else f"{peak('long', name, device, trials):.0f}"
        table.add_row(name, f"{wall:.2f}", f"{cpu:.2f}", f"{loop[0] / wall:.2f}, {loop[1] / cpu:.2f}", *reached, held)
    console.print(table)
    console.print(
        f"Operations a trial: loop {flops.loop / 1e9:.0f} G, bound {flops.bound / 1e9:.0f} G, ratio"
        f" {flops.loop / flops.bound:.2f}. Matrix product: {rate[0] / 1e9:.0f} GFLOP/s of wall time."
    )


def family(name: str, device: str, executor: str = "folded") -> tuple[HookedBiosignalEncoder, list[Condition]]:
    """A model and the conditions of one row of the tables."""
    if name == "long":
        model, conditions = foundation_model(device)
        return for_executor(executor, model), conditions
    if name == "paper":
        return for_executor(executor, paper_model(device)), layer_masks(EDGES, 5)
    model = small_model(device)
    heads = head_masks(EDGES, 5, 8)
    families = {
        "31: layers": lambda: layer_masks(EDGES, 5),
        "110: layers and heads": lambda: layer_masks(EDGES, 5) + heads,
        "300: random edges": lambda: random_edges(300, model),
        "3000: random edges": lambda: random_edges(3000, model),
    }
    return for_executor(executor, model), families[name]()


def scaling(device: str, rounds: int, trials: int) -> None:
    """Time and memory a condition, from 31 conditions to 3,000."""
    names = ("31: layers", "110: layers and heads", "300: random edges", "3000: random edges")
    table = table_of(
        f"Scaling (small model, {trials} trials, folded)",
        "conditions",
        "distinct",
        "planner, ms each",
        "folded, ms each",
        "loop, ms each",
        "loop / folded",
        "peak MB",
    )
    for name in names:
        model, conditions = family(name, device)
        x, some = (
            model.example_input(trials),
            conditions[:: max(1, len(conditions) // 30)],
        )  # the loop: about 30 of them
        runs: dict[str, Callable[[], object]] = {
            "plan": lambda: planned(model, conditions),
            "folded": lambda: run_with("folded", model, x, conditions),
            "loop": lambda: run_with("loop", model, x, some),
        }
        times = interleaved(runs, 1 if len(conditions) > 1000 else rounds, device)
        each = {
            k: 1000 * v[1 if device == "cpu" else 0] / (len(some if k == "loop" else conditions) + 1)
            for k, v in times.items()
        }
        table.add_row(
            name, str(len(planned(model, conditions).distinct)), f"{each['plan']:.2f}", f"{each['folded']:.2f}",
            f"{each['loop']:.2f}", f"{each['loop'] / each['folded']:.1f}",
            f"{peak(name, 'folded', device, trials):.0f}",
        )  # fmt: skip
    console.print(table)


def small(device: str, rounds: int) -> None:
    """Few trials, where launches may cost more than arithmetic."""
    table = table_of("Few trials (31 conditions): ms", "model", "trials", *EXECUTORS, "auto", "auto chose")
    for label, make in (("paper", paper_model), ("small", small_model)):
        models = {name: for_executor(name, make(device)) for name in (*EXECUTORS, "auto")}
        for trials in (1, 4, 16):
            x, conditions = models["auto"].example_input(trials), layer_masks(EDGES, 5)
            runs = {name: lambda name=name: run_with(name, models[name], x, conditions) for name in models}
            times = interleaved(runs, rounds, device)
            chose = sweep(models["auto"], x, conditions).executor
            table.add_row(label, str(trials), *(f"{1000 * times[n][0]:.1f}" for n in runs), chose)
    console.print(table)


def peak(name: str, executor: str, device: str, trials: int) -> float:
    """Peak memory in MB of one sweep in a process of its own."""
    arguments = [
        "--peak",
        name,
        executor,
        "--device",
        device,
        "--trials",
        str(trials),
        "--threads",
        str(torch.get_num_threads()),
    ]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(name: str, executor: str, device: str, trials: int) -> None:
    """What the process started by `peak` does."""
    model, conditions = family(name, device, executor)
    run_with(executor, model, model.example_input(1), conditions[:2])  # libraries' own buffers
    x = model.example_input(trials)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = held("VmRSS")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run_with(executor, model, x, conditions)
    print(torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else held("VmHWM") - before)  # noqa: T201


def held(what: str) -> float:
    """MB of this process: `"VmRSS"` now, `"VmHWM"` at the peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Print the tables, on the CPU and, where there is one, on the GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["paper", "scaling", "small", "stages", "long"])
    parser.add_argument("--device", help="default: the CPU, then the GPU if there is one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--trials", type=int, help="default: 128 at the paper's size, 16 for scaling, 2 of stages, 8 of long"
    )
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print_peak(*options.peak, options.device, options.trials)
        return
    for device in [options.device] if options.device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        console.rule(f"{device}, {options.threads} threads, torch {torch.__version__}")
        if options.part in (None, "paper"):
            paper(device, options.rounds, options.trials or 128)
        if options.part in (None, "scaling"):
            scaling(device, options.rounds, options.trials or 16)
        if options.part in (None, "small"):
            small(device, options.rounds)
        if options.part in (None, "stages"):
            stages(device, options.rounds, options.trials or 2)
        if options.part in (None, "long"):
            long(device, options.rounds, options.trials or 8)


if __name__ == "__main__":
    main()
