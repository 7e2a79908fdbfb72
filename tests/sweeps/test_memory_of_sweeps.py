"""The peak of a sweep over a long sequence does not grow with the number of its conditions."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")

SCRIPT = """
import json, resource, sys
import torch
from emg_lens.hooks import every, same_channel, same_patch
from emg_lens.models.tinymyo.encoder import TinyMyo
from emg_lens.models.tinymyo.config import TinyMyoConfig
from emg_lens.sweeps import layer_masks, sweep

class Somebodys(TinyMyo):
    "Overrides a method without a declaration: the plain tree."
    pool = TinyMyo.pool

kind, n = {"folded": TinyMyo, "tree": Somebodys}[sys.argv[1]], int(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
model = kind(TinyMyoConfig({"emg": 20}, n_samples=400, n_classes=6, d_model=24, d_mlp=24, positions="rotary")).eval()
edges = {"within": same_channel(), "across": every() - same_channel(), "same": same_patch() - same_channel()}
conditions, x = layer_masks(edges, 8), model.example_input(2)
sweep(model, x[:1], conditions[::24], executor="tree")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
result = sweep(model, x, conditions[:: 72 // n], executor="tree")
print(json.dumps([len(model.layout), len(result.conditions), result.executor, before, peak()]))
"""


@pytest.mark.parametrize("executor", ["folded", "tree"])
def test_72_conditions_take_the_memory_of_9(executor):
    found = {}
    for n in (9, 72):
        command = [sys.executable, "-c", SCRIPT, executor, str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        n_tokens, n_conditions, ran, before, found[n] = json.loads(done.stdout)
        assert (n_tokens, n_conditions, ran) == (400, n + 1, executor)
        assert found[n] < before + 64
    assert found[72] < found[9] + 32  # every mask kept as it is added to scores would take 370 MB, as bits 12
