"""Interventions as values: text, equality, declarations and effect."""

import pickle

import pytest
import torch
from pydantic import BaseModel, ValidationError
from toy import Toy, hooks_left

from emg_lens.errors import EmgLensError
from emg_lens.hooks import (
    CutMLP,
    DeadHookError,
    EdgeCut,
    EdgeError,
    EdgeExpression,
    Replace,
    cross_modal,
    cut,
    cut_mlp,
    none,
    parse_edges,
    replace,
    unimodal,
)  # fmt: skip
from emg_lens.hooks.interventions import as_interventions, read_interventions
from emg_lens.hooks.values import input_mask
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})


@pytest.fixture
def toy():
    return Toy(LAYOUT)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return HookedBiosignalEncoder(EncoderConfig({"emg": 3, "acc": 2}, 6, 3, 8, 2, 2, 8)).eval()


ALL = [
    EdgeCut(cross_modal().at(layers=1)),
    Replace("acc"),
    Replace(("acc", 3), by="resample", at="hook_embed", seed=2),
    CutMLP("emg", (0, 1)),
]


@pytest.mark.parametrize("intervention", ALL, ids=str)
def test_interventions_are_values_that_print_as_python(intervention):
    names = {"EdgeCut": EdgeCut, "Replace": Replace, "CutMLP": CutMLP, "cross_modal": cross_modal}
    again = eval(str(intervention), names)
    assert as_interventions(again) == (intervention,) and hash(intervention) == hash(
        pickle.loads(pickle.dumps(intervention))
    )


def test_one_or_several_or_an_edge_set_is_a_tuple():
    assert as_interventions(unimodal()) == (EdgeCut(unimodal()),) == as_interventions(EdgeCut("unimodal()"))
    assert as_interventions((Replace("acc"), unimodal())) == (Replace("acc"), EdgeCut(unimodal()))
    assert as_interventions(none()) == as_interventions(EdgeCut(none())) == as_interventions(()) == ()


@pytest.mark.parametrize("wrong", [[("hook_embed", print)], "unimodal()", None, (unimodal(), 3)])
def test_anything_else_is_refused_in_one_line(wrong):
    with pytest.raises(EdgeError, match="expected an edge set or an intervention") as error:
        as_interventions(wrong)
    assert "\n" not in str(error.value)


def test_interventions_declare_what_a_planner_needs():
    said = [(i.cut_edges != none(), i.changes_input, i.needs_all_trials) for i in ALL]
    assert said == [(True, False, False), (False, True, False), (False, False, True), (False, False, False)]


@pytest.mark.parametrize(
    ("intervention", "hooks"),
    [
        (EdgeCut(unimodal()), lambda m: cut(m, unimodal())),
        (Replace("acc", at="hook_embed"), lambda m: replace(m, "acc")),
        (CutMLP("acc", 0), lambda m: cut_mlp(m, "acc", 0)),
    ],
    ids=["edges", "replace", "cut_mlp"],
)
def test_applied_is_the_plain_hooks_and_leaves_nothing(encoder, intervention, hooks):
    x = encoder.example_input(4)
    with intervention.applied(encoder, encoder.layout):
        inside = encoder(x)
    assert torch.allclose(
        inside, encoder.run_with_hooks(x, fwd_hooks=hooks(encoder)), atol=1e-5
    )  # fused or from the scores
    assert not torch.allclose(inside, encoder(x)) and not hooks_left(encoder)
    with pytest.raises(DeadHookError), intervention.applied(encoder, encoder.layout):
        pass
    assert not hooks_left(encoder)


def test_an_input_replaced_while_applied_is_the_one_of_on_input(encoder):
    x, change = encoder.example_input(4), Replace("acc", by="permute", seed=4)
    with change.applied(encoder, encoder.layout):
        inside = encoder(x)
    assert torch.equal(inside, encoder(change.on_input(x, encoder.layout, None)))
    with pytest.raises(DeadHookError, match="had no effect"), change.applied(encoder, encoder.layout):
        pass
    assert not encoder._forward_pre_hooks


