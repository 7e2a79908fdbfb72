"""Which TransformerLens models can be cut, and how: a zoo of tiny random ones, and a table measured on them.

`python -m emg_lens.hooks.compatibility` prints the table for the TransformerLens that is installed. Nothing
is downloaded. The zoo holds what this version of TransformerLens can build: HookedTransformer and
HookedEncoder up to 3.x, bridges for the architectures it knows.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from torch import Tensor, nn

from emg_lens.hooks.anatomy import SCORES, DeadHookError, at_path, listening, quietly
from emg_lens.hooks.cuts import cut, cutting
from emg_lens.hooks.edges import cross_modal, flow
from emg_lens.hooks.examples import call, example_inputs
from emg_lens.hooks.probe import find_lever
from emg_lens.layout import TokenLayout

N_TOKENS = 6
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FRAMES = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 10,
}
WRAPPED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BERT": ("BertForMaskedLM", "BertConfig", {"vocab_size": 20, "max_position_embeddings": 16, **SMALL}),
    "RoBERTa": (
        "RobertaForMaskedLM",
        "RobertaConfig",
        {"vocab_size": 20, "max_position_embeddings": 20, **SMALL},
    ),
    "ViT": ("ViTForImageClassification", "ViTConfig", {"image_size": (4, 20), "patch_size": 4, **SMALL}),
    "AST": ("ASTForAudioClassification", "ASTConfig", {"max_length": 32, "num_mel_bins": 32, **SMALL}),
    "Wav2Vec2": ("Wav2Vec2Model", "Wav2Vec2Config", {**FRAMES, **SMALL}),
    "HuBERT": ("HubertModel", "HubertConfig", {**FRAMES, **SMALL}),
    "T5 encoder": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
    ),
    "GPT-2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 20, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2},
    ),
    "Llama": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {"vocab_size": 20, "max_position_embeddings": 16, "num_key_value_heads": 1, **SMALL},
    ),
}
"""Name in the table: model class and configuration class of transformers, size."""


@dataclass(frozen=True)
class Specimen:
    """A tiny random model of one kind.

    Attributes:
        name: Such as `"BERT bridge, sdpa"`.
        build: Makes a fresh one.
    """

    name: str
    build: Callable[[], nn.Module]

    @property
    def layout(self) -> TokenLayout:
        """Six tokens: a CLS, two modalities of two, one outside every group."""
        return TokenLayout.groups({"cls": [0], "emg": [1, 2], "acc": [3, 4]}, n_tokens=N_TOKENS)


def zoo() -> list[Specimen]:
    """Every kind of model that the installed TransformerLens can build."""
    return [*_legacy(), *_native(), *_wrapped()]


def _legacy() -> Iterator[Specimen]:
    if installed_version()[0] >= 4:  # 4.0 removed them
        return
    for direction in ("causal", "bidirectional"):
        yield Specimen(f"HookedTransformer, {direction}", partial(_hooked, "HookedTransformer", direction))
    yield Specimen("HookedEncoder", partial(_hooked, "HookedEncoder", "bidirectional"))


def _hooked(kind: str, direction: str) -> nn.Module:
    import transformer_lens

    torch.manual_seed(0)
    cfg = transformer_lens.HookedTransformerConfig(**_sizes(direction))  # pyright: ignore
    model = getattr(transformer_lens, kind)(cfg)
    for parameter in model.parameters():  # HookedEncoder leaves its weights uninitialised
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def _sizes(direction: str) -> dict[str, Any]:
    return {
        "n_layers": 2,
        "d_model": 16,
        "d_head": 8,
        "n_heads": 2,
        "d_mlp": 32,
        "n_ctx": 16,
        "d_vocab": 20,
        "act_fn": "gelu",
        "attention_dir": direction,
    }


def _native() -> Iterator[Specimen]:
    for direction in ("causal", "bidirectional"):
        yield Specimen(f"native bridge, {direction}", partial(_boot_native, direction))


def _boot_native(direction: str) -> nn.Module:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    torch.manual_seed(0)
    bridge: Any = TransformerBridge
    return bridge.boot_native(TransformerBridgeConfig(**_sizes(direction))).eval()


def _wrapped() -> Iterator[Specimen]:
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    for name, (architecture, config, sizes) in WRAPPED.items():
        # Bridges of T5 before 4.0 do not run, cut or not: they expect what transformers' T5 returned before 5.15.
        runs = architecture != "T5ForConditionalGeneration" or installed_version()[0] >= 4
        if architecture in SUPPORTED_ARCHITECTURES and runs:
            for kernel in ("eager", "sdpa"):
                yield Specimen(f"{name} bridge, {kernel}", partial(_bridge, architecture, config, sizes, kernel))


def _bridge(architecture: str, config: str, sizes: dict[str, Any], kernel: str) -> nn.Module:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = wrapped_model(architecture, config, sizes, kernel)
    return build_bridge_from_module(model, architecture, hf_config=model.config)


def wrapped_model(architecture: str, config: str, sizes: dict[str, Any], kernel: str) -> Any:
    """A random model of transformers, the same for every attention kernel."""
    import transformers

    torch.manual_seed(0)
    cfg = getattr(transformers, config)(**sizes)
    cfg._attn_implementation = kernel
    model = getattr(transformers, architecture)(cfg).eval()
    for parameter in model.parameters():  # as initialised, attention is nearly uniform
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def installed_version() -> tuple[int, ...]:
    """Version of the installed TransformerLens, as numbers."""
    return tuple(int(part) for part in version("transformer-lens").split(".")[:2])


def table() -> pd.DataFrame:
    """One row a model of the zoo: the lever, and what cutting did, measured.

    Columns: `model`, `lever`, `cut` (whether plain hooks can cut, or `cutting` is needed), `attention_left` (largest
    attention on a cut edge), `mass_removed`, `max_delta` (largest change of the output under `cutting`),
    `plain_hook_delta` (the same when -inf is simply written in `hook_attn_scores`; 0 = a silent no-op).
    """
    return pd.DataFrame([_row(specimen) for specimen in zoo()])


def _row(specimen: Specimen) -> dict[str, Any]:
    model, layout = specimen.build(), specimen.layout
    edges = cross_modal() | flow("emg", "cls")
    x = example_inputs(model, len(layout), batch=2)
    lever = find_lever(model, layout)
    with quietly(model):
        before = output_tensor(call(model, x))
        with cutting(model, edges, layout) as report:
            after = output_tensor(call(model, x))
        plain = _plain_hook(model, x, list(lever.paths.values()), edges.mask(layout, lever.n_layers, lever.n_heads))
    try:
        cut(model, edges, layout)
        way = "cut, cutting"
    except DeadHookError:
        way = "cutting"
    return {
        "model": specimen.name,
        "lever": lever.name,
        "cut": way,
        "attention_left": max(entry.attention_left for entry in report.layers),
        "mass_removed": report.mass_removed,
        "max_delta": float((after - before).abs().max()),
        "plain_hook_delta": float((plain - before).abs().max()),
    }


def _plain_hook(model: nn.Module, x: Any, paths: list[str], mask: Tensor) -> Tensor:
    with contextlib.ExitStack() as stack:
        for layer, path in enumerate(paths):
            fill = partial(lambda scores, hook, cut: scores.masked_fill(cut, -torch.inf), cut=mask[layer])  # noqa: ARG005
            stack.enter_context(listening(at_path(model, f"{path}.{SCORES}"), fill))
        return output_tensor(call(model, x))


def output_tensor(result: Any) -> Tensor:
    """The main tensor of a model's result."""
    return result if isinstance(result, Tensor) else result[0]


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")  # bridges warn of edits that they discard: that is what the table shows
    with contextlib.redirect_stdout(None):  # HookedTransformer announces its device on stdout
        measured = table()
    console = Console(width=150)
    console.print(f"TransformerLens {version('transformer-lens')}, torch {torch.__version__}")
    console.print(measured.to_string(index=False, float_format=lambda value: f"{value:.3g}"))


if __name__ == "__main__":
    main()
