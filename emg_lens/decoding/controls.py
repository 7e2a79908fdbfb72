"""What scores are worth: decoders that use no signal, or a signal in the wrong order (docs/events-and-text.md §5).

A model must be clearly better than its controls. If a control has the same score, the score shows the language model,
the durations or the base rates, and not what the model decodes from the signal.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import NonNegativeInt

from emg_lens.decoding.text_conditions import Emissions
from emg_lens.decoding.thresholds import PerHour
from emg_lens.scoring.detection import Duration
from emg_lens.scoring.event_matching import Events, ScoreError
from emg_lens.validation import checked, short


class LexiconCoverage(NamedTuple):
    """How many words of the references are in a lexicon."""

    words: int
    in_lexicon: int
    missing: tuple[str, ...]
    """The different words that are not in the lexicon, sorted."""


@checked
def shuffled_emissions(
    emissions: Emissions, how: Literal["time", "utterances"] = "time", seed: NonNegativeInt = 0
) -> dict[str, np.ndarray]:
    """Destroy what emissions say about the text: a control for a language model or a lexicon.

    Args:
        emissions: Log-probabilities `[time, symbol]` of each utterance.
        how: `"time"`: the steps of each utterance are shuffled. `"utterances"`: each utterance gets the emissions of
            another one.
        seed: Seed of the random numbers.

    Returns:
        Emissions with the same names. Decode and score them in the same way as the real ones.

    Raises:
        ScoreError: There is only one utterance, and `how` is `"utterances"`.

    Example:
        >>> import numpy as np
        >>> from emg_lens.decoding import shuffled_emissions
        >>> emissions = {"u1": np.zeros((2, 3)), "u2": np.ones((4, 3))}
        >>> {name: steps.shape for name, steps in shuffled_emissions(emissions, "utterances").items()}
        {'u1': (4, 3), 'u2': (2, 3)}
    """
    rng = np.random.default_rng(seed)
    if how == "time":
        return {name: steps[rng.permutation(len(steps))] for name, steps in emissions.items()}
    if len(emissions) < 2:
        raise ScoreError(f"{len(emissions)} utterances; expected at least 2 to exchange their emissions")
    names = [str(name) for name in rng.permutation(list(emissions))]
    of = dict(zip(names, np.roll(names, 1).tolist(), strict=True))
    return {name: emissions[of[name]] for name in emissions}


@checked
def texts_by_duration(train_durations: np.ndarray, train_texts: Sequence[str], durations: np.ndarray) -> list[str]:
    """Predict the text of the training utterance with the most similar duration: a control for the signal.

    Args:
        train_durations: Durations of the training utterances, in s.
        train_texts: Their texts.
        durations: Durations of the test utterances, in s.

    Returns:
        One text for each test utterance. Of equally similar utterances, the shortest, and then the first.

    Raises:
        ScoreError: Durations are no finite numbers, or there is no training utterance.

    Example:
        >>> import numpy as np
        >>> from emg_lens.decoding import texts_by_duration
        >>> texts_by_duration(np.array([1.0, 2.5]), ["go", "go to the left"], np.array([0.8, 2.0]))
        ['go', 'go to the left']
    """
    for what, values in (("train_durations", train_durations), ("durations", durations)):
        if values.ndim != 1 or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise ScoreError(f"{what}={short(values)}; expected one finite number of seconds for each utterance")
    if len(train_durations) != len(train_texts) or not len(train_texts):
        raise ScoreError(f"{len(train_durations)} durations for {len(train_texts)} training texts; expected one each")
    order = np.argsort(train_durations, kind="stable")
    ordered = train_durations[order]
    after = np.minimum(np.searchsorted(ordered, durations), len(order) - 1)
    before = np.searchsorted(ordered, ordered[np.maximum(after - 1, 0)])  # the first of equal durations
    nearest = np.where(durations - ordered[before] <= ordered[after] - durations, before, after)
    return [str(train_texts[k]) for k in order[nearest].tolist()]


@checked
def event_rates(recordings: Sequence[tuple[Events, Duration]]) -> dict[str, float]:
    """Return how often each gesture occurs, per hour.

    Args:
        recordings: Labels (name, time in s) and duration in s of each training recording.

    Example:
        >>> from emg_lens.decoding import event_rates
        >>> event_rates([([("tap", 1.0), ("tap", 2.0)], 1800.0), ([("fist", 5.0)], 1800.0)])
        {'fist': 1.0, 'tap': 2.0}
    """
    hours = sum(duration for _, duration in recordings) / 3600
    if not hours:
        raise ScoreError("there is no recording; expected labels and duration of at least one")
    counts = Counter(name for labels, _ in recordings for name, _ in labels)
    return {name: n / hours for name, n in sorted(counts.items())}


@checked
def base_rate_events(
    rates_per_hour: Mapping[str, PerHour], duration_s: Duration, seed: NonNegativeInt = 0
) -> list[tuple[str, float]]:
    """Place events at random times at the rates of the training data: a control for detected events.

    Args:
        rates_per_hour: Events of each gesture per hour, from `event_rates`.
        duration_s: Duration of the recording in s.
        seed: Seed of the random numbers.

    Returns:
        Events (name, time in s) of independent Poisson processes, in order of time.

    Example:
        >>> from emg_lens.decoding import base_rate_events
        >>> len(base_rate_events({"tap": 60.0, "fist": 0.0}, duration_s=36_000.0))
        610
    """
    rng = np.random.default_rng(seed)
    events = [
        (name, float(time))
        for name, rate in rates_per_hour.items()
        for time in rng.uniform(0, duration_s, rng.poisson(rate * duration_s / 3600))
    ]
    return sorted(events, key=lambda event: event[1])


@checked
def shuffled_labels(labels: Events, seed: NonNegativeInt = 0) -> list[tuple[str, float]]:
    """Exchange the names of the labels at random and keep the times: a detector that knows when, but not what.

    Args:
        labels: What happened: (name, time in s).
        seed: Seed of the random numbers.

    Example:
        >>> from emg_lens.decoding import shuffled_labels
        >>> shuffled_labels([("tap", 1.0), ("tap", 2.0), ("fist", 3.0)])
        [('fist', 1.0), ('tap', 2.0), ('tap', 3.0)]
    """
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    return [(labels[k][0], float(time)) for k, (_, time) in zip(order, labels, strict=True)]


@checked
def lexicon_coverage(references: Sequence[str], lexicon: Collection[str]) -> LexiconCoverage:
    """Count the words of the test that are in a lexicon.

    If all are (a closed lexicon), the decoder knows the words of the answer. A lexicon from the training texts alone is
    open: it lacks some words, and these are errors of every model.

    Args:
        references: Texts of the test.
        lexicon: Words that the decoder can write.

    Example:
        >>> from emg_lens.decoding import lexicon_coverage
        >>> lexicon_coverage(["go left", "go home"], ["go", "left", "right"])
        LexiconCoverage(words=4, in_lexicon=3, missing=('home',))
    """
    words, known = [word for text in references for word in text.split()], set(lexicon)
    missing = tuple(sorted(set(words) - known))
    return LexiconCoverage(len(words), sum(word in known for word in words), missing)
