"""Interventions of every kind in one sweep: all executors give what the verified loop and a direct computation give."""

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from emg_lens.hooks import (
    CutMLP,
    DeadHookError,
    EdgeCut,
    EdgeError,
    Intervention,
    Replace,
    cross_modal,
    cut,
    cut_mlp,
    every,
    flow,
    positions,
    replace,
    self_edges,
    unimodal,
)  # fmt: skip
from emg_lens.io.checkpoint import CheckpointError
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.models.registry import build_model
from emg_lens.sweeps import Condition, SweepError, audit, head_masks, layer_masks, sweep

LAYERS = 3
EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}
ACC = [3, 4]
"""Channels of the accelerometer in `build()`'s input."""


class Renamed(HookedBiosignalEncoder):
    """Overrides a method without a declaration: it takes the plain tree."""

    pool = HookedBiosignalEncoder.pool


def build(kind: type = IsoNet) -> IsoNet:
    torch.manual_seed(0)
    model = kind(IsoNetConfig({"emg": 3, "acc": 2}, 10, 6, d_model=16, n_heads=2, n_layers=LAYERS, d_mlp=8))
    return model.eval()  # pyright: ignore


X = 3 * torch.randn(11, 5, 10, generator=torch.Generator().manual_seed(1))
REFERENCE = 2 + torch.randn(7, 5, 10, generator=torch.Generator().manual_seed(2))


def by_hand(by: str, seed: int = 0) -> torch.Tensor:
    x, generator = X.clone(), torch.Generator().manual_seed(seed)
    if by == "zero":
        x[:, ACC] = 0
    elif by == "mean":
        x[:, ACC] = REFERENCE.mean(0)[ACC]
    elif by == "resample":
        x[:, ACC] = REFERENCE[torch.randint(7, (11,), generator=generator)][:, ACC]
    else:
        order = torch.randperm(11, generator=generator).tolist()
        for i, trial in enumerate(order):
            x[trial, ACC] = X[order[i - 1], ACC]
    return x


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("executor", ["loop", "tree", "plain"])
@pytest.mark.parametrize("by", ["zero", "mean", "resample", "permute"])
def test_a_replaced_input_is_the_one_made_by_hand(by, executor, batch_size):
    model = build(type("Subclass", (IsoNet,), {"pool": IsoNet.pool})) if executor == "plain" else build()
    change, both = Replace("acc", by=by, seed=3), unimodal().at(layers=[0, 1])
    conditions = [Condition("replaced", change), Condition("and cut", (change, both)), Condition("cut", both)]
    how = "tree" if executor == "plain" else executor
    result = sweep(model, X, conditions, reference=REFERENCE, executor=how, batch_size=batch_size)
    x = by_hand(by, 3)
    expected = {"baseline": model(X), "replaced": model(x)}
    expected["and cut"] = model.run_with_hooks(x, fwd_hooks=cut(model, both))
    expected["cut"] = model.run_with_hooks(X, fwd_hooks=cut(model, both))
    for name, logits in expected.items():
        assert (result.logits[name] - logits).abs().max() < 1e-5, name
    table = result.audit.set_index("condition")
    assert not table.structural_null["replaced"] and table.edges_cut["replaced"] == 0
    assert list(table.equivalent_to) == ["baseline", "replaced", "and cut", "cut"]
    assert table.max_abs_delta_logit["replaced"] > 1e-3


def test_equal_input_changes_share_a_root_and_null_cuts_below_it_are_found():
    model = build()
    last = unimodal().at(layers=LAYERS - 1)  # which CLS does not read
    conditions = [
        Condition("zeroed", Replace("acc")),
        Condition("zeroed, last", (EdgeCut(last), Replace("acc"))),
        Condition("last", last),
    ]
    table = sweep(model, X, conditions).audit.set_index("condition")
    assert table.equivalent_to["zeroed, last"] == "zeroed" and table.equivalent_to["last"] == "baseline"
    assert table.structural_null.to_dict() == {
        "baseline": True, "zeroed": False, "zeroed, last": False, "last": True
    }  # fmt: skip
    assert (table.equivalence_error == 0).all()
    assert audit(model, conditions).equivalent_to.tolist() == ["zeroed", "zeroed", "last"]


