"""Random cuts of random models in random situations, each compared with the same cut in the plain model.

`make fuzz-cuts` prints how many were right, refused, crashed, or silently wrong.
"""

import copy
import operator
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial, reduce
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from toy import RandomEdges
from zoo.architectures import REFUSED
from zoo.masked_by_hand import MaskedByHand
from zoo.tiny_models import N_TOKENS, OWN_ENCODERS, Specimen, families, output_tensor, own_encoder, zoo

from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeSet, cut, cutting, self_edges
from emg_lens.hooks.hook_points import attention_paths
from emg_lens.hooks.model_inputs import example_inputs
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder

NORMS = (("post", "learned"), ("pre", "rotary"))


def encoder(name: str) -> HookedBiosignalEncoder:
    """Build one of our encoders with the number of tokens of the other models."""
    torch.manual_seed(0)
    sizes = {"n_samples": 8, "n_classes": 4, "d_model": 16, "d_mlp": 32, "n_heads": 2, "n_layers": 2}
    # With a CLS readout and no hook, the last layer computes only one row and applies dropout to one row.
    cfg = EncoderConfig(modalities={"emg": 2, "acc": 3}, readout="mean", dropout=0.1, **sizes, **OURS[name])
    return HookedBiosignalEncoder(cfg).eval()


class PermanentlyMasked:
    """Our encoder with these edges permanently masked, which needs no hook."""

    kind, layers = "ours", (0, 1)

    def __init__(self, name: str) -> None:
        self.model = own_encoder(name) if name in OWN_ENCODERS else encoder(name)
        self.own = [block.attn.permanent_mask for block in self.model.blocks]  # of a causal model

    def __call__(self, x: Tensor, masks: dict[int, Tensor]) -> Tensor:
        for layer, block in enumerate(self.model.blocks):
            absent = [mask for mask in (self.own[layer], masks.get(layer)) if mask is not None]
            block.attn.permanent_mask = reduce(operator.or_, absent) if absent else None
            block.attn.has_empty_rows = layer in masks  # use the same dropout as the path with hooks
        return self.model(x)


OURS = {f"encoder, {norm}-LN": {"norm": norm, "positions": positions} for norm, positions in NORMS}
SPECIMENS = [s for s in [*zoo(), *families()] if s.has_plain_model and s.kind not in REFUSED]
SPECIMENS += [Specimen(name, partial(encoder, name)) for name in OURS]
SPECIMENS += [s for s in families() if s.name in OWN_ENCODERS]
ONE_FUNCTION = ("BLOOM (alibi)", "OpenAI-GPT", None)
"""Kinds without a defined output for a row without edges; their cuts keep the self-edges."""


@dataclass
class Case:
    """One model, one edge set, one situation.

    Attributes:
        rng: Source of the random choices of the situation.
        is_cut: False = no cut, to test whether model and plain model agree in this situation.
    """

    specimen: Specimen
    model: Any
    by_hand: MaskedByHand | PermanentlyMasked
    edges: EdgeSet
    x: Any
    rng: Random
    is_cut: bool = True

    @property
    def masks(self) -> dict[int, Tensor]:
        mask = self.edges.mask(self.specimen.layout, 2, 2)
        if self.specimen.stack == "cross":
            mask = mask[:, :, N_TOKENS:, :N_TOKENS]
        return {layer: mask[layer] for layer in self.by_hand.layers if mask[layer].any()}

    @property
    def reads_words(self) -> bool:
        return not self.x.is_floating_point()

    def cutting(self, edges: EdgeSet | None = None):
        if not self.is_cut:
            return nullcontext()
        options = {"inputs": self.x, "stack": self.specimen.stack}
        return cutting(self.model, self.edges if edges is None else edges, self.specimen.layout, **options)

    def run(self, x: Any = None, **options: Any) -> Tensor:
        """Run the model; an adapted model is sometimes run as the original model."""
        adapted = hasattr(self.model, "attention")
        model = self.model.original_model if adapted and self.rng.random() < 0.5 else self.model
        return output_tensor(model(self.x if x is None else x, **options))

    def expected(self, masks: dict[int, Tensor] | None = None, **options: Any) -> Tensor:
        if self.specimen.kind == "T5 encoder":
            options["decoder_input_ids"] = self.x
        masks = self.masks if masks is None else masks
        return output_tensor(self.by_hand(self.x, masks if self.is_cut else {}, **options))

    def to(self, dtype: torch.dtype) -> None:
        self.model.to(dtype), self.by_hand.model.to(dtype)
        if self.x.is_floating_point():
            self.x = self.x.to(dtype)

    def both(self) -> tuple[nn.Module, nn.Module]:
        return self.model, self.by_hand.model


