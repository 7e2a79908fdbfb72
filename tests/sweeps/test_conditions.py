import pickle

import pytest

from emg_lens.hooks import EdgeError, cross_modal, none, unimodal
from emg_lens.layout import TokenLayout
from emg_lens.sweeps.conditions import Condition, head_masks, layer_masks, with_baseline

EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}
LAYOUT = TokenLayout.channels({"emg": 2, "acc": 1})


def test_layer_masks_are_the_30_conditions_of_table_3():
    conditions = layer_masks(EDGES, n_layers=5)
    assert len(conditions) == 30
    assert len({c.name for c in conditions}) == 30
    by_name = {c.name: c for c in conditions}
    assert by_name["cross_modal/from_end/L2"].tags == {"edges": "cross_modal", "mode": "from_end", "layer": 1}


@pytest.mark.parametrize(("mode", "layers"), [("individual", [1]), ("from_beginning", [0, 1]), ("from_end", [1, 2, 3])])
def test_each_mode_cuts_its_layers(mode, layers):
    condition = next(c for c in layer_masks(EDGES, 4, [mode]) if c.name == f"unimodal/{mode}/L2")
    mask = condition.edges.mask(LAYOUT, 4, 2)
    assert [layer for layer in range(4) if mask[layer].any()] == layers


def test_head_masks_cut_one_head():
    conditions = head_masks(EDGES, n_layers=3, n_heads=2)
    assert len(conditions) == 12
    mask = next(c for c in conditions if c.name == "cross_modal/head/L2H1").edges.mask(LAYOUT, 3, 2)
    assert mask.any(dim=(2, 3)).nonzero().tolist() == [[1, 1]]


def test_the_baseline_is_always_there_once_and_first():
    conditions = with_baseline([Condition("a", unimodal()), Condition("baseline", none())])
    assert [c.name for c in conditions] == ["baseline", "a"]


def test_two_conditions_of_one_name_are_refused():
    with pytest.raises(EdgeError, match=r"several conditions are named \['a'\]"):
        with_baseline([Condition("a", unimodal()), Condition("a", cross_modal())])
    with pytest.raises(EdgeError, match="the name 'baseline' is for the condition without interventions"):
        with_baseline([Condition("baseline", unimodal())])


def test_conditions_travel_to_other_processes():
    condition = layer_masks(EDGES, 2)[0]
    again = pickle.loads(pickle.dumps(condition))
    assert again == condition and again.tags == condition.tags


def test_an_unknown_mode_lists_the_known():
    with pytest.raises(ValueError, match="expected 'individual', 'from_beginning' or 'from_end'"):
        layer_masks(EDGES, 2, ["sideways"])


@pytest.mark.parametrize("given", [unimodal(), [unimodal()], {"uni": unimodal()}, Condition("uni", unimodal())])
def test_what_is_no_list_of_conditions_is_one_line(given):
    with pytest.raises(EdgeError, match=r"conditions=.*; expected a list of conditions, \[Condition\("):
        with_baseline(given)


def test_a_condition_whose_name_was_forgotten_is_one_line():
    with pytest.raises(EdgeError, match=r"condition name EdgeSet\(unimodal\(\)\)"):
        Condition(unimodal())
