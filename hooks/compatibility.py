"""Which models can be cut, and how: a table measured on tiny random ones.

`python -m emg_lens.hooks.compatibility` prints the table for the TransformerLens that is installed.
"""

import contextlib
import warnings
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from rich.console import Console
from torch import Tensor, nn

from emg_lens.errors import EmgLensError
from emg_lens.hooks.anatomy import (
    SCORES,
    DeadHookError,
    Place,
    at_path,
    attention_paths,
    count_layers,
    listening,
    quietly,
)
from emg_lens.hooks.cuts import cut, cutting
from emg_lens.hooks.edges import cross_modal, flow
from emg_lens.hooks.examples import call, example_inputs
from emg_lens.hooks.specimens import N_TOKENS, Specimen, families, output_tensor, zoo
from emg_lens.hooks.unwrapped import MaskedByHand


def table() -> pd.DataFrame:
    """One row a model: the lever, and what cutting did, measured.

    Columns: `model`; `lever`, or "refused"; `cut` (whether plain hooks can cut, or `cutting` is needed);
    `attention_left` (largest attention on a cut edge); `mass_removed`; `max_delta` (largest change of the output under
    `cutting`); `off_reference` (largest difference, in every way that works, from the cut made by hand in the plain
    model, where there is one); `plain_hook_delta` (largest change when -inf is simply written in `hook_attn_scores`;
    0 = a silent no-op); `routes` (what the report says of ways past the attention that was cut); `refusal` (the
    message, where `cutting` refuses).
    """
    return pd.DataFrame([_row(specimen) for specimen in [*zoo(), *families()]])


def _row(specimen: Specimen) -> dict[str, Any]:
    try:
        return {"model": specimen.name, **_measured(specimen, specimen.build()), "refusal": ""}
    except EmgLensError as refusal:
        return {
            "model": specimen.name,
            "intervention_point": "refused",
            "cut": "-",
            "routes": "",
            "refusal": str(refusal),
        }


def _measured(specimen: Specimen, model: nn.Module) -> dict[str, Any]:
    layout, stack = specimen.layout, specimen.stack
    paths = attention_paths(model, stack)
    own = specimen.own_edges
    edges = (cross_modal() | flow("emg", "cls") if own is None else own).at(
        layers=[layer for layer in paths if isinstance(layer, int)]
    )
    masks = _masks(specimen, edges.mask(layout, count_layers(model, paths), model.cfg.n_heads))  # pyright: ignore
    x = example_inputs(model, N_TOKENS, batch=2)
    plain_hook_delta = float("nan")
    with quietly(model):
        before = output_tensor(call(model, x))
        with contextlib.suppress(RuntimeError):  # scores of another shape than dest by src
            plain_hook_delta = _largest(_plain_hook(model, x, paths, masks) - before)
        with cutting(model, edges, layout, inputs=x, stack=stack) as report:
            after = output_tensor(call(model, x))
    results, way = [after], "cutting"
    with contextlib.suppress(DeadHookError), torch.no_grad():
        hooks = cut(model, edges, layout, inputs=x, stack=stack)
        results.append(output_tensor(model.run_with_hooks(x, fwd_hooks=hooks)))  # pyright: ignore
        way = "cut, cutting"
    return {
        "intervention_point": report.intervention_point,
        "cut": way,
        "attention_left": max(entry.attention_left for entry in report.layers),
        "mass_removed": report.mass_removed,
        "max_delta": _largest(after - before),
        "off_reference": _off_reference(specimen, x, masks, results),
        "plain_hook_delta": plain_hook_delta,
        "routes": "; ".join(report.routes),
    }


def _masks(specimen: Specimen, mask: Bool[Tensor, "layer head dest src"]) -> dict[int, Bool[Tensor, "head dest src"]]:
    """The mask of every layer; across stacks, the decoder's rows and the encoder's columns."""
    if specimen.stack == "cross":
        mask = mask[:, :, N_TOKENS:, :N_TOKENS]
    return dict(enumerate(mask))


def _off_reference(specimen: Specimen, x: Any, masks: dict[int, Tensor], results: list[Tensor]) -> float:
    if not specimen.has_plain_model:
        return float("nan")
    by_hand = MaskedByHand(specimen.kind, specimen.stack)
    # The bridge of T5 lets the decoder read the input where no start token is configured.
    options = {"decoder_input_ids": x} if specimen.kind == "T5 encoder" else {}
    with torch.no_grad():
        cut_by_hand = by_hand(x, {layer: masks[layer] for layer in by_hand.layers}, **options)
    return max(_largest(result - output_tensor(cut_by_hand)) for result in results)


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())


def _plain_hook(model: nn.Module, x: Any, paths: Mapping[Place, str], masks: dict[int, Tensor]) -> Tensor:
    with contextlib.ExitStack() as stack:
        for layer, path in paths.items():
            fill = partial(lambda scores, hook, cut: scores.masked_fill(cut, -torch.inf), cut=masks[layer])  # noqa: ARG005  # pyright: ignore[reportArgumentType]
            stack.enter_context(listening(at_path(model, f"{path}.{SCORES}"), fill))
        return output_tensor(call(model, x))


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")  # bridges warn of edits that they discard: that is what the table shows
    with contextlib.redirect_stdout(None):  # HookedTransformer announces its device on stdout
        measured = table()
    console = Console(width=180, soft_wrap=True)
    console.print(f"TransformerLens {version('transformer-lens')}, torch {torch.__version__}")
    shown = measured.drop(columns=["routes", "refusal"])
    console.print(
        shown.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.2g}"),
        highlight=False,
        markup=False,
    )
    for name, text in measured[["model", "routes"]].itertuples(index=False):
        if text:
            console.print(f"another route: {name}: {text}", highlight=False, markup=False)
    for name, text in measured[["model", "refusal"]].itertuples(index=False):
        if text:
            console.print(f"refused: {name}: {text}", highlight=False, markup=False)


if __name__ == "__main__":
    main()