def random_case(seed: int) -> Case:
    rng = Random(seed)
    specimen = rng.choice(SPECIMENS)
    model: Any = specimen.build()
    ours = specimen.name in OURS or specimen.name in OWN_ENCODERS
    by_hand: Any = PermanentlyMasked(specimen.name) if ours else MaskedByHand(specimen.kind, specimen.stack)
    draw = RandomEdges(rng, specimen.layout, 2, 2)
    while True:
        edges, _ = draw.draw(2)
        edges = edges.at(layers=list(attention_paths(model, specimen.stack)))
        if by_hand.kind in ONE_FUNCTION:
            edges = edges - self_edges()
        case = Case(specimen, model, by_hand, edges, None, rng)
        if case.masks:
            break
    case.x = example_inputs(model, N_TOKENS, batch=2)
    return case


# --- situations: each yields outputs, expected outputs and a tolerance ---------------------------

Judged = Iterator[tuple[Tensor, Tensor, float]]


def as_it_is(case: Case) -> Judged:
    with torch.no_grad():
        with case.cutting():
            ours = case.run()
        yield ours, case.expected(), 1e-5
        yield case.run(), case.expected({}), 1e-5


def in_another_type(case: Case) -> Judged:
    dtype, tolerance = case.rng.choice([(torch.float64, 1e-6), (torch.bfloat16, 0.06), (torch.float16, 0.008)])
    case.to(dtype)
    with torch.no_grad():
        with case.cutting():
            ours = case.run()
        yield ours, case.expected(), tolerance


def peaked(case: Case) -> Judged:
    """Double the weights, so that most of a row underflows."""
    with torch.no_grad():
        for model in case.both():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(2)
        case.to(torch.float64)
        with case.cutting():
            ours = case.run()
        yield ours, case.expected(), 1e-6


def while_training(case: Case) -> Judged:
    """Use dropout with the same random seed in both models."""
    for model in case.both():
        model.train()
        config = getattr(getattr(model, "original_model", model), "config", None)
        if config is not None:
            config.apply_spec_augment = False  # audio models mask random time spans
    seed = case.rng.randrange(1000)
    with torch.no_grad():
        with case.cutting():
            torch.manual_seed(seed)
            ours = case.run()
        torch.manual_seed(seed)
        yield ours, case.expected(), 1e-5


def with_padding(case: Case) -> Judged:
    left = case.rng.random() < 0.5
    n = case.rng.randint(1, 3)
    kept = torch.ones(2, N_TOKENS, dtype=torch.bool)
    kept[0, slice(None, n) if left else slice(N_TOKENS - n, None)] = False
    with torch.no_grad():
        with case.cutting():
            ours = case.run(attention_mask=kept.long())
        yield ours[kept], case.expected(attention_mask=kept.long())[kept], 1e-5


def from_a_cache(case: Case) -> Judged:
    """Run the last tokens with a cache of the others, filled inside the context or, without the cut, before it."""
    n, filled_before = case.rng.randint(1, N_TOKENS - 1), case.rng.random() < 0.5
    with torch.no_grad(), ExitStack() as context:
        if not filled_before:
            context.enter_context(case.cutting())
        past = case.model.original_model(case.x[:, :n], use_cache=True).past_key_values
        if filled_before:
            context.enter_context(case.cutting())
        ours = case.run(case.x[:, n:], past_key_values=past, use_cache=True)
        context.close()
        late = torch.arange(N_TOKENS)[:, None] >= (n if filled_before else 0)
        yield ours, case.expected({layer: mask & late for layer, mask in case.masks.items()})[:, n:], 1e-5


def by_plain_hooks(case: Case) -> Judged:
    """Use `cut` instead of `cutting`, also in training mode or another dtype."""
    train, dtype = case.rng.choice([(False, torch.float32), (True, torch.float32), (False, torch.bfloat16)])
    case.to(dtype)
    for model in case.both():
        model.train(train)
    seed = case.rng.randrange(1000)
    with torch.no_grad():
        hooks = []
        if case.is_cut:
            hooks = cut(case.model, case.edges, case.specimen.layout, inputs=case.x, stack=case.specimen.stack)
        torch.manual_seed(seed)
        ours = output_tensor(case.model.run_with_hooks(case.x, fwd_hooks=hooks))
        torch.manual_seed(seed)
        yield ours, case.expected(), 0.06 if dtype is torch.bfloat16 else 1e-5


def copied_inside(case: Case) -> Judged:
    with torch.no_grad():
        with case.cutting():
            copied = copy.deepcopy(case.model)
            ours = case.run()
        yield ours, case.expected(), 1e-5
        yield output_tensor(copied(case.x)), case.expected({}), 1e-5


