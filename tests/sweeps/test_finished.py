"""A sweep that is interrupted and called again: the same bits, and no forward twice."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file

from emg_lens.hooks import cross_modal, every, flow, unimodal
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.io import checkpoint
from emg_lens.io.checkpoint import CheckpointError
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps import sampled_baseline
from emg_lens.sweeps import settings as sweep_settings
from emg_lens.sweeps.conditions import Condition, head_masks, layer_masks, with_baseline
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.plan import Node, plan_sweep
from emg_lens.sweeps.result import SweepError, SweepResult
from emg_lens.sweeps.side_by_side import torch_threads
from emg_lens.sweeps.target import target_of

EXECUTORS = ["loop", "tree"]
LAYERS = 3
EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}
CONDITIONS = [
    *layer_masks(EDGES, LAYERS)[::2],
    *head_masks(EDGES, LAYERS, 4)[::3],  # few heads: computed as changes to a sibling
    Condition("empty rows", every().at(layers=1, heads=0)),
]
BATCH = 5


def build() -> IsoNet:
    torch.manual_seed(0)
    return IsoNet(IsoNetConfig({"emg": 3, "acc": 2}, 10, 6, d_model=32, n_heads=4, n_layers=LAYERS, d_mlp=16)).eval()


class Counted:
    """A model whose passes through a block's MLP are counted; can raise in one of them."""

    def __init__(self) -> None:
        self.model, self.n, self.fail = build(), 0, (0, BaseException())
        find_intervention_point(self.model, self.model.layout)  # once a model, by some passes of its own
        for block in self.model.blocks:
            block.mlp.act_fn = self.act(block.mlp.act_fn)

    def act(self, inner):
        def counted(x):
            self.n += 1
            if self.n == self.fail[0]:
                raise self.fail[1]
            return inner(x)

        return counted


X = 3 * build().example_input(12)  # three micro-batches, the last one shorter
WHOLE: dict[str, SweepResult] = {}


@pytest.fixture(autouse=True, scope="module")
def _few_conditions_side_by_side():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_settings, "room", lambda *_: 4 * BATCH)
        patch.setattr(sampled_baseline, "FEW_TRIALS", len(X))  # every baseline is compared, whole
        yield


@pytest.fixture
def threads(monkeypatch):
    """Micro-batches side by side, small as they are."""
    monkeypatch.setattr(sweep_settings, "SIDE_BY_SIDE_TOKENS", 1)
    with torch_threads(2):
        yield


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "sweep.safetensors"


def run(model, path=None, executor="tree", batch_size: int | None = BATCH, **options) -> SweepResult:
    options = {"conditions": CONDITIONS, **options}
    return sweep(model, X, executor=executor, batch_size=batch_size, checkpoint=path, **options)


def whole(executor: str) -> SweepResult:
    """What a sweep gives that nobody interrupts and that knows no file."""
    if executor not in WHOLE:
        WHOLE[executor] = run(build(), executor=executor)
    return WHOLE[executor]


def assert_same(result: SweepResult, expected: SweepResult) -> None:
    assert list(result.logits) == list(expected.logits) and result.executor == expected.executor
    for name, logits in expected.logits.items():
        assert torch.equal(result.logits[name], logits), name
        assert result.logits[name].untyped_storage().nbytes() == logits.untyped_storage().nbytes()
    assert result.audit.equals(expected.audit)


class Stop(Exception):
    pass


def stopping_after(n: int, seen: list[float]):
    def on_progress(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == n:
            raise Stop

    return on_progress


def interrupt(path, executor, n: int, model=None, **options) -> list[float]:
    """Stop a sweep after `n` of its reports."""
    seen: list[float] = []
    with pytest.raises(Stop):
        run(model or build(), path, executor, on_progress=stopping_after(n, seen), **options)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS)
@settings(max_examples=12, deadline=None)
@given(stops=st.lists(st.integers(2, 12), min_size=1, max_size=5))
def test_stopped_anywhere_and_continued_it_gives_the_same_bits(executor, stops):
    with TemporaryDirectory() as folder:
        path, reached = Path(folder) / "a.safetensors", 0.0
        for n in stops:
            seen: list[float] = []
            try:
                run(build(), path, executor, on_progress=stopping_after(n, seen))
            except Stop:
                assert [p.name for p in path.parent.iterdir()] == [path.name]
            assert seen[0] >= reached and seen == sorted(seen)
            reached = seen[-1]
        assert_same(run(build(), path, executor), whole(executor))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("n", [1, 4, 10, 25])