@pytest.mark.parametrize("batch_size", [None, 3])
def test_what_acts_inside_the_model_runs_verified_in_the_same_sweep(batch_size):
    model = build()
    given = {
        "mlp": (CutMLP("emg", layers=1), cut_mlp(model, "emg", 1)),
        "embed": (Replace("acc", by="permute", at="hook_embed"), replace(model, "acc", by="permute")),
        "mean": (
            Replace("acc", by="mean", at="blocks.1.hook_resid_pre"),
            replace(model, "acc", by="mean", at="blocks.1.hook_resid_pre", reference=REFERENCE),
        ),
        "resample": (
            Replace("emg", by="resample", at="hook_embed", seed=2),
            replace(model, "emg", by="resample", reference=REFERENCE, seed=2),
        ),
    }
    conditions = [Condition(name, intervention) for name, (intervention, _) in given.items()]
    together = (Replace("acc"), EdgeCut(unimodal().at(layers=0)), CutMLP("emg", layers=1))
    conditions += [Condition("together", together), *layer_masks(EDGES, LAYERS)]
    result = sweep(model, X, conditions, reference=REFERENCE, executor="tree", batch_size=batch_size)
    assert result.executor == "folded"
    for name, (_, hooks) in given.items():
        assert (result.logits[name] - model.run_with_hooks(X, fwd_hooks=hooks)).abs().max() < 1e-5, name
    hooks = [*cut(model, unimodal().at(layers=0)), *given["mlp"][1]]
    expected = model.run_with_hooks(by_hand("zero"), fwd_hooks=hooks)
    assert (result.logits["together"] - expected).abs().max() < 1e-5
    table = result.audit.set_index("condition")
    assert (table.equivalent_to[list(given)] == list(given)).all() and not table.structural_null[list(given)].any()
    assert table.edges_cut["together"] == table.live_edges_cut["together"] == 2 * (9 + 4)
    assert not any(point.fwd_hooks for point in model.hook_points())


def test_an_intervention_of_somebody_elses_runs_too():
    @dataclass(frozen=True, repr=False)
    class Louder(Intervention):
        by: float

        @contextmanager
        def applied(self, model, layout, reference=None):
            with model.hooks(fwd_hooks=[("hook_embed", lambda t, hook: self.by * t)]):
                yield

    model = build()
    result = sweep(model, X, [Condition("louder", Louder(2.0), {"gain": 2.0, "blind": True})], batch_size=4)
    expected = model.run_with_hooks(X, fwd_hooks=[("hook_embed", lambda t, hook: 2 * t)])
    assert (result.logits["louder"] - expected).abs().max() < 1e-5
    assert result.accuracy(expected.argmax(-1)).set_index("condition").loc["louder", "gain"] == 2.0


def test_one_that_does_not_take_place_fails_alone():
    model = build()
    conditions = [Condition("nothing there", CutMLP("gyro")), Condition("cut", unimodal())]
    with pytest.raises(SweepError, match="1 of 3 conditions failed, the first is 'nothing there': EdgeError") as error:
        sweep(model, X, conditions)
    assert set(error.value.result.logits) == {"baseline", "cut"}

    @dataclass(frozen=True, repr=False)
    class Late(Intervention):
        what: str = "late"

        @contextmanager
        def applied(self, model, layout, reference=None):
            yield
            raise DeadHookError("it never took place")

    with pytest.raises(SweepError, match="'late': DeadHookError: it never took place"):
        sweep(model, X, [Condition("late", Late())])


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        (Replace("acc", by="mean"), "give reference=<training trials>"),
        (Replace("gyro"), "unknown group or token 'gyro'"),
        (Replace("cls"), "token 'cls' has no samples in the input"),
        ((EdgeCut(unimodal() & cross_modal()), EdgeCut(unimodal())), r"\['x'\] cut no edge of this model"),
        ((Replace("acc"), EdgeCut(unimodal() & cross_modal())), r"\['x'\] cut no edge of this model"),
    ],
)
def test_what_does_not_fit_is_known_before_anything_runs(intervention, message):
    ran = []
    with pytest.raises(EdgeError, match=message) as error:
        sweep(build(), X, [Condition("x", intervention)], on_progress=ran.append)
    assert not ran and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"reference trials are \[5, 9\]; expected \[5, 10\]"):
        sweep(build(), X, [], reference=REFERENCE[:, :, :9])


