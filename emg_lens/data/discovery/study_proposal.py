"""A first study of a data set: filters by rate, windows by the length of repetitions, a split by their numbers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.data.discovery.description_text import between, yaml_lines
from emg_lens.data.discovery.recorded import RecordedData
from emg_lens.data.discovery.words import OUTCOMES
from emg_lens.data.recording import DataError
from emg_lens.errors import printable

ENVELOPE_HZ, MOTION_HZ, FS = 4.0, 6.0, 50.0
"""Low-pass of rectified EMG and of other sensors (Hz), and the rate of the trials."""
BAND_HZ, LOWEST_HZ = (20.0, 450.0), 20.0
RAW_HZ = 400.0
"""At this rate or more, raw EMG is filtered with a band-pass; below, with a high-pass."""
SLOWEST_RAW_HZ = 2.2 * LOWEST_HZ
"""At this rate or less, a high-pass at `LOWEST_HZ` leaves nothing of raw EMG."""
WINDOW_S, LONGEST_WHOLE_S = 1.0, 4.0
SAME_LENGTH = 0.08
"""Repetitions whose lengths differ by less than this fraction are used whole."""
MOST_WINDOWS = 60_000
ENOUGH_SUBJECTS = 5


@dataclass
class FirstStudy:
    """The parts of a study file.

    Attributes:
        content: Content of the study file.
        comments: A comment for each part, by its path such as `cohort.segment`.
        assumed: Sentences on what was chosen.
        odd: Sentences on what looks wrong.
    """

    content: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def text(self, command: str) -> str:
        """The text of the study file; `command` is the command that runs it."""
        command = printable(command)
        lines = [f"# A first study. Check it:  {command.replace(' run ', ' check ', 1)}", f"# Run it:  {command}"]
        fewer_trials = " a larger cohort.segment.stride_s," * ("segment" in self.content.get("cohort", {}))
        lines += [f"# A shorter run: fewer training.epochs,{fewer_trials} cohort.subjects: [some of them], or"]
        lines += ["# conditions: {controls: {random_edges: 0}} (then no effect gets a verdict)."]
        lines += yaml_lines(self.content, self.comments, ("cohort", "cohort.recipe", "cohort.recipe.signals"))
        return "\n".join(lines) + "\n"


def study_name(text: str) -> str:
    """A name for a study, from that of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "my-study"


def first_study(
    name: str, dataset: str, options: Mapping[str, Any], data: RecordedData, finished: bool = False
) -> FirstStudy:
    """Propose a study of recordings, or of `finished` trials, which need no recipe and no segment.

    Raises:
        DataError: There are neither labels of two gestures nor a sensor that a model could predict.
    """
    outcomes = [sensor for sensor in data.sensors if sensor in OUTCOMES]
    inputs = [sensor for sensor in data.sensors if sensor not in outcomes] or list(data.sensors)
    n_classes = data.repetitions["label"].nunique()
    if n_classes < 2 and (not outcomes or inputs == list(data.sensors)):
        raise DataError(
            f"{name}: the recordings have {n_classes} gesture and no force, angles or glove to predict, so there is"
            " nothing to learn; say in dataset.yaml where the labels are (docs/own-data.md)"
        )
    study = FirstStudy({"name": study_name(name)})
    predicts = n_classes < 2
    what = "sensors" if len(inputs) > 1 else "channels"
    title = f"Which {what} predict {outcomes[0]}?" if predicts else f"Which {what} does the decision need?"
    question = f"Which {what} and which attention edges does the model need on {name}?"
    cohort: dict[str, Any] = {"dataset": dataset} | ({"options": dict(options)} if options else {})
    if len(inputs) < len(data.sensors):
        cohort["modalities"] = inputs
        left_out = ", ".join(outcomes)
        study.comments["cohort.modalities"] = (
            f"{left_out} measures the movement itself and is not an input; add it if you want"
        )
        study.assumed.append(
            f"{left_out} is {'the target' if predicts else 'not an input'}, because it measures the movement itself"
        )
    if predicts:
        cohort["targets"] = outcomes[:1]
    study.content |= {"title": title, "question": question, "cohort": cohort}
    if not finished:
        cohort["recipe"] = _recipe(study, data)
    if predicts:
        segment = {"piece_s": 2.0, "window_s": 0.4, "stride_s": 0.1}
        study.content |= {"split": {"by": "block", "folds": 5}, "objective": "regression"}
        study.assumed.append(f"without labels, the study predicts {outcomes[0]} from {', '.join(inputs)}")
    else:
        segment, study.content["split"] = _segment_and_split(study, data)
    if not finished:
        cohort["segment"] = segment
    study.content["model"] = {
        "architecture": "isonet",
        "d_model": 64,
        "n_heads": 8,
        "n_layers": 5,
        "d_mlp": 128,
        "dropout": 0.1,
    }
    study.content["training"] = {
        "epochs": 40,
        "batch_size": 64,
        "lr": 0.001,
        "anneal_epochs": 15,
        "schedule": "cosine",
        "warmup_epochs": 5,
        "clip_norm": 1.0,
    }
    study.comments["training"] = "small, for a few minutes on two cores"
    if len(data.repetitions["subject"].unique()) < ENOUGH_SUBJECTS:
        study.assumed.append(
            f"with fewer than {ENOUGH_SUBJECTS} subjects there are no intervals; emg-lens check says how many a test"
            " needs"
        )
    return study


