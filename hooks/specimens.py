"""Tiny random models of every kind that attention can be cut in: what the table of compatibility is measured on.

Nothing is downloaded. There is what the installed TransformerLens can build: HookedTransformer and HookedEncoder up to
3.x, bridges for the architectures it knows; and, adapted, models of torch and transformers that it does not know.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from emg_lens.hooks.adapters import adapt
from emg_lens.hooks.algebra import EdgeSet
from emg_lens.hooks.anatomy import StackName
from emg_lens.hooks.architectures import FAMILIES, REFUSED, WRAPPED, TinyArchitecture
from emg_lens.hooks.edges import lag, same_channel
from emg_lens.layout import TokenLayout
from emg_lens.registry import Registry

N_TOKENS = 6


@dataclass(frozen=True)
class Specimen:
    """A tiny random model of one kind.

    Attributes:
        name: Such as `"BERT bridge, sdpa"`.
        build: Makes a fresh one.
        kind: Its name among `WRAPPED` and `FAMILIES`, or `"native, causal"`, `"native, bidirectional"`.
        stack: Which attention of an encoder and a decoder is meant.
        own_edges: What the table cuts, of a model of ours, which has a layout of its own.
    """

    name: str
    build: Callable[[], nn.Module]
    kind: str | None = None
    stack: StackName | None = None
    own_edges: EdgeSet | None = None

    @property
    def has_plain_model(self) -> bool:
        """Whether the same model can be had without hook points, to compare with."""
        return self.kind is not None or self.name.startswith("torch")

    @property
    def layout(self) -> TokenLayout:
        """Six tokens: a CLS, two modalities of two, one outside every group; across stacks, six and six; or its own."""
        if self.own_edges is not None:
            model: Any = self.build()
            return model.layout
        if self.stack == "cross":
            return TokenLayout.groups({"cls": [0], "emg": [1, 2], "acc": [9, 10]}, n_tokens=2 * N_TOKENS)
        return TokenLayout.groups({"cls": [0], "emg": [1, 2], "acc": [3, 4]}, n_tokens=N_TOKENS)


OURS: dict[str, tuple[dict[str, Any], EdgeSet]] = {
    "tinymyo": ({"patch_samples": 4, "n_samples": 8}, ~same_channel()),
    "tinymyo-gestures": ({"n_samples": 46}, lag(1, 2)),
    "tinymyo-speech": ({"n_samples": 24}, ~lag(0, 0)),
}
"""Registered models: how they are built, of six positions, beside `_sizes`; and what the table cuts."""


def registered(name: str) -> Any:
    """One of `OURS` with random weights, found where every registered model is."""
    torch.manual_seed(0)
    entry: Any = Registry("model", "emg_lens.models")[name]
    own = {name: size for name, size in _sizes("").items() if name in ("n_layers", "d_model", "n_heads", "d_mlp")}
    changes = dict(OURS[name][0])
    data = {"modalities": {"emg": 2, "acc": 1}, "n_samples": changes.pop("n_samples"), "class_names": ["rest", "fist"]}
    return _spread(entry.model(entry.configure(own | changes, **data))).eval()


def _registered() -> Iterator[Specimen]:
    for name, (_, edges) in OURS.items():
        yield Specimen(name, partial(registered, name), own_edges=edges)


def zoo() -> list[Specimen]:
    """Every kind of model that the installed TransformerLens can build."""
    return [*_legacy(), *_native(), *_wrapped(WRAPPED)]


def families() -> list[Specimen]:
    """Models with something of their own about attention, and models without a bridge, adapted."""
    encoder = Specimen("torch's TransformerEncoder, adapted", _adapted_torch)
    return [
        *_wrapped(FAMILIES, kernels=("eager",)),
        encoder,
        *_wrapped(REFUSED, kernels=("eager",)),
        *_registered(),
    ]


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
        yield Specimen(f"native bridge, {direction}", partial(_boot_native, direction), f"native, {direction}")


def _boot_native(direction: str) -> nn.Module:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    torch.manual_seed(0)
    bridge: Any = TransformerBridge
    return bridge.boot_native(TransformerBridgeConfig(**_sizes(direction))).eval()


def plain_native(direction: str) -> Any:
    """The model that TransformerLens's native bridge wraps, without the bridge."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    plain = NativeModel(TransformerBridgeConfig(**_sizes(direction)))
    bridge: Any = _boot_native(direction)
    state = bridge.original_model.state_dict()
    weights = {name.replace("_original_component.", ""): weight for name, weight in state.items()}
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain.eval()


def _wrapped(kinds: dict[str, TinyArchitecture], kernels: tuple[str, ...] = ("eager", "sdpa")) -> Iterator[Specimen]:
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    for kind, architecture in kinds.items():
        # Bridges of T5 before 4.0 do not run, cut or not: they expect what transformers' T5 returned before 5.15.
        runs = architecture.model != "T5ForConditionalGeneration" or installed_version()[0] >= 4
        if not architecture.adapted and not (architecture.model in SUPPORTED_ARCHITECTURES and runs):
            continue
        make, how = (_adapted, "adapted") if architecture.adapted else (bridged, "bridge")
        for kernel in kernels:
            for stack in architecture.stacks or (None,):
                name = f"{kind} {how}, {kernel}" + (f", {stack}" if stack else "")
                yield Specimen(name, partial(make, architecture, kernel), kind, stack)


def bridged(architecture: TinyArchitecture, kernel: str) -> Any:
    """TransformerLens's bridge around `wrapped_model`."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = wrapped_model(architecture, kernel)
    return build_bridge_from_module(model, architecture.model, hf_config=model.config)


def _adapted(architecture: TinyArchitecture, kernel: str) -> nn.Module:
    return adapt(wrapped_model(architecture, kernel))


def _adapted_torch() -> nn.Module:
    return adapt(torch_encoder(), torch.randn(2, N_TOKENS, 16, generator=torch.Generator().manual_seed(0)))


def torch_encoder() -> nn.TransformerEncoder:
    """A random `nn.TransformerEncoder` of two layers."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return _spread(nn.TransformerEncoder(layer, 2)).eval()


def wrapped_model(architecture: TinyArchitecture, kernel: str) -> Any:
    """A random model of transformers, the same for every attention kernel."""
    import transformers

    torch.manual_seed(0)
    cfg = getattr(transformers, architecture.config)(**architecture.sizes)
    cfg._attn_implementation = kernel
    return _spread(getattr(transformers, architecture.model)(cfg)).eval()


def _spread(model: nn.Module) -> Any:
    """The model with larger weights: as initialised, attention is nearly uniform."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 or name.endswith("sinks"):
            nn.init.normal_(parameter, std=0.3)
    return model


def installed_version() -> tuple[int, ...]:
    """Version of the installed TransformerLens, as numbers."""
    return tuple(int(part) for part in version("transformer-lens").split(".")[:2])


def output_tensor(result: Any) -> Tensor:
    """The main tensor of a model's result."""
    return result if isinstance(result, Tensor) else result[0]
