"""The attention page in a real browser. Needs selenium, chromium and chromium-driver; skips without them."""

import csv
import json
import shutil
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from emg_lens.analysis.attention_views import attention_view, modality_mass
from emg_lens.layout import TokenLayout

webdriver = pytest.importorskip("selenium.webdriver", reason="browser tests need selenium: pip install selenium")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="browser tests need chromium: apt-get install chromium chromium-driver"
)

LAYOUT = TokenLayout.channels({"emg": 5, "acc": 3})
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1440,1000",
]
SVG = "{http://www.w3.org/2000/svg}"


def patterns(layout=LAYOUT, n_layers=4, n_heads=3, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = len(layout)
    return torch.randn(n_layers, batch, n_heads, n, n, generator=generator).mul(2).softmax(-1)


class Browser:
    """A page in Chromium, and what a person does with it."""

    def __init__(self, downloads: Path, profile: Path):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.downloads = downloads
        allow = {"behavior": "allow", "downloadPath": str(downloads)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allow)

    def open(self, path, fragment=""):
        self.driver.get("about:blank")
        self.driver.get_log("performance")
        self.driver.get(f"file://{path}{fragment}")

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.find(selector).text

    def head(self, layer, head):
        return self.find(f"#overview [aria-label='layer L{layer + 1}, head {head}']")

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def choose(self, name, value):
        self.find(f"[name={name}][value={value}] + span").click()

    def pixels(self):
        """Red, green, blue and alpha of the large map, row by row."""
        return self.driver.execute_script(
            "const c = document.querySelector('#stage canvas'); "
            "const copy = new OffscreenCanvas(c.width, c.height).getContext('2d'); copy.drawImage(c, 0, 0); "
            "return [...copy.getImageData(0, 0, c.width, c.height).data]"
        )

    def point_at(self, dest, src):
        """Move the mouse onto the middle of a cell."""
        left, top, cell = self.driver.execute_script(
            "const map = document.getElementById('map'); map.scrollIntoView({block: 'center'}); "
            "const b = map.getBoundingClientRect(); return [b.left + geo.left, b.top + geo.top, geo.cell]"
        )
        actions = ActionChains(self.driver)
        x, y = left + (src + 0.5) * cell, top + (dest + 0.5) * cell
        actions.w3c_actions.pointer_action.move_to_location(int(x), int(y))
        actions.perform()

    def wait(self, condition):
        """Until the condition holds; at most five seconds."""
        for _ in range(100):
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError("waited five seconds in vain")

    def download(self, selector):
        self.find(selector).click()
        self.wait(lambda: [p.suffix in (".svg", ".csv") for p in self.downloads.iterdir()] == [True])
        (done,) = self.downloads.iterdir()  # and nothing that the browser has not finished
        content = done.read_text("utf-8")
        done.unlink()
        return done.name, content

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """Addresses of every request since the page was opened."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url[:80] for url in sent]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    downloads = tmp_path_factory.mktemp("downloads")
    made = Browser(downloads, tmp_path_factory.mktemp("profile"))
    yield made
    made.driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return attention_view(patterns(), LAYOUT, title="Subject 3").save(tmp_path_factory.mktemp("page") / "v.html")


@pytest.fixture(autouse=True)
def no_complaints(browser):
    browser.complaints()
    yield
    assert browser.complaints() == []


def shown(value):
    """A number as the page writes it."""
    return f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"


MEAN = patterns().mean(1).numpy()


def test_the_page_opens_from_a_file_and_asks_the_network_for_nothing(browser, page):
    browser.open(page)
    assert browser.text("h1") == "Subject 3"
    assert browser.text("#subtitle") == "4 layers × 3 heads · 9 tokens · mean over 2 trials"
    browser.choose("view", "groups")
    browser.head(2, 1).click()
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:", "blob:"))] == []


def test_clicking_a_head_shows_its_map(browser, page):
    browser.open(page)
    before = browser.pixels()
    browser.head(2, 1).click()
    assert browser.text("#which") == "Layer L3, head 1"
    assert browser.head(2, 1).get_attribute("aria-selected") == "true"
    assert browser.head(0, 0).get_attribute("aria-selected") == "false"
    after = browser.pixels()
    assert before != after
    darkest = np.argmin(np.reshape(after, (-1, 4))[:, :3].sum(1))
    assert darkest == MEAN[2, 1].argmax()  # dest * n + src, row by row


def test_pointing_at_a_cell_reads_it_out_exactly(browser, page):
    browser.open(page)
    browser.head(1, 2).click()
    dest, src = LAYOUT.names.index("emg.3"), LAYOUT.names.index("acc.1")
    browser.point_at(dest, src)
    value = shown(MEAN[1, 2, dest, src])
    assert browser.text("#tooltip") == f"dest emg.3 reads src acc.1: {value} (layer L2, head 2)"
    assert browser.text("#reads").startswith("emg.3 reads: cls ")
    assert len(browser.all("#marks > rect")) == 2  # its row and its column
    drawn = {p.get_attribute("data-edge").split(",")[0] for p in browser.all("#links path")}
    assert drawn == {str(dest)}


def test_pointing_at_a_link_reads_it_out_and_stronger_links_are_less_transparent(browser, page):
    browser.open(page)
    edges = browser.all("#links path")
    opacity = [float(e.get_attribute("stroke-opacity")) for e in edges]
    values = [MEAN[0, 0][tuple(map(int, e.get_attribute("data-edge").split(",")))] for e in edges]
    np.testing.assert_allclose(opacity, np.maximum(0.06, values / MEAN[0, 0].max()), atol=1e-3)
    dest, src = np.unravel_index(MEAN[0, 0].argmax(), (9, 9))
    strongest = browser.find(f"#links path[data-edge='{dest},{src}']")
    ActionChains(browser.driver).move_to_element(strongest).perform()
    names = LAYOUT.names
    expected = f"dest {names[dest]} reads src {names[src]}: {shown(MEAN[0, 0].max())} (layer L1, head 0)"
    assert browser.text("#tooltip") == expected


def test_groups_show_the_modality_masses(browser, page):
    browser.open(page, "#layer=2&head=1")
    browser.choose("view", "groups")
    table = modality_mass(patterns(), LAYOUT)
    masses = table[(table["layer"] == 2) & (table["head"] == 1)]["mass"]
    cells = [t.text for t in browser.all("#map text[text-anchor=middle][dominant-baseline=central]")]
    assert cells == [shown(m) for m in masses]
    assert browser.find("#overview canvas").get_attribute("width") == "3"
    browser.point_at(1, 2)
    value = shown(masses.iloc[1 * 3 + 2])
    assert browser.text("#tooltip") == f"dest emg reads src acc: {value} (layer L3, head 1)"


def test_the_mean_over_heads_is_the_mean(browser, page):
    browser.open(page)
    browser.find("#mean").click()
    assert len(browser.all("#overview [role=gridcell]")) == 4
    browser.point_at(3, 0)
    value = shown(MEAN[0, :, 3, 0].mean())
    assert browser.text("#tooltip") == f"dest emg.2 reads src cls: {value} (layer L1, mean over heads)"


def test_a_shared_scale_makes_heads_comparable(browser, page):
    browser.open(page)
    weakest = np.unravel_index(MEAN.max((2, 3)).argmin(), (4, 3))
    browser.head(*weakest).click()
    own = browser.pixels()
    browser.choose("scale", "shared")
    assert sum(browser.pixels()) > sum(own)  # paler: its largest value is not the largest of all
    assert "one scale for all heads" in browser.text("#map")


def test_the_threshold_hides_weak_edges(browser, page):
    browser.open(page)
    slider = browser.find("#min")
    browser.driver.execute_script("arguments[0].value = 60; arguments[0].dispatchEvent(new Event('input'))", slider)
    threshold = 0.36 * MEAN.max()
    browser.wait(lambda: browser.text("#minout") == shown(threshold))
    blank = np.reshape(browser.pixels(), (-1, 4))[MEAN[0, 0].ravel() < threshold]
    assert (blank == blank[0]).all()
    kept = {p.get_attribute("data-edge") for p in browser.all("#links path")}
    assert kept == {f"{d},{s}" for d, s in np.argwhere(MEAN[0, 0] >= threshold)}


def test_arrow_keys_move_between_heads_and_layers_and_stop_at_the_ends(browser, page):
    browser.open(page)
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert browser.text("#which") == "Layer L2, head 1"
    browser.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP)
    assert browser.text("#which") == "Layer L1, head 0"
    browser.head(0, 0).click()
    browser.press(Keys.ARROW_DOWN)
    assert browser.driver.switch_to.active_element == browser.head(1, 0)  # focus follows
    assert [c.get_attribute("tabindex") for c in browser.all("#overview button")].count("0") == 1


def test_the_keyboard_walks_through_cells_and_pins_a_row(browser, page):
    browser.open(page)
    browser.driver.execute_script("document.getElementById('map').focus()")
    browser.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    value = shown(MEAN[0, 0, 1, 1])
    sentence = f"dest emg.0 reads src emg.0: {value} (layer L1, head 0)"
    assert browser.text("#tooltip") == sentence
    assert browser.find("#status").get_attribute("textContent") == sentence
    browser.press(Keys.ENTER, Keys.ARROW_DOWN, Keys.ENTER, Keys.TAB)
    assert browser.text("#reads").startswith("emg.0, emg.1 read on average: ")


def test_a_click_on_a_colour_band_pins_the_whole_group_until_escape(browser, page):
    browser.open(page)
    browser.point_at(7, 0)
    cell = browser.driver.execute_script("return geo.cell")
    ActionChains(browser.driver).move_by_offset(int(-cell / 2 - 6), 0).click().move_by_offset(-400, 0).perform()
    assert browser.text("#reads").startswith("acc.0, acc.1, acc.2 read on average: ")
    rows = [LAYOUT.names.index(f"acc.{i}") for i in range(3)]
    assert f"cls {shown(MEAN[0, 0, rows, 0].mean())}" in browser.text("#reads")
    browser.press(Keys.ESCAPE)
    assert browser.text("#reads").startswith("Point at a cell")


def test_the_table_sorts_and_its_rows_select_heads(browser, page):
    browser.open(page)
    browser.find("[data-sort=cross]").click()
    cells = [float(r.find_elements(By.TAG_NAME, "td")[3].text) for r in browser.all("#table tbody tr")]
    assert cells == sorted(cells, reverse=True)
    assert browser.find("[data-sort=cross]").find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    table = modality_mass(patterns(), LAYOUT).groupby(["layer", "head"])["cross"].first()
    first = browser.all("#table tbody tr")[0]
    first.click()
    layer, head = table.idxmax()
    assert browser.text("#which") == f"Layer L{layer + 1}, head {head}"
    assert float(cells[0]) == pytest.approx(table.max(), abs=6e-4)


def test_the_drawing_holds_every_cell_in_its_colour(browser, page):
    browser.open(page, "#layer=3&head=2")
    name, content = browser.download("#svg")
    assert name == "subject-3-L4-H2-tokens.svg"
    root = ElementTree.fromstring(content)
    assert root.findtext(f"{SVG}title") == "Subject 3: layer L4, head 2"
    cells = [r.get("fill") or "" for r in root.findall(f"{SVG}g[@id='heat']/{SVG}rect")]
    brightness = [sum(map(int, c[4:-1].split(","))) for c in cells]
    order = np.argsort(MEAN[3, 2].ravel())
    assert len(cells) == 81 and (np.diff(np.array(brightness)[order]) <= 0).all()
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert {"cls", "emg.4", "acc.2", "dest", "src"} <= set(texts)
    assert "http" not in content.replace("http://www.w3.org/2000/svg", "")


def test_the_numbers_come_as_csv(browser, page):
    browser.open(page, "#layer=1&head=2")
    name, content = browser.download("#csv")
    assert name == "subject-3-L2-H2-tokens.csv"
    rows = list(csv.DictReader(content.splitlines()))
    assert rows[9] | {"attention": ""} == dict(layer="L2", head="2", dest="emg.0", src="cls", attention="")
    values = np.reshape([float(r["attention"]) for r in rows], (9, 9))
    np.testing.assert_allclose(values, MEAN[1, 2], atol=4e-5)


def test_the_address_keeps_the_view(browser, page):
    browser.open(page)
    browser.head(1, 1).click()
    browser.choose("view", "groups")
    fragment = browser.driver.current_url.partition("#")[2]
    browser.open(page, f"#{fragment}")
    assert browser.text("#which") == "Layer L2, head 1"
    assert browser.find("[name=view][value=groups]").is_selected()
    browser.open(page, "#layer=99&head=-1&view=nonsense&min=x")
    assert browser.text("#which") == "Layer L1, head 0"


def test_a_difference_is_signed_and_its_zero_is_neutral(browser, tmp_path):
    other = patterns(seed=5)
    other[0, :, 0, 0] = patterns()[0, :, 0, 0]  # one row without difference
    browser.open(attention_view(patterns(), LAYOUT, baseline=other).save(tmp_path / "d.html"))
    change = (patterns() - other).mean(1)[0, 0].numpy()
    dest, src = np.unravel_index(change.argmin(), (9, 9))
    browser.point_at(dest, src)
    value = shown(change.min()).replace("-", "−")
    edge = f"dest {LAYOUT.names[dest]} reads src {LAYOUT.names[src]}"
    assert browser.text("#tooltip") == f"{edge}: {value} compared with the baseline (layer L1, head 0)"
    dest, src = np.unravel_index(change.argmax(), (9, 9))
    browser.point_at(dest, src)
    assert f": +{shown(change.max())} compared with" in browser.text("#tooltip")
    red, green, blue, _ = np.reshape(browser.pixels(), (9, 9, 4))[0].T.astype(int)
    assert (np.ptp([red, green, blue], axis=0) <= 3).all()  # grey


def test_dark_mode_darkens_the_paper_and_the_maps(browser, page):
    browser.open(page)
    light = sum(browser.pixels())
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.wait(lambda: sum(browser.pixels()) < light)
    assert browser.find("body").value_of_css_property("background-color") == "rgba(20, 24, 30, 1)"
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_works_in_the_sandboxed_frame_of_a_notebook(browser, tmp_path):
    view = attention_view(patterns(), LAYOUT, title="In a notebook")
    (tmp_path / "n.html").write_text(f"<!doctype html><h1>host</h1>{view._repr_html_()}", "utf-8")
    browser.open(tmp_path / "n.html")
    font = browser.find("h1").value_of_css_property("font-size")
    assert font == "32px"  # the page's styles stay inside
    browser.driver.switch_to.frame(browser.find("iframe"))
    browser.head(2, 2).click()
    assert browser.text("#which") == "Layer L3, head 2"
    name, _ = browser.download("#svg")
    assert name == "in-a-notebook-L3-H2-tokens.svg"
    browser.driver.switch_to.default_content()


def test_labels_are_text_never_markup(browser, tmp_path):
    labels = [f"<img src=x onerror=alert({i})>" for i in range(9)]
    browser.open(attention_view(patterns(), LAYOUT, labels=labels, title="<b>&").save(tmp_path / "l.html"))
    browser.point_at(0, 1)
    assert browser.text("#tooltip").startswith(f"dest {labels[0]} reads src {labels[1]}: ")
    assert browser.text("h1") == "<b>&" and browser.all("img") == []
    ElementTree.fromstring(browser.download("#svg")[1])


def test_eight_hundred_tokens_open_as_groups_and_stay_usable(browser, tmp_path):
    layout = TokenLayout.patches({"emg": 12, "acc": 4}, 50, cls=False)
    weights = patterns(layout, n_layers=8, n_heads=3, batch=1)
    path = attention_view(weights, layout).save(tmp_path / "large.html")
    assert path.stat().st_size < 25e6
    browser.open(path)
    assert browser.find("[name=view][value=groups]").is_selected()
    clock = "const t = performance.now(); {}; return (performance.now() - t) / 1000"
    assert browser.driver.execute_script(clock.format("change({view: 'tokens'})")) < 8  # 0.7 s on a free machine
    assert browser.driver.execute_script(clock.format("select(3, 2)")) < 1
    browser.point_at(400.2, 77.1)
    words = browser.text("#tooltip").split(" ")
    dest, src = layout.names.index(words[1]), layout.names.index(words[4].rstrip(":"))
    assert abs(dest - 400) <= 2 and abs(src - 77) <= 2  # a pixel shows the strongest edge of its block
    assert float(words[5]) == pytest.approx(float(weights[3, 0, 2, dest, src]), abs=5e-3)
    assert "image/png" in browser.download("#svg")[1]


@pytest.mark.parametrize("n_heads", [8, 16])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_head_is_in_sight_on_a_phone_and_on_a_screen(browser, tmp_path, width, n_heads):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.open(attention_view(patterns(n_heads=n_heads), LAYOUT).save(tmp_path / "heads.html"))
        hidden = "const o = document.getElementById('overview'); return o.scrollWidth - o.clientWidth"
        assert browser.driver.execute_script(hidden) <= 0
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
