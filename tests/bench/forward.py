"""Our hooked blocks beside torch's own `nn.TransformerEncoder`: forward passes and training steps of one size.

`python tests/bench/forward.py [--device cuda] [--rounds N]` prints one line a case, times in milliseconds from
interleaved runs in one process: medians of CPU time of this thread on one CPU thread, of wall time on a GPU. Two
rivals: torch with its fused fast path (inference only) and without. A whole TinyMyo, from samples to samples, stands
beside torch's blocks alone (which have no rotary positions), and beside the way its published code computes: scores,
their softmax and both rotated projections as tensors of their own.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from statistics import median

import torch
from torch import nn

from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.tinymyo.encoder import TinyMyo, TinyMyoConfig


@dataclass(frozen=True)
class Case:
    """A size: tokens, width, heads, layers, MLP width, norm, trials a batch, and what is timed."""

    name: str
    n_tokens: int
    d_model: int
    n_heads: int
    n_layers: int
    d_mlp: int
    norm: str
    batch: int
    training: bool = False
    tinymyo: str = ""
    """Positions of a whole TinyMyo."""


CASES = (
    Case("IsoNet, batch 32", 49, 512, 8, 5, 128, "post", 32),
    Case("IsoNet, batch 1", 49, 512, 8, 5, 128, "post", 1),
    Case("800 tokens, batch 32", 800, 192, 3, 8, 768, "pre", 32),
    Case("TinyMyo without positions, batch 1", 800, 192, 3, 8, 768, "pre", 1, tinymyo="none"),
    Case("TinyMyo without positions, batch 32", 800, 192, 3, 8, 768, "pre", 32, tinymyo="none"),
    Case("TinyMyo, rotary, batch 1", 800, 192, 3, 8, 768, "pre", 1, tinymyo="rotary"),
    Case("TinyMyo, rotary, batch 32", 800, 192, 3, 8, 768, "pre", 32, tinymyo="rotary"),
    Case("IsoNet of d_model 64, batch 64", 20, 64, 8, 5, 128, "post", 64),
    Case("IsoNet of d_model 64, batch 64, training", 20, 64, 8, 5, 128, "post", 64, training=True),
    Case("IsoNet, batch 64, training", 49, 512, 8, 5, 128, "post", 64, training=True),
)


def ours(case: Case) -> HookedBiosignalEncoder:
    """Our encoder without a head: its blocks, and the final norm of a pre-LN model."""
    return HookedBiosignalEncoder(
        EncoderConfig(
            modalities={"emg": case.n_tokens - 1},
            n_samples=4,
            n_classes=0,
            readout="none",
            norm=case.norm,  # pyright: ignore
            d_model=case.d_model,
            n_heads=case.n_heads,
            n_layers=case.n_layers,
            d_mlp=case.d_mlp,
        )  # fmt: skip
    )


def torchs(case: Case) -> nn.TransformerEncoder:
    """torch's encoder of the same size, with the weights it starts from."""
    pre = case.norm == "pre"
    layer = nn.TransformerEncoderLayer(
        case.d_model, case.n_heads, case.d_mlp, 0.0, "gelu", batch_first=True, norm_first=pre
    )
    norm = nn.LayerNorm(case.d_model) if pre else None
    return nn.TransformerEncoder(layer, case.n_layers, norm=norm, enable_nested_tensor=False)


