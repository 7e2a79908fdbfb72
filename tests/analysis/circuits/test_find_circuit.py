"""`find_circuit` on encoders with known circuits, and its results against separate cuts."""

import numpy as np
import pytest
import torch

from emg_lens import build_model, cross_modal, cut, edges_from_mask, flow, parse_edges, self_edges, unimodal
from emg_lens.analysis import attribute, compiled_encoder, find_circuit
from emg_lens.analysis.attribution.methods.shared_gates import SharedGates
from emg_lens.validation import ArgumentError

VARIANTS = ("single", "xor", "distractor", "saturated", "backup", "renorm", "standby", "negative")


def mask_of(task, edges):
    return edges.mask(task.layout, task.model.cfg.n_layers, task.model.cfg.n_heads)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("seed", "norm"), [(0, "post"), (3, "pre")])
def test_the_known_circuit_is_the_union_of_the_routes(variant, seed, norm):
    task = compiled_encoder(variant, seed, norm)
    circuit = find_circuit(task.model, task.x, task.y, by="head")
    assert mask_of(task, circuit.union).equal(mask_of(task, task.truth))
    assert mask_of(task, circuit.negative).equal(mask_of(task, task.negative))
    assert {str(one) for one in circuit.routes} == {str(one) for one in map(_packed(task), task.routes)}
    assert circuit.runs <= 40
    assert not circuit.limit_hit


def _packed(task):
    """Return edge sets in the form in which a circuit holds them."""
    return lambda edges: edges_from_mask(mask_of(task, edges).numpy())


def test_every_element_of_a_route_is_necessary():
    task = compiled_encoder("xor", 1)
    circuit = find_circuit(task.model, task.x, task.y, by="head")
    everything = circuit.question.candidates
    (route,) = (mask_of(task, one).numpy() for one in circuit.routes)

    def margin(kept):
        gone = everything & ~kept
        hooks = cut(task.model, edges_from_mask(gone)) if gone.any() else []
        logits = task.model.run_with_hooks(task.x, fwd_hooks=hooks)
        return float(
            (logits.detach().gather(1, task.y[:, None]) - logits.detach().gather(1, 1 - task.y[:, None])).mean()
        )

    full, none = margin(everything), margin(np.zeros_like(everything))
    assert margin(route) - none >= 0.9 * (full - none)
    for edge in np.argwhere(route):
        smaller = route.copy()
        smaller[tuple(edge)] = False
        assert margin(smaller) - none < 0.9 * (full - none)


def test_routes_necessary_edges_and_interactions_agree():
    task = compiled_encoder("backup", 2)
    circuit = find_circuit(task.model, task.x, task.y, by="head")
    assert len(circuit.routes) == 2
    assert not mask_of(task, circuit.necessary).any()
    assert circuit.table["routes"].tolist() == [1] * 4
    gates = circuit.interactions()["gate"].value_counts().to_dict()
    assert gates == {"OR": 4, "AND": 2}
    where = f"on the {len(task.x)} trials of the search"
    assert str(circuit).startswith(f"2 routes (2 edges of 920 candidates): {where} each alone keeps at least 90 %")


def test_evaluation_on_other_trials():
    task = compiled_encoder("negative", 0)
    circuit = find_circuit(task.model, task.x[:32], task.y[:32], by="head")
    table = circuit.evaluate(task.x[32:], task.y[32:]).set_index("kept")
    logits = task.model(task.x[32:])
    assert table.loc["unmasked model", "accuracy"] == float((logits.argmax(1) == task.y[32:]).double().mean())
    assert table.loc["unmasked model", "fraction"] == 1
    assert table.loc["route 1", "fraction"] > 1.2  # without the negative edge the margin is larger
    assert table.loc["without the routes", "fraction"] < 0.1
    assert abs(table.loc["random edges", "fraction"]) < 0.1


def test_negative_edges_are_found_by_cuts_also_if_the_ranking_has_no_signs():
    task = compiled_encoder("negative", 0)
    groups = {"route": task.truth, "harmful": task.negative, "fusion": cross_modal() - task.truth - task.negative}
    circuit = find_circuit(task.model, task.x, task.y, by=groups, rank=lambda question: torch.ones(len(task.x), 3))
    assert mask_of(task, circuit.negative).equal(mask_of(task, task.negative))


def test_a_circuit_is_an_edge_set_for_cut_and_yaml():
    task = compiled_encoder("single", 0)
    circuit = find_circuit(task.model, task.x, task.y)
    again = parse_edges(str(circuit.edges))
    assert again == circuit.edges
    with_cut = task.model.run_with_hooks(task.x, fwd_hooks=cut(task.model, again))
    assert (with_cut.argmax(1) == task.y).double().mean() < 0.8