def test_a_list_of_hooks_is_no_condition():
    model = build()
    with pytest.raises(EdgeError, match="got a list of hooks, .* expected an edge set or an intervention") as error:
        Condition("acc zeroed", replace(model, "acc"))  # pyright: ignore
    assert "\n" not in str(error.value)


# --- a model without attention ---------------------------------------------------------------------------------


def mlp_only():
    """The least that a registered model without blocks has."""
    from types import SimpleNamespace

    from torch import nn
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.HookedRootModule import HookedRootModule

    class Flat(HookedRootModule):
        def __init__(self):
            super().__init__()
            self.cfg = SimpleNamespace(n_layers=0, n_heads=0)
            self.layout = TokenLayout.channels({"emg": 3, "acc": 2}, cls=False)
            self.linear, self.hook_hidden, self.out = nn.Linear(50, 8), HookPoint(), nn.Linear(8, 6)
            self.setup()

        def forward(self, x):
            return self.out(self.hook_hidden(self.linear(x.flatten(1))).relu())

    torch.manual_seed(0)
    return Flat().eval()


def test_a_model_without_attention_takes_input_changes_and_refuses_cuts():
    model = mlp_only()
    conditions = [Condition(by, Replace("acc", by=by)) for by in ("zero", "mean", "permute")]
    result = sweep(model, X, conditions, reference=REFERENCE, batch_size=4)
    assert result.executor == "loop"
    for by in ("zero", "mean", "permute"):
        assert torch.allclose(result.logits[by], model(by_hand(by)), atol=1e-6)
    for call in (sweep, lambda m, x, c: audit(m, c)):
        with pytest.raises(EdgeError, match="Flat has no attention, so condition 'cut' cannot cut unimodal"):
            call(model, X, [Condition("cut", unimodal())])


# --- MLPs of positions that nobody reads -----------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["loop", "tree"])
def test_the_last_layer_s_mlp_is_a_null_but_for_the_positions_that_are_read(executor):
    last, emg = LAYERS - 1, unimodal().at(layers=0)
    conditions = [
        Condition("dead", CutMLP("emg", layers=last)),
        Condition("dead, counted from behind", CutMLP(("emg", "acc"), layers=-1)),
        Condition("read", CutMLP("cls", layers=last)),
        Condition("below", CutMLP("emg", layers=(last - 1, last))),
        Condition("dead with a cut", (CutMLP("emg", layers=last), EdgeCut(emg))),
        Condition("the cut", emg),
        Condition("dead, ACC zeroed", (Replace("acc"), CutMLP("emg", layers=last))),
        Condition("no longer read", (CutMLP("emg", layers=last - 1), EdgeCut(flow("emg", "cls").at(layers=last)))),
    ]
    result = sweep(build(), X, conditions, executor=executor)
    audited = result.audit.set_index("condition")
    assert audited.index[audited["structural_null"]].tolist() == ["baseline", *list(audited.index[1:3])]
    assert audited["equivalent_to"].iloc[1:].tolist() == [
        *("baseline", "baseline", "read", "below", "dead with a cut", "dead with a cut"),
        *("dead, ACC zeroed", "no longer read"),
    ]
    assert audited.loc["no longer read", "live_edges_cut"] > 0
    assert audited["equivalence_error"].max() < 1e-5 and (executor == "loop" or not audited["equivalence_error"].any())
    for one in ("read", "below", "the cut", "no longer read"):
        assert audited.loc[one, "max_abs_delta_logit"] > 1e-4, one
    for name in ("dead", "read", "below"):  # by hand
        hooks = cut_mlp(build(), conditions[[c.name for c in conditions].index(name)].interventions[0].tokens)
        layers = conditions[[c.name for c in conditions].index(name)].interventions[0].layers
        layers = [layers] if isinstance(layers, int) else layers
        own = [hook for hook in hooks if int(hook[0].split(".")[1]) in layers]
        assert (build().run_with_hooks(X, fwd_hooks=own) - result.logits[name]).abs().max() < 1e-5


