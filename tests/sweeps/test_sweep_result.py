"""Tables and figures of a sweep."""

import pytest
import torch

from emg_lens import IsoNet, IsoNetConfig, attribute, audit, cross_modal, head_masks, layer_masks, sweep, unimodal
from emg_lens.validation import ArgumentError


@pytest.fixture(scope="module")
def swept():
    torch.manual_seed(0)
    model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=2, d_model=16, n_layers=2))
    x, y = model.example_input(40), torch.arange(40) % 2
    return sweep(model, x, layer_masks({"uni": unimodal(), "cross": cross_modal()}, n_layers=2)), y


def test_the_frame_has_tags_accuracy_and_audit_of_every_condition(swept):
    result, y = swept
    table = result.to_frame(y)
    assert table["condition"].tolist() == [one.name for one in result.conditions]
    for name, accuracy, edges in zip(table["condition"], table["accuracy"], table["edges_cut"], strict=True):
        assert accuracy == pytest.approx(float((result.logits[name].argmax(1) == y).double().mean()))
        assert edges == result.audit.set_index("condition").loc[name, "edges_cut"]
    assert "accuracy" not in result.to_frame()


def test_the_plot_has_one_bar_for_each_condition_and_the_baseline(swept, tmp_path):
    result, y = swept
    axes = result.plot(y)
    table = result.accuracy(y)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(table["accuracy"].tolist()[1:])
    assert axes.lines[0].get_xdata()[0] == pytest.approx(table["accuracy"][0])
    axes.figure.savefig(tmp_path / "sweep.svg")
    assert (tmp_path / "sweep.svg").stat().st_size > 1000
    assert repr(result).startswith(f"SweepResult({len(table)} conditions of 40 trials, outputs [2]")


def printed(result):
    """The cells of every line of a printed sweep, by condition."""
    return {(cells := line.split())[0]: cells[1:] for line in str(result).splitlines()[2:]}


@pytest.mark.parametrize("kind", [lambda y: y, lambda y: y.numpy(), lambda y: y.tolist()])
def test_a_sweep_with_labels_prints_accuracy_and_drop_of_every_condition(kind):
    torch.manual_seed(0)
    model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=2, d_model=16, n_layers=2))
    x, y = model.example_input(40), torch.arange(40) % 2
    conditions = head_masks({"uni": unimodal(), "cross": cross_modal()}, n_layers=2, n_heads=8)
    result = sweep(model, x, conditions, y=kind(y))
    table, lines = result.accuracy(y), printed(result)
    assert list(lines) == table["condition"].tolist() and len(lines) == 33
    baseline = float(table["accuracy"].iloc[0])
    for name, accuracy in zip(table["condition"][1:], table["accuracy"][1:], strict=True):
        assert lines[name][0] == f"{accuracy:.3f}"
        assert float(lines[name][1]) == pytest.approx(100 * (baseline - accuracy), abs=0.051)
        assert ("cannot change" in " ".join(lines[name])) == ("L2" in name)
    assert result.to_frame().equals(result.to_frame(y)) and result.accuracy().equals(table)
    assert len(result.plot().patches) == 32


def test_tables_of_many_conditions_print_whole(swept):
    model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=2, d_model=16, n_layers=8))
    conditions = head_masks({"uni": unimodal()}, n_layers=8, n_heads=8)
    result = sweep(model, model.example_input(2), conditions)
    for table in (result.audit, result.to_frame(), result.audit[["condition", "edges_cut"]], audit(model, conditions)):
        assert "..." not in str(table) and all(str(table).count(f" {c.name} ") for c in conditions)
        assert "..." not in table._repr_html_() and table._repr_html_().count("<tr") == len(table) + 1
    assert len(str(result).splitlines()) == 2 + 65


def test_of_very_many_conditions_the_largest_changes_are_printed():
    torch.manual_seed(0)
    model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=2, d_model=16, n_layers=8))
    conditions = head_masks({"uni": unimodal(), "cross": cross_modal()}, n_layers=8, n_heads=8)
    result = sweep(model, model.example_input(2), conditions)
    *lines, last = str(result).splitlines()[3:]
    largest = result.audit.iloc[1:].nlargest(20, "max_abs_delta_logit")["condition"].tolist()
    assert [line.split()[0] for line in lines] == largest
    assert last == "  and 108 conditions with smaller changes; to_frame() has all"


def test_labels_that_do_not_fit_are_refused(swept):
    result, y = swept
    model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=2, d_model=16, n_layers=2))
    x = model.example_input(4)
    for wrong in (torch.zeros(3, dtype=torch.long), torch.zeros(4), [[0], [1], [0], [1]]):
        with pytest.raises(ArgumentError, match=r"y(\[0\])?="):
            sweep(model, x, [], y=wrong)
    with pytest.raises(ArgumentError, match=r"accuracy\(y\), or sweep\(\.\.\., y=y\)"):
        result.accuracy()
    runs = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    for wrong in ([0, 1, 2, 3], [-1, 0, 1, 0]):
        with pytest.raises(ArgumentError, match=r"y runs from -?\d to \d; expected 0 to 1"):
            sweep(model, x, layer_masks({"uni": unimodal()}, n_layers=2), y=wrong)
    assert len(runs) == 2  # one forward of two trials shows the number of classes
    with pytest.raises(ArgumentError, match=r"outputs have shape \[2, 2, 1\]"):
        sweep(model, x, [], y=[0, 1, 1, 0], output=lambda logits: logits[..., None])


def test_attributions_layouts_and_series_print_in_a_few_whole_lines():
    model = IsoNet(IsoNetConfig({"emg": 8, "acc": 3}, n_samples=20, n_classes=2, d_model=16, n_layers=2))
    x, y = model.example_input(6), torch.arange(6) % 2
    found = attribute(model, x, y, method="first_order")
    lines, table = str(found).splitlines(), found.table.sort_values("score", ascending=False, kind="stable")
    assert len(lines) == 3 + 20 + 2 and lines[-1].strip() == found.audit["cannot_see"]
    assert [line.rsplit(maxsplit=2)[0].strip() for line in lines[3:23]] == table["edge"][:20].tolist()
    assert lines[-2] == f"  and {len(table) - 20} groups with lower scores; table has all"
    printed = dict(line.split(maxsplit=1) for line in str(found.audit).splitlines())
    assert printed["cannot_see"] == found.audit["cannot_see"] and len(printed) == len(found.audit)
    assert float(printed["full"]) == pytest.approx(found.audit["full"], rel=1e-5)
    assert str(model.layout) == "TokenLayout(12 tokens: cls, emg.0 to emg.7, acc.0 to acc.2)"