def test_in_threads_too(path, n):
    seen = interrupt(path, "tree", n) + interrupt(path, "tree", 6)
    assert seen == sorted(seen)
    assert_same(run(build(), path), run(build()))


def expected_passes(executor: str, done: torch.Tensor) -> int:
    """Passes through blocks that the missing conditions need, from the plan and the file alone."""
    planned = plan_sweep(target_of(build()), with_baseline(CONDITIONS))

    def nodes(node: Node, missing: set[int]) -> int:
        return sum(1 + nodes(c, missing) for c in node.children.values() if missing & set(c.leaves()))

    total = LAYERS * (1 + bool(done[:, 1:].any()))  # one trial of the baseline and of a cut, compared with the file
    for part in done:
        missing = set((~part).nonzero().flatten().tolist())
        total += LAYERS * (0 in missing)  # the baseline is compared with a forward of the model
        if executor == "loop":
            total += LAYERS * len(missing)
        elif executor == "tree":
            total += nodes(planned.roots[0].tree, missing)
        else:
            assert len(missing) % 4 in (0, len(part) % 4)  # four conditions side by side
            total += LAYERS * -(-len(missing) // 4)
    return total


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("n", [1, 4, 8])
def test_only_what_is_missing_is_computed(path, executor, n):
    counted = Counted()
    interrupt(path, executor, n, counted.model)
    done = load_file(path)["done"]
    assert done.any() and not done.all()
    counted.n = 0
    assert_same(run(counted.model, path, executor), whole(executor))
    assert counted.n == expected_passes(executor, done)
    counted.n, seen = 0, []
    assert_same(run(counted.model, path, executor, on_progress=seen.append), whole(executor))
    assert counted.n == 2 * LAYERS and seen == [1.0]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_progress_goes_on_from_what_is_done(path, executor):
    seen = interrupt(path, executor, 3)
    after: list[float] = []
    run(build(), path, executor, on_progress=after.append)
    assert after[0] == seen[-1] and after[-1] == 1
    assert all(a < b for a, b in pairwise(after))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_control_c_in_the_middle_of_a_forward_loses_nothing(path, executor, error):
    counted = Counted()
    counted.fail = (20, error())
    with pytest.raises(error):
        run(counted.model, path, executor)
    assert load_file(path)["done"].any()
    assert_same(run(build(), path, executor), whole(executor))


KILLED = """
import sys, time
import torch
from test_finished import build, checkpoint, run, sweep_settings, BATCH
torch.set_num_threads(int(sys.argv[3]))
sweep_settings.room = lambda *_: 4 * BATCH
checkpoint.SAVE_SECONDS, checkpoint.SAVE_FRACTION = 0.0, 1.0
run(build(), sys.argv[1], sys.argv[2], on_progress=lambda fraction: time.sleep(0.05))
"""


@pytest.mark.slow
def test_a_killed_process_loses_what_it_did_since_it_last_saved(path):
    folder = str(Path(__file__).parent)
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {folder!r}){KILLED}", str(path), "tree"]
    child = subprocess.Popen([*command, str(torch.get_num_threads())])
    try:
        n_done = 0
        while n_done < 5:
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
            try:  # `load_file` opens it twice, and between may be replaced
                n_done = int(load(path.read_bytes())["done"].sum())
            except (FileNotFoundError, SafetensorError):  # not there yet; never half a file
                assert not path.exists() or n_done == 0
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = load_file(path)["done"]
    assert done.sum() >= 5 and not done.all()
    counted = Counted()
    assert_same(run(counted.model, path), whole("tree"))
    assert counted.n == expected_passes("tree", done)


def test_while_it_runs_it_saves_only_now_and_then(path, monkeypatch):
    saved = []
    write = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", lambda *a: (saved.append(1), write(*a)))
    run(build(), path)
    assert len(saved) == 2  # as it begins, so that a path that cannot be written to is known; and at the end
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SAVE_FRACTION", 1e6)
    path.unlink()
    run(build(), path)
    assert len(saved) > 20


