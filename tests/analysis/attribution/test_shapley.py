"""Shapley values and interactions: compared with an enumeration of orders, hand-made games, and their axioms."""

import functools
import itertools
import math
import operator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emg_lens import build_model, cut
from emg_lens.analysis import attribute
from emg_lens.analysis.attribution.exact_game import ExactGame
from emg_lens.hooks import flow
from emg_lens.validation import ArgumentError


def game_of(value, n, trials=1):
    """The game with one value for each set of groups, the same in every trial."""
    sets = [frozenset(i for i in range(n) if code >> i & 1) for code in range(1 << n)]
    return ExactGame(tuple("abcdefghijkl"[:n]), np.array([[float(value(s))] * trials for s in sets]))


def by_orders(value, n):
    """Shapley values by their definition: the mean gain over all orders."""
    gains = np.zeros(n)
    for order in itertools.permutations(range(n)):
        for place, i in enumerate(order):
            gains[i] += value(frozenset(order[: place + 1])) - value(frozenset(order[:place]))
    return gains / math.factorial(n)


def pair_by_orders(value, n, i, j):
    """Shapley interaction by orders in which the pair is one player: the mean second difference."""
    others = [k for k in range(n) if k not in (i, j)]
    second = []
    for order in itertools.permutations([*others, "pair"]):
        s = frozenset(order[: order.index("pair")])
        second.append(value(s | {i, j}) - value(s | {i}) - value(s | {j}) + value(s))
    return float(np.mean(second))


@st.composite
def games(draw):
    n = draw(st.integers(2, 5))
    return n, np.array(draw(st.lists(st.floats(-5, 5, width=32), min_size=1 << n, max_size=1 << n)), float)


def value_in(numbers):
    return lambda s: numbers[sum(1 << i for i in s)]


@given(games())
def test_values_and_interactions_equal_the_enumeration_of_orders(drawn):
    n, numbers = drawn
    value = value_in(numbers)
    game = game_of(value, n)
    assert np.allclose(game.shapley_values()[:, 0], by_orders(value, n), atol=1e-9)
    table = game.interactions().set_index(["a", "b"])
    for i, j in itertools.combinations(range(n), 2):
        found = table.loc[("abcde"[i], "abcde"[j]), "interaction"]
        assert found == pytest.approx(pair_by_orders(value, n, i, j), abs=1e-9)


@given(games())
def test_efficiency_and_linearity(drawn):
    n, numbers = drawn
    values = game_of(value_in(numbers), n).shapley_values()[:, 0]
    assert values.sum() == pytest.approx(numbers[-1] - numbers[0], abs=1e-9)
    twice = game_of(value_in(2 * numbers + 1), n).shapley_values()[:, 0]
    assert np.allclose(twice, 2 * values, atol=1e-9)


@given(games(), st.randoms(use_true_random=False))
def test_symmetry_and_null_groups(drawn, random):
    n, numbers = drawn
    value, order = value_in(numbers), random.sample(range(n), n)
    values = game_of(value, n).shapley_values()[:, 0]
    renamed = game_of(lambda s: value(frozenset(order[i] for i in s)), n).shapley_values()[:, 0]
    assert np.allclose(renamed, values[order], atol=1e-9)
    with_null = game_of(lambda s: value(s - {n}), n + 1).shapley_values()[:, 0]
    assert with_null[n] == 0 and np.allclose(with_null[:n], values, atol=1e-9)


def test_gates_of_hand_made_games():
    both = game_of(lambda s: 2.0 * ({0, 1} <= s), 3, trials=4)
    either = game_of(lambda s: 2.0 * bool({0, 1} & s), 3, trials=4)
    routes = game_of(lambda s: 2.0 * ({0, 1} <= s or {2, 3} <= s), 4, trials=4)
    assert both.shapley_values()[:, 0].tolist() == either.shapley_values()[:, 0].tolist() == [1, 1, 0]
    assert both.interactions()[["interaction", "gate"]].values.tolist() == [[2, "AND"], [0, ""], [0, ""]]
    assert either.interactions()[["interaction", "gate"]].values.tolist() == [[-2, "OR"], [0, ""], [0, ""]]
    table = routes.interactions()
    assert table["gate"].tolist() == ["AND", "OR", "OR", "OR", "OR", "AND"]
    assert table["interaction"].tolist() == pytest.approx([4 / 3, *[-2 / 3] * 4, 4 / 3])
    assert routes.shapley_values()[:, 0].tolist() == pytest.approx([0.5] * 4)


