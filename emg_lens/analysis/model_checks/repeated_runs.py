"""Checks that run a model again: twice, in other batches, in another order, on another input."""

import torch

from emg_lens.analysis.model_checks.check_report import Finding, judged, not_applicable
from emg_lens.analysis.model_checks.probed_model import ProbedModel, unchanged


def repeatable(probed: ProbedModel) -> Finding:
    """Do two evaluations give the same output, and does an evaluation leave the model and its input as they are?"""
    model = probed.model
    for as_given in (True, False):
        with torch.no_grad(), unchanged(model):
            model.train(model.training if as_given else False)
            stuck = [path or type(model).__name__ for path, part in model.named_modules() if part.training]
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
            given = probed.fresh_x
            first, second = (probed.outputs_of(model(one)).clone() for one in (given, probed.fresh_x))
            moved = [
                name
                for name, buffer in model.named_buffers()
                if name not in before or not torch.equal(buffer, before[name])
            ]
            if not torch.equal(given.nan_to_num(), probed.x.nan_to_num()):
                moved = ["its input in place", *moved]
        change, mode = probed.change(first, second), "in training mode, as given; call model.eval() first"
        mode = mode if as_given and model.training else "in evaluation mode"
        if stuck and not as_given:
            return judged(False, len(stuck), f"{_some(stuck)} stay in training mode after model.eval()")
        if not probed.is_rounding(change):
            return judged(False, change, f"two runs differ by {change:.2g} of the largest output {mode}")
        if moved:
            return judged(False, len(moved), f"a run changes {_some(moved)} {mode}")
    return judged(True, change, f"two evaluations differ by {change:.2g} of the largest output")


def finite(probed: ProbedModel) -> Finding:
    """Are outputs and gradients finite?"""
    n_outputs = int((~probed.baseline.isfinite()).sum())
    probed.model.eval()
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # cuDNN's LSTM has no gradient in eval mode
        loss = probed.training_loss()
    parameters = {name: one for name, one in probed.model.named_parameters() if one.requires_grad}
    if parameters and loss.requires_grad:
        loss.backward()
    wrong = {name: int((~one.grad.isfinite()).sum()) for name, one in parameters.items() if one.grad is not None}
    named = [name for name, count in wrong.items() if count]
    number = n_outputs + sum(wrong.values())
    where = f"; gradients of {_some(named)}" if named else ""
    return judged(
        not number, number, f"{n_outputs} outputs and {sum(wrong.values())} gradients are NaN or infinite{where}"
    )


def input_matters(probed: ProbedModel) -> Finding:
    """Do the outputs depend on the input at all?"""
    change = probed.change(probed.run(probed.noise))
    ignored = probed.is_rounding(change)
    sentence = f"another input changes the outputs by {change:.2g} of the largest output"
    return judged(not ignored, change, f"{sentence}; the model ignores its input" if ignored else sentence)


def batch_size(probed: ProbedModel) -> Finding:
    """Does a trial give the same output alone as in a batch?"""
    if len(probed.x) < 2:
        return not_applicable("x has one trial; give two or more")
    alone = torch.cat([probed.run(trial) for trial in probed.x.split(1)])
    return _compared(
        probed, alone, "a trial alone and in the batch of {n}: outputs differ by {change:.2g} of the largest"
    )


def trial_order(probed: ProbedModel) -> Finding:
    """Are the outputs the same when the trials of a batch change places?"""
    n = len(probed.x)
    if n < 2:
        return not_applicable("x has one trial; give two or more")
    orders = [torch.arange(n).flip(0), torch.arange(n).roll(1), torch.randperm(n, generator=_generator())]
    runs = [probed.run(probed.x[order.to(probed.x.device)]) for order in orders]
    if any(len(run) != n for run in runs):
        return _compared(probed, runs[0], "")
    back = [run[order.argsort().to(run.device)] for run, order in zip(runs, orders, strict=True)]
    worst = max(back, key=probed.change)
    return _compared(
        probed, worst, "trials of the batch in another order: outputs differ by {change:.2g} of the largest"
    )


def call_order(probed: ProbedModel) -> Finding:
    """Are the outputs the same when the same trials are run in another order, one call each?"""
    if len(probed.x) < 2:
        return not_applicable("x has one trial; give two or more")
    trials = probed.x.split(1)
    forwards = torch.cat([probed.run(trial) for trial in trials])
    backwards = torch.cat([probed.run(trial) for trial in trials[::-1]][::-1])
    change = probed.change(backwards, forwards)
    text = f"trials run one after the other, in order and in reverse: outputs differ by {change:.2g} of the largest"
    return judged(probed.is_rounding(change), change, text)


def _compared(probed: ProbedModel, outputs: torch.Tensor, text: str) -> Finding:
    change, n = probed.change(outputs), len(probed.x)
    if outputs.shape != probed.baseline.shape:
        shapes = f"{list(outputs.shape)} instead of {list(probed.baseline.shape)}"
        return judged(False, change, f"{n} trials give outputs of shape {shapes}; expected one row per trial on axis 0")
    return judged(probed.is_rounding(change), change, text.format(change=change, n=n))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _some(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
