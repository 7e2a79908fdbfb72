"""Time of a verified cut: the first entry of `cutting`, a later entry, and a forward inside, as ratios of CPU time.

`python tests/bench/cutting.py [--device cuda] [--rounds N] [--tokens N] [--batch N] [--only MODEL]` prints one row for
each model. Eight layers are cut. The first entry is measured on a new model in each round. *Native mask* is the model
with the same edges masked without any hook: our own `permanent_mask`, torch's `mask=`, or a function for attention that
is registered with transformers. All runs use one CPU thread, one process and no gradients. Times of forwards are
medians of five runs, the first of which is not counted. On a GPU, all times are wall times.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from emg_lens.hooks import adapt, cross_modal, cut, cutting
from emg_lens.layout import TokenLayout
from emg_lens.models.tinymyo.config import TinyMyoConfig
from emg_lens.models.tinymyo.encoder import TinyMyo

LAYERS, WIDTH, HEADS, MLP = 8, 192, 3, 768
EDGES = cross_modal()
FORWARDS = ("plain", "native mask", "cut hooks")
RUNS = 5
DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """A new model with an input.

    Attributes:
        plain: Runs the model without a cut.
        native: Runs the model with the same edges masked, without any hook.
        cuttable: The model that `cutting` takes.
        adapt_seconds: CPU time of `adapt`.
    """

    plain: Callable[[], Any]
    native: Callable[[], Any]
    cuttable: nn.Module
    layout: TokenLayout
    x: Tensor
    adapt_seconds: float = 0.0


def halves(n_tokens: int) -> TokenLayout:
    """Two modalities of equal size."""
    half = n_tokens // 2
    return TokenLayout.groups({"emg": list(range(half)), "acc": list(range(half, n_tokens))}, n_tokens)


def tinymyo(n_tokens: int, batch: int) -> Subject:
    """TinyMyo; half of the channels are another modality."""
    n = n_tokens // 50
    config = TinyMyoConfig(
        {"emg": n - n // 2, "acc": n // 2}, n_samples=1000, n_classes=6, d_model=WIDTH, n_heads=HEADS, n_layers=LAYERS
    )
    model, twin = TinyMyo(config).eval().to(DEVICE), TinyMyo(config).eval().to(DEVICE)
    twin.load_state_dict(model.state_dict())
    masks = EDGES.mask(model.layout, LAYERS, HEADS)
    for block, mask in zip(twin.blocks, masks, strict=True):
        block.attn.permanent_mask = mask[:1].to(DEVICE)  # pyright: ignore
    x = model.example_input(batch)
    return Subject(lambda: model(x), lambda: twin(x), model, model.layout, x)


def torch_encoder(n_tokens: int, batch: int) -> Subject:
    """`nn.TransformerEncoder` of the same size, through `adapt`."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, MLP, 0.0, "gelu", batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).eval().to(DEVICE)
    for parameter in model.parameters():  # its layers begin as copies of one another
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    x, layout = torch.randn(batch, n_tokens, WIDTH).to(DEVICE), halves(n_tokens)
    mask = EDGES.mask(layout, 1, 1)[0, 0].to(DEVICE)
    adapted, seconds = timed_once(lambda: adapt(model, x[:1]))
    return Subject(lambda: model(x), lambda: model(x, mask=mask), adapted, layout, x, seconds)


def vit(implementation: str) -> Callable[[int, int], Subject]:
    """A ViT of transformers of the same size, through `adapt`."""

    def build(n_tokens: int, batch: int) -> Subject:
        from transformers import AttentionInterface, ViTConfig, ViTModel
        from transformers.integrations.sdpa_attention import sdpa_attention_forward
        from transformers.models.vit.modeling_vit import eager_attention_forward

        side = round((n_tokens - 1) ** 0.5)
        layout = halves(side * side + 1)
        mask = EDGES.mask(layout, 1, 1)[0, 0].to(DEVICE)
        function: Any = sdpa_attention_forward if implementation == "sdpa" else eager_attention_forward
        given = ~mask[None, None] if implementation == "sdpa" else mask[None, None] * torch.finfo().min

        def masked(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **rest: Any):  # noqa: ARG001, ANN202
            return function(module, query, key, value, given, **rest)

        AttentionInterface.register("masked", masked)

        def made(attention: str) -> nn.Module:
            sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
            image = {"image_size": 2 * side, "patch_size": 2, "num_channels": 1}
            config = ViTConfig(**sizes, intermediate_size=MLP, **image)
            config._attn_implementation = attention
            return ViTModel(config, add_pooling_layer=False).eval().to(DEVICE)

        model, twin = made(implementation), made("masked")
        twin.load_state_dict(model.state_dict())
        x = torch.randn(batch, 1, 2 * side, 2 * side).to(DEVICE)
        adapted, seconds = timed_once(lambda: adapt(model))
        return Subject(lambda: model(x), lambda: twin(x), adapted, layout, x, seconds)

    return build