def test_a_group_that_lowers_the_metric_replaces_nothing():
    harmful = game_of(lambda s: 1.0 * (0 in s) - 0.5 * ({0, 1} <= s), 2, trials=4)
    assert harmful.shapley_values()[:, 0].tolist() == [0.75, -0.25]
    assert harmful.interactions()[["interaction", "gate"]].values.tolist() == [[-0.5, ""]]
    helped = game_of(lambda s: 1.0 * (0 in s) - 0.5 * (1 in s) + 0.5 * ({0, 1} <= s), 2, trials=4)
    assert helped.interactions()["gate"].tolist() == ["AND"]


def test_an_uncertain_interaction_is_not_named():
    both = game_of(lambda s: 2.0 * ({0, 1} <= s), 2).values
    mixed = ExactGame(("a", "b"), np.hstack([both, both, both, -both]))
    row = mixed.interactions().iloc[0]
    assert (row["interaction"], row["standard_error"], row["gate"]) == (1.0, 1.0, "")
    sure = ExactGame(("a", "b"), np.hstack([both, 0.9 * both, 1.1 * both, both]))
    assert sure.interactions().iloc[0]["gate"] == "AND"
    small = game_of(lambda s: 10.0 * (0 in s) + 0.1 * ({0, 1} <= s), 2, trials=3)
    assert small.interactions().iloc[0]["gate"] == ""  # below 5 % of the range


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 8}
    return build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=3, **sizes).eval()


def test_of_a_model(model):
    x, y = model.example_input(5), torch.arange(5) % 3
    groups = {
        "across": (flow("acc", "emg") | flow("emg", "acc")).at(layers=0),
        "emg": flow("emg", "cls").at(layers=1),
        "acc": flow("acc", "cls").at(layers=1),
        "early": flow("acc", "cls").at(layers=0),
    }
    result = attribute(model, x, y, method="shapley", by=groups)
    assert result.audit["forward_passes"] == 2**4
    assert result.audit["completeness_error"] == pytest.approx(0, abs=1e-4)
    game = result.game
    value = lambda s: game(np.array([[i in s for i in range(4)]]))[0]  # noqa: E731
    assert result.table["score"].to_numpy() == pytest.approx(by_orders(value, 4), abs=1e-6)
    assert value(frozenset(range(4))) == pytest.approx(result.audit["full"], abs=1e-5)
    for s in itertools.chain.from_iterable(itertools.combinations(range(4), size) for size in range(4)):
        others = [edges for i, edges in enumerate(groups.values()) if i not in s]
        with torch.no_grad():
            logits = model.run_with_hooks(x, fwd_hooks=cut(model, functools.reduce(operator.or_, others)))
        largest = [max(float(row[j]) for j in range(3) if j != label) for row, label in zip(logits, y, strict=True)]
        margin = logits[torch.arange(5), y].numpy() - np.array(largest)
        assert value(frozenset(s)) == pytest.approx(margin.mean(), abs=1e-5)
    assert result.interactions[["a", "b"]].values.tolist() == [list(pair) for pair in itertools.combinations(groups, 2)]


def test_errors_say_what_to_do(model):
    x, y = model.example_input(4), torch.arange(4) % 3
    with pytest.raises(ArgumentError, match=r"method='shapley' with 35 groups .* at most 12 .* method='contexts'"):
        attribute(model, x, y, method="shapley", by="channel")
    other = attribute(model, x, y, method="first_order", by="modality")
    for name in ("game", "interactions"):
        with pytest.raises(ArgumentError, match=r"'first_order' does not run all sets .*method='shapley'"):
            getattr(other, name)
    game = attribute(model, x, y, method="shapley", by={"emg": flow("emg", "cls")}).game
    with pytest.raises(ArgumentError, match=r"expected booleans \[coalition, group\] with 1 groups"):
        game(np.array([[1]]))
