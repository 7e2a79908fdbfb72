"""Attribution methods on encoders with known circuits: worst average precision over seeds.

`python tests/bench/attribution_methods.py [--methods NAME ...] [--variants NAME ...] [--seeds N] [--tier clean]
[--norm pre] [--trials N] [--csv FILE]` prints a table with one row per method and one column per variant, the largest
completeness error, passes for each trial, and the mean seconds for each model. By default `contexts` is run too, which
takes most of the time (about 10 minutes in all). `--csv` saves all rows, with the other measures of quality.
"""

import argparse

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from emg_lens.analysis.ground_truth.benchmark import benchmark_attribution


def table_of(rows: pd.DataFrame, title: str) -> Table:
    """Make the table."""
    table = Table(title=title)
    variants, methods = rows["variant"].unique(), rows["method"].unique()
    for column in ("method", *variants, "completeness error", "forward", "backward", "seconds"):
        table.add_column(column, justify="right")
    worst = rows.pivot_table(index="method", columns="variant", values="average_precision", aggfunc="min")
    by_method = rows.groupby("method")
    errors = by_method["completeness_error"].agg(lambda values: values.abs().max())
    means = by_method[["forward_passes", "backward_passes", "seconds"]].mean()
    for name in methods:
        error = "" if pd.isna(errors[name]) else f"{errors[name]:.3f}"
        forward, backward, seconds = means.loc[name]
        quality = [f"{worst.loc[name, variant]:.2f}" for variant in variants]
        table.add_row(name, *quality, error, f"{forward:,.0f}", f"{backward:,.0f}", f"{seconds:.2f}")
    return table


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--variants", nargs="+")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--tier", default="leaky")
    parser.add_argument("--norm", default="post")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--csv", help="file for all rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = benchmark_attribution(
        options.methods,
        options.variants,
        range(options.seeds),
        norm=options.norm,
        tier=options.tier,
        n_trials=options.trials,
    )
    if options.csv:
        rows.to_csv(options.csv, index=False)
    title = f"Worst average precision of {options.seeds} seeds, {options.tier} tier, {options.norm}-LN"
    Console(width=170).print(table_of(rows, f"{title}, {options.trials} trials, one core"))


if __name__ == "__main__":
    main()
