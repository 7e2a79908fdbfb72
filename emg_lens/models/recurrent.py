"""`LSTMGestures`: the published reference for discrete gestures, without attention (docs/tinymyo-model.md §9.4).

It is compared with the transformers, and not cut: a recurrent state carries the past, so there are no attention edges.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from emg_lens.lens.config import Fraction, SignalConfig
from emg_lens.lens.points import Point
from emg_lens.lens.signals import SignalModel
from emg_lens.models.front_ends import CompressedConv
from emg_lens.models.registry import Architecture
from emg_lens.models.streaming import SignalStream
from emg_lens.validation import ArgumentError

LayerCount = Annotated[int, Field(ge=1, le=100)]


@dataclass
class LSTMGesturesConfig(SignalConfig):
    """`SignalConfig` with the published sizes of the LSTM for discrete gestures.

    Attributes:
        d_model: Width of the front end and of each LSTM layer.
        n_lstm_layers: Number of LSTM layers.
        dropout: Probability of dropping a value of the front end, and between LSTM layers, during training.
        readout: `"each"` = one output per time step; `"mean"` = one output per trial, from the mean over time steps.
        kernel_samples: Samples in one time step.
        stride: Samples from one time step to the next.
        compression_range: Largest value after compression, in the unit of the input.
        compression_midpoint: Input value that is compressed to half of this range.
        eps: Added to the variance in LayerNorm.
    """

    d_model: PositiveInt = 512
    n_lstm_layers: LayerCount = 3
    dropout: Fraction = 0.1
    readout: Literal["each", "mean"] = "each"
    kernel_samples: PositiveInt = 21
    stride: PositiveInt = 10
    compression_range: PositiveFloat = 64.0
    compression_midpoint: PositiveFloat = 32.0
    eps: PositiveFloat = 1e-5

    model_name = "lstm-gestures"
    act_fn = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_steps < 1:
            raise ArgumentError(
                f"n_samples={self.n_samples} is too short for one time step; expected at least"
                f" kernel_samples={self.kernel_samples}"
            )

    n_steps = property(CompressedConv.n_steps, doc="Number of time steps.")
    step_grid = property(
        CompressedConv.step_grid,
        doc="Last sample that the first time step uses, and samples from one step to the next.",
    )

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Outputs of one trial: `[step, class]`, or one per class with `readout="mean"`."""
        return (self.n_steps, self.n_classes) if self.readout == "each" else super().output_shape

    @property
    def n_weights(self) -> int:
        """Number of values in the matrices of all layers."""
        front_end = self.n_channels * self.kernel_samples
        return self.d_model * (front_end + 8 * self.n_lstm_layers * self.d_model + self.n_classes)


class LSTMGestures(SignalModel):
    """The published LSTM for discrete gestures; `model(x)` is logits `[batch, step, gesture]`.

    Range compression, one convolution of all channels, ReLU, LayerNorm; LSTM layers; LayerNorm; a linear map at every
    time step. Step t depends on the samples up to `stride * t + kernel_samples - 1` and on no later ones.

    Hook points, `[batch, step, d_model]`: `hook_embed`, the input of the LSTM, and `hook_state`, its normalised output.

    Example:
        >>> from emg_lens import build_model
        >>> from emg_lens.models.encoder import count_parameters
        >>> model = build_model("lstm-gestures", modalities={"emg": 16}, n_samples=200, n_classes=9)
        >>> count_parameters(model), tuple(model(model.example_input(2)).shape)
        (6482953, (2, 18, 9))
    """

    cfg: LSTMGesturesConfig
    head_parameters = ("classifier.",)
    one_by_one = True

    def __init__(self, config: LSTMGesturesConfig) -> None:
        super().__init__(config)
        cfg = self.cfg
        self.front_end = CompressedConv(cfg.n_channels, cfg)
        self.hook_embed = Point()  # [batch, step, d_model]
        between = cfg.dropout if cfg.n_lstm_layers > 1 else 0.0  # torch warns about dropout after a single layer
        self.lstm = nn.LSTM(cfg.d_model, cfg.d_model, cfg.n_lstm_layers, batch_first=True, dropout=between)
        self.norm = nn.LayerNorm(cfg.d_model, eps=cfg.eps)
        self.hook_state = Point()  # [batch, step, d_model]
        self.classifier = nn.Linear(cfg.d_model, cfg.n_classes)
        self.setup()

    def forward(self, input: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch *step output"]:
        """Compute logits, one row per time step or, with `readout="mean"`, one per trial."""
        self.check_signals(input)
        states, _ = self.lstm(self.hook_embed(self.front_end(input)))
        states = self.hook_state(self.norm(states))
        return self.classifier(states if self.cfg.readout == "each" else states.mean(dim=1))

    def stream(self) -> SignalStream:
        """Compute outputs while samples arrive: the state of the LSTM is kept between pieces.

        Returns:
            The stream; `stream.push(x)` takes any number of samples and returns `[batch, step, output]`.

        Raises:
            ArgumentError: The model has one output per trial (`readout="mean"`).
        """
        if self.cfg.readout != "each":
            raise ArgumentError(f"readout={self.cfg.readout!r} has one output per trial; expected readout='each'")
        state = None

        def advance(tokens: Float[Tensor, "batch step d_model"]) -> Float[Tensor, "batch step output"]:
            nonlocal state
            outputs, state = self.lstm(tokens, state)
            return self.classifier(self.norm(outputs))

        return SignalStream(self, self.front_end, advance)


LSTM_GESTURES = Architecture("lstm-gestures", LSTMGesturesConfig, LSTMGestures, objective=None)
