"""Cut every architecture of a library and compare with the plain model that is cut by hand."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from zoo.libraries.architecture import Architecture
from zoo.libraries.masked_by_patching import Patched, Softmax, drawn, tensors

from emg_lens import TokenLayout, adapt, cutting, edges_from_mask
from emg_lens.errors import EmgLensError
from emg_lens.hooks.model_inputs import call

NAMES = {"encoder": "encoder_blocks", "decoder": "decoder_blocks", "cross": "decoder_blocks", "blocks": "blocks"}


@dataclass
class Outcome:
    """What happened to one architecture.

    Attributes:
        kind: `"right"`, `"refused"`, `"wrong"` or `"crashed"`.
        layers: Number of attention layers that were cut.
        off: Largest difference from the plain model cut by hand, relative to its largest output if that is above 1.
        reason: Text of the refusal or error.
        routes: Routes that the report names.
        leaks: Whether tokens influence each other in the plain model although all edges between them are cut.
        left_out: Softmaxes in modules that were not cut, for a reader to judge.
    """

    kind: str
    layers: int = 0
    off: float = 0.0
    changed: float = 0.0
    reason: str = ""
    routes: str = ""
    leaks: bool | None = None
    left_out: tuple[str, ...] = ()

    @property
    def fault(self) -> bool:
        """Whether the cut is wrong or the model crashes."""
        return self.kind not in ("right", "refused")


def outcome(architecture: Architecture) -> Outcome:
    """Cut random edges of every layer; then compare with the same edges cut in the plain model."""
    plain = Patched(drawn(architecture.build), architecture.heads_first, architecture.memory)
    inputs = architecture.inputs()
    before = plain(inputs)
    softmaxes = list(plain.softmaxes)
    model, result = drawn(architecture.build), Outcome("right")
    try:
        adapted = adapt(model, inputs)
        for paths, stack in _cuts(architecture, adapted):
            for masks in _groups(_masks(paths, softmaxes, adapted.cfg.n_heads, stack)):
                after = _cut(adapted, model, inputs, paths, masks, stack, result)
                expected = plain(inputs, masks)
                result.layers += len(masks)
                scale = max([1.0, *(float(t.abs().max()) for t in expected if t.numel())])
                result.off = max(result.off, _largest(after, expected) / scale)
                result.changed = max(result.changed, _largest(before, expected) / scale)
    except EmgLensError as refusal:
        return Outcome("refused", reason=str(refusal))
    except Exception as error:  # noqa: BLE001 - a crash is an outcome
        return Outcome("crashed", reason=f"{type(error).__name__}: {error}")
    if result.layers > 1 and stack is None:
        every = {path: ~torch.eye(mask.shape[-1], dtype=torch.bool).expand_as(mask) for path, mask in masks.items()}
        result.leaks = plain.leaks(inputs, list(every), every)
    cut = tuple(adapted.attention.values())
    result.left_out = tuple(
        dict.fromkeys(
            f"{one.path} {one.shape}" for one in softmaxes if not any(_within(one.path, path) for path in cut)
        )
    )
    if not result.off <= 1e-4:
        result.kind = "wrong"
    return result


def _cuts(architecture: Architecture, adapted: Any) -> Iterator[tuple[list[str], str | None]]:
    """Yield the attention modules to cut, in the order of the layers, and the stack."""
    if not architecture.stacks:
        if all(name.startswith("blocks.") for name in adapted.attention):
            yield list(adapted.attention.values()), None
            return
        for stack, start, end in (
            ("encoder", "encoder", "attn"),
            ("decoder", "decoder", "self_attn"),
            ("cross", "decoder", "cross_attn"),
        ):
            found = [
                path for name, path in adapted.attention.items() if name.startswith(start) and name.endswith("." + end)
            ]
            if found:
                yield found, stack
        return
    paths = [path for path, _ in adapted.original_model.named_modules()]
    for stack, pattern in architecture.stacks.items():
        yield [path for path in paths if re.fullmatch(f"(.*\\.)?{pattern}", path)], stack


def _masks(paths: list[str], softmaxes: list[Softmax], n_heads: int, stack: str | None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = {}
    for path in paths:
        scores = next(one for one in softmaxes if _within(one.path, path))
        n_dest, n_src = scores.shape[-2:]
        n_src = n_src if stack == "cross" else n_dest  # further keys are no tokens
        cut = torch.rand(n_heads, n_dest, n_src, generator=generator) < 0.5
        cut.diagonal(dim1=1, dim2=2)[:] = False  # no row is empty, in causal models neither
        cut[..., 0] = False
        masks[path] = cut
    return masks


def _groups(masks: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the layers with the same numbers of tokens together."""
    shapes = dict.fromkeys(mask.shape for mask in masks.values() if mask.any())
    return [{path: mask for path, mask in masks.items() if mask.shape == shape} for shape in shapes]


def _cut(
    adapted: Any,
    model: Any,
    inputs: Any,
    paths: list[str],
    masks: dict[str, Tensor],
    stack: str | None,
    result: Outcome,
) -> list[Tensor]:
    n_dest, n_src = next(iter(masks.values())).shape[-2:]
    n_tokens = n_dest + n_src if stack == "cross" else n_dest
    wide = torch.zeros(len(paths), adapted.cfg.n_heads, n_tokens, n_tokens, dtype=torch.bool)
    for layer, path in enumerate(paths):
        if path in masks:
            wide[layer, :, n_tokens - n_dest :, :n_src] = masks[path]
    layout = TokenLayout.groups({"all": list(range(n_tokens))}, n_tokens=n_tokens)
    options: dict[str, Any] = {"inputs": inputs, "stack": stack}
    edges = edges_from_mask(wide.numpy())
    with torch.no_grad():
        try:
            with cutting(adapted, edges, layout, **options) as report:
                torch.manual_seed(0)
                after = tensors(call(model, inputs))
        except EmgLensError as refusal:
            if "allow_routes" not in str(refusal):
                raise
            with cutting(adapted, edges, layout, **options, allow_routes=True) as report:
                torch.manual_seed(0)
                after = tensors(call(model, inputs))
            result.reason = str(refusal)
    result.routes = "; ".join(report.routes)
    return after


def _largest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(
        float((a - b).abs().nan_to_num(nan=torch.inf).max()) for a, b in zip(ours, theirs, strict=True) if a.numel()
    )


def _within(path: str, other: str) -> bool:
    return (path + ".").startswith(other + ".") or not other
