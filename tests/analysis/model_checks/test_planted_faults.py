"""Each check finds the fault that it is for, in a small torch model, and passes the same model without the fault."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emg_lens.analysis import MODEL_CHECKS, check_model

CHANNELS, SAMPLES, WIDTH, HEADS = 3, 12, 8, 2
NOT_APPLICABLE = {"causal", "inert tokens"}


def trials(n: int = 4) -> Tensor:
    return torch.randn(n, CHANNELS, SAMPLES, generator=torch.Generator().manual_seed(5))


class Attention(nn.Module):
    """Attention over time steps with additive positions on the scores; subclasses plant one fault each."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.relative = nn.Parameter(torch.randn(HEADS, 2 * SAMPLES - 1, WIDTH // HEADS))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def vectors(self) -> Tensor:
        return self.relative

    def position_scores(self, q: Tensor) -> Tensor:
        n = q.shape[2]
        products = torch.einsum("bhqe,hre->bhqr", q, self.vectors())
        lags = torch.arange(n)[:, None] - torch.arange(n) + SAMPLES - 1
        return products.gather(-1, lags.expand(*q.shape[:2], -1, -1))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + self.position_scores(q)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        return (self.scores(q, k).softmax(-1) @ v).transpose(1, 2).flatten(2)


class Sound(nn.Module):
    """A small encoder of time steps [batch, channel, time] -> [batch, step, class] without a fault."""

    attention = Attention

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(CHANNELS, WIDTH)
        self.attn = self.attention()
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(WIDTH, 2)

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(self.prepare(x).transpose(1, 2))
        return self.head(self.drop(tokens + self.attn(tokens)))


# --- faults -----------------------------------------------------------------------------------------------


class ScrambledQueries(Sound):
    """Position queries are reshaped to [step, batch * head, d] without a transpose: right for one trial alone."""

    class attention(Attention):  # noqa: N801
        def position_scores(self, q: Tensor) -> Tensor:
            batch, heads, n, width = q.shape
            given = q.transpose(1, 2)  # [batch, step, head, d]
            flat = given.reshape(n, batch * heads, width).transpose(0, 1)
            return super().position_scores(flat.reshape(batch, heads, n, width))


class AddsPreviousTrial(Sound):
    def prepare(self, x: Tensor) -> Tensor:
        return x + x.roll(1, 0)


class CarriesState(Sound):
    last: Tensor | None = None

    def prepare(self, x: Tensor) -> Tensor:
        carried, self.last = self.last, x.mean().detach()
        return x if carried is None else x + carried


class UntrainedPositions(Sound):
    """The vectors of positions are padded under no_grad."""

    class attention(Attention):  # noqa: N801
        def vectors(self) -> Tensor:
            with torch.no_grad():
                return F.pad(self.relative, (0, 0, 1, 1))[:, 1:-1]


class CancelledParameter(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(CHANNELS, 1))

    def prepare(self, x: Tensor) -> Tensor:
        return x * (self.gain - self.gain + 1)


class ParameterSetBack(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(CHANNELS, 1))

    def prepare(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.gain.fill_(1.0)
        return x * self.gain


class InertChannel(Sound):
    def prepare(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :2], torch.zeros_like(x[:, 2:])], dim=1)


class InertSamples(Sound):
    def prepare(self, x: Tensor) -> Tensor:
        return x * (torch.arange(SAMPLES) != 5)


class MasksFarEdges(Sound):
    class attention(Attention):  # noqa: N801
        def scores(self, q: Tensor, k: Tensor) -> Tensor:
            n = q.shape[2]
            far = (torch.arange(n)[:, None] - torch.arange(n)).abs() >= 7
            return super().scores(q, k).masked_fill(far, -1e8)


class EmptyRow(Sound):
    class attention(Attention):  # noqa: N801
        def scores(self, q: Tensor, k: Tensor) -> Tensor:
            blocked = torch.zeros(q.shape[2], k.shape[2], dtype=torch.bool)
            blocked[4] = True
            return super().scores(q, k).masked_fill(blocked, -1e9)


class DropsAlways(Sound):
    def prepare(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3)


class StaysInTraining(Sound):
    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.drop.train(True)
        return self


class UpdatesStatistics(Sound):
    """Batch normalisation that evaluation does not switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(CHANNELS, 1))

    def prepare(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.mean((0, 2))[:, None], 0.1)
        return x


class NotFinite(Sound):
    def prepare(self, x: Tensor) -> Tensor:
        return x / (x > 0)


class IgnoresInput(Sound):
    def prepare(self, x: Tensor) -> Tensor:
        return x * 0


class GradientNotFinite(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.zeros(1))

    def prepare(self, x: Tensor) -> Tensor:
        return x + self.power.abs().sqrt()


FAULTS = {
    ScrambledQueries: {"batch size", "trial order"},
    AddsPreviousTrial: {"batch size", "trial order"},
    CarriesState: {"call order"},
    UntrainedPositions: {"trained parameters"},
    CancelledParameter: {"trained parameters"},
    ParameterSetBack: {"trained parameters"},
    InertChannel: {"inert input"},
    InertSamples: {"inert input"},
    MasksFarEdges: {"masked edges"},
    EmptyRow: {"masked edges", "empty rows"},
    DropsAlways: {"repeatable"},
    StaysInTraining: {"repeatable"},
    UpdatesStatistics: {"repeatable"},
    NotFinite: {"finite"},
    GradientNotFinite: {"finite"},
    IgnoresInput: {"input matters"},
}


def test_a_sound_model_passes_every_check_that_applies():
    report = check_model(Sound().eval(), trials())
    assert report.passed, report
    verdicts = report.table.set_index("check")["verdict"]
    assert tuple(verdicts.index) == MODEL_CHECKS.names()
    assert {name for name, verdict in verdicts.items() if verdict == "not applicable"} == NOT_APPLICABLE


@pytest.mark.parametrize(("kind", "expected"), FAULTS.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_planted_fault_is_found(kind, expected):
    report = check_model(kind().eval(), trials())
    assert expected <= set(report.failed), report


OF_SEVERAL_CHECKS = (CarriesState, DropsAlways, StaysInTraining, NotFinite, IgnoresInput)


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind not in OF_SEVERAL_CHECKS])
def test_a_planted_fault_fails_no_other_check(kind):
    report = check_model(kind().eval(), trials())
    assert set(report.failed) == FAULTS[kind], report
