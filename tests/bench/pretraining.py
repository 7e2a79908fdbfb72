"""Pre-training beside the loop that anybody would write in torch, and its memory against the size of the corpus.

`python tests/bench/pretraining.py [--device cuda] [--rounds N] [--precision bf16]` prints windows per second of both,
medians of interleaved stretches in one process, of CPU time on one thread where there is no GPU: our `pretrain` on a
corpus in HDF5 shards, and a plain loop of `nn.TransformerEncoder` (its attention is `scaled_dot_product_attention`,
without rotary positions) on the same windows in memory, with the same share masked, loss, clipping and AdamW.
`--memory`
pre-trains on a corpus and on one 20 times larger, each in a process of its own, and prints both peaks (on Linux).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from emg_lens.data.corpus import Corpus
from emg_lens.models.tinymyo.encoder import TinyMyo, TinyMyoConfig
from emg_lens.training.pretraining.loop import pretrain
from emg_lens.training.pretraining.recipe import PretrainingRecipe

CHANNELS, SAMPLES, PATCH = 16, 1000, 20
SIZES = {"d_model": 192, "n_heads": 3, "n_layers": 8, "d_mlp": 768}
SMALL = {"d_model": 32, "n_heads": 2, "n_layers": 2, "d_mlp": 64}
CHUNK = 400
"""Windows that are written at a time."""


def write_corpus(folder: Path, n_windows: int, n_samples: int) -> None:
    """Noise in four shards of the published layout."""
    rng = np.random.default_rng(0)
    for i in range(4):
        with h5py.File(folder / f"{i}.h5", "w") as file:
            data = file.create_dataset("data", (n_windows // 4, CHANNELS, n_samples), "f4")
            for first in range(0, len(data), CHUNK):
                rows = min(CHUNK, len(data) - first)
                data[first : first + rows] = rng.normal(size=(rows, CHANNELS, n_samples))


def tinymyo(n_samples: int, **sizes: int) -> TinyMyo:
    """Ours, without dropout, so that both draw the same amount of random numbers."""
    return TinyMyo(
        TinyMyoConfig(
            modalities={"emg": CHANNELS},
            n_samples=n_samples,
            n_classes=0,
            head="reconstruction",
            patch_samples=PATCH,
            dropout=0.0,
            hidden_dropout=0.0,
            drop_path=0.0,
            **sizes,
        )  # fmt: skip
    )


class Plain(nn.Module):
    """Patches, a mask vector, torch's encoder, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        width = SIZES["d_model"]
        self.embed, self.mask = nn.Linear(PATCH, width), nn.Parameter(torch.zeros(width))
        layer = nn.TransformerEncoderLayer(
            width, SIZES["n_heads"], SIZES["d_mlp"], 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, SIZES["n_layers"], norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, PATCH)

    def forward(self, patches: Tensor, masked: Tensor) -> Tensor:
        """The samples of each patch."""
        return self.head(self.encoder(torch.where(masked[..., None], self.mask, self.embed(patches))))


def plain_loop(windows: Tensor, recipe: PretrainingRecipe, device: str, precision: str) -> Iterator[None]:
    """Steps of the plain loop."""
    model = Plain().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=recipe.betas)
    loader = DataLoader(TensorDataset(windows), recipe.batch_size, shuffle=True, drop_last=True)
    while True:
        for (x,) in loader:
            patches = rearrange(
                x.to(device), "window channel (patch sample) -> window (channel patch) sample", sample=PATCH
            )
            masked = torch.rand(patches.shape[:2], device=device).argsort(1) < patches.shape[1] // 2
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                found = model(patches, masked)
            errors = F.smooth_l1_loss(found.float(), patches, reduction="none")
            loss = errors[masked].mean() + recipe.visible_weight * errors[~masked].mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm or float("inf"))
            optimizer.step()
            yield


def compare(device: str, precision: str, n_windows: int, batch: int, rounds: int) -> None:
    """Print windows per second of both."""
    recipe = PretrainingRecipe(epochs=1, batch_size=batch, micro_batch=batch, warmup_epochs=0, lr=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), n_windows, SAMPLES)
        corpus = Corpus.open([folder])
        windows = torch.from_numpy(corpus.read(np.arange(len(corpus))))
        steps = len(corpus) // batch
        model, plain = tinymyo(SAMPLES, **SIZES), plain_loop(windows, recipe, device, precision)
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)

        def ours() -> None:
            pretrain(model, corpus, recipe, log_steps=steps, accelerator=accelerator)

        def theirs() -> None:
            for _ in range(steps):
                next(plain)

        times: dict[str, list[float]] = {"pretrain": [], "plain loop": []}
        clock = time.process_time if device == "cpu" else time.perf_counter
        for i in range(rounds + 1):
            for name, run in (("pretrain", ours), ("plain loop", theirs)):
                start = clock()
                run()
                if device != "cpu":
                    torch.cuda.synchronize()
                if i:  # the first round warms both up
                    times[name].append(steps * batch / (clock() - start))
    mine, plain_speed = (median(times[name]) for name in ("pretrain", "plain loop"))
    ratio = mine / plain_speed
    print(  # noqa: T201
        f"{device}, {precision}: pretrain {mine:.2f} windows/s, plain loop {plain_speed:.2f}; ratio {ratio:.2f}"
    )


def peak(folder: str) -> None:
    """Pre-train for 200 steps on a corpus, and print windows and the peak in MiB."""
    corpus = Corpus.open([folder])
    recipe = PretrainingRecipe(epochs=1, batch_size=8, micro_batch=8, warmup_epochs=0)
    model = tinymyo(200, **SMALL)
    with tempfile.TemporaryDirectory() as out:
        pretrain(model, corpus, recipe, checkpoint=Path(out) / "state.safetensors", stop_after=200, workers=2)
    print(json.dumps([len(corpus), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))  # noqa: T201


def memory(n_windows: int) -> None:
    """Print the peaks for a corpus and one 20 times larger."""
    for factor in (1, 20):
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder), factor * n_windows, 200)
            size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
            told = subprocess.run(
                [sys.executable, __file__, "--peak", folder], capture_output=True, text=True, check=True
            )
        n, mib = json.loads(told.stdout)
        print(f"{n} windows ({size:.0f} MiB on disk): {mib:.0f} MiB at the most", flush=True)  # noqa: T201


def main() -> None:
    """Compare, or measure memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        peak(options.peak)
    elif options.memory:
        memory(8000)
    else:
        compare(options.device, options.precision, options.windows, options.batch, options.rounds)


if __name__ == "__main__":
    main()
