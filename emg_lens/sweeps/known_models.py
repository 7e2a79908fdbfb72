"""Whose arithmetic is known: which models may be run from their parts, and which only as they are.

The folded executors copy the arithmetic of our encoders, and live edges follow from it. Both are right for exactly the
classes named here, with nothing put in between; of every other model nothing is assumed.
"""

from collections.abc import Iterable

import torch
from torch import nn

from emg_lens.hooks import EdgeError
from emg_lens.hooks.anatomy import DeadHookError, StageLayer
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.lens.points import GatedPoint, Point
from emg_lens.models.attention import Attention, Rotary
from emg_lens.models.components import MLP, Block, ChannelEmbed, LayerNorm, PosEmbed, Unembed
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.front_ends import CompressedConv, HalvingBlock, ResidualConv, SequenceEmbed
from emg_lens.models.hierarchical import HierarchicalTransformer
from emg_lens.models.isonet import IsoNet
from emg_lens.models.multimodal_transformer import LinearFusion, MultimodalTransformer
from emg_lens.models.staged import StagedEmbed, blocks_of
from emg_lens.models.tinymyo.encoder import ChannelVectors, TinyMyo
from emg_lens.models.tinymyo.heads import ChannelUnembed, SampleUnembed, SequenceUnembed
from emg_lens.models.tinymyo.sequence import SequenceEncoder, TinyMyoGestures, TinyMyoSpeech

KNOWN_MODELS: set[type[nn.Module]] = {
    HookedBiosignalEncoder,
    IsoNet,
    HierarchicalTransformer,
    MultimodalTransformer,
    TinyMyo,
    SequenceEncoder,
    TinyMyoGestures,
    TinyMyoSpeech,
}
"""Classes whose forward is residual stream in, `Block`s, final norm, head. A model of ours joins with one line here."""
KNOWN_PARTS = frozenset(
    {Block, Attention, MLP, LayerNorm, ChannelEmbed, StagedEmbed, PosEmbed, Unembed, LinearFusion, Rotary}
    | {ChannelVectors, SampleUnembed, ChannelUnembed, SequenceUnembed}
    | {SequenceEmbed, CompressedConv, ResidualConv, HalvingBlock, nn.LayerNorm, nn.BatchNorm1d, nn.Sequential}
    | {Point, GatedPoint, nn.Identity, nn.ModuleList, nn.ModuleDict, nn.Linear, nn.Conv1d, nn.Dropout}
)
PARTS_OF_A_BLOCK = {"ln1": LayerNorm, "attn": Attention, "ln2": LayerNorm, "mlp": MLP}

HOOK_KINDS = ("forward_pre_hooks", "forward_hooks", "backward_pre_hooks", "backward_hooks")


def has_hooks(model: nn.Module) -> bool:
    """Whether any hook, TransformerLens's or torch's own, sits on the model, on a part of it, or on all modules."""
    everywhere = torch.nn.modules.module
    return any(getattr(everywhere, f"_global_{kind}") for kind in HOOK_KINDS) or any(
        getattr(part, f"_{kind}") for part in model.modules() for kind in HOOK_KINDS
    )


def reason_not_to_fold(model: nn.Module) -> str | None:
    """Why the arithmetic of this model is not known exactly; None if it is."""
    if not isinstance(model, HookedBiosignalEncoder):
        return "it is not one of our encoders"
    if has_hooks(model):
        return "it has hooks of its own"
    if type(model) not in KNOWN_MODELS:
        return f"the arithmetic of its class is not known, only that of {_names(KNOWN_MODELS)}"
    for name, part in model.named_modules():
        if part is not model and type(part) not in KNOWN_PARTS:
            return f"its {name} is a {type(part).__name__}, whose arithmetic is not known"
        if replaced := _replaced(part):
            return f"{name + '.' if name else ''}{replaced[0]} was replaced on this object"
    if type(model.ln_final) not in (LayerNorm, nn.Identity):  # torch's own is known in front ends alone
        return f"its ln_final is a {type(model.ln_final).__name__}, whose arithmetic is not known"
    layers = [blocks_of(layer) for layer in model.blocks]
    for layer, blocks in enumerate(layers):
        if not all(map(_is_known_block, blocks)):
            return f"block {layer} is not made of {_names(PARTS_OF_A_BLOCK.values())}"
    if len(set(layers)) != model.cfg.n_layers:
        return f"it has {len(set(layers))} blocks of its own and cfg.n_layers={model.cfg.n_layers}"
    return None


def reason_not_to_share(model: nn.Module) -> str | None:
    """Why conditions cannot share the model's own blocks one by one; None if they can."""
    if not isinstance(model, HookedBiosignalEncoder):
        return "it is not one of our encoders"
    if has_hooks(model):
        return "it has hooks of its own"
    if type(model).forward is not HookedBiosignalEncoder.forward or "forward" in vars(model):
        return "it has a forward of its own"
    try:
        intervention_point = find_intervention_point(model, model.layout)
    except (DeadHookError, EdgeError, ValueError) as error:
        return f"its blocks cannot be cut by hooks: {error}"
    layers = {place.layer if isinstance(place, StageLayer) else place for place in intervention_point.paths}
    if intervention_point.name != "scores" or intervention_point.strict or layers != set(range(model.cfg.n_layers)):
        return f"hooks on its scores do not cut its edges in all layers (intervention point {intervention_point.name!r})"
    return None


def reads_cls_alone(model: HookedBiosignalEncoder) -> bool:
    """Whether nothing but CLS is read of the last block, which itself can leave the other rows out."""
    kind = type(model)
    return (
        model.cfg.readout == "cls"
        and any(kind.head is known.head and kind.pool is known.pool for known in KNOWN_MODELS)  # pyright: ignore
        and type(model.ln_final) in (LayerNorm, nn.Identity)
        and not any(key in vars(model) for key in ("head", "pool"))
        and _is_known_block(model.blocks[-1])
    )


def _is_known_block(block: nn.Module) -> bool:
    made = all(type(getattr(block, name, None)) is kind for name, kind in PARTS_OF_A_BLOCK.items())
    return type(block) is Block and made and all(_as_known(part) for part in block.modules())


def _as_known(part: nn.Module) -> bool:
    """Whether a part is of a known class and nothing of that class is replaced on the object."""
    return type(part) in KNOWN_PARTS and not _replaced(part)


def _replaced(part: nn.Module) -> list[str]:
    """What an object has in the place of its class's own methods."""
    return [key for key in vars(part) if callable(getattr(type(part), key, None))]


def _names(kinds: Iterable[type]) -> str:
    return ", ".join(sorted({kind.__name__ for kind in kinds}))