def test_conditions_that_raised_are_tried_again(path):
    counted = Counted()
    counted.fail = (2 * LAYERS + 1, MemoryError("no room"))  # the third forward
    with pytest.raises(SweepError, match="1 of .* MemoryError: no room") as error:
        run(counted.model, path, "loop")
    assert len(error.value.result.logits) == len(CONDITIONS)
    compared = 2 * LAYERS  # one trial of the baseline and of a cut
    counted.n, counted.fail = 0, (compared + 1, MemoryError("still no room"))
    with pytest.raises(SweepError, match="still no room"):
        run(counted.model, path, "loop")
    assert counted.n == compared + 1
    counted.n, counted.fail = 0, (0, BaseException())
    assert_same(run(counted.model, path, "loop"), whole("loop"))
    assert counted.n == compared + LAYERS


def test_executor_and_batch_size_are_those_of_the_first_call(path, monkeypatch):
    interrupt(path, "loop", 3)
    monkeypatch.setattr(sweep_settings, "room", lambda *_: 1)  # less memory is free now
    assert_same(run(build(), path, "auto", None), whole("loop"))


def test_names_are_free(path):
    interrupt(path, "tree", 20)
    renamed = [Condition(f"new {i}", c.edges) for i, c in enumerate(CONDITIONS)]
    result = run(build(), path, conditions=renamed)
    for new, old in zip(renamed, CONDITIONS, strict=True):
        assert torch.equal(result.logits[new.name], whole("tree").logits[old.name])


def other_weights() -> dict:
    model = build()
    with torch.no_grad():
        model.blocks[2].mlp.b_out[-1] += 1e-7
    return {"model": model}


def other_edges() -> dict:
    model = IsoNet(replace(build().cfg, masked_edges="flow('acc', 'emg').at(layers=2)"))
    model.load_state_dict(build().state_dict())
    return {"model": model}


OTHERS = {
    "weights": other_weights,
    "model": other_edges,
    "x": lambda: {"x": X + 1e-6},
    "x (fewer)": lambda: {"x": X[:-1]},
    "x (type)": lambda: {"x": X.double(), "model": build()},
    "conditions": lambda: {"conditions": CONDITIONS[::-1]},
    "conditions (more)": lambda: {"conditions": [*CONDITIONS, Condition("new", flow("emg", "acc"))]},
    "executor": lambda: {"executor": "loop"},
    "batch_size": lambda: {"batch_size": 4},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_file_of_another_sweep_is_refused_and_kept(path, what):
    interrupt(path, "tree", 3)
    before = path.read_bytes()
    call = {"model": build(), "x": X, "conditions": CONDITIONS, **OTHERS[what]()}
    seen: list[float] = []
    with pytest.raises(
        CheckpointError, match=rf"belongs to another sweep \({what.split()[0]}: .*, now .*delete it"
    ) as error:
        sweep(**call, checkpoint=path, on_progress=seen.append)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert path.read_bytes() == before and not seen


def test_a_sweep_beside_a_users_hook_is_another_one(path):
    interrupt(path, "tree", 3)
    model = build()
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda t, hook: 2 * t)]),
        pytest.raises(CheckpointError, match=r"\(hooks: none, now blocks.1.hook_resid_pre, arith"),
    ):
        run(model, path, "auto")


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "is damaged"),
        (lambda content: content[:20], "cannot be read"),
        (lambda content: b"", "cannot be read"),
        (lambda content: b"condition,accuracy\nbaseline,0.9\n", "cannot be read"),
        (flipped, "is damaged"),
    ],
    ids=["truncated", "cut short", "empty", "a table", "one bit"],
)
def test_a_damaged_file_is_refused_and_kept(path, damage, message):
    interrupt(path, "tree", 3)
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"{message}: .*; delete it or give another path") as error:
        run(build(), path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_refused_and_kept(path):
    save_file({"W": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint of a sweep; give another path"):
        run(build(), path)
    assert load_file(path)["W"].shape == (3,)


def test_a_path_that_cannot_be_written_to_is_known_before_the_first_forward(tmp_path):
    counted = Counted()
    for wrong, message in [("missing/a.safetensors", "cannot write"), ("", "cannot be read")]:
        with pytest.raises(CheckpointError, match=message):
            run(counted.model, tmp_path / wrong)
    assert counted.n == 0


def test_a_full_disk_says_so_and_keeps_the_file(path, monkeypatch):
    interrupt(path, "tree", 3)
    before = path.read_bytes()

    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="cannot write checkpoint .*No space left"):
        run(build(), path)
    assert path.read_bytes() == before
