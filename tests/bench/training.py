"""Fitting: the plain loop that anybody would write, `fit`, and `fit_cohort`, at the size the shipped studies use.

`python tests/bench/training.py [--device cuda] [--rounds N] [--subjects N] [--trials N] [--dropout P]` prints two
comparisons, each from interleaved runs in one process: medians of CPU time of this thread on one CPU thread, of wall
time on a GPU.
"""

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F

from emg_lens.data import Batch
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.training import TrainingRecipe, fit, fit_cohort
from emg_lens.training.objectives import anneal_weight

RECIPE = TrainingRecipe(
    epochs=1, batch_size=64, lr=1e-3, anneal_epochs=15, schedule="cosine", warmup_epochs=5, clip_norm=1.0
)


def plain(model: IsoNet, x: torch.Tensor, y: torch.Tensor, recipe: TrainingRecipe) -> None:
    """The same fit without thought for speed: torch's defaults, and a number read back after every step."""
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    order = torch.Generator().manual_seed(recipe.seed)
    model.train()
    for epoch in range(recipe.epochs):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * recipe.lr_factor(epoch)
        losses, hits = [], 0
        for batch in torch.randperm(len(x), generator=order).to(device).split(recipe.batch_size):
            cls_logits, mean_logits = model(x[batch], return_type="both")
            weight = anneal_weight(epoch, recipe.anneal_epochs)
            loss = weight * F.cross_entropy(cls_logits, y[batch], label_smoothing=recipe.label_smoothing)
            loss = loss + (1 - weight) * F.cross_entropy(mean_logits, y[batch], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            losses.append(loss.item())
            hits += int((cls_logits.argmax(-1) == y[batch]).sum())
    model.eval()


def cohort(n_subjects: int, n_trials: int, dropout: float, device: str) -> tuple[list[IsoNet], list, list]:
    """Models and random trials of `n_subjects`, of the size of the shipped DB5 study."""
    config = IsoNetConfig(
        modalities={"emg": 16, "acc": 3}, n_samples=50, n_classes=12, d_model=64, n_heads=8, n_layers=5, d_mlp=128,
        dropout=dropout,
    )  # fmt: skip
    models = [IsoNet(config).to(device) for _ in range(n_subjects)]
    xs = [torch.randn(n_trials, 19, 50, device=device) for _ in models]
    return models, xs, [torch.randint(0, 12, (n_trials,), device=device) for _ in models]


def compare(runs: dict[str, Callable[[], object]], device: str, rounds: int) -> dict[str, float]:
    """Median seconds of each run, interleaved, after one run to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(rounds + 1):
        for name, run in runs.items():
            seconds = _clock(run, device)
            if k:
                times[name].append(seconds)
    return {name: median(seconds) for name, seconds in times.items()}


def _clock(run: Callable[[], object], device: str) -> float:
    clock = time.thread_time if device == "cpu" else time.perf_counter
    start = clock()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--trials", type=int, default=512)
    parser.add_argument("--dropout", type=float, default=0.1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models, xs, ys = cohort(options.subjects, options.trials, options.dropout, options.device)
    steps = -(-options.trials // RECIPE.batch_size)

    one, other = copy.deepcopy(models[0]), copy.deepcopy(models[0])
    runs = {"plain": lambda: plain(one, xs[0], ys[0], RECIPE), "fit": lambda: fit(other, Batch(xs[0], ys[0]), RECIPE)}
    times = compare(runs, options.device, options.rounds)
    each = ", ".join(f"{name} {1000 * seconds / steps:.2f} ms a step" for name, seconds in times.items())
    print(f"one subject: {each}; plain / fit {times['plain'] / times['fit']:.2f}", flush=True)  # noqa: T201

    apart, together = copy.deepcopy(models), copy.deepcopy(models)
    runs = {
        "one by one": lambda: [fit(m, Batch(x, y), RECIPE) for m, x, y in zip(apart, xs, ys, strict=True)],
        "at once": lambda: fit_cohort(together, [Batch(x, y) for x, y in zip(xs, ys, strict=True)], RECIPE),
    }
    times = compare(runs, options.device, max(2, options.rounds // 3))
    each = ", ".join(f"{name} {seconds:.2f} s an epoch" for name, seconds in times.items())
    ratio = times["one by one"] / times["at once"]
    print(f"{options.subjects} subjects: {each}; one by one / at once {ratio:.2f}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
