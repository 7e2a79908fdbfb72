"""An interrupted fit that is called again gives bit-identical results and repeats no epoch."""

from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from toy_cohort import make_model, make_trials

from emg_lens.data import Batch
from emg_lens.io import checkpoint
from emg_lens.io.checkpoint import CheckpointError
from emg_lens.training import Classification, TrainingRecipe, fit

RECIPE = TrainingRecipe(
    epochs=7, batch_size=32, lr=1e-3, anneal_epochs=3, schedule="cosine", warmup_epochs=2, clip_norm=0.5, seed=3
)
X, Y = make_trials()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "fit.safetensors"


@pytest.fixture(autouse=True, scope="module")
def _save_after_every_epoch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
        patch.setattr(checkpoint, "SAVE_FRACTION", 1e6)
        yield


def build(**fields):
    return make_model(0, 0.2, **fields)


def run(path=None, model=None, **options):
    model = model or build()
    held_out = Batch(X[:20], Y[:20])
    history = fit(model, Batch(X, Y), options.pop("recipe", RECIPE), checkpoint=path, held_out=held_out, **options)
    return model, history


def assert_same(result, expected) -> None:
    assert result[1].equals(expected[1])
    for (name, one), other in zip(result[0].named_parameters(), expected[0].parameters(), strict=True):
        assert torch.equal(one, other), name


class Stop(Exception):
    pass


def stopping_after(n: int, seen: list[int]):
    def on_epoch(epoch: int) -> None:
        seen.append(epoch)
        if epoch == n:
            raise Stop

    return on_epoch


@pytest.mark.parametrize("fields", [{}, {"shared_head": True}], ids=["two heads", "one head"])
@settings(max_examples=10, deadline=None)
@given(stops=st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=4))
def test_a_fit_that_stops_anywhere_resumes_bit_identically(fields, stops):
    with TemporaryDirectory() as folder:
        path, done = Path(folder) / "a.safetensors", 0
        for n, by_an_error in stops:
            seen: list[int] = []
            if by_an_error and done < n <= RECIPE.epochs:
                with pytest.raises(Stop):
                    run(path, build(**fields), on_epoch=stopping_after(n, seen))
            else:
                _, history = run(path, build(**fields), stop_after=n, on_epoch=seen.append)
                assert history["epoch"].tolist() == list(range(1, max(n, done) + 1))[: RECIPE.epochs]
            assert seen == list(range(done + 1, min(n, RECIPE.epochs) + 1))
            done = max(done, min(n, RECIPE.epochs))
            assert [p.name for p in path.parent.iterdir()] == [path.name]
        assert_same(run(path, build(**fields)), run(model=build(**fields)))


def test_a_finished_fit_is_loaded_from_its_file(path):
    first = run(path)
    model = build()
    model.embed.register_forward_pre_hook(lambda *_: pytest.fail("it runs"))
    assert_same(run(path, model), first)


def test_the_random_state_of_torch_does_not_change(path):
    run(path, stop_after=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stop", [None, 4])
def test_afterwards_every_parameter_has_its_own_memory_and_layout(stop):
    before = {name: p.stride() for name, p in build().named_parameters()}
    model = build()
    if stop is None:
        run(model=model)
    else:
        with pytest.raises(Stop):
            run(model=model, on_epoch=stopping_after(stop, []))
    parameters = dict(model.named_parameters())
    assert {name: p.stride() for name, p in parameters.items()} == before
    assert all(p.grad is None for p in parameters.values())
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in parameters.values())


def test_frozen_parameters_do_not_change(path):
    model = build()
    model.blocks[0].attn.W_Q.requires_grad_(False)
    before = model.blocks[0].attn.W_Q.detach().clone()
    run(model=model)
    assert torch.equal(model.blocks[0].attn.W_Q, before)
    assert not torch.equal(model.blocks[0].attn.W_K, build().blocks[0].attn.W_K)


class Other(Classification):
    name = "other"


OTHERS = {
    "recipe": lambda: {"recipe": RECIPE.model_copy(update={"lr": 2e-3})},
    "weights": lambda: {"model": make_model(1, 0.2)},
    "model": lambda: {"model": make_model(0, 0.3)},
    "x": lambda: {"batch": Batch(X + 1e-6, Y)},
    "targets": lambda: {"batch": Batch(X, Y.flip(0))},
    "objective": lambda: {"objective": Other()},
    "held_out": lambda: {"held_out": Batch(X[:5], Y[:5])},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_another_fit_is_refused_and_kept(path, what):
    run(path, stop_after=2)
    before = path.read_bytes()
    call = {
        "model": build(),
        "batch": Batch(X, Y),
        "recipe": RECIPE,
        "held_out": Batch(X[:20], Y[:20]),
        **OTHERS[what](),
    }
    with pytest.raises(CheckpointError, match=rf"belongs to another fit \({what}: .*, now .*delete it") as error:
        fit(**call, checkpoint=path)
    assert "\n" not in str(error.value) and path.read_bytes() == before


def test_a_checkpoint_of_a_sweep_is_refused(path):
    from emg_lens.hooks import unimodal
    from emg_lens.sweeps.conditions import Condition
    from emg_lens.sweeps.engine import sweep

    sweep(build(), X, [Condition("cut", unimodal())], checkpoint=path)
    with pytest.raises(CheckpointError, match="is not a checkpoint of a fit; give another path"):
        run(path)


def test_an_unwritable_path_fails_before_the_first_epoch(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):
        run(tmp_path / "missing" / "fit.safetensors", on_epoch=lambda _: pytest.fail("it runs"))
