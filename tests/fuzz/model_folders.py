"""Fuzz of saved models and of saved standardization statistics."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from changes import as_json, changed_bytes, changed_document, odd_array, pick, with_new_checksum
from loaders import names_in, replaced
from numpy.random import Generator
from safetensors import safe_open
from safetensors.numpy import save_file
from verdicts import Content, SilentlyWrong, Target, Verdict, digest, judge

from emg_lens.data import InputStatistics, TargetStatistics
from emg_lens.models import IsoNet, IsoNetConfig, MultimodalMLP, MultimodalMLPConfig, TinyMyo, TinyMyoConfig

KINDS = {
    "isonet": (IsoNet, IsoNetConfig, {"d_model": 8, "n_heads": 2, "n_layers": 2, "d_mlp": 8}),
    "multimodal-mlp": (MultimodalMLP, MultimodalMLPConfig, {"d_hidden": 6, "d_fused": 6}),
    "tinymyo": (TinyMyo, TinyMyoConfig, {"d_model": 12, "n_layers": 2, "d_mlp": 8, "patch_samples": 5}),
}


# --- models -----------------------------------------------------------------------------------------------


def prepare_model(kind: str, folder: Path) -> tuple[Path, Content]:
    """Save a model; return its folder and its content."""
    model, config, sizes = KINDS[kind]
    torch.manual_seed(0)
    model(config(modalities={"emg": 3, "acc": 2}, n_samples=10, n_classes=3, **sizes)).save_pretrained(folder)
    return folder, read_model(kind, folder)[0]


def read_model(kind: str, folder: Path) -> tuple[Content, set[str]]:
    """Return configuration and weights."""
    model = KINDS[kind][0].from_pretrained(folder)
    if not model(model.example_input(2)).isfinite().all():
        raise SilentlyWrong("the loaded model gives NaN")
    weights = {name: digest(value) for name, value in model.state_dict().items()}
    return {**weights, "cfg": asdict(model.cfg)}, set()


def attempt_model(kind: str, made: tuple[Path, Content], rng: Generator, folder: Path) -> Verdict:
    """Run one case of a model's folder."""
    original, expected = made
    place = folder / "model"
    shutil.copytree(original, place)
    words, must_refuse = change_folder(place, rng)
    again = not must_refuse and rng.random() < 0.4 and with_new_checksum(place / "model.safetensors")
    return judge(
        partial(read_model, kind, place),
        (expected, set()),
        words + ", with a new checksum" * again,
        names=["model", *names_in(place)],
        own=not (again and words.startswith("model.safetensors")),
        must_refuse=must_refuse,
    )


def change_folder(place: Path, rng: Generator) -> tuple[str, bool]:
    """Change or remove one file of a model's folder, or the folder itself."""
    chance = rng.random()
    if chance < 0.02:
        shutil.rmtree(place)
        return "no folder", True
    path = place / pick(rng, ("config.json", "model.safetensors"))
    if chance < 0.06:
        path.unlink()
        return f"no {path.name}", True
    if chance < 0.1:
        path.unlink()
        return f"{path.name}: {replaced(path, rng)[0]}", True
    if chance < 0.4:
        content, words = changed_bytes(path.read_bytes(), rng)
        path.write_bytes(content)
    elif path.suffix == ".json":
        document, words = changed_document(json.loads(path.read_text()), rng)
        path.write_text(as_json(document, rng), errors="replace")
    else:
        words = tensors_changed(path, rng)
    return f"{path.name}: {words}", False


def tensors_changed(path: Path, rng: Generator) -> str:
    """Change a tensor or an entry of the metadata of a safetensors file."""
    with safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        facts = dict(file.metadata() or {})
    name = pick(rng, sorted(tensors))
    kind = pick(rng, ("remove", "rename", "add", "odd", "odd", "odd", "last digit", "fact", "facts", "header", "swap"))
    words = f"{kind} {name}"
    match kind:
        case "remove":
            del tensors[name]
        case "rename":
            tensors["x"] = tensors.pop(name)
        case "add":
            tensors["x"] = np.zeros(3)
        case "odd":
            tensors[name], what = odd_array(tensors[name], rng)
            words = f"{name}: {what}"
            if tensors[name].dtype.kind not in "iufb" or not tensors[name].dtype.isnative:
                tensors[name] = np.zeros(3, np.float16)
        case "last digit":
            if tensors[name].size and tensors[name].dtype.kind == "f":
                tensors[name] = tensors[name] * np.float32(1.001)
        case "fact" if facts:
            key = pick(rng, sorted(facts))
            try:
                document, what = changed_document(json.loads(facts[key]), rng)
                facts[key] = as_json(document, rng)
            except ValueError:
                facts[key], what = pick(rng, ("", "0", "x", "9" * 5000)), "another text"
            words = f"{key}: {what}"
        case "facts":
            facts = {}
        case "swap":
            other = pick(rng, sorted(tensors))
            tensors[name], tensors[other] = tensors[other], tensors[name]
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, facts)
    if kind == "header":
        return header_changed(path, rng)
    return words


def header_changed(path: Path, rng: Generator) -> str:
    """Change the header of a safetensors file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, words = changed_document(json.loads(content[8 : 8 + size]), rng)
    text = as_json(header, rng).encode("utf-8", "replace")
    length = pick(rng, (len(text), len(text), len(text), 2**63, 2**27, 0))
    path.write_bytes(length.to_bytes(8, "little") + text + content[8 + size :])
    return f"header: {words}, {length} bytes"


# --- statistics -------------------------------------------------------------------------------------------


def prepare_statistics(folder: Path) -> list[tuple[Path, Callable[[Path], Any], Content]]:
    """Make files of both kinds of statistics."""
    random = np.random.default_rng(0)
    InputStatistics({"emg": 3, "acc": 2}, random.normal(size=5), random.random(5), ("emg",)).save(
        folder / "input.safetensors"
    )
    TargetStatistics(random.normal(size=2), random.random(2), ("force", "angle")).save(folder / "target.safetensors")
    loads = {"input.safetensors": InputStatistics.load, "target.safetensors": TargetStatistics.load}
    return [(folder / name, load, read_statistics(load, folder / name)[0]) for name, load in loads.items()]


def read_statistics(load: Callable[[Path], Any], path: Path) -> tuple[Content, set[str]]:
    """Return all fields."""
    return {name: digest(value) for name, value in vars(load(path)).items()}, set()


def attempt_statistics(made: list, rng: Generator, folder: Path) -> Verdict:
    """Run one case of a file of statistics."""
    original, load, expected = pick(rng, made)
    path, must_refuse = folder / original.name, False
    shutil.copy(original, path)
    chance = rng.random()
    if chance < 0.04:
        path.unlink()
        words, must_refuse = replaced(path, rng)
    elif chance < 0.5:
        content, words = changed_bytes(path.read_bytes(), rng)
        path.write_bytes(content)
    else:
        words = tensors_changed(path, rng)
    again = not must_refuse and rng.random() < 0.4 and with_new_checksum(path)
    return judge(
        partial(read_statistics, load, path),
        (expected, set()),
        words + ", with a new checksum" * again,
        names=[path.name],
        own=not again,
        must_refuse=must_refuse,
    )


TARGETS = (
    *(Target(kind, partial(prepare_model, kind), partial(attempt_model, kind)) for kind in KINDS),
    Target("statistics", prepare_statistics, attempt_statistics),
)
