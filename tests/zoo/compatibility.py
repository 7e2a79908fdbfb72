"""Measure which kinds of models can be cut, and how, on tiny random models.

`PYTHONPATH=tests python -m zoo.compatibility` prints the table for the installed TransformerLens.
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
from zoo.masked_by_hand import MaskedByHand
from zoo.tiny_models import N_TOKENS, Specimen, families, output_tensor, zoo

from emg_lens.errors import EmgLensError
from emg_lens.hooks.cuts import cut, cutting
from emg_lens.hooks.edges import cross_modal, flow
from emg_lens.hooks.hook_points import (
    SCORES,
    DeadHookError,
    Place,
    at_path,
    attached_hook,
    attention_paths,
    count_layers,
    plain_evaluation,
)
from emg_lens.hooks.model_inputs import call, example_inputs


def table() -> pd.DataFrame:
    """Measure one row for each model.

    Columns:
        model: Name of the model.
        intervention_point: Where `cutting` acts, or "refused".
        cut: Whether `cut` and `cutting` both work, or only `cutting`.
        attention_left: Largest attention on a cut edge.
        mass_removed: Fraction of the attention that the cut edges had.
        max_delta: Largest change of the output under `cutting`.
        off_reference: Largest difference from the same cut in `MaskedByHand`, over `cut` and `cutting`.
        plain_hook_delta: Largest change when a hook writes -inf to `hook_attn_scores`; 0 = the hook has no effect.
        routes: Other routes between tokens, as named in the report.
        refusal: The error message, where `cutting` refuses the model.
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
    with plain_evaluation(model):
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
    """Return the mask of every layer; for cross attention, the decoder's rows and the encoder's columns."""
    if specimen.stack == "cross":
        mask = mask[:, :, N_TOKENS:, :N_TOKENS]
    return dict(enumerate(mask))


def _off_reference(specimen: Specimen, x: Any, masks: dict[int, Tensor], results: list[Tensor]) -> float:
    if not specimen.has_plain_model:
        return float("nan")
    by_hand = MaskedByHand(specimen.kind, specimen.stack)
    # Without a configured start token, the bridge of T5 gives the input to the decoder.
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
            stack.enter_context(attached_hook(at_path(model, f"{path}.{SCORES}"), fill))
        return output_tensor(call(model, x))


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")  # bridges warn about edits that they discard; the table shows these
    with contextlib.redirect_stdout(None):  # HookedTransformer prints its device
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
