"""A pre-training of a second: windows of a few sines, a model of two small blocks. Run as a script, one to kill."""

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from emg_lens.data import TrialSet
from emg_lens.data.corpus import Corpus
from emg_lens.io import checkpoint
from emg_lens.models import build_model
from emg_lens.training.pretraining.loop import pretrain
from emg_lens.training.pretraining.recipe import PretrainingRecipe

RECIPE = PretrainingRecipe(
    epochs=3, batch_size=16, micro_batch=8, lr=3e-3, warmup_epochs=1, schedule="by step", clip_norm=1.0, seed=5
)
N_TRAINING = 100
LOSSES = ["step", "epoch", "lr", "train_masked", "train_visible", "validation_masked", "validation_visible"]
"""All columns but the speed."""


def make_corpora(channels: int = 3, samples: int = 40) -> tuple[Corpus, Corpus]:
    """Sines of random rate and phase, alike in all channels but for a shift."""
    rng = np.random.default_rng(0)
    times, n = np.arange(samples) / samples, N_TRAINING + 21
    phase = 6.3 * rng.random((n, 1, 1)) + np.arange(channels)[None, :, None]
    x = np.sin(6.3 * rng.uniform(1, 3, (n, 1, 1)) * times + phase).astype("f4")
    found = []
    for some, subject in ((slice(0, N_TRAINING), "a"), (slice(N_TRAINING, n), "b")):
        size = len(x[some])
        trials = TrialSet.from_arrays(x[some], [0] * size, [subject] * size, [0] * size, {"emg": channels}, 200.0)
        found.append(Corpus.of_trials(trials))
    return found[0], found[1]


def make_model(dropout: float = 0.0, channels: int = 3, samples: int = 40):
    torch.manual_seed(0)
    rates = {"dropout": dropout, "hidden_dropout": dropout, "drop_path": dropout}
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 32, "patch_samples": 10}
    return build_model(
        "tinymyo", modalities={"emg": channels}, n_samples=samples, n_classes=0, head="reconstruction", **sizes, **rates
    )


def run(path=None, *, recipe: PretrainingRecipe = RECIPE, dropout: float = 0.0, model=None, **options):
    """Model and table of losses."""
    model = model or make_model(dropout)
    windows, validation = make_corpora()
    table = pretrain(model, windows, recipe, validation=validation, checkpoint=path, log_steps=2, **options)
    return model, table


if __name__ == "__main__":  # python toy_pretraining.py CHECKPOINT TABLE [dropout]
    checkpoint.SAVE_SECONDS, checkpoint.SAVE_FRACTION = 0.0, 1e6
    place = None if sys.argv[1] == "none" else Path(sys.argv[1])
    _, losses = run(place, dropout=float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
    if Accelerator().is_main_process:
        losses.to_csv(sys.argv[2], index=False)
        sys.stdout.write(f"{Accelerator().num_processes} processes\n")