def test_where_every_token_is_read_no_mlp_is_a_null():
    config = EncoderConfig({"emg": 3, "acc": 2}, 10, 6, d_model=16, n_heads=2, n_layers=2, d_mlp=8, readout="mean")
    mlps = [Condition(name, CutMLP(name, layers=1)) for name in ("emg", "cls")]
    mean = audit(HookedBiosignalEncoder(config), mlps)
    assert mean["structural_null"].tolist() == [False, True]  # the mean leaves CLS out
    unknown = audit(build(Renamed), [Condition("emg", CutMLP("emg", layers=LAYERS - 1))])
    assert not unknown["structural_null"].any() and unknown["live_edges_cut"].tolist() == [0]


def test_of_stages_the_mlps_of_a_stage_that_does_not_hold_the_tokens_are_none():
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": 2, "n_fusion_layers": 1, "d_mlp": 8}
    torch.manual_seed(0)
    model = build_model("hierarchical", modalities={"emg": 2, "acc": 1}, n_samples=40, n_classes=3, **sizes).eval()
    (last,) = audit(model, [Condition("last", CutMLP("emg", layers=-1))])["structural_null"]
    (first,) = audit(model, [Condition("first", CutMLP("emg", layers=0))])["structural_null"]
    assert last and not first
    conditions = [Condition("nowhere", CutMLP("cls.fusion", layers=0))]
    assert not audit(model, conditions)["structural_null"].any()
    with pytest.raises(SweepError, match="no stage has the tokens 'cls.fusion' in the layers 0"):
        sweep(model, model.example_input(3), conditions)


# --- checkpoints -----------------------------------------------------------------------------------------------

MANY = [
    *layer_masks(EDGES, LAYERS)[::3],
    *(Condition(f"permuted {c.name}", (Replace("acc", by="permute"), *c.interventions)) for c in layer_masks(EDGES, 3)),
    Condition("mlp", CutMLP("emg")),
    Condition("embed", (Replace("acc", by="permute", at="hook_embed"), EdgeCut(unimodal()))),
    Condition("mean", Replace("emg", by="mean")),
    *head_masks(EDGES, LAYERS, 2)[::4],
]


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["loop", "tree"])
@settings(max_examples=3, deadline=None)
@given(stops=st.lists(st.integers(2, 40), min_size=1, max_size=4))
def test_stopped_anywhere_and_continued_it_gives_the_same_bits(executor, stops):
    class Stop(Exception):
        pass

    how = {"reference": REFERENCE, "executor": executor, "batch_size": 4}
    whole = sweep(build(), X, MANY, **how)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        for n in stops:
            seen = []

            def stop(fraction, n=n, seen=seen):
                seen.append(fraction)
                if len(seen) == n:
                    raise Stop

            with suppress(Stop):
                sweep(build(), X, MANY, **how, checkpoint=path, on_progress=stop)
            assert seen == sorted(seen)
        result = sweep(build(), X, MANY, **how, checkpoint=path)
        assert all(torch.equal(result.logits[name], logits) for name, logits in whole.logits.items())
        assert result.audit.equals(whole.audit)
        for other in (
            {"conditions": [Condition("a", Replace("acc", seed=1)), *MANY[1:]]},
            {"reference": REFERENCE + 1},
        ):
            call = {"conditions": MANY, **how, **other}
            with pytest.raises(CheckpointError, match=f"{next(iter(other))}: .*, now "):
                sweep(build(), X, **call, checkpoint=path)


