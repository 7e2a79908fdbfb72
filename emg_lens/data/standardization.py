"""Standardization: z-score inputs and targets with the means and standard deviations of the training trials.

The statistics are saved with a fitted model, so that it can be applied to new raw trials later.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from emg_lens.data.recording import DataError
from emg_lens.io.checksums import PLACEHOLDER, DamagedFileError, check_file, replacing_with_checksum
from emg_lens.validation import check_fields, short

FORMAT = "emg-lens"
"""Key of a file's metadata; the value describes the file's content as JSON."""
TRIALS_AT_ONCE = 1024
"""Trials that are standardised at once, in double precision."""


class _SavedStatistics:
    """Statistics that are saved with a fitted model: the arrays `mean` and `std`, and the other fields as JSON."""

    KIND: ClassVar[str]
    mean: np.ndarray
    std: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; an existing file is replaced at once."""
        path = Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {name: value for name, value in vars(self).items() if name not in ("mean", "std")}
        # safetensors writes several entries in a random order; one entry gives the same bytes each time.
        about = {FORMAT: json.dumps({"kind": f"{self.KIND} 1", **facts, "checksum": PLACEHOLDER}, default=dict)}
        with replacing_with_checksum(path) as partial:
            save_file({"mean": self.mean, "std": self.std}, partial, about)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote."""
        place = Path(path).expanduser()
        try:
            if not place.is_file():
                raise DataError(f"no such file; expected a file of {cls.KIND}")
            has_checksum = check_file(place)
            with safe_open(place, "np") as file:
                facts = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
                if facts.pop("kind", None) != f"{cls.KIND} 1":
                    raise DataError(f"not a file of {cls.KIND}; give another file")
                if not has_checksum:
                    raise DamagedFileError(f"{path} was changed after it was written: its checksum is missing")
                del facts["checksum"]
                facts = {name: tuple(fact) if isinstance(fact, list) else fact for name, fact in facts.items()}
                facts |= {name: file.get_tensor(name) for name in ("mean", "std")}
                return cls(**facts)
        except DamagedFileError as error:
            raise DataError(f"{error}; save it again") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read as {cls.KIND} ({error}); fit the model again") from None


@dataclass(frozen=True, eq=False)
class InputStatistics(_SavedStatistics):
    """Mean and standard deviation of each channel over trials and samples, for z-scoring.

    Attributes:
        modalities: Number of channels of each modality, in channel order.
        mean: Mean of each channel, in its own units.
        std: Standard deviation of each channel. A constant channel has 0, and its z-score is 0.
        rectify: Modalities that are rectified (absolute value) after z-scoring, as in the IsoNet paper, §2.2. Zero is
            then the smallest value of a channel, not its mean.

    Example:
        >>> import numpy as np
        >>> from emg_lens.data import InputStatistics, TrialSet
        >>> x = np.random.default_rng(0).normal(loc=5, scale=2, size=(6, 2, 100))
        >>> train = TrialSet.from_arrays(x, [0, 1] * 3, ["A"] * 6, range(6), {"emg": 2}, fs=100.0)
        >>> statistics = InputStatistics.of(train)
        >>> z = statistics.apply(train.x)
        >>> bool(abs(z.mean()) < 1e-6), round(float(z.std()), 3)
        (True, 1.0)
    """

    KIND: ClassVar[str] = "input statistics"

    modalities: Mapping[str, int]
    mean: Float[np.ndarray, " channel"] = field(repr=False)
    std: Float[np.ndarray, " channel"] = field(repr=False)
    rectify: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        _check_moments(self.mean, self.std, sum(self.modalities.values()), "channel")
        unknown = [m for m in self.rectify if m not in self.modalities]
        if unknown:
            known = ", ".join(sorted(self.modalities))
            raise DataError(f"rectify contains the unknown modality {unknown[0]!r}; known: {known}")

    @staticmethod
    def of(train: Any, rectify: Iterable[str] = ()) -> "InputStatistics":
        """Compute the statistics of training trials.

        Args:
            train: `TrialSet` of the training trials, without any test trial.
            rectify: Modalities to rectify after z-scoring.
        """
        _check_trials(train)
        mean = train.x.mean(axis=(0, 2), dtype=np.float64)
        # A few channels at a time saves memory; numpy would sum a single channel in another order.
        blocks = [slice(b[0], b[-1] + 1) for b in np.array_split(np.arange(len(mean)), max(1, -(-len(mean) // 4)))]
        squares = [np.mean((train.x[:, b] - mean[b, None]) ** 2, axis=(0, 2)) for b in blocks]
        std = np.sqrt(np.concatenate(squares))
        constant = np.ptp(train.x, axis=(0, 2)) == 0  # rounding may give a std other than 0
        if isinstance(rectify, str):
            raise DataError(f"rectify must list modalities, got {rectify!r}")
        counts = Counter(train.channels["modality"])
        return InputStatistics(dict(counts), mean, np.where(constant, 0.0, std), tuple(rectify))  # pyright: ignore

    def apply(
        self, x: Float[np.ndarray, "trial channel time"], out: Float[np.ndarray, "trial channel time"] | None = None
    ) -> Float[np.ndarray, "trial channel time"]:
        """Z-score samples, then rectify the modalities in `rectify`.

        Args:
            x: Samples `[trial, channel, time]`, each channel in the units of the training trials.
            out: A float32 array of the same shape that receives the result. Give `x` itself to standardise in place:
                long recordings are then in memory once (see `TrialSet.take_samples`). Default: a new array.

        Returns:
            Z-scores, float32: `out`, if it is given.
        """
        if not isinstance(x, np.ndarray) or x.dtype.kind not in "iuf" or x.ndim != 3 or x.shape[1] != len(self.mean):
            raise DataError(
                f"expected a numpy array [trial, {len(self.mean)} channels, time] of numbers, got {short(x)}"
            )
        if out is None:
            out = np.empty(x.shape, np.float32)
        elif not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != x.shape:
            raise DataError(f"out must be a float32 array of the shape of x, {x.shape}, got {short(out)}")
        mean, factor = self.mean[:, None], _inverse(self.std)[:, None]
        rectified = np.isin(np.repeat([*self.modalities], [*self.modalities.values()]), self.rectify)
        for first in range(0, len(x), TRIALS_AT_ONCE):  # the differences are double precision, twice the size
            block = slice(first, first + TRIALS_AT_ONCE)
            z = ((x[block] - mean) * factor).astype(np.float32)
            z[:, rectified] = np.abs(z[:, rectified])
            out[block] = z
        return out


@dataclass(frozen=True, eq=False)
class TargetStatistics(_SavedStatistics):
    """Mean and standard deviation of each regression target over trials, for z-scoring.

    Attributes:
        mean: Mean of each target, in its own units.
        std: Standard deviation of each target. A constant target has 0, and its z-score is 0.
        names: Names of the targets.
    """

    KIND: ClassVar[str] = "target statistics"

    mean: Float[np.ndarray, " target"] = field(repr=False)
    std: Float[np.ndarray, " target"] = field(repr=False)
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        _check_moments(self.mean, self.std, len(self.names), "target")

    @staticmethod
    def of(train: Any) -> "TargetStatistics":
        """Compute the statistics of the training trials, a `TrialSet` with targets."""
        _check_trials(train)
        if train.targets is None:
            raise DataError("these trials have no targets; make targets from a modality with `with_targets`")
        targets = train.targets.astype(np.float64)
        std = np.where(np.ptp(targets, axis=0) == 0, 0.0, targets.std(axis=0))
        return TargetStatistics(targets.mean(axis=0), std, train.target_names)

    def apply(self, targets: Float[np.ndarray, "trial target"]) -> Float[np.ndarray, "trial target"]:
        """Z-score targets `[trial, target]`; returns float32."""
        self._check(targets)
        return ((targets - self.mean) * _inverse(self.std)).astype(np.float32)

    def undo(self, outputs: Float[np.ndarray, "trial target"]) -> Float[np.ndarray, "trial target"]:
        """Convert a model's outputs `[trial, target]` to the targets' units; returns float32."""
        self._check(outputs)
        return (outputs * self.std + self.mean).astype(np.float32)

    def _check(self, values: np.ndarray) -> None:
        ours = isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "iuf"
        if not ours or values.shape[1] != len(self.names):
            raise DataError(f"expected [trial, {len(self.names)} targets] of numbers, got {short(values)}")


def _check_trials(train: object) -> None:
    if not isinstance(getattr(train, "x", None), np.ndarray):
        raise DataError(f"expected a TrialSet of training trials, got {short(train)}")


def _inverse(std: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Factor for deviations from the mean: 1 / std, and 0 where the standard deviation is 0."""
    return np.where(std == 0, 0.0, 1 / np.where(std == 0, 1.0, std))


def _check_moments(mean: np.ndarray, std: np.ndarray, n: int, what: str) -> None:
    for name, values in (("mean", mean), ("std", std)):
        if (
            values.shape != (n,)
            or values.dtype.kind != "f"
            or not np.isfinite(values).all()
            or (name == "std" and (values < 0).any())
        ):
            raise DataError(f"{name} must be {n} finite numbers, one a {what}, got {np.array2string(values)}")