def _recipe(study: FirstStudy, data: RecordedData) -> dict[str, Any]:
    """Filters by modality and by the sensor's own rate."""
    signals: dict[str, list[dict[str, Any]]] = {}
    for sensor, (_, fs, native, positive) in data.sensors.items():
        steps, comment = _steps(sensor, min(fs, native), fs, positive)
        signals[sensor], study.comments[f"cohort.recipe.signals.{sensor}"] = steps, comment
        if sensor == "emg":
            study.assumed.append(f"emg: {comment}")
        if sensor.startswith("emg") and not positive and min(fs, native) <= SLOWEST_RAW_HZ:
            study.odd.append(
                f"signed {sensor} at {min(fs, native):.4g} Hz: the rate is probably wrong; correct fs in dataset.yaml,"
                " or delete that file and give --fs"
            )
    slowest = min(fs for _, fs, _, _ in data.sensors.values())
    fs = min(FS, max(fs for _, fs, _, _ in data.sensors.values()))
    study.comments["cohort.recipe"] = f"one rate for all sensors: {fs:g} Hz" + (
        f"; the slowest has {slowest:g} Hz" if slowest < fs else ""
    )
    return {"signals": signals, "fs": fs}


def _steps(sensor: str, native: float, fs: float, positive: bool) -> tuple[list[dict[str, Any]], str]:
    if sensor.startswith("emg"):
        smooth = [{"step": "lowpass", "cutoff_hz": ENVELOPE_HZ}] if fs > 2 * ENVELOPE_HZ else []
        if positive:
            return smooth, "never negative, so rectified already: low-pass only"
        if native >= RAW_HZ:
            high = min(BAND_HZ[1], floor(0.45 * native / 10) * 10.0)
            band = {"step": "bandpass", "low_hz": BAND_HZ[0], "high_hz": high}
            return [band, {"step": "rectify"}, *smooth], "raw EMG: band-pass, rectify, envelope"
        if native > SLOWEST_RAW_HZ:
            steps = [{"step": "highpass", "cutoff_hz": LOWEST_HZ}, {"step": "rectify"}, *smooth]
            return steps, "EMG at a low rate: high-pass, rectify, envelope"
        return [{"step": "rectify"}, *smooth], "too slow for raw EMG, but with a sign: rectify, envelope"
    if sensor in ("quat", "eeg", "ecg", "eog", "ppg") or fs <= 2 * MOTION_HZ:
        return [], "as recorded"
    return [{"step": "lowpass", "cutoff_hz": MOTION_HZ}], "low-pass"


