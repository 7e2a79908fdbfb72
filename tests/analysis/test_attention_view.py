import base64
import html
import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import ActivationCache

from emg_lens.analysis.attention_views import CELL_BYTES, attention_view, modality_mass
from emg_lens.hooks.edges import cross_modal, flow, unimodal
from emg_lens.layout import TokenLayout

LAYOUT = TokenLayout.channels({"emg": 4, "acc": 3})


def patterns(layout=LAYOUT, n_layers=3, n_heads=2, batch=5, seed=0, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    n = len(layout)
    scores = sharpness * torch.randn(n_layers, batch, n_heads, n, n, generator=generator)
    return {f"blocks.{i}.attn.hook_pattern": p for i, p in enumerate(scores.softmax(-1))}


def stacked(cache):
    return torch.stack(list(cache.values()))


def content(page):
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert match
    return json.loads(match[1])


def decode(maps):
    """The page's maps, by the formula that its docstring promises."""
    kind = f"<{'i' if maps['signed'] else 'u'}{maps['bits'] // 8}"
    codes = [[np.frombuffer(base64.b64decode(d), kind).astype(float) for d in row] for row in maps["data"]]
    scale = np.array(maps["scale"])[..., None]
    flat = scale * np.sign(codes) * (np.abs(codes) / maps["steps"]) ** 2
    side = int(np.sqrt(flat.shape[-1]))
    return flat.reshape(*flat.shape[:2], side, side)


def allowed_error(values, maps):
    scale = np.array(maps["scale"])[..., None, None]
    return np.sqrt(np.abs(values) * scale) / maps["steps"] + scale / (4 * maps["steps"] ** 2) + 1e-9


# --- what goes in -----------------------------------------------------------------------------------------


def test_a_cache_a_dict_and_tensors_give_the_same_view():
    cache = patterns()
    views = [
        attention_view(cache, LAYOUT),
        attention_view(ActivationCache(cache, model=None), LAYOUT),
        attention_view(stacked(cache), LAYOUT),
        attention_view(stacked(cache).mean(1), LAYOUT),
        attention_view(stacked(cache).numpy(), LAYOUT),
    ]
    for view in views:
        np.testing.assert_allclose(view.pattern, stacked(cache).mean(1).numpy(), atol=1e-7)
    assert [v.trials for v in views] == ["mean over 5 trials"] * 3 + ["one trial", "mean over 5 trials"]


def test_one_trial_is_that_trial_and_layers_come_in_numerical_order():
    cache = patterns(n_layers=11)
    shuffled = dict(sorted(cache.items()))  # blocks.10 before blocks.2
    view = attention_view(shuffled, LAYOUT, trial=3)
    assert view.layers == tuple(range(11)) and view.trials == "trial 3"
    np.testing.assert_array_equal(view.pattern, stacked(cache)[:, 3].numpy())


def test_a_cache_of_one_layer_keeps_its_number():
    cache = {
        "blocks.2.attn.hook_pattern": patterns()["blocks.2.attn.hook_pattern"],
        "hook_embed": torch.ones(2),
    }
    assert attention_view(cache, LAYOUT).layers == (2,)
    assert set(modality_mass(cache, LAYOUT)["layer"]) == {2}
    assert content(attention_view(cache, LAYOUT)._page(10**9))["layers"] == [2]


def test_a_baseline_gives_the_difference():
    a, b = patterns(seed=1), patterns(seed=2)
    view = attention_view(a, LAYOUT, baseline=b)
    assert view.difference
    np.testing.assert_allclose(view.pattern, (stacked(a) - stacked(b)).mean(1).numpy(), atol=1e-7)


def test_cut_rows_and_dropout_are_noted():
    cut = patterns()
    cut["blocks.1.attn.hook_pattern"][:, 0, 2] = 0
    assert attention_view(cut, LAYOUT).notes == ("Rows without attention (all edges cut): 1 (in L2).",)
    halved = {k: v * 0.5 for k, v in patterns().items()}
    assert "48 (sums 0.50 to 0.50)" in attention_view(halved, LAYOUT).notes[0]
    assert attention_view(patterns(), LAYOUT).notes == ()


BAD = {"blocks.0.attn.hook_pattern": torch.full((1, 2, 8, 8), torch.nan)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": {"blocks.0.attn.hook_z": torch.ones(1)}}, "holds no attention pattern: expected 'blocks"),
        ({"cache": [1, 2]}, "must be an ActivationCache, a dict or a tensor, got list"),
        ({"cache": torch.ones(3, 8, 8)}, r"tensor of shape \(3, 8, 8\); expected \[layer"),
        ({"cache": {"blocks.0.attn.hook_pattern": torch.ones(8, 8)}}, r"shape \(8, 8\); expected \[batch"),
        ({"layout": TokenLayout.channels({"emg": 4})}, "8 x 8 tokens but the layout has 5"),
        ({"trial": 5}, "trial 5 does not exist; the batch has trials 0 to 4"),
        ({"trial": -1}, "trials 0 to 4"),
        ({"cache": stacked(patterns()).mean(1), "trial": 0}, "no batch axis"),
        ({"cache": BAD}, r"layer 0: heads \[0, 1\] hold NaN"),
        ({"cache": {"blocks.0.attn.hook_pattern": torch.randn(1, 2, 8, 8) * 9}}, "not hook_attn_scores"),
        ({"labels": ["a", "b"]}, "2 names for 8 tokens"),
        ({"baseline": patterns(n_layers=2)}, r"baseline has layers \[0, 1\] and 2 heads"),
        ({"baseline": patterns(n_heads=4)}, "and 4 heads"),
        ({"baseline": {}}, "baseline holds no attention pattern"),
    ],
)
def test_a_mistake_is_one_clear_line(change, message):
    arguments = {"cache": patterns(), "layout": LAYOUT} | change
    with pytest.raises((ValueError, TypeError), match=message) as error:
        attention_view(arguments.pop("cache"), arguments.pop("layout"), **arguments)
    assert "\n" not in str(error.value)


