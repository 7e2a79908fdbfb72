"""Fuzz of published TinyMyo files. They have no checksum, so changed values cannot be detected."""

import shutil
from functools import partial
from pathlib import Path

import torch
from changes import changed_bytes, pick
from loaders import names_in, replaced
from model_folders import tensors_changed
from numpy.random import Generator
from verdicts import Content, SilentlyWrong, Target, Verdict, digest, judge

from emg_lens.models import TinyMyo, TinyMyoConfig

SIZES = {"d_model": 12, "n_heads": 3, "n_layers": 2, "d_mlp": 8, "patch_samples": 5}
NAMES = ("base.safetensors", "base.ckpt")


def prepare(folder: Path) -> tuple[Path, Content]:
    """Save the same small model in both formats."""
    torch.manual_seed(0)
    model = TinyMyo(TinyMyoConfig({"emg": 3}, 10, 4, **SIZES))
    for name in NAMES:
        model.save_published(folder / name, prefix="model." if name.endswith("ckpt") else "")
    return folder, read(folder / NAMES[0])[0]


def read(path: Path) -> tuple[Content, set[str]]:
    """Return the weights and their configuration."""
    model = TinyMyo.from_published(path, rope="token", n_samples=10)
    if not model(model.example_input(2)).isfinite().all():
        raise SilentlyWrong("the loaded model gives NaN")
    weights = {name: digest(value) for name, value in model.state_dict().items()}
    return {**weights, "layers": model.cfg.n_layers, "classes": model.cfg.n_classes}, set(model.load_report.notes)


def attempt(made: tuple[Path, Content], rng: Generator, folder: Path) -> Verdict:
    """Run one case."""
    original, expected = made
    path, must_refuse = folder / pick(rng, NAMES), False
    shutil.copy(original / path.name, path)
    chance = rng.random()
    if chance < 0.04:
        path.unlink()
        words, must_refuse = replaced(path, rng)
    elif chance < 0.5 or path.suffix == ".ckpt":
        content, words = changed_bytes(path.read_bytes(), rng)
        path.write_bytes(content)
    else:
        words = tensors_changed(path, rng)
    return judge(
        partial(read, path),
        (expected, set()),
        f"{path.suffix}: {words}",
        names=[path.name, *names_in(folder)],
        own=False,
        must_refuse=must_refuse,
    )


TARGETS = (Target("tinymyo-published", prepare, attempt),)
