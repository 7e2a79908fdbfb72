"""Check that outputs of a causal model do not depend on later input."""

import torch
from jaxtyping import Int
from torch import Tensor

from emg_lens.analysis.model_checks.check_report import Finding, judged, not_applicable
from emg_lens.analysis.model_checks.probed_model import ProbedModel

MOST_CUTS = 32
"""Times at which the input is changed; they are spread over the steps."""


def blind_to_the_future(probed: ProbedModel) -> Finding:
    """Are outputs of a causal model unchanged when only later input changes?"""
    if not probed.causal:
        return not_applicable("the model does not say that it is causal; give causal=True to check it")
    outputs, axis = probed.baseline, probed.steps_axis
    if axis is None:
        return not_applicable(f"outputs of shape {list(outputs.shape)} have no axis of steps; give step_axis")
    n_samples = probed.x.shape[probed.time_axis]
    last = last_samples(probed, outputs.shape[axis], n_samples)
    cuts = last.unique()
    cuts = cuts[cuts < n_samples - 1]
    if not len(cuts):
        return not_applicable("every output step may read all samples")
    chosen = torch.linspace(0, len(cuts) - 1, min(MOST_CUTS, len(cuts))).round().long()
    leak, at, after = 0.0, 0, 0
    for cut in cuts[chosen].tolist():
        changed = probed.run(probed.replaced(probed.along_time(torch.arange(n_samples) > cut)))
        if changed.shape != outputs.shape:
            return judged(False, float("nan"), f"the shape of the outputs depends on samples after {cut}")
        change = (changed - outputs).abs().movedim(axis, 0).flatten(1).amax(1).cpu() / probed.largest
        change = torch.where(last <= cut, change.nan_to_num(torch.inf), -1.0)
        if change.max() > leak:
            leak, at, after = float(change.max()), int(change.argmax()), cut
    if probed.is_rounding(leak):
        return judged(True, leak, f"no output changes with later input ({len(chosen)} times; largest {leak:.2g})")
    return judged(
        False,
        leak,
        f"step {at} may read samples up to {int(last[at])}, and changes by {leak:.2g} of the largest output with"
        f" samples after {after}",
    )


def last_samples(probed: ProbedModel, n_steps: int, n_samples: int) -> Int[Tensor, " step"]:
    """Return the last sample that each output step may read.

    In this order: the given `steps`; the steps or patches that our models declare; one step for each sample; and
    otherwise steps at equal distances of n_samples // n_steps, of which the last ends with the input.
    """
    if probed.steps is not None:
        return probed.steps.first + probed.steps.every * torch.arange(n_steps)
    patches = getattr(getattr(probed.model, "layout", None), "patch", ())
    patches = torch.tensor([patch for patch in patches if patch >= 0 or n_steps == len(patches)])
    patches = patches if (patches >= 0).any() else torch.arange(n_steps)
    if probed.step_grid is not None and len(patches) == n_steps:
        first, every = probed.step_grid
        return torch.where(patches < 0, n_samples - 1, first + every * patches)  # CLS reads all
    return n_samples - 1 - (n_samples // n_steps) * torch.arange(n_steps).flip(0)
