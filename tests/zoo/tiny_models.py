"""Tiny random models of every kind of attention. The compatibility table is measured on them.

Nothing is downloaded. The models are those that the installed TransformerLens can build (HookedTransformer and
HookedEncoder up to 3.x, bridges of known architectures), models of torch and transformers used through `adapt`, and
our own encoders.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from zoo.architectures import FAMILIES, REFUSED, WRAPPED, TinyArchitecture

from emg_lens.hooks.adapters import adapt
from emg_lens.hooks.algebra import EdgeSet
from emg_lens.hooks.edges import lag, same_channel
from emg_lens.hooks.hook_points import StackName
from emg_lens.layout import TokenLayout
from emg_lens.models import build_model

N_TOKENS = 6


@dataclass(frozen=True)
class Specimen:
    """A tiny random model of one kind.

    Attributes:
        name: For example `"BERT bridge, sdpa"`.
        build: Makes a new model.
        kind: Its key in `WRAPPED` or `FAMILIES`, or `"native, causal"`, `"native, bidirectional"`.
        stack: Which attention of an encoder-decoder is cut.
        own_edges: For our encoders, which have a layout: the edges that the table cuts.
    """

    name: str
    build: Callable[[], nn.Module]
    kind: str | None = None
    stack: StackName | None = None
    own_edges: EdgeSet | None = None

    @property
    def has_plain_model(self) -> bool:
        """Whether the same model can be built without hook points, for comparison."""
        return self.kind is not None or self.name.startswith("torch")

    @property
    def layout(self) -> TokenLayout:
        """Six tokens: CLS, two modalities of two tokens, one ungrouped token. Cross attention: six and six tokens."""
        if self.own_edges is not None:
            model: Any = self.build()
            return model.layout
        if self.stack == "cross":
            return TokenLayout.groups({"cls": [0], "emg": [1, 2], "acc": [9, 10]}, n_tokens=2 * N_TOKENS)
        return TokenLayout.groups({"cls": [0], "emg": [1, 2], "acc": [3, 4]}, n_tokens=N_TOKENS)


OWN_ENCODERS: dict[str, tuple[dict[str, Any], EdgeSet]] = {
    "tinymyo": ({"patch_samples": 4, "n_samples": 8}, ~same_channel()),
    "tinymyo-gestures": ({"n_samples": 46}, lag(1, 2)),
    "tinymyo-speech": ({"n_samples": 24}, ~lag(0, 0)),
}
"""Our encoders with six positions: settings in addition to `_sizes`, and the edges that the table cuts."""


def own_encoder(name: str) -> Any:
    """One of `OWN_ENCODERS`, with random weights."""
    torch.manual_seed(0)
    sizes = {key: size for key, size in _sizes("").items() if key in ("n_layers", "d_model", "n_heads", "d_mlp")}
    data = {"modalities": {"emg": 2, "acc": 1}, "n_classes": 2}
    return _spread(build_model(name, **data, **sizes | OWN_ENCODERS[name][0])).eval()


def _own_encoders() -> Iterator[Specimen]:
    for name, (_, edges) in OWN_ENCODERS.items():
        yield Specimen(name, partial(own_encoder, name), own_edges=edges)


def zoo() -> list[Specimen]:
    """List one model of every kind that the installed TransformerLens can build."""
    return [*_legacy(), *_native(), *_wrapped(WRAPPED)]


def families() -> list[Specimen]:
    """List models with unusual attention, adapted models without a bridge, and our encoders."""
    encoder = Specimen("torch's TransformerEncoder, adapted", _adapted_torch)
    return [
        *_wrapped(FAMILIES, kernels=("eager",)),
        encoder,
        *_wrapped(REFUSED, kernels=("eager",)),
        *_own_encoders(),
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
    """Build the model inside TransformerLens's native bridge, without the bridge."""
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
        # Bridges of T5 before 4.0 do not run, cut or not: they expect the return type of transformers' T5 before 5.15.
        runs = architecture.model != "T5ForConditionalGeneration" or installed_version()[0] >= 4
        if not architecture.adapted and not (architecture.model in SUPPORTED_ARCHITECTURES and runs):
            continue
        make, how = (_adapted, "adapted") if architecture.adapted else (bridged, "bridge")
        for kernel in kernels:
            for stack in architecture.stacks or (None,):
                name = f"{kind} {how}, {kernel}" + (f", {stack}" if stack else "")
                yield Specimen(name, partial(make, architecture, kernel), kind, stack)


def bridged(architecture: TinyArchitecture, kernel: str) -> Any:
    """Wrap `wrapped_model` in TransformerLens's bridge."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = wrapped_model(architecture, kernel)
    return build_bridge_from_module(model, architecture.model, hf_config=model.config)


def _adapted(architecture: TinyArchitecture, kernel: str) -> nn.Module:
    return adapt(wrapped_model(architecture, kernel))


def _adapted_torch() -> nn.Module:
    return adapt(torch_encoder(), torch.randn(2, N_TOKENS, 16, generator=torch.Generator().manual_seed(0)))


def torch_encoder() -> nn.TransformerEncoder:
    """Build a random `nn.TransformerEncoder` with two layers."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return _spread(nn.TransformerEncoder(layer, 2)).eval()


def wrapped_model(architecture: TinyArchitecture, kernel: str) -> Any:
    """Build a random model of transformers, with the same weights for every attention kernel."""
    import transformers

    torch.manual_seed(0)
    cfg = getattr(transformers, architecture.config)(**architecture.sizes)
    cfg._attn_implementation = kernel
    return _spread(getattr(transformers, architecture.model)(cfg)).eval()


def _spread(model: nn.Module) -> Any:
    """Draw larger weights: with the initial ones, attention is nearly uniform."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 or name.endswith("sinks"):
            nn.init.normal_(parameter, std=0.3)
    return model


def installed_version() -> tuple[int, ...]:
    """Return the version of the installed TransformerLens as numbers."""
    return tuple(int(part) for part in version("transformer-lens").split(".")[:2])


def output_tensor(result: Any) -> Tensor:
    """Return the main tensor of a model's result."""
    return result if isinstance(result, Tensor) else result[0]
