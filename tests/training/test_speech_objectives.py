"""The objectives ctc and frames: losses and gradients against torch, plain algorithms, and what they refuse."""

import itertools
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from emg_lens.data import Batch, Recipe, load_trials
from emg_lens.models.registry import build_model
from emg_lens.scoring import dtw_path
from emg_lens.training import OBJECTIVES, FitError, TrainingRecipe, fit

CTC, FRAMES = OBJECTIVES["ctc"], OBJECTIVES["frames"]
RECIPE = TrainingRecipe(epochs=1)
ALPHABET = ["a", "b", "|", "blank"]
SMALL = {"n_subjects": 1, "n_sessions": 2, "n_utterances": 6, "n_words": 1}


def text_targets(texts, fractions):
    rows = torch.full((len(texts), max(1, *map(len, texts)), 2), -1.0)
    for row, text, fraction in zip(rows, texts, fractions, strict=True):
        row[: len(text), 0] = torch.tensor([float("ab ".index(letter)) for letter in text])
        row[:, 1] = fraction
    return rows


def forward_algorithm(log_p, symbols, blank):
    """Log-probability of a text, path by path of the trellis (Graves et al. 2006, §4.1), in plain loops."""
    states = [blank, *itertools.chain.from_iterable((s, blank) for s in symbols)]
    alpha = [log_p[0][state] for state in states[:2]]
    alpha += [torch.tensor(-1e4)] * (len(states) - len(alpha))
    for row in log_p[1:]:
        new = []
        for s, state in enumerate(states):
            before = [alpha[s], *([alpha[s - 1]] if s else [])]
            if s > 1 and state != blank and state != states[s - 2]:
                before.append(alpha[s - 2])
            new.append(torch.logsumexp(torch.stack(before), 0) + row[state])
        alpha = new
    return torch.logsumexp(torch.stack(alpha[-2:]), 0)


def test_ctc_equals_torch_and_a_plain_forward_algorithm_in_loss_and_gradient():
    torch.manual_seed(0)
    texts, fractions = ["ab a", "bb", "", "a"], [1.0, 0.75, 0.5, 0.25]
    n_steps = [12, 9, 6, 3]
    targets = text_targets(texts, fractions)
    outputs = torch.randn(4, 12, len(ALPHABET), dtype=torch.float64, requires_grad=True)
    losses = CTC.losses(outputs, targets, RECIPE)
    symbols = [["ab ".index(letter) for letter in text] for text in texts]
    concatenated = torch.tensor(list(itertools.chain.from_iterable(symbols)))
    lengths = torch.tensor([len(one) for one in symbols])
    expected = F.ctc_loss(
        outputs.log_softmax(-1).transpose(0, 1), concatenated, torch.tensor(n_steps), lengths, 3, reduction="mean"
    )
    assert losses.mean().item() == pytest.approx(expected.item(), abs=1e-12)
    plain = [
        -forward_algorithm(outputs[k, : n_steps[k]].log_softmax(-1), symbols[k], 3) / max(1, len(symbols[k]))
        for k in range(4)
    ]
    assert losses.tolist() == pytest.approx([one.item() for one in plain], abs=1e-10)
    gradients = [
        torch.autograd.grad(one, outputs, retain_graph=True)[0] for one in (losses.mean(), expected, sum(plain) / 4)
    ]
    assert torch.allclose(gradients[0], gradients[1], atol=1e-12)
    assert torch.allclose(gradients[0], gradients[2], atol=1e-9)
    assert not gradients[0][1, 9:].any(), "padding has no gradient"


def stand_in(n_steps, names=ALPHABET, **more):
    return types.SimpleNamespace(
        cfg=types.SimpleNamespace(output_shape=(n_steps, len(names)), class_names=names, **more)
    )


def test_ctc_refuses_texts_that_do_not_fit_into_their_steps():
    targets = text_targets(["ab", "abba"], [1.0, 0.5])
    batch = Batch(torch.zeros(2, 1, 80), targets)
    CTC.check(stand_in(10), batch)
    with pytest.raises(
        FitError, match=r"utterance 1 \('abba'\) has 4 output steps; its 4 symbols and 1 repeats need 5"
    ):
        CTC.check(stand_in(8), batch)


@pytest.mark.parametrize("objective", [CTC, FRAMES], ids=lambda one: one.name)
def test_models_without_one_output_per_time_step_are_refused(objective):
    batch = Batch(torch.zeros(1, 2, 80), torch.zeros(1, 3, 2))
    flat = types.SimpleNamespace(cfg=types.SimpleNamespace(output_shape=(4,), class_names=ALPHABET))
    two = stand_in(10, modalities={"emg": 1, "acc": 1}, readout="each")
    for model, message in ((flat, r"predicts \[4\] values"), (two, "an output for each modality")):
        with pytest.raises(FitError, match=message):
            objective.check(model, batch)


