"""The card of each fitted model: data, training, accuracy, ablations, versions, licence, and how to load it.

A card is the `README.md` in the folder of a fit. Its front matter is that of a card on the Hugging Face hub.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from emg_lens.data.registry import DATASETS
from emg_lens.errors import printable
from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.report.leakage_section import leakage_sentences
from emg_lens.studies.report.quality_sentences import quality_line, quality_warning
from emg_lens.studies.report.verdict_sentences import sentence
from emg_lens.studies.report.wording import count, metric_name, metric_words, value
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.results.verdicts import Verdict, verdicts_of
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.studies.statistics.intervals import FEWEST, mean_interval
from emg_lens.sweeps.conditions import BASELINE

LIBRARY = "emg-lens"
TAGS = ["biosignals", "emg", "transformer-lens"]
MOST = 10
"""Ablations on a card; the report has all."""


def model_cards(findings: Findings, licence: str = "", weights: bool = True) -> dict[str, str]:
    """Write the card of every fitted model of a study.

    Args:
        findings: The results of the study.
        licence: What the README of the recordings says about their licence; empty if it says nothing.
        weights: Whether the folders of the fits hold the weights.

    Returns:
        Markdown with front matter, by the name of the fit.
    """
    facts = {str(row["fit"]): row for row in findings.facts.to_dict("records")}
    shared = leakage_sentences(findings)
    cards, levels = {}, findings.study.cells
    for cell, verdicts in verdicts_of(findings):
        about = _about_cell(cell, verdicts, shared)
        for fit, scores in cell.scores[cell.scores["condition"] == BASELINE].groupby("fit", sort=False):
            row = facts[str(fit)]
            spec = next(spec for own, spec in levels if all(str(row[name]) == level for name, level in own.items()))
            cards[str(fit)] = _card(findings, spec, row, scores, about, licence, weights)
    return cards


def _card(
    findings: Findings,
    spec: StudySpec,
    facts: Mapping[Any, Any],
    scores: pd.DataFrame,
    about_cell: str,
    licence: str,
    weights: bool,
) -> str:
    name = f"{facts['architecture']} of the study {findings.study.name}, {facts['fit']}"
    subjects = [str(subject) for subject in scores["subject"]]
    test = scores[list(findings.metrics)].mean()
    metrics = "; ".join(f"{metric_words(metric)} {value(test[metric])}" for metric in findings.metrics)
    split = {"by": spec.split.by, **spec.split.model_dump(mode="json", exclude_defaults=True)}
    notes = "".join(f"\n* {printable(str(note))}" for note in facts.get("notes") or ())
    environment = {**(facts.get("environment") or {}), **(facts.get("plugins") or {})}
    versions = ", ".join(f"{key} {version}" for key, version in environment.items())
    data = DATASETS[spec.cohort.dataset].description if spec.cohort.dataset in DATASETS else "unknown to this version"
    simulated = spec.cohort.dataset in DATASETS and not DATASETS[spec.cohort.dataset].needs_root
    terms = "simulated, no recordings" if simulated else licence or "not known; ask the owners of the recordings"
    text = f"""# {name}

{f"{findings.study.title}. {findings.study.question or ''}".strip()}

## Data

* Data set: {spec.cohort.dataset} ({data})
* Licence of the recordings: {terms}
* Test subjects: {", ".join(subjects)}
* Split: {", ".join(f"{key}: {given}" for key, given in split.items())}
* Trials: {facts["n_train"]} for training, {facts["n_test"]} for the test{_repetitions(facts)}
* Input: {_input(facts)}
* Output: {"; ".join(map(str, facts["outputs"]))}{notes}

## Training

{printable(spec.model.summary())}; {count(facts["n_parameters"], "parameter")}. {printable(spec.training.summary())}.
Objective: {facts["objective"]}. Seed {facts["seed"]}.

## Scores of this model

On its test trials: {metrics}.

{about_cell}

## Versions

{versions or "not known"}. Study hash {findings.study.digest()}.

## How to load it

