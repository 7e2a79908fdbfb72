"""Windows over a sequence, the times of a model's outputs in them, and how overlapping outputs are combined."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, model_validator

from emg_lens.data.files import read_option
from emg_lens.data.recording import DataError
from emg_lens.validation import SpecModel, check_fields, checked, short

Stitch = Literal["most_context", "last", "mean"]
NOT_COUNTED = -1.0
"""Time of a step that another window answers for."""


@dataclass(frozen=True)
class OutputSteps:
    """The output steps of a model: step i is computed from samples up to `first` + i · `every`.

    The default is the published front end for gestures: one convolution over 21 samples with a stride of 10.

    Attributes:
        first: Last sample that the first step reads, from 0.
        every: Samples from one step to the next.
    """

    first: int = 20
    every: int = 10

    def __post_init__(self) -> None:
        check_fields(self)
        if self.first < 0 or self.every < 1:
            raise DataError(f"first={self.first}, every={self.every}; expected first of 0 or more, every of 1 or more")

    @checked
    def samples(self, n_samples: int) -> Int[np.ndarray, " step"]:
        """Last sample that each step reads, in a window of `n_samples`."""
        return np.arange(self.first, n_samples, self.every)


class Windowing(SpecModel):
    """Windows of one length over a sequence.

    The last window ends with the sequence, so that no sample is lost. A sequence that is shorter than a window is
    filled with zeros at its end.

    Attributes:
        length_s: Length of a window (s).
        hop_s: Time between the starts of two windows (s); default: windows touch and do not overlap.
        context_s: Time at the start of a window whose outputs do not count (s), except at the start of the sequence.
        stitch: The window that counts where several contain a step. `"most_context"`: the one with the most samples
            before the step; `"last"`: the one that starts last; `"mean"`: the outputs of all are averaged.

    Example:
        >>> import numpy as np
        >>> from emg_lens.data import OutputSteps, Windowing
        >>> windowing = Windowing(length_s=4.0, hop_s=2.0)
        >>> windowing.starts(n_samples=1000, fs=100)
        array([  0, 200, 400, 600])
        >>> steps = OutputSteps(first=0, every=100)  # one output a second
        >>> windowing.step_times(1000, 100, steps)[1]  # the second window answers for its last two seconds
        array([-1., -1.,  4.,  5.])
        >>> outputs = np.arange(16.0).reshape(4, 4)
        >>> windowing.joined(outputs, windowing.step_times(1000, 100, steps))
        (array([0., 1., 2., 3., 4., 5., 6., 7., 8., 9.]),
         array([ 0.,  1.,  2.,  3.,  6.,  7., 10., 11., 14., 15.]))
    """

    length_s: Annotated[float, Field(gt=0, le=86_400)]
    hop_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    context_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    stitch: Stitch = "most_context"

    @model_validator(mode="after")
    def _covers(self) -> "Windowing":
        if self.context_s >= self.length_s:
            raise ValueError(f"context_s={self.context_s:g} is not shorter than the window, {self.length_s:g} s")
        if self.hop_s is None:
            return self
        if self.hop_s > self.length_s - self.context_s + 1e-9:
            raise ValueError(
                f"hop_s={self.hop_s:g} leaves gaps: expected at most length_s - context_s ="
                f" {self.length_s - self.context_s:g}"
            )
        return self

    def n_samples(self, fs: float) -> int:
        """Samples of a window."""
        n = round(self.length_s * fs)
        if n < 1 or round(self._hop_s * fs) < 1:
            raise DataError(f"{self.in_words()}: shorter than one sample at {fs:g} Hz; give longer times")
        return n

    @property
    def _hop_s(self) -> float:
        return self.length_s - self.context_s if self.hop_s is None else self.hop_s

    def starts(self, n_samples: int, fs: float) -> Int[np.ndarray, " window"]:
        """First sample of each window of a sequence."""
        length, hop = self.n_samples(fs), round(self._hop_s * fs)
        last = max(0, n_samples - length)
        return np.unique(np.append(np.arange(0, last + 1, hop), last))

    def cut(self, x: Float[np.ndarray, "channel time"], fs: float) -> Float[np.ndarray, "window channel time"]:
        """Cut samples into windows."""
        length = self.n_samples(fs)
        x = np.pad(x, ((0, 0), (0, max(0, length - x.shape[1]))))
        of_every_start = np.lib.stride_tricks.sliding_window_view(x, length, axis=1)
        return np.ascontiguousarray(of_every_start[:, self.starts(x.shape[1], fs)].swapaxes(0, 1))

    def step_times(self, n_samples: int, fs: float, steps: OutputSteps) -> Float[np.ndarray, "window step"]:
        """Time of each output step in the sequence (s); -1 where another window counts, or after the end.

        Args:
            n_samples: Samples of the sequence.
            fs: Sampling rate (Hz).
            steps: The model's output steps.

        Raises:
            DataError: A window is shorter than one step, or steps of two windows are at different samples.
        """
        length, starts = self.n_samples(fs), self.starts(n_samples, fs)
        within = steps.samples(length)
        if not len(within):
            raise DataError(f"a window of {length} samples is shorter than one step, {steps.first + 1} samples")
        last = starts[:, None] + within
        counted = last < n_samples
        context = round(self.context_s * fs)
        counted[1:] &= within >= context
        if self.stitch == "most_context":
            ends = starts[:-1] + within[-1]  # the last step of the window before
            counted[1:] &= last[1:] > ends[:, None]
        elif self.stitch == "last":
            following = starts[1:] + np.maximum(context, within[0])
            counted[:-1] &= last[:-1] < following[:, None]
        return np.where(counted, last / fs, NOT_COUNTED)

    def joined(
        self, outputs: Float[np.ndarray, "window step *output"], times: Float[np.ndarray, "window step"]
    ) -> tuple[Float[np.ndarray, " time"], Float[np.ndarray, "time *output"]]:
        """Combine the outputs of all windows of one sequence.

        Args:
            outputs: Outputs of the model.
            times: From `step_times`.

        Returns:
            Times (s) in rising order, and the output at each of them.
        """
        return join_steps(outputs, times)

    def in_words(self) -> str:
        """Describe the windows in a few words."""
        context = f", the first {self.context_s:g} s not counted" if self.context_s else ""
        return f"windows of {self.length_s:g} s every {self._hop_s:g} s{context} (stitch: {self.stitch})"


def join_steps(
    outputs: Float[np.ndarray, "window step *output"], times: Float[np.ndarray, "window step"]
) -> tuple[Float[np.ndarray, " time"], Float[np.ndarray, "time *output"]]:
    """Sort the counted steps of windows by time, and average outputs of the same time.

    Args:
        outputs: Outputs of the model.
        times: Time of each step (s); -1 = does not count.

    Returns:
        Times (s) in rising order, and the output at each of them.
    """
    counted = times >= 0
    at, first, of, n = np.unique(
        np.rint(times[counted] * 1e5), return_index=True, return_inverse=True, return_counts=True
    )
    values = outputs[counted]
    if len(at) == len(values):
        return times[counted][first], values[first]
    sums = np.zeros((len(at), *values.shape[1:]))
    np.add.at(sums, of.ravel(), values)
    return times[counted][first], sums / n.reshape(-1, *[1] * (values.ndim - 1))


def read_windows(windowing: object, steps: object, length_s: float) -> tuple[Windowing, OutputSteps]:
    """Read the options `windowing` and `steps` of a data set of streams.

    The default are windows of `length_s` that overlap by a quarter, so that no event is lost between them.

    Raises:
        DataError: Unknown fields, or values out of range.
    """
    given = {} if steps is None else steps
    if not isinstance(given, Mapping) or {*given} - {"first", "every"}:
        raise DataError(f"steps={short(given)}; expected the output steps of the model, {{first: 20, every: 10}}")
    windowing = {"length_s": length_s, "hop_s": 0.75 * length_s} if windowing is None else windowing
    return read_option("windowing", windowing, Windowing), OutputSteps(**given)