MODELS = {"TinyMyo": tinymyo, "torch encoder": torch_encoder, "ViT, sdpa": vit("sdpa"), "ViT, eager": vit("eager")}


def timed_once(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the CPU seconds of this thread; on a GPU, wall seconds."""
    clock, wait = (time.thread_time, int) if DEVICE.type == "cpu" else (time.perf_counter, torch.cuda.synchronize)
    wait()
    start = clock()
    result = run()
    wait()
    return result, clock() - start


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the median CPU seconds of this thread, of several runs after a first one."""
    run()
    times = [timed_once(run) for _ in range(RUNS)]
    return times[-1][0], median(seconds for _, seconds in times)


def entry(subject: Subject) -> None:
    """Enter `cutting`, without a forward inside; the verification on exit fails and is not measured."""
    context = cutting(subject.cuttable, EDGES, subject.layout)
    context.__enter__()
    context.__exit__(ValueError, ValueError(), None)


def verified(subject: Subject, seconds: list[float]) -> Tensor:
    """A whole context, verified on exit; the time of the forward inside is added to `seconds`."""
    with cutting(subject.cuttable, EDGES, subject.layout):
        out, taken = timed(subject.plain)
    seconds.append(taken)
    return out


def measure(build: Callable[[int, int], Subject], n_tokens: int, batch: int, rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each step."""
    seconds: dict[str, list[float]] = {"adapt": [], "inside cutting": []}
    for _ in range(rounds):
        subject = build(n_tokens, batch)
        hooks: list = []
        steps: dict[str, Callable[[], Any]] = {
            "plain": subject.plain,
            "native mask": subject.native,
            "first entry": lambda subject=subject: entry(subject),
            "later entry": lambda subject=subject: entry(subject),
            "context": lambda subject=subject: verified(subject, seconds["inside cutting"]),
            "make hooks": lambda subject=subject, hooks=hooks: hooks.extend(
                cut(subject.cuttable, EDGES, subject.layout)
            ),
            "cut hooks": lambda subject=subject, hooks=hooks: subject.cuttable.run_with_hooks(
                subject.x, fwd_hooks=hooks
            ),
        }
        seconds["adapt"].append(subject.adapt_seconds)
        outputs = {}
        for name, step in steps.items():
            outputs[name], taken = (timed if name in FORWARDS else timed_once)(step)
            seconds.setdefault(name, []).append(taken)
        for name in ("context", "cut hooks"):
            off = float((first(outputs[name]) - first(outputs["native mask"])).abs().max())
            assert off < 1e-4, f"{name} differs from the native mask by {off:.2g}"
    return {name: median(taken) for name, taken in seconds.items()}


def first(output: Any) -> Tensor:
    """The main tensor of an output."""
    return output if isinstance(output, Tensor) else output[0]


COLUMNS = {
    "native mask": "plain",
    "adapt": "plain",
    "first entry": "plain",
    "later entry": "plain",
    "inside cutting": "native mask",
    "cut hooks": "native mask",
}
"""Steps, and the step by which their time is divided."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=800)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--only", choices=MODELS)
    options = parser.parse_args()
    global DEVICE  # noqa: PLW0603
    DEVICE = torch.device(options.device)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    heads = [f"{step} / {unit}" for step, unit in COLUMNS.items()]
    print(f"| model | plain, ms | {' | '.join(heads)} |\n|:--|--:|{'--:|' * len(heads)}")  # noqa: T201
    for name in [options.only] if options.only else MODELS:
        with torch.no_grad():
            seconds = measure(MODELS[name], options.tokens, options.batch, options.rounds)
        ratios = [f"{seconds[step] / seconds[unit]:.2f}" for step, unit in COLUMNS.items()]
        print(f"| {name} | {1000 * seconds['plain']:.0f} | {' | '.join(ratios)} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