def test_a_layout_without_channels_has_no_samples():
    layout = TokenLayout.groups({"a": [0, 1], "b": [2, 3]}, n_tokens=4)
    with pytest.raises(EdgeError, match="the layout has no channels"):
        Replace("a").on_input(torch.zeros(1, 4, 8), layout, None)


def test_the_input_mask_selects_the_samples_of_a_token():
    layout = TokenLayout.patches({"emg": 2, "acc": 1}, 3)
    mask = input_mask(layout, ("emg.1.p2", "acc"), (3, 6))
    expected = torch.zeros(3, 6, dtype=torch.bool)
    expected[1, 4:] = expected[2] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(
    "layout",
    [
        TokenLayout.channels({"emg": 2, "acc": 1}),
        TokenLayout.patches({"emg": 2, "acc": 1}, 3),
        TokenLayout.times({"emg": 2, "acc": 1}, 3),
    ],
)
def test_channels_of_the_input_are_chosen_in_layouts_of_all_kinds(layout):
    x = torch.ones(1, 3, 6)
    assert Replace(("emg.1", "acc.0")).on_input(x, layout, None)[0, :, 0].tolist() == [1, 0, 0]
    assert Replace(("emg.0", "acc")).on_input(x, layout, None).sum(2).tolist() == [[0, 6, 0]]
    with pytest.raises(EdgeError, match="unknown group or token 'emg.2'"):
        Replace("emg.2").on_input(x, layout, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replace("acc", by="noise"), "by='noise'; expected 'zero', 'mean', 'resample' or 'permute'"),
        (lambda: Replace(()), "selects nothing"),
        (lambda: Replace("acc", at=""), "at='' is empty"),
        (lambda: Replace("acc", at=3), "at=3; expected a string"),
        (lambda: Replace("acc", by="permute", seed=-1), "seed=-1"),
        (lambda: Replace("acc", by="permute", seed=10**30), "seed="),
        (lambda: Replace(None), "expected integers or token names"),
        (lambda: Replace(True), "expected integers or token names"),
        (lambda: Replace(range(10**9)), "no model has so many"),
        (lambda: CutMLP("emg", layers=True), "layers"),
        (lambda: CutMLP("emg", layers=[True, False]), "layers"),
        (lambda: EdgeCut(3), "EdgeCut needs an edge set"),
        (lambda: read_interventions({"replace": "acc", "bye": "zero"}), "unknown key 'bye'; known"),
        (lambda: read_interventions({"edges": "cross_modl()"}), "cross_modl"),
    ],
)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(EmgLensError, match=message):
        make()


def test_study_files_give_them_by_their_keys():
    found = read_interventions(
        {"replace": "acc", "by": "mean", "edges": "unimodal()", "cut_mlp": ["emg"], "layers": [1]}
    )
    assert set(found) == {Replace("acc", "mean"), EdgeCut(unimodal()), CutMLP(("emg",), (1,))}


class Cuts(BaseModel):
    cuts: dict[str, EdgeExpression]


def test_an_edge_expression_is_parsed_once_and_written_as_text():
    text = "cross_modal('emg', 'acc').at(layers=[1, 2]) - same_channel()"
    spec = Cuts(cuts={"a": text, "b": unimodal()})  # pyright: ignore
    assert spec.cuts == {"a": parse_edges(text), "b": unimodal()}
    assert spec.model_dump(mode="json") == {"cuts": {"a": str(parse_edges(text)), "b": "unimodal()"}}
    assert Cuts.model_validate_json(spec.model_dump_json()) == spec
    assert Cuts.model_json_schema()["properties"]["cuts"]["additionalProperties"]["type"] == "string"


@pytest.mark.parametrize("wrong", ["unimodl()", 3, None, ["unimodal()"]])
def test_an_invalid_edge_expression_is_a_validation_error(wrong):
    with pytest.raises(ValidationError):
        Cuts(cuts={"a": wrong})