def test_one_route_and_a_given_ranking():
    task = compiled_encoder("backup", 0)
    ranking = attribute(task.model, task.x, task.y, method="attention", by="head")
    circuit = find_circuit(task.model, task.x, task.y, rank=ranking, all_routes=False)
    assert len(circuit.routes) == 1
    assert mask_of(task, circuit.edges).equal(mask_of(task, circuit.union))
    limited = find_circuit(task.model, task.x, task.y, by="head", limit=1)
    assert limited.limit_hit
    assert "search stopped" in str(limited)


def test_figures_of_circuits():
    task = compiled_encoder("backup", 0)
    circuit = find_circuit(task.model, task.x, task.y, by="head")
    figure = circuit.plot()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == list(task.layout.names)
    assert len(figure.axes[0].patches) == 4  # one arrow per edge
    rings = circuit.plot(ring="emg")
    assert [len(axes.patches) for axes in rings.axes] == [1, 3, 3]  # a circle in each, and the edges of the layer
    with pytest.raises(ArgumentError, match="ring='eeg'"):
        circuit.plot(ring="eeg")


def test_groups_of_edges_by_name():
    task = compiled_encoder("single", 0)
    circuit = find_circuit(task.model, task.x, task.y, by={"within": unimodal(), "between": cross_modal()})
    assert circuit.table["edge"].isin(["within", "between"]).all()
    with pytest.raises(ArgumentError, match="no figure"):
        circuit.plot()


def test_refusals():
    torch.manual_seed(0)
    model = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=2, d_model=8, n_heads=2,
                        n_layers=2, d_mlp=8)  # fmt: skip
    x = model.example_input(8)
    wrong = 1 - model(x).argmax(1)
    right = 1 - wrong
    task = compiled_encoder("single", 0)
    with pytest.raises(ArgumentError, match="keep=0"):
        find_circuit(model, x, right, keep=0)
    with pytest.raises(ArgumentError, match="expected a drop"):
        find_circuit(task.model, task.x, 1 - task.y)
    ranking = attribute(task.model, task.x, task.y)
    with pytest.raises(ArgumentError, match="another model"):
        find_circuit(model, x, right, rank=ranking)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"by": "channel"}, {"by": "head"}),
        ({"by": {"fusion": cross_modal()}}, {"by": "head"}),
        ({"metric": "log_prob"}, {"metric": "margin"}),
        ({"floor": self_edges() | flow("cls", "acc")}, {"floor": self_edges()}),
    ],
    ids=str,
)
def test_arguments_that_contradict_the_ranking_are_refused(given, same):
    task = compiled_encoder("single", 0)
    ranking = attribute(task.model, task.x, task.y, by="head")
    (name,) = given
    with pytest.raises(ArgumentError, match=f"{name} is not that of the attribution in rank; leave {name} out"):
        find_circuit(task.model, task.x, task.y, rank=ranking, **given)
    circuits = [find_circuit(task.model, task.x, task.y, rank=ranking, **fields) for fields in ({}, same)]
    assert str(circuits[0].union) == str(circuits[1].union)


def test_the_ranking_of_named_groups_is_used_for_the_same_groups():
    task = compiled_encoder("single", 0)
    groups = {"within": unimodal(), "between": cross_modal(), "read": flow("emg", "cls") | flow("acc", "cls")}
    ranking = attribute(task.model, task.x, task.y, by=groups)
    circuit = find_circuit(task.model, task.x, task.y, rank=ranking, by=groups)
    assert set(circuit.table["edge"]) <= set(groups)
    with pytest.raises(ArgumentError, match="by is not that of"):
        find_circuit(task.model, task.x, task.y, rank=ranking, by={"within": unimodal(), "between": cross_modal()})


def test_a_function_ranks_the_groups_of_every_search():
    task, asked = compiled_encoder("standby", 0), []

    def cut(question):  # the name of a registered method
        asked.append(0 if question.closed is None else int(question.closed.sum()))
        return SharedGates(passes=4).scores(question)

    circuit = find_circuit(task.model, task.x, task.y, rank=cut, by="head")
    assert len(circuit.routes) == 2
    assert asked[0] == 0
    assert set(asked[1:]) == {1}  # again for the second route, without one edge of the first
    assert find_circuit(task.model, task.x, task.y, rank=SharedGates(passes=4), by="head").runs == circuit.runs