def with_checkpointing(case: Case) -> Judged:
    """Compare the sum of squared gradients, recomputed inside the context or after it."""
    reentrant, inside = case.rng.random() < 0.5, case.rng.random() < 0.5
    start = torch.zeros(1, requires_grad=True)
    with ExitStack() as context:
        context.enter_context(case.cutting())
        loss = checkpoint(lambda zero: (case.run() + zero).square().sum(), start, use_reentrant=reentrant)
        if inside:
            loss.backward()
        context.close()
        if not inside:
            loss.backward()
    case.expected().square().sum().backward()
    ours, theirs = ([p.grad for p in model.parameters() if p.grad is not None] for model in case.both())
    assert ours and theirs
    yield *(torch.stack([grad.double().square().sum() for grad in grads]).sum() for grads in (ours, theirs)), 1e-4


def nested(case: Case) -> Judged:
    """Nest two halves of the cut."""
    halves = [case.edges.at(heads=[head]) for head in (0, 1)]
    halves = [half for half in halves if half.mask(case.specimen.layout, 2, 2).any()]
    with torch.no_grad():
        with case.cutting(halves[0]), case.cutting(halves[-1]):
            ours = case.run()
        yield ours, case.expected(), 1e-5


SITUATIONS: dict[str, tuple[Callable[[Case], Judged], Callable[[Case], bool]]] = {
    "as it is": (as_it_is, lambda case: True),
    "in another type": (in_another_type, lambda case: True),
    "peaked": (peaked, lambda case: True),
    "while training": (while_training, lambda case: True),
    "with padding": (with_padding, lambda case: case.reads_words and case.by_hand.kind not in ONE_FUNCTION),
    "from a cache": (from_a_cache, lambda case: hasattr(getattr(case.model, "original_model", None), "generate")),
    "by plain hooks": (by_plain_hooks, lambda case: True),
    "copied inside": (copied_inside, lambda case: True),
    "with checkpointing": (with_checkpointing, lambda case: True),
    "nested": (nested, lambda case: True),
}
"""For each name, the situation, and a test of whether a case supports it."""


@dataclass(frozen=True)
class Verdict:
    """The result of a case.

    Attributes:
        outcome: "right", "refused", "crashed" or "silently wrong".
    """

    situation: str
    model: str
    edges: str
    outcome: str
    detail: str


def judge(seed: int, situation: str) -> Verdict:
    """Search, from `seed` on, a case in which both models agree without a cut, and make the cut there."""
    happens, exists = SITUATIONS[situation]
    for number in range(1000 * seed, 1000 * (seed + 1)):
        if exists(random_case(number)) and outcome(happens, replace(random_case(number), is_cut=False))[0] == "right":
            break
    case = random_case(number)
    return Verdict(situation, case.specimen.name, str(case.edges), *outcome(happens, case))


def outcome(happens: Callable[[Case], Judged], case: Case) -> tuple[str, str]:
    """Return the outcome of a case and details."""
    try:
        for ours, expected, tolerance in happens(case):
            off = float((ours - expected).abs().nan_to_num(nan=torch.inf).max() / expected.abs().max().clamp(min=1))
            if not off <= tolerance:
                return "silently wrong", f"off by {off:.2g} of the largest output"
    except EmgLensError as refusal:
        return "refused", str(refusal)
    except Exception as error:  # noqa: BLE001 - a crash is an outcome
        return "crashed", f"{type(error).__name__}: {error}"
    return "right", ""


def verdicts(n_cases: int) -> Iterator[Verdict]:
    """Yield the verdicts of `n_cases`, distributed over the situations."""
    names = list(SITUATIONS)
    for seed in range(n_cases):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield judge(seed, names[seed % len(names)])


def summary(results: list[Verdict]) -> str:
    """Count the outcomes of each situation, then list every case that is not right."""
    lines = [str(dict(Counter(verdict.outcome for verdict in results)))]
    for situation in SITUATIONS:
        counted = Counter(verdict.outcome for verdict in results if verdict.situation == situation)
        lines.append(f"{situation:20} {', '.join(f'{n} {outcome}' for outcome, n in counted.most_common())}")
    lines += [f"{v.outcome}: {v.situation}: {v.model}: {v.edges}: {v.detail}" for v in results if v.outcome != "right"]
    return "\n".join(lines)


if __name__ == "__main__":
    judged = list(verdicts(int(sys.argv[1])))
    sys.stdout.write(summary(judged) + "\n")
    sys.exit(any(verdict.outcome in ("crashed", "silently wrong") for verdict in judged))
