"""The same sweep as a user writes it today: plain TransformerLens hooks, and nnsight where it is installed.

`python tests/bench/peers.py [--trials N] [--threads N] [--rounds N]` runs the 31 conditions of Table 3 on one model in
four ways, checks that the logits agree, and prints median times of interleaved runs. nnsight traces a plain torch
module with our weights, which shows it the attention scores of each layer: our own hook points, like those of
TransformerLens, are not modules that its tracer is sure to see.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import importlib.util
import math
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from sweep import EDGES, interleaved, paper_model, table_of
from torch import Tensor, nn

from emg_lens.hooks import none
from emg_lens.models.isonet import IsoNet
from emg_lens.sweeps import Condition, layer_masks, sweep


def plain_transformer_lens(model: IsoNet, x: Tensor, conditions: list[Condition]) -> dict[str, Tensor]:
    """A forward a condition, with a hook that writes -inf into the scores of every layer that is cut."""

    def delete(scores: Tensor, hook: object, cut: Tensor) -> Tensor:
        return scores.masked_fill(cut, -torch.inf)

    logits = {}
    for condition in conditions:
        mask = condition.edges.mask(model.layout, model.cfg.n_layers, model.cfg.n_heads).to(x.device)
        hooks = [
            (f"blocks.{layer}.attn.hook_attn_scores", partial(delete, cut=mask[layer]))
            for layer in range(model.cfg.n_layers)
            if mask[layer].any()
        ]
        with torch.inference_mode():
            logits[condition.name] = model.run_with_hooks(x, fwd_hooks=hooks)
    return logits


class PlainBlock(nn.Module):
    """A post-LN block in plain torch, with the scores as the output of a module."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.attn, self.mlp, self.ln1, self.ln2 = block.attn, block.mlp, block.ln1, block.ln2
        self.scores = nn.Identity()

    def forward(self, resid: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in self.attn.project(resid))
        pattern = self.scores(q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        mid = self.ln1(resid + self.attn.output((pattern @ v).transpose(1, 2)))
        return self.ln2(mid + self.mlp(mid))


class PlainEncoder(nn.Module):
    """IsoNet in plain torch, sharing the weights of ours."""

    def __init__(self, model: IsoNet) -> None:
        super().__init__()
        self.embed, self.pos_embed, self.unembed = model.embed, model.pos_embed, model.unembed
        self.blocks = nn.ModuleList(map(PlainBlock, model.blocks))

    def forward(self, x: Tensor) -> Tensor:
        resid = self.embed(x)
        resid = resid + self.pos_embed(resid)
        for block in self.blocks:
            resid = block(resid)
        return F.linear(resid[:, 0], self.unembed.W_U.T, self.unembed.b_U)


def with_nnsight(model: IsoNet, x: Tensor, conditions: list[Condition]) -> dict[str, Tensor]:
    """A trace a condition, in which the scores of every layer that is cut are replaced."""
    from nnsight import NNsight

    traced, logits = NNsight(PlainEncoder(model)), {}
    for condition in conditions:
        mask = condition.edges.mask(model.layout, model.cfg.n_layers, model.cfg.n_heads).to(x.device)
        layers = [layer for layer in range(model.cfg.n_layers) if mask[layer].any()]
        with torch.inference_mode(), traced.trace(x):
            for layer in layers:
                scores = traced.blocks[layer].scores
                scores.output = scores.output.masked_fill(mask[layer], -torch.inf)
            found = traced.output.save()
        logits[condition.name] = found
    return logits


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console, model = Console(width=120), paper_model(options.device)
    x = model.example_input(options.trials)
    conditions = [Condition("baseline", none()), *layer_masks(EDGES, 5)]
    runs = {
        "emg-lens sweep (auto)": lambda: sweep(model, x, conditions).logits,
        "emg-lens sweep (tree)": lambda: sweep(model, x, conditions, executor="tree").logits,
        "emg-lens loop (verified cuts)": lambda: sweep(model, x, conditions, executor="loop").logits,
        "TransformerLens run_with_hooks": lambda: plain_transformer_lens(model, x, conditions),
    }
    if importlib.util.find_spec("nnsight"):
        runs["nnsight traces"] = lambda: with_nnsight(model, x, conditions)
    else:
        console.print("nnsight is not installed: pip install nnsight")
    expected = next(iter(runs.values()))()
    found = {name: run() for name, run in runs.items()}
    errors = {name: max(float((f[c].cpu() - expected[c]).abs().max()) for c in expected) for name, f in found.items()}
    wrong = {name: error for name, error in errors.items() if not error < 1e-5}
    if wrong:
        raise AssertionError(f"logits differ from those of sweep by {wrong}")
    times = interleaved(runs, options.rounds, options.device)
    title = f"31 conditions of Table 3, paper size, {options.trials} trials, {options.device}"
    table = table_of(title, "way", "wall s", "CPU s", "times sweep (wall, CPU)", "max |Δ logit|")
    ours = times["emg-lens sweep (auto)"]
    for name, (wall, cpu) in times.items():
        table.add_row(
            name, f"{wall:.2f}", f"{cpu:.2f}", f"{wall / ours[0]:.1f}, {cpu / ours[1]:.1f}", f"{errors[name]:.1e}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
