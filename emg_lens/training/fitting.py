"""Fitting one model to the trials of one subject: AdamW, annealed dual-head loss, the same numbers every time.

`emg_lens.training.cohort` fits the models of many subjects at once, by the same recipe.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.adamw import adamw

from emg_lens.errors import EmgLensError
from emg_lens.io.checkpoint import CheckpointFile, content, digest
from emg_lens.lens.identity import model_identity
from emg_lens.models.isonet import IsoNet, anneal_weight, annealed_loss
from emg_lens.training.recipe import TrainingRecipe

HISTORY = ["epoch", "loss", "accuracy", "cls_weight", "lr"]
"""Columns of the table that a fit returns."""

MEAN_HEAD = "mean_head"
"""The weights that the mean logits alone are read with."""

Moments = dict[str, Tensor]
"""`exp_avg`, `exp_avg_sq` and `step` of AdamW, as torch names them."""

ALIGNED = 16
"""Each parameter begins at a multiple of so many values."""


class FitError(EmgLensError, RuntimeError):
    """A fit that cannot start or went wrong: trials that do not fit the model, or a loss that is not a number."""


def fit(
    model: IsoNet,
    x: Float[Tensor, "trial channel time"],
    y: Int[Tensor, " trial"],
    recipe: TrainingRecipe,
    on_epoch: Callable[[int], None] | None = None,
    checkpoint: str | Path | None = None,
    stop_after: int | None = None,
) -> pd.DataFrame:
    """Fit `model` in place.

    The result is a function of the starting weights, the trials and the recipe (on one machine, with one number of
    torch threads). torch's global random state is left as it was found.

    Args:
        model: The model; its weights are the starting point. It is left in evaluation mode, without gradients.
        x: Trials, standardised.
        y: Class index of each trial.
        recipe: How to fit.
        on_epoch: Called after every epoch with the number of finished epochs (progress bars).
        checkpoint: File in which the state of the fit is saved every few seconds, between epochs, and at the end. The
            same call, with a model of the same starting weights, continues from it and gives the weights of an
            uninterrupted fit, to the bit. The file stays; delete it when you are done.
        stop_after: Finished epochs after which to stop, with the file saved, and leave the rest to another call.

    Returns:
        One row an epoch: epoch, loss, accuracy (of the training trials in training mode), cls_weight (λ), lr. Its
        `attrs["seconds"]` is the time all epochs took, those of earlier calls too.

    Raises:
        FitError: Trials that do not fit the model, or the loss became NaN or infinite.
        CheckpointError: The file is damaged, of another fit (it says what differs), or cannot be written.
    """
    check_trials(model, x, y)
    file = None if checkpoint is None else CheckpointFile(checkpoint, "fit", _identity(model, x, y, recipe))
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    model.train()
    with seeded(recipe.seed, device), _joined(model) as vectors:
        state = _State.begin(vectors, recipe.seed)
        if file is not None and file.tensors:
            state.restore(file.tensors)
            file.tensors.clear()
        elif file is not None:
            file.save(state.tensors(), {})  # so that a path that cannot be written to is known
        for epoch in range(len(state.rows), recipe.epochs if stop_after is None else min(stop_after, recipe.epochs)):
            _run_epoch(model, x, y, recipe, state)
            if file is not None and file.is_due():
                file.save(state.tensors(), {})
            if on_epoch is not None:
                on_epoch(epoch + 1)
        if file is not None:
            file.save(state.tensors(), {})
    model.eval()
    history = pd.DataFrame(state.rows, columns=HISTORY)
    history.attrs["seconds"] = state.seconds
    return history


def _run_epoch(model: IsoNet, x: Tensor, y: Tensor, recipe: TrainingRecipe, state: "_State") -> None:
    epoch, started = len(state.rows), time.perf_counter()
    weight, lr = anneal_weight(epoch, recipe.anneal_epochs), recipe.lr * recipe.lr_factor(epoch)
    learning = [name for name in state.vectors if name != MEAN_HEAD or weight < 1]  # what is read
    loss_sum, hits = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
    for batch in torch.randperm(len(x), generator=state.order).to(x.device).split(recipe.batch_size):
        labels = y[batch]
        cls_logits, mean_logits = model(x[batch], return_type="both") if weight < 1 else (model(x[batch]), None)
        loss = annealed_loss(cls_logits, mean_logits, labels, weight, recipe.label_smoothing)
        loss.backward()
        state.step(learning, lr, recipe)
        loss_sum += loss.detach() * len(batch)
        hits += (cls_logits.detach().argmax(-1) == labels).sum()
    mean_loss, accuracy = float(loss_sum) / len(x), float(hits) / len(x)
    check_loss(mean_loss, epoch, recipe.lr)
    state.rows.append((epoch + 1, mean_loss, accuracy, weight, lr))
    state.seconds += time.perf_counter() - started


@dataclass
class _State:
    """All that a fit changes.

    Attributes:
        vectors: The weights, as `_joined` gives them.
        moments: AdamW's state of each vector.
        order: What the order of trials is drawn from. (Dropout draws from torch's global generators.)
        rows: One an epoch: the columns of `HISTORY`.
        seconds: That the epochs took.
    """

    vectors: dict[str, nn.Parameter]
    moments: dict[str, Moments]
    order: torch.Generator
    rows: list[tuple[float, ...]]
    seconds: float = 0.0

    @classmethod
    def begin(cls, vectors: dict[str, nn.Parameter], seed: int) -> "_State":
        """The state before the first epoch."""
        moments = {
            name: {
                "exp_avg": torch.zeros_like(vector),
                "exp_avg_sq": torch.zeros_like(vector),
                "step": torch.zeros((), device=vector.device),
            }
            for name, vector in vectors.items()
        }
        return cls(vectors, moments, torch.Generator().manual_seed(seed), [])

    def step(self, learning: Sequence[str], lr: float, recipe: TrainingRecipe) -> None:
        """A step of AdamW on these vectors, their gradients clipped; the gradients are zero afterwards."""
        vectors: list[Tensor] = [self.vectors[name] for name in learning]
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(vectors, recipe.clip_norm)
        slopes = [vector.grad for vector in vectors if vector.grad is not None]
        moments = [[self.moments[name][kind] for name in learning] for kind in ("exp_avg", "exp_avg_sq", "step")]
        # The function, not the class, whose first use imports torch's compiler: a second in every worker.
        with torch.no_grad():
            adamw(
                vectors, slopes, moments[0], moments[1], [], moments[2], fused=True, amsgrad=False, maximize=False,
                beta1=0.9, beta2=0.999, eps=1e-8, lr=lr, weight_decay=recipe.weight_decay,
            )  # fmt: skip
        for slope in slopes:
            slope.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """The state as a checkpoint keeps it."""
        found = {"order": self.order.get_state(), "random.cpu": torch.get_rng_state()}
        found["rows"] = torch.tensor(self.rows, dtype=torch.float64).view(-1, len(HISTORY))
        found["seconds"] = torch.tensor(self.seconds)
        device = self._device
        if device.type != "cpu":
            found["random.device"] = torch.get_device_module(device).get_rng_state(device)
        for name, vector in self.vectors.items():
            found |= {name: vector.detach(), **{f"{name}.{kind}": value for kind, value in self.moments[name].items()}}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the state that a checkpoint holds, and the random state of torch with it."""
        self.order.set_state(tensors["order"])
        torch.set_rng_state(tensors["random.cpu"])
        self.rows = [(int(epoch), *rest) for epoch, *rest in tensors["rows"].tolist()]
        self.seconds = float(tensors["seconds"])
        device = self._device
        if device.type != "cpu":
            torch.get_device_module(device).set_rng_state(tensors["random.device"], device)
        for name, vector in self.vectors.items():
            vector.data.copy_(tensors[name])
            for kind, value in self.moments[name].items():
                value.copy_(tensors[f"{name}.{kind}"])

    @property
    def _device(self) -> torch.device:
        return next(iter(self.vectors.values())).device


@contextmanager
def _joined(model: IsoNet) -> Iterator[dict[str, nn.Parameter]]:
    """The trainable weights as parts of two vectors, so that a step of AdamW is few operations; apart again afterwards.

    One vector, `MEAN_HEAD`, is what the mean logits alone are read with; it is missing where they share the CLS head.
    """
    groups: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[MEAN_HEAD if name.startswith("unembed_mean.") else "weights"].append(parameter)
    vectors = {name: _join(group) for name, group in groups.items()}
    try:
        yield vectors
    finally:
        for parameter in (p for group in groups.values() for p in group):
            parameter.data, parameter.grad = parameter.data.clone(), None


def _join(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """A vector with a gradient, of which these parameters and their gradients become parts.

    Each is kept in the order of its memory and begins where a vector register may begin.
    """
    rooms = [-(-p.numel() // ALIGNED) * ALIGNED for p in parameters]
    vector = nn.Parameter(parameters[0].new_zeros(sum(rooms)))
    vector.grad = torch.zeros_like(vector)
    for parameter, values, slopes in zip(parameters, vector.data.split(rooms), vector.grad.split(rooms), strict=True):
        layout = parameter.shape, torch.empty_like(parameter, device="meta").stride()
        parameter.data = values.as_strided(*layout).copy_(parameter.data)
        parameter.grad = slopes.as_strided(*layout)
    return vector


def _identity(model: IsoNet, x: Tensor, y: Tensor, recipe: TrainingRecipe) -> dict[str, str]:
    """What makes a fit this one, as short texts."""
    trials = {"x": digest(content(x)), "y": digest(content(y))}
    return {**model_identity(model), **trials, "recipe": recipe.model_dump_json()}


def check_trials(model: IsoNet, x: Tensor, y: Tensor, whose: str = "") -> None:
    """Refuse trials that a model cannot be fitted to; `whose` (`"subject 3: "`) starts the message.

    Raises:
        FitError: No trials, another number of labels, labels of no class, values that are not finite.
    """
    n_classes = model.cfg.n_classes
    if len(x) == 0 or len(x) != len(y):
        raise FitError(f"{whose}{len(x)} trials and {len(y)} labels; a fit needs one label a trial, and a trial")
    if y.is_floating_point() or y.dtype == torch.bool:
        raise FitError(f"{whose}labels are {y.dtype}; expected class indices (torch.int64)")
    if int(y.min()) < 0 or int(y.max()) >= n_classes:
        raise FitError(
            f"{whose}labels run from {int(y.min())} to {int(y.max())}; the model has classes 0 to {n_classes - 1}"
        )
    bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise FitError(f"{whose}{bad} of {len(x)} trials hold NaN or infinite values; drop or repair them first")


def check_loss(loss: float, epoch: int, lr: float, whose: str = "") -> None:
    """Refuse to go on after epoch `epoch` (0-based) once the loss is not a number.

    Raises:
        FitError: It is not.
    """
    if not math.isfinite(loss):
        raise FitError(f"{whose}the training loss became {loss} in epoch {epoch + 1}; try a lower lr than {lr:g}")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Start the random state of torch from `seed`, on the CPU and on `device`; afterwards it is as it was."""
    on_cpu = device.type == "cpu"
    with torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type):
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)
        yield