{_loading(facts) if weights else "The weights are not in this folder. Ask for an archive of `emg-lens share --models`."}
"""
    return _with_front_matter(findings, spec, name, test, text)


def _repetitions(facts: Mapping[Any, Any]) -> str:
    n = facts.get("n_test_repetitions")
    return f" ({count(n, 'repetition')})" if n == n and n and n != facts["n_test"] else ""


def _input(facts: Mapping[Any, Any]) -> str:
    channels = ", ".join(f"{n} {modality}" for modality, n in facts["modalities"].items())
    return (
        f"`[trial, channel, time]`: channels {channels} in this order, {facts['n_samples']} samples at"
        f" {facts['fs']:g} Hz, prepared as the study's `cohort` says"
    )


def _about_cell(cell: Cell, verdicts: list[Verdict], leakage: list[str]) -> str:
    """Describe all models that the study averages: score with interval, references, warnings, leakage, ablations."""
    values, confidence = cell.values[BASELINE].to_numpy(), cell.statistics.confidence
    low, high = mean_interval(values, confidence, cell.metric_range)
    ends = f" ({100 * confidence:g} % CI [{value(low)}, {value(high)}])" if low == low else ""
    why = "" if low == low else f" An interval needs {FEWEST} subjects with different values."
    lines = [
        f"All models of this study{f' at {cell.label}' if cell.label else ''}: {metric_words(cell.metric)}"
        f" {value(cell.baseline)}{ends} over {count(len(values), 'subject')}.{why}",
        quality_line(cell),
        f"**Warning.** {warning}" if (warning := quality_warning(cell)) else "",
        *leakage,
    ]
    shown = [one for one in verdicts if one.verdict == "shown"]
    ablations = "".join(f"\n* {sentence(one, cell)}" for one in shown[:MOST])
    more = f"\n* {len(shown) - MOST} more in the report" if len(shown) > MOST else ""
    judged = f"{len(shown)} of {count(len(verdicts), 'ablation')} had a clear and specific effect"
    heading = f"## Ablations\n\nOver all subjects, {judged}{':' * bool(shown)}{'.' * (not shown)}"
    return "\n\n".join([*filter(None, lines), f"{heading}\n{ablations}{more}".rstrip()])


def _loading(facts: Mapping[Any, Any]) -> str:
    module, _, name = str(facts.get("model_class") or "").rpartition(".")
    if not module:
        module, name, call, hub = "emg_lens.models.saved_models", "saved_model", "saved_model", ""
    else:
        call = f"{name}.from_pretrained"
        hub = f'\n\nAfter an upload to the Hugging Face hub: `{call}("user/repository")`.'
    shape = f"{sum(facts['modalities'].values())}, {facts['n_samples']}"
    return f"""In the folder of the run:

```python
import numpy as np
import torch
from emg_lens.data.standardization import InputStatistics
from {module} import {name}

model = {call}("fits/{facts["fit"]}")
x = np.zeros((1, {shape}), dtype=np.float32)  # your trials, in the units of the recordings
x = InputStatistics.load("fits/{facts["fit"]}/input_statistics.safetensors").apply(x)
outputs = model(torch.from_numpy(x))
```{hub}"""


def _with_front_matter(findings: Findings, spec: StudySpec, name: str, test: pd.Series, text: str) -> str:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData  # a slow import, which other reports do not need

    kind = METRICS[findings.metric].kind if findings.metric in METRICS else "other"
    results = [
        EvalResult(
            task_type="other",
            task_name=f"biosignals to {kind}",
            dataset_type=spec.cohort.dataset,
            dataset_name=spec.cohort.dataset,
            dataset_split="test",
            metric_type=metric,
            metric_name=metric_name(metric),
            metric_value=round(float(test[metric]), 6),
        )
        for metric in findings.metrics
        if test[metric] == test[metric]
    ]
    data = ModelCardData(
        library_name=LIBRARY,
        tags=TAGS,
        metrics=list(findings.metrics),
        model_name=name,
        eval_results=results or None,
    )
    card = ModelCard(f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{text}")
    return str(card)
