"""Figures of attributions: what the maps and the bars hold."""

import numpy as np
import pytest
from analysis.attribution.small_models import hierarchical, isonet, trials
from matplotlib.figure import Figure

from emg_lens import cross_modal, unimodal
from emg_lens.analysis.attribution.run import attribute


@pytest.mark.parametrize("by", ["modality", "channel", "head"])
def test_a_map_holds_the_scores_of_one_layer(by):
    model = isonet()
    result = attribute(model, *trials(model), method="first_order", by=by)
    figure = result.plot()
    first, second, bar = figure.axes
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == (["cls", "emg", "acc"] if by == "modality" else ["cls", "emg.0", "emg.1", "acc.0", "acc.1"])
    for layer, panel in enumerate((first, second)):
        grid = np.asarray(panel.images[0].get_array().filled(np.nan))
        for (dest, src), value in np.ndenumerate(grid):
            rows = result.table.query(f"layer == {layer} and dest == '{names[dest]}' and src == '{names[src]}'")
            expected = rows["score"].sum() if len(rows) else np.nan
            assert value == pytest.approx(expected, nan_ok=True)
    low, high = first.images[0].get_clim()
    assert -low == high == second.images[0].get_clim()[1] > 0  # one colour map, centred at 0
    assert bar.get_ylabel().startswith("predicted drop of the margin") and ("heads" in bar.get_ylabel()) == (
        by == "head"
    )
    assert len(first.texts) == np.isfinite(np.asarray(first.images[0].get_array().filled(np.nan))).sum()


def test_labels_do_not_overlap_with_many_tokens():
    model = isonet(modalities={"emg": 32, "acc": 16}, n_layers=5)
    figure = attribute(model, *trials(model, 3), method="first_order", by="channel").plot()
    figure.draw_without_rendering()
    panel = figure.axes[0]
    labels = [label for label in panel.get_yticklabels() if label.get_text()]
    assert [label.get_text() for label in labels] == ["cls", "emg", "acc"]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 for below, above in zip(boxes, boxes[1:], strict=False))


def test_bars_are_the_largest_scores_in_order():
    model = isonet()
    result = attribute(model, *trials(model), method="shared_gates", by="head")
    ax = Figure().subplots()
    assert result.plot(ax) is ax.figure
    widths = [bar.get_width() for bar in ax.patches]
    expected = sorted(result.table["score"], key=abs, reverse=True)[:20]
    np.testing.assert_allclose(np.abs(widths), np.abs(expected))
    best = result.table.loc[result.table["score"].abs().idxmax()]
    assert ax.get_yticklabels()[0].get_text() == best["edge"]
    error = ax.collections[0].get_segments()[0][:, 0]
    assert (error[1] - error[0]) / 2 == pytest.approx(best["standard_error"])


def test_named_groups_and_stages():
    model = hierarchical()
    x, y = trials(model)
    named = attribute(model, x, y, method="cut", by={"fusion": cross_modal(), "rest": unimodal()}).plot()
    assert {label.get_text() for label in named.axes[0].get_yticklabels()} == {"fusion", "rest"}
    maps = attribute(model, x, y, method="attention", by="modality").plot()
    assert [panel.get_title("left") for panel in maps.axes[:4]] == [f"L{i}" for i in (1, 2, 3, 4)]
    assert maps.axes[-1].get_ylabel() == "attention weight\ngrey: no value"
    one_trial = attribute(model, x[:1], y[:1], method="cut", by={"fusion": cross_modal()}).plot()
    assert len(one_trial.axes[0].patches) == 1
