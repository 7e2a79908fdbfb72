"""What is known about a model's structure, from what its class and its parts declare (`emg_lens.models.declarations`).

Live edges follow from two declarations of an encoder (`runs_blocks_in_order`, `readout_positions`) and one of each part
of a block (`mixes_only_by_attention`). The folded executor also needs `folds`. About other models nothing is assumed.
"""

import torch
from torch import nn

from emg_lens.hooks import EdgeError
from emg_lens.hooks.hook_points import DeadHookError, StageLayer
from emg_lens.hooks.threads import is_of_another_thread
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.models.declarations import why_undeclared
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.staged import SideBySide, blocks_of

SLOTS = ("ln1", "attn", "ln2", "mlp", "attn.rotary", "attn.relative")
"""Parts of a block. In these places, and at hook points, a module of torch does not belong to the part that holds it,
because somebody put it there in the place of ours."""
HOOK_KINDS = ("forward_pre_hooks", "forward_hooks", "backward_pre_hooks", "backward_hooks")


def has_hooks(model: nn.Module) -> bool:
    """Whether any hook, TransformerLens's or torch's own, sits on the model, on a part of it, or on all modules.

    Hooks that act only in another thread do not count.
    """
    everywhere = torch.nn.modules.module
    return any(getattr(everywhere, f"_global_{kind}") for kind in HOOK_KINDS) or any(
        not is_of_another_thread(hook)
        for part in model.modules()
        for kind in HOOK_KINDS
        for hook in tuple(getattr(part, f"_{kind}"))
    )


def reason_not_to_share(model: nn.Module) -> str | None:
    """Say why conditions cannot share the model's own blocks one by one; None if they can."""
    if reason := _reason_against_blocks(model):
        return reason
    assert isinstance(model, HookedBiosignalEncoder)
    try:
        intervention_point = find_intervention_point(model, model.layout)
    except (DeadHookError, EdgeError, ValueError) as error:
        return f"its blocks cannot be cut by hooks: {error}"
    layers = {place.layer if isinstance(place, StageLayer) else place for place in intervention_point.paths}
    if intervention_point.name != "scores" or intervention_point.strict or layers != set(range(model.cfg.n_layers)):
        return (
            f"hooks on its scores do not cut its edges in all layers (intervention point {intervention_point.name!r})"
        )
    return None


def reason_not_to_plan(model: nn.Module) -> str | None:
    """Say why it is not known which edges lead to the output; None if it is known."""
    return _reason_against_blocks(model) or _reason_against_parts(model, "mixes_only_by_attention")


def reason_not_to_fold(model: nn.Module) -> str | None:
    """Say why the folded executor cannot replace the model's blocks; None if it can."""
    if torch.is_autocast_enabled(next(model.parameters()).device.type):
        return "torch.autocast chooses the precision of each operation of its blocks"
    return reason_not_to_plan(model) or _reason_against_parts(model, "folds")


def reads_first_row_only(model: HookedBiosignalEncoder) -> bool:
    """Whether only position 0 of the last block is read, and this block can leave out the other rows."""
    last, norm = model.blocks[-1], model.ln_final
    if why_undeclared(model, "readout_positions") or not model.reads_first_row_only or isinstance(last, SideBySide):
        return False
    norm_mixes = type(norm) is not nn.Identity and why_undeclared(norm, "mixes_only_by_attention")
    return not norm_mixes and not any(why_undeclared(part, "folds") for _, part in _parts_of(last))


def _reason_against_blocks(model: nn.Module) -> str | None:
    if not isinstance(model, HookedBiosignalEncoder):
        return "it is not one of our encoders"
    if has_hooks(model):
        return "it has hooks of its own"
    return why_undeclared(model, "runs_blocks_in_order")


def _reason_against_parts(model: nn.Module, declaration: str) -> str | None:
    """Say which part of the model lacks a declaration, or why the readout is not known."""
    assert isinstance(model, HookedBiosignalEncoder)
    if reason := why_undeclared(model, "readout_positions"):
        return reason
    if type(model.ln_final) is not nn.Identity and (reason := why_undeclared(model.ln_final, declaration)):
        return f"its ln_final: {reason}"
    layers = [blocks_of(layer) for layer in model.blocks]
    for layer, (whole, blocks) in enumerate(zip(model.blocks, layers, strict=True)):
        stages = [("", whole)] if isinstance(whole, SideBySide) else []
        for name, part in stages + [named for block in blocks for named in _parts_of(block)]:
            if reason := why_undeclared(part, declaration):
                return f"its block {layer}{name and '.'}{name}: {reason}"
    if len(set(layers)) != model.cfg.n_layers:
        return f"it has {len(set(layers))} different blocks and cfg.n_layers={model.cfg.n_layers}"
    return None


def _parts_of(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the parts of a block that need declarations; those of torch belong to the part that holds them."""
    return [
        (name, part)
        for name, part in block.named_modules()
        if name in SLOTS
        or name.rpartition(".")[2].startswith("hook_")
        or not type(part).__module__.startswith("torch.nn.modules")
    ]