# --- anything with anything ------------------------------------------------------------------------------------

LEAVES = [unimodal(), cross_modal(), flow("acc", "emg"), self_edges(), every(), positions(dest=[1, -1])]


@st.composite
def interventions(draw, n_layers: int, n_heads: int):
    kinds = draw(st.lists(st.sampled_from(["cut", "input", "embed", "mlp"]), min_size=1, max_size=3))
    some = []
    for kind in kinds:
        tokens, by = (
            draw(st.sampled_from(["emg", "acc"])),
            draw(st.sampled_from(["zero", "mean", "resample", "permute"])),
        )
        if kind == "cut":
            layers = draw(st.lists(st.integers(0, n_layers - 1), min_size=1, unique=True))
            heads = draw(st.lists(st.integers(0, n_heads - 1), min_size=1, unique=True))
            some.append(EdgeCut(draw(st.sampled_from(LEAVES)).at(layers, heads)))
        elif kind == "mlp":
            some.append(CutMLP(tokens, draw(st.integers(0, n_layers - 1))))
        else:
            some.append(Replace(tokens, by, "input" if kind == "input" else "hook_embed", draw(st.integers(0, 1))))
    return tuple(some)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_all_executors_equal_the_verified_loop_and_nulls_are_nulls(data):
    draw = data.draw
    n_layers, n_heads = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2]))
    readout = draw(st.sampled_from(["cls", "mean", "none"]))
    config = EncoderConfig(
        {"emg": 2, "acc": draw(st.integers(1, 2))},
        n_samples=6,
        n_classes=0 if readout == "none" else 4,
        d_model=8,
        n_heads=n_heads,
        n_layers=n_layers,
        d_mlp=8,
        cls_token=readout == "cls" or draw(st.booleans()),
        readout=readout,
        norm=draw(st.sampled_from(["pre", "post"])),
        positions=draw(st.sampled_from(["learned", "rotary", "none"])),
        patch_samples=draw(st.sampled_from([None, 3])),
        masked_edges=draw(st.sampled_from(["", "flow('acc', 'emg')", "flow('acc', 'emg').at(layers=0)"])),
    )
    torch.manual_seed(draw(st.integers(0, 99)))
    model = HookedBiosignalEncoder(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    model = model.eval().double()
    subclass = Renamed(config).eval().double()
    subclass.load_state_dict(model.state_dict())
    x, reference = model.example_input(5).double(), model.example_input(4, seed=1).double()
    conditions = [Condition(str(i), draw(interventions(n_layers, n_heads))) for i in range(draw(st.integers(1, 5)))]
    try:
        expected = sweep(model, x, conditions, reference=reference, executor="loop").logits
    except (EdgeError, SweepError) as error:  # no edge here; or an edit whose tokens do not reach the output
        assert isinstance(error, EdgeError) or all(isinstance(e, DeadHookError) for e in error.errors.values())
        return
    size = draw(st.sampled_from([None, 2]))
    for which, executor in ((model, "tree"), (subclass, "tree"), (model, "loop")):
        result = sweep(which, x, conditions, reference=reference, executor=executor, batch_size=size)
        for name, logits in expected.items():
            assert (result.logits[name] - logits).abs().max() < 1e-10, (executor, name)
        table = result.audit
        assert (table[table.structural_null].max_abs_delta_logit < 1e-10).all()
        assert (table.equivalence_error < 1e-10).all()