def _segment_and_split(study: FirstStudy, data: RecordedData) -> tuple[dict[str, Any], dict[str, Any]]:
    seconds = data.repetitions["seconds"].to_numpy()
    by_pair = data.repetitions.groupby(["subject", "label"])["repetition"].nunique()
    n_subjects = data.repetitions["subject"].nunique()
    once = float((by_pair < 2).mean()) > 0.5
    low, typical = float(np.quantile(seconds, 0.05)), float(np.median(seconds))
    if once and n_subjects < 3:
        if typical < 4 * WINDOW_S:
            raise DataError(
                f"{study.content['name']}: most gestures have one repetition of {typical:.2g} s in {n_subjects}"
                " subjects, so no split has training and test data; record more, or correct repetition in dataset.yaml"
            )
        study.assumed.append(
            "each gesture is one long repetition: it is cut into pieces of 2 s, and parts of it are tested"
        )
        return {"piece_s": 2.0, "window_s": 1.0, "stride_s": 0.5}, {
            "by": "block",
            "folds": min(5, int(typical // 4) + 1),
        }
    if float(np.ptp(seconds)) < SAME_LENGTH * typical and typical <= LONGEST_WHOLE_S:
        stop = _rounded(0.96 * float(seconds.min()))
        window = _rounded(0.85 * stop)
        segment = {
            "start_s": 0.0,
            "stop_s": stop,
            "window_s": window,
            "stride_s": max(0.02, _rounded((stop - window) / 3)),
        }
        study.comments["cohort.segment"] = (
            f"repetitions last {between(seconds.min(), seconds.max())} s; windows of {window:g} s from the first"
            f" {stop:g} s"
        )
    else:
        window = WINDOW_S if low >= WINDOW_S else max(_rounded(low), 0.02)
        stride = max(0.02, _rounded(window / 4))
        n_windows = float(np.maximum(0, seconds - window).sum()) / stride
        stride = stride if n_windows < MOST_WINDOWS else _rounded(window / 2)
        segment = {"start_s": 0.0, "window_s": window, "stride_s": stride}
        study.comments["cohort.segment"] = (
            f"repetitions last {between(seconds.min(), seconds.max())} s (median {typical:.3g} s)"
        )
    if once:
        study.assumed.append("gestures have one repetition: each subject is tested by a model of the other subjects")
        return segment, {"by": "subject", "leave_out": 1}
    return segment, _by_repetition(study, data)


def _by_repetition(study: FirstStudy, data: RecordedData) -> dict[str, Any]:
    """About a third of the repetitions that the subjects share is tested."""
    numbers = sorted(data.repetitions["repetition"].unique().tolist())
    pairs = data.repetitions.groupby(["subject", "label"])["repetition"].agg(set)
    usual = [n for n in numbers if sum(n in some for some in pairs) > len(pairs) / 2]
    test = usual[1::2] if len(usual) <= 4 else usual[1::3]
    study.comments["split"] = (
        f"repetitions are numbered {numbers[0]} to {numbers[-1]}; those of test are never trained on"
    )
    _leave_out_incomplete(study, pairs, set(test), data.class_names)
    return {"by": "repetition", "test": test}


def _leave_out_incomplete(study: FirstStudy, pairs: pd.Series, test: set[int], class_names: Mapping[int, str]) -> None:
    """Leave out gestures, or subjects if they are fewer, without training or test repetitions."""
    rare = [pair for pair, some in pairs.items() if not some & test or some <= test]
    if not rare:
        return
    cohort = study.content["cohort"]
    subjects, labels = ({pair[i] for pair in rare} for i in (0, 1))
    every_subject, every_label = (list(dict.fromkeys(pair[i] for pair in pairs.index)) for i in (0, 1))
    if len(labels) <= len(subjects) and len(every_label) - len(labels) > 1 or len(every_subject) <= len(subjects):
        cohort["labels"] = [int(label) for label in sorted(every_label) if label not in labels]
        part, some = "labels", ", ".join(str(class_names.get(label, label)) for label in sorted(labels))
        what = f"gesture{'s' * (len(labels) > 1)} {some} left out: a subject lacks"
    else:
        cohort["subjects"] = [subject for subject in every_subject if subject not in subjects]
        part, what = "subjects", f"subject{'s' * (len(subjects) > 1)} {', '.join(sorted(subjects))} left out: without"
    what = f"{what} training or test repetitions of a gesture"
    study.comments[f"cohort.{part}"] = what
    study.assumed.append(what)


def _rounded(seconds: float) -> float:
    """Rounded down to 0.02 s, one sample at 50 Hz."""
    return round(floor(seconds / 0.02 + 1e-6) * 0.02, 4)
