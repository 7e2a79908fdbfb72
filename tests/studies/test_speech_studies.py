"""Studies of silent speech run end to end; conditions are scored with the alignment of the intact model."""

import numpy as np
import pytest
import yaml

from emg_lens.scoring import measure, with_frozen_alignment
from emg_lens.studies import Study
from emg_lens.studies.fits.fit_store import read_outputs, read_scores

METRICS = {"text": ["word_error_rate", "character_error_rate"], "audio": ["mel_distance", "phoneme_accuracy"]}


def tiny(task):
    simulation = {"n_subjects": 2, "n_sessions": 2, "n_utterances": 4, "n_words": 1}
    cut = {"name": "lag over 133 ms", "edges": "lag(5, 99) | lag(-99, -5)"}
    return {
        "name": f"tiny-{task}",
        "title": "tiny",
        "cohort": {"dataset": "simulated-speech", "options": {"task": task, "simulation": simulation}},
        "split": {"by": "repetition", "train": [1], "test": [2]},
        "objective": "ctc" if task == "text" else "frames",
        "model": {"architecture": "tinymyo-speech", "d_model": 8, "n_heads": 2, "n_layers": 1, "d_mlp": 8},
        "training": {"epochs": 2, "batch_size": 4, "lr": 0.01, "anneal_epochs": 0},
        "conditions": {"layer_masks": None, "removals": None, "extra": [cut], "controls": None},
    }


@pytest.mark.parametrize("task", ["text", "audio"])
def test_a_study_of_speech_runs_from_simulation_to_report(task, tmp_path):
    result = Study.parse(yaml.safe_dump(tiny(task))).run(out=tmp_path, jobs=1)
    metrics = METRICS[task]
    scores = result.scores
    assert scores["condition"].unique().tolist() == ["baseline", "lag over 133 ms"]
    assert np.isfinite(scores[metrics]).to_numpy().all()
    assert f"{metrics[0]}_chance" in scores or task == "audio"
    assert metrics[0].replace("_", " ") in result.report()
    for folder in (path.parent for path in tmp_path.rglob("fit.json")):
        outputs, targets = read_outputs(folder)
        stored = read_scores(folder, metrics)
        if task == "audio":
            counted = targets[..., -1] > 0
            assert (targets[..., -2][counted] >= 0).all(), "every alignment is frozen"
            silent = targets.copy()
            silent[..., -2] = np.where(
                counted & (targets[..., -2] != np.arange(targets.shape[1])), -1, targets[..., -2]
            )
            again = with_frozen_alignment(outputs[0], silent)
            assert np.array_equal(again, targets), "to the alignment of the intact model"
        for out, (_, row) in zip(outputs, stored.iterrows(), strict=True):
            assert measure(metrics, out, targets) == pytest.approx(row[metrics].to_dict())
