import time
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import RandomEdges

from emg_lens.hooks import (
    EdgeError,
    cross_modal,
    edges_from_mask,
    every,
    flow,
    parse_edges,
    positions,
    same_channel,
    unimodal,
)
from emg_lens.layout import TokenLayout

LAYOUT = TokenLayout.patches({"emg": 2, "acc": 1}, n_patches=2, cls=True)


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_text_and_value_round_trip(rng: Random):
    edges, _ = RandomEdges(rng, LAYOUT, 3, 2).draw(4)
    assert parse_edges(str(edges)) == edges
    assert str(parse_edges(str(edges))) == str(edges)


def test_python_and_text_give_the_same_edge_set():
    text = "cross_modal('emg','acc').at(layers=[1,2]) - same_channel()"
    assert parse_edges(text) == cross_modal("emg", "acc").at(layers=[1, 2]) - same_channel()
    assert parse_edges(" ~flow(src='acc', dest='cls') ") == ~flow("acc", "cls")
    assert parse_edges("every().at(layers=range(1, 3), heads=-1)") == every().at(layers=[1, 2], heads=-1)
    assert parse_edges("every().at(slice(1, None))") == every().at(layers=slice(1, None))
    assert parse_edges("positions(dest='cls', src=[1, 'emg.0.p1'])") == positions("cls", [1, "emg.0.p1"])


def test_operators_bind_as_in_python():
    a, b, c = "unimodal()", "every()", "flow('emg', 'acc')"
    assert parse_edges(f"{a} | {b} & {c}") == unimodal() | (every() & flow("emg", "acc"))
    assert parse_edges(f"~{a}.at(layers=0)") == ~(unimodal().at(layers=0))
    assert parse_edges(f"({a} - {b}) - {c}") != parse_edges(f"{a} - ({b} - {c})")


def test_the_repr_contains_the_text():
    assert repr(unimodal("emg") | every()) == "EdgeSet(unimodal('emg') | every())"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid syntax"),
        ("unimodal(", "not valid syntax"),
        ("unimodal() +", "not valid syntax"),
        ("unimodal() + every()", "is not an edge set"),
        ("unimodal", "is not an edge set"),
        ("'unimodal()'", "is not an edge set"),
        ("unimodall()", "unknown edge set 'unimodall'; known: unimodal, cross_modal"),
        ("__import__('os')", "unknown edge set '__import__'"),
        ("unimodal().mask(1)", "is not an edge set"),
        ("unimodal(emg)", "expected a name in quotes, a number or a list"),
        ("unimodal(*['emg'])", "expected a name in quotes"),
        ("unimodal(**{})", r"\*\* is not allowed"),
        ("flow('emg')", "missing 1 required positional argument"),
        ("flow('emg', 'acc', head=1)", "unexpected keyword"),
        ("every().at(layer=1)", "unexpected keyword"),
        ("every().at(layers=True)", "expected a name in quotes"),
        ("every().at(layers=1.0)", "expected a name in quotes"),
        ("every().at(layers=slice('a'))", "one to three integers"),
        ("every().at(layers=range(1, 2, 0))", "zero"),
        ("every().at(layers=range(9000000000))", "no model has so many"),
        ("cross_modal('emg')", "names one modality"),
        ("lag(2, 1)", "low <= high"),
        ("positions(dest=[[1]])", "expected a name in quotes"),
        ("every() if 1 else every()", "is not an edge set"),
        ("(lambda: every())()", "is not an edge set"),
        ("unimodal().at(layers=1, layers=2)", r"at\(...\) has the argument layers twice"),
        ("positions(dest=[0], dest=[1])", r"positions\(...\) has the argument dest twice"),
        ("positions(range(1000000000))", "no model has so many"),
        ("positions(dest=range(0, 9999999999999999999999))", "no model has so many"),
        ("positions([9999999999999999999999])", "integers or token names"),
        ("every().at(layers=range(9999999999999999999999))", "no model has so many"),
        ("a" * 30 + "\0", "not valid syntax"),
    ],
)
def test_an_invalid_edge_expression_is_refused_and_shown(text, message):
    with pytest.raises(EdgeError, match=message) as caught:
        parse_edges(text)
    assert "edge expression" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "~" * 100_000 + "every()",
        "~" * 5000 + "every()",
        "(" * 5000 + "every()" + ")" * 5000,
        "every()" + "|every()" * 300,
        "every()" + "|every()" * 2000,
        "positions(" + "[" * 5000 + "]" * 5000 + ")",
        "positions([" + "9" * 5000 + "])",
        "every()\n" * 900,
    ],
    ids=len,
)
def test_long_and_deep_expressions_are_refused_at_once_in_one_short_line(text):
    started = time.perf_counter()
    with pytest.raises(EdgeError) as error:
        parse_edges(text)
    assert len(str(error.value)) < 2000 and "\n" not in str(error.value)
    assert time.perf_counter() - started < 3


def test_the_text_of_a_mask_may_be_long():
    mask = np.random.default_rng(0).random((2, 2, 200, 200)) < 0.5
    edges = edges_from_mask(mask) & every()
    assert len(str(edges)) > 20_000 and parse_edges(str(edges)) == edges


@pytest.mark.parametrize("value", [None, 3, ["unimodal()"]])
def test_a_value_that_is_no_text_is_refused(value):
    with pytest.raises(EdgeError, match="text"):
        parse_edges(value)
