"""Calls of public functions that have no example of their own. `example_calls` runs this file and records them."""

import numpy as np
import torch

from emg_lens import TrialSet, attention_view, build_model, load_dataset, preprocess, sweep, unimodal
from emg_lens.analysis import (
    gap_curve,
    masked_errors,
    neighbour_fractions,
    plot_gap_curve,
    plot_reconstruction,
    readout_map,
    readout_vectors,
    reconstruct,
    superset_ablations,
    with_cls_path_closed,
)
from emg_lens.data import (
    Batch,
    BlockSplit,
    Corpus,
    CorpusPart,
    DataSet,
    HeldOut,
    InputStatistics,
    Leakage,
    Recipe,
    RepetitionSplit,
    Segment,
    Signal,
    SubjectSplit,
    TargetStatistics,
    data_fingerprint,
    describe_dataset,
    leakage_report,
    pre_onset_trials,
    register,
    subjects,
    write_corpus,
)
from emg_lens.sweeps import Condition
from emg_lens.training import PretrainingRecipe as Pretraining
from emg_lens.training import TrainingRecipe, fit, pretrain

rng = np.random.default_rng(0)
Signal(rng.normal(size=(40, 2)), 100.0, 100.0, "V", ("a", "b"), "arm")
SMALL = {"n_subjects": 2, "n_repetitions": 4}
raw = list(load_dataset("simulated", simulation=SMALL))
describe_dataset("simulated")
data_fingerprint("simulated", simulation=SMALL)
subjects("simulated", simulation=SMALL)
recordings = [preprocess(one, Recipe(fs=100)) for one in raw]
recordings[0].keep(["emg"])
trials = TrialSet.from_recordings(recordings, Segment(window_s=0.5, stop_s=1.0), classes=[1, 2])
TrialSet.concatenate([trials, trials])
before = pre_onset_trials(raw, 0.3, modalities=["emg"], classes=[1, 2])
train, test = trials.split([1, 2], [3, 4])
report = leakage_report(train, test, before)
Leakage.over([report, report])
Leakage.from_dict(report.to_dict())
report.to_frame()
folds = [
    fold
    for split in (RepetitionSplit(train=[1, 2], test=[3]), SubjectSplit(leave_out=1), BlockSplit(folds=2))
    for fold in split.folds(["S1", "S2"])
]
statistics = InputStatistics.of(train, ["emg"])
statistics.apply(test.x)
statistics.save("statistics.safetensors")
InputStatistics.load("statistics.safetensors")
targets = rng.normal(size=(len(trials), 2)).astype(np.float32)
with_targets = TrialSet.from_arrays(
    trials.x, trials.y, trials.subject, trials.repetition, trials.modalities, 100.0, targets=targets,
    target_names=("a", "b"),
)  # fmt: skip
scaling = TargetStatistics.of(with_targets)
scaling.undo(scaling.apply(targets))
trials.keep(["emg"])
trials.with_targets(["acc"])
trials.keep(["emg"]).regroup({"a": {"emg": [0]}, "b": {"emg": [1]}})
train.standardised(train, ["emg"])
trials.save("trials.h5")
TrialSet.load("trials.h5")
batch = Batch(torch.zeros(4, 5, 10), torch.tensor([0, 1, 0, 1]))
batch[torch.tensor([0, 1])]
batch.split(2)
batch.to("cpu")

corpus = Corpus.of_trials([train, test], {"emg": 8, "acc": 6}, "min-max", "left out")
corpus = Corpus.open(["trials.h5"], None, "none")
corpus.read(np.array([0, 1]))
corpus.real(np.array([0, 1]))
corpus.file_of(0)
corpus.divide(HeldOut(fraction=0.5))
corpus.table()
part = CorpusPart(dataset="simulated", options={"simulation": SMALL}, recipe=Recipe(fs=100.0), window_s=0.4)
write_corpus({"one": part}, None, "shards")


def recordings_of(*, subjects=None):
    """Yield the recordings above."""
    yield from recordings


register(DataSet("mine", recordings_of, "A data set without files"))
list(load_dataset("mine", subjects=["S1"]))

model = build_model(
    "isonet", modalities={"emg": 4, "acc": 3}, n_samples=8, n_classes=3, d_model=8, n_heads=2, n_layers=2
)
x, y = torch.randn(12, 7, 8), torch.arange(12) % 3
conditions = [Condition("uni", unimodal()), Condition("first", unimodal().at(layers=0), {"mode": "x"})]
superset_ablations(model, conditions, layout=model.layout)
with_cls_path_closed(unimodal())
vectors = readout_vectors(model, x)
readout_map(vectors, perplexity=2.0, seed=1)
neighbour_fractions(vectors, y.numpy(), np.arange(12) // 2, n_neighbours=2)
result = sweep(model, x, conditions, layout=model.layout, reference=x, batch_size=4)
result.accuracy(y)
_, cache = model.run_with_cache(x)
attention_view(
    torch.rand(2, 3, 8, 8).softmax(-1).numpy(), model.layout, trial=None, labels=list("abcdefgh"),
    baseline=torch.rand(2, 3, 8, 8).softmax(-1), title="A title",
).figure(0, 1)  # fmt: skip
fit(model, Batch(x, y), TrainingRecipe(epochs=1, batch_size=6), held_out=Batch(x, y), objective="classification")

sizes = {"d_model": 8, "n_heads": 2, "n_layers": 1, "d_mlp": 8, "patch_samples": 10}
encoder = build_model("tinymyo", modalities={"emg": 3}, n_samples=40, n_classes=0, head="reconstruction", **sizes)
windows = torch.rand(4, 3, 40)
hidden = torch.zeros(4, 12, dtype=torch.bool)
hidden[:, 2] = True
reconstruct(encoder, windows, hidden)
real = torch.ones(4, 3, dtype=torch.bool)
masked_errors(encoder, windows, masked_fraction=0.5, real=real, beta=1.0, seed=1)
curve = gap_curve(encoder, windows, [1, 2], all_channels=True, real=real, fs=100.0, beta=1.0, seed=1)
plot_gap_curve(curve, "mse")
plot_reconstruction(encoder, windows[0], channels=[0, 1], masked=hidden[0], fs=100.0)
some = TrialSet.from_arrays(rng.normal(size=(8, 3, 40)), [0] * 8, ["A", "B"] * 4, [0] * 8, {"emg": 3}, 100.0)
pretrain(encoder, Corpus.of_trials(some), Pretraining(epochs=1, batch_size=4, warmup_epochs=0))