def test_trials_with_other_targets_are_refused():
    plain = load_trials("simulated", recipe=Recipe(fs=50), subjects=[1], simulation={"n_repetitions": 1})
    text, audio = (load_trials("simulated-speech", task=task, simulation=SMALL) for task in ("text", "audio"))
    for objective, trials in ((CTC, plain), (CTC, audio), (FRAMES, plain), (FRAMES, text)):
        with pytest.raises(FitError, match="the trials have no"):
            objective.targets(trials)


def test_frame_loss_equals_the_sum_over_target_frames():
    torch.manual_seed(1)
    trials = load_trials("simulated-speech", task="audio", simulation=SMALL)
    targets = FRAMES.targets(trials)[:4]
    n_values, n_out = targets.shape[2] - 3, len(FRAMES.output_names(trials))
    outputs = torch.randn(4, trials.n_samples // 8, n_out, requires_grad=True)
    losses = FRAMES.losses(outputs, targets, RECIPE)
    total, n_frames = torch.tensor(0.0), 0
    for predicted, target in zip(outputs, targets, strict=True):
        kept = target[target[:, -1] > 0]
        steps = predicted[: int(kept[0, -1])]
        log_p = steps[:, n_values:].log_softmax(-1)
        chosen = range(len(kept))
        if kept[0, -2] < 0:
            distance = torch.cdist(kept[:, :n_values].double(), steps[:, :n_values].double())
            cost = distance - 0.5 * log_p[:, kept[:, n_values].long()].T
            chosen = dtw_path(cost.detach().numpy()).tolist()
        for frame, step in zip(kept, chosen, strict=True):
            total = total + (steps[step, :n_values] - frame[:n_values]).norm() - 0.5 * log_p[step, int(frame[n_values])]
        n_frames += len(kept)
    assert losses.mean().item() == pytest.approx((total / n_frames).item(), rel=1e-5)
    ours, plain = (torch.autograd.grad(one, outputs, retain_graph=True)[0] for one in (losses.mean(), total / n_frames))
    assert torch.allclose(ours, plain, atol=1e-6)


def test_scored_targets_keep_the_alignment_of_the_intact_model():
    trials = load_trials("simulated-speech", task="audio", simulation=SMALL)
    targets = FRAMES.targets(trials).numpy()
    outputs = np.random.default_rng(0).normal(
        size=(len(targets), trials.n_samples // 8, len(FRAMES.output_names(trials)))
    )
    frozen = FRAMES.scored_targets(targets, outputs.astype(np.float32))
    counted = targets[..., -1] > 0
    assert (frozen[..., -2][counted] >= 0).all() and np.array_equal(frozen[..., [-3, -1]], targets[..., [-3, -1]])


@pytest.mark.parametrize("task", ["text", "audio"])
def test_a_small_model_learns_simulated_speech(task):
    objective = CTC if task == "text" else FRAMES
    sizes = {"n_subjects": 1, "n_sessions": 2, "n_utterances": 30, "n_words": 1, "pair": "apart"}
    trials = load_trials("simulated-speech", task=task, simulation=sizes)
    names = objective.output_names(trials)
    x = torch.from_numpy((trials.x - trials.x.mean((0, 2), keepdims=True)) / trials.x.std((0, 2), keepdims=True))
    torch.manual_seed(0)
    settings = {"d_model": 24, "n_heads": 2, "n_layers": 1, "d_mlp": 48, "dropout": 0.0, "hidden_dropout": 0.0}
    model = build_model(
        "tinymyo-speech", modalities=trials.modalities, n_samples=trials.n_samples, n_classes=len(names),
        class_names=names, **settings,
    )  # fmt: skip
    recipe = TrainingRecipe(epochs=25 if task == "text" else 8, batch_size=12, lr=0.005, anneal_epochs=0)
    history = fit(model, Batch(x, objective.targets(trials)), recipe, objective=objective)
    score = history[objective.metrics[0]]
    assert score.iloc[-1] < 0.75 * score.iloc[0], history


def test_a_resumed_fit_restores_batch_normalization(tmp_path):
    trials = load_trials("simulated-speech", simulation=SMALL)
    batch = Batch(torch.from_numpy(trials.x), CTC.targets(trials))
    recipe = TrainingRecipe(epochs=4, batch_size=8, lr=0.005, anneal_epochs=0)

    def run(*stops):
        torch.manual_seed(0)
        settings = {"d_model": 12, "n_heads": 2, "n_layers": 1, "d_mlp": 16}
        for stop in (*stops, None):
            model = build_model(
                "tinymyo-speech", modalities={"emg": 6}, n_samples=trials.n_samples, n_classes=10, **settings
            )
            torch.manual_seed(0)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
            path = tmp_path / f"fit{len(stops)}"
            fit(model, batch, recipe, objective="ctc", validation=batch[:6], checkpoint=path, stop_after=stop)
        return model.state_dict()

    whole, resumed = run(), run(1, 3)
    assert any("running_mean" in name for name in whole)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