class AsPublished(nn.Module):
    """TinyMyo as its published code computes it, written from its description (docs/tinymyo-model.md §9.1)."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, width = case, case.d_model
        self.embed, self.head = nn.Conv2d(1, width, (1, 20), (1, 20)), nn.Linear(width, 20)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln1": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width),
                    "ln2": nn.LayerNorm(width), "up": nn.Linear(width, case.d_mlp),
                    "down": nn.Linear(case.d_mlp, width),
                }
            )
            for _ in range(case.n_layers)
        )  # fmt: skip
        self.norm, d_head = nn.LayerNorm(width), width // case.n_heads
        angle = torch.outer(torch.arange(case.n_tokens), 10_000.0 ** (-torch.arange(0, d_head, 2) / d_head))
        self.register_buffer("cos", angle.cos()), self.register_buffer("sin", angle.sin())

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Adjacent pairs by their position."""
        a, b = x.float()[..., ::2], x.float()[..., 1::2]
        turned = torch.stack([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1)
        return turned.flatten(-2).to(x.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The samples."""
        n_heads = self.case.n_heads
        x = self.embed(x[:, None]).permute(0, 2, 3, 1).flatten(1, 2)
        for block in self.blocks:
            q, k, v = block["qkv"](block["ln1"](x)).unflatten(-1, (3, n_heads, -1)).permute(2, 0, 3, 1, 4)
            scores = (self.rotate(q) @ self.rotate(k).transpose(-2, -1)) * q.shape[-1] ** -0.5
            x = x + block["out"]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
            x = x + block["down"](nn.functional.gelu(block["up"](block["ln2"](x))))
        return self.head(self.norm(x))


def tinymyo_runs(case: Case, device: str) -> dict[str, Callable[[], None]]:
    """Forward passes of the whole model, of torch's blocks alone, and as published."""
    n_channels = gcd(16, case.n_tokens)
    shape = (n_channels, 20 * case.n_tokens // n_channels)
    sizes = {name: getattr(case, name) for name in ("d_model", "n_heads", "n_layers", "d_mlp")}
    config = TinyMyoConfig({"emg": shape[0]}, shape[1], 0, head="reconstruction", positions=case.tinymyo, **sizes)  # pyright: ignore
    models = {"ours": TinyMyo(config), "torch, plain": torchs(case), "as published": AsPublished(case)}
    models = {name: model.to(device).eval() for name, model in models.items()}
    x = torch.randn(case.batch, *shape, device=device)
    resid = torch.randn(case.batch, case.n_tokens, case.d_model, device=device)
    inputs = {"ours": x, "torch, plain": resid, "as published": x}
    return {name: _inference(lambda name=name: models[name](inputs[name]), fast=False) for name in models}


def runs(case: Case, device: str) -> dict[str, Callable[[], None]]:
    """What is timed, by name: one forward pass, or one step of AdamW."""
    if case.tinymyo:
        return tinymyo_runs(case, device)
    mine, theirs = ours(case).to(device).train(case.training), torchs(case).to(device).train(case.training)
    resid = torch.randn(case.batch, case.n_tokens, case.d_model, device=device)
    forwards = {"ours": lambda: mine(resid, start_at_layer=0), "torch, plain": lambda: theirs(resid)}
    if case.training:
        models = {"ours": mine, "torch, plain": theirs}
        return {name: _step(forward, models[name]) for name, forward in forwards.items()}
    return {"ours": _inference(forwards["ours"], True)} | {
        f"torch, {kind}": _inference(forwards["torch, plain"], fast)
        for kind, fast in (("fast path", True), ("plain", False))
    }


def _step(forward: Callable[[], torch.Tensor], model: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().square().mean().backward()
        optimizer.step()

    return step


def _inference(forward: Callable[[], torch.Tensor], fast: bool) -> Callable[[], None]:
    def run() -> None:
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(fast)
        try:
            with torch.inference_mode():
                forward()
        finally:
            torch.backends.mha.set_fastpath_enabled(before)

    return run


def measure(case: Case, device: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of each run, interleaved."""
    timed = runs(case, device)
    for run in timed.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, run in timed.items():
            times[name].append(_clock(run, device))
    return {name: 1000 * median(seconds) for name, seconds in times.items()}


def _clock(run: Callable[[], None], device: str) -> float:
    if device == "cpu":
        start = time.thread_time()
        run()
        return time.thread_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in CASES:
        if options.only not in case.name:
            continue
        rounds = (
            max(3, options.rounds // 5)
            if case.n_tokens * case.batch > 10_000 and options.device == "cpu"
            else options.rounds
        )
        times = measure(case, options.device, rounds)
        mine = times.pop("ours")
        rivals = "; ".join(f"{name} {ms:.2f} (ratio {mine / ms:.2f})" for name, ms in times.items())
        print(f"{case.name}: ours {mine:.2f} ms; {rivals}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