def test_layers_with_different_numbers_of_heads_are_refused():
    cache = patterns(n_layers=1) | {"blocks.1.attn.hook_pattern": torch.full((5, 3, 8, 8), 1 / 8)}
    with pytest.raises(ValueError, match="different numbers of heads"):
        attention_view(cache, LAYOUT)


# --- modality mass ----------------------------------------------------------------------------------------


def test_modality_mass_equals_a_naive_loop():
    cache = patterns()
    table = modality_mass(cache, LAYOUT).set_index(["layer", "head", "dest", "src"])
    assert len(table) == 3 * 2 * 3 * 3
    for (layer, head, dest, src), row in table.iterrows():
        trials = []
        for pattern in cache[f"blocks.{layer}.attn.hook_pattern"][:, head]:
            rows = [d for d, g in enumerate(LAYOUT.group) if g == dest]
            trials += [sum(float(pattern[d, s]) for s, g in enumerate(LAYOUT.group) if g == src) for d in rows]
        assert row["mass"] == pytest.approx(sum(trials) / len(trials), abs=1e-6)


def test_the_summaries_are_the_mass_on_the_edge_classes():
    pattern = stacked(patterns())[:, 2]
    table = modality_mass(pattern, LAYOUT).groupby(["layer", "head"]).first()
    tokens = {"uni": 7, "cross": 7, "from_cls": 7, "to_cls": 1}
    to_cls = flow("emg", "cls") | flow("acc", "cls")
    from_cls = flow("cls", "emg") | flow("cls", "acc")
    for name, edges in {
        "uni": unimodal(),
        "cross": cross_modal(),
        "from_cls": from_cls,
        "to_cls": to_cls,
    }.items():
        expected = (pattern * edges.mask(LAYOUT, 3, 2)).sum((-1, -2)) / tokens[name]
        np.testing.assert_allclose(table[name], expected.flatten(), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_masses_of_a_dest_and_fractions_sum_to_one(data):
    n = data.draw(st.integers(2, 9))
    owners = data.draw(st.lists(st.sampled_from(["emg", "acc", "cls", None]), min_size=n, max_size=n))
    groups = {g: [i for i, o in enumerate(owners) if o == g] for g in ("emg", "acc", "cls") if g in owners}
    layout = TokenLayout.groups(groups, n_tokens=n)
    table = modality_mass(patterns(layout, seed=n), layout)
    np.testing.assert_allclose(table.groupby(["layer", "head", "dest"])["mass"].sum(), 1, atol=1e-5)
    if not layout.modalities:
        assert table[["uni", "cross", "from_cls"]].isna().all(axis=None)
    elif None not in owners:
        fractions = table[["uni", "cross", "from_cls"]].fillna(0).sum(axis=1)
        np.testing.assert_allclose(fractions, 1, atol=1e-5)
    assert table["from_cls"].isna().all() == ("cls" not in owners or not layout.modalities)


# --- the page ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("difference", [False, True])
def test_the_numbers_in_the_page_are_the_pattern_within_the_stated_precision(bits, difference, monkeypatch):
    if bits == 8:
        monkeypatch.setattr("emg_lens.analysis.attention_views.FINE_CELLS", 0)
    view = attention_view(patterns(), LAYOUT, baseline=patterns(seed=9) if difference else None)
    maps = content(view._page(10**9))["maps"]
    assert (maps["bits"], maps["signed"]) == (bits, difference)
    assert (np.abs(decode(maps) - view.pattern) <= allowed_error(view.pattern, maps)).all()
    assert np.abs(decode(maps) - view.pattern).max() < {8: 0.008, 16: 4e-5}[bits]


def test_eight_bits_keep_small_uniform_weights_next_to_a_large_one(monkeypatch):
    monkeypatch.setattr("emg_lens.analysis.attention_views.FINE_CELLS", 0)
    pattern = torch.full((1, 1, 8, 8), 0.001)
    pattern[0, 0, 0, 0] = 1.0
    decoded = decode(content(attention_view(pattern, LAYOUT)._page(10**9))["maps"])
    assert decoded[0, 0, 3, 3] == pytest.approx(0.001, rel=0.15)


def test_group_masses_and_summaries_in_the_page_are_those_of_modality_mass():
    cache = patterns()
    page, table = content(attention_view(cache, LAYOUT)._page(10**9)), modality_mass(cache, LAYOUT)
    np.testing.assert_allclose(np.ravel(page["mass"]), table["mass"], atol=1e-6)
    heads = table.groupby(["layer", "head"])[["uni", "cross", "to_cls", "from_cls"]].first()
    np.testing.assert_allclose(np.reshape(page["summary"], (-1, 4)), heads, atol=1e-6)
    assert page["uniform"] == pytest.approx([(4 * 4 + 3 * 3) / 7 / 8, 2 * 4 * 3 / 7 / 8, 7 / 8, 1 / 8])


def test_the_saved_page_names_no_address_and_forbids_the_network(tmp_path):
    path = attention_view(patterns(), LAYOUT, title="x").save(tmp_path / "view.html")
    page = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")  # the name of SVG, not an address
    assert not re.search(r"(https?:|//[a-z]+\.|@import|<link(?! rel=\"icon\" href=\"data:)|src=)", page)
    assert "default-src 'none'" in page


def test_no_label_or_title_can_break_out_of_the_page():
    nasty = "</script><b>&\"'{{data}}"
    view = attention_view(patterns(), LAYOUT, labels=[f"{nasty}{i}" for i in range(8)], title=nasty)
    page = view._page(10**9)
    assert content(page)["tokens"][7] == f"{nasty}7" and content(page)["title"] == nasty
    assert page.count("</script>") == 3


def test_the_notebook_shows_the_page_in_a_sandbox():
    shown = attention_view(patterns(), LAYOUT, title='say "hi"')._repr_html_()
    assert shown.startswith('<iframe title="say &quot;hi&quot;" sandbox="allow-scripts allow-downloads"')
    srcdoc = re.search(r'srcdoc="([^"]*)"', shown)
    assert srcdoc and content(html.unescape(srcdoc[1]))["maps"] is not None


def test_a_page_that_would_be_too_large_for_a_cell_shows_groups_and_says_so(tmp_path):
    layout = TokenLayout.patches({"emg": 12, "acc": 4}, 50, cls=False)
    view = attention_view(patterns(layout, n_layers=8, n_heads=3, batch=1), layout)
    cell = content(view._page(CELL_BYTES))
    assert cell["maps"] is None and "groups only" in cell["notes"][0]
    path = view.save(tmp_path / "large.html")
    assert path.stat().st_size < 25e6
    maps = content(path.read_text("utf-8"))["maps"]
    one = maps | {"scale": [[maps["scale"][3][1]]], "data": [[maps["data"][3][1]]]}
    error = np.abs(decode(one)[0, 0] - view.pattern[3, 1])
    assert (error <= allowed_error(view.pattern[3, 1], one)[0, 0]).all()


# --- static figures ---------------------------------------------------------------------------------------


def test_figures_show_the_numbers_of_the_pattern():
    view = attention_view(patterns(), LAYOUT, title="subject 3")
    overview, layer, head = view.figure(), view.figure(1), view.figure(1, 0)
    images = [ax.images[0].get_array() for ax in overview.axes if ax.images]
    np.testing.assert_array_equal(np.reshape(images, view.pattern.shape), view.pattern)
    np.testing.assert_allclose(layer.axes[0].images[0].get_array(), view.pattern[1].mean(0))
    np.testing.assert_array_equal(head.axes[0].images[0].get_array(), view.pattern[1, 0])
    assert head.axes[0].get_title("left") == "subject 3: layer L2, head 0"
    assert [t.get_text() for t in head.axes[0].get_yticklabels()] == list(LAYOUT.names)
    assert (head.axes[0].get_ylabel(), head.axes[0].get_xlabel()) == ("destination (reads)", "source (is read)")


def test_difference_figures_are_centred_on_zero():
    view = attention_view(patterns(), LAYOUT, baseline=patterns(seed=4))
    low, high = view.figure(0, 0).axes[0].images[0].get_clim()
    assert low == -high < 0


def test_many_tokens_are_labelled_by_group():
    layout = TokenLayout.patches({"emg": 4, "acc": 2}, 20)
    axes = attention_view(patterns(layout, batch=1), layout).figure(0, 1).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["cls", "emg", "acc"]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_saving_writes_a_picture(tmp_path, ending):
    path = attention_view(patterns(), LAYOUT).save(tmp_path / f"view.{ending}")
    assert path.read_bytes()[:5] in {"png": [b"\x89PNG\r"], "svg": [b"<?xml"], "pdf": [b"%PDF-"]}[ending]


def test_wrong_figures_and_endings_are_one_clear_line(tmp_path):
    view = attention_view(patterns(), LAYOUT)
    with pytest.raises(ValueError, match=r"layer 3 is not in this view; its layers are \[0, 1, 2\]"):
        view.figure(3)
    with pytest.raises(ValueError, match="head 2 does not exist: there are heads 0 to 1"):
        view.figure(0, 2)
    with pytest.raises(ValueError, match="layer None is not in this view"):
        view.figure(head=1)
    with pytest.raises(ValueError, match="'.gif'"):
        view.save(tmp_path / "view.gif")
