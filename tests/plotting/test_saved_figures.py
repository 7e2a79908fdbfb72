"""Files of pictures: formats, fonts and bytes."""

import base64
import io
import re

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib.figure import Figure
from PIL import Image

from emg_lens.plotting import plot_heads, save_figure
from emg_lens.plotting.saving import save_figures, to_svg
from emg_lens.plotting.style import COLUMN
from emg_lens.validation import ArgumentError


def picture(label="Δ accuracy → (pp) $5"):
    return plot_heads(np.array([[0.0, -2.0], [1.0, 3.0]]), label=label.replace("$", r"\$"))


def fonts(svg: str) -> list[TTFont]:
    return [TTFont(io.BytesIO(base64.b64decode(one))) for one in re.findall(r"base64,([A-Za-z0-9+/=]+)\) format", svg)]


def test_text_in_svg_is_text_and_the_file_contains_its_letters(tmp_path):
    svg = save_figure(picture(), tmp_path / "a.svg").read_text()
    assert "Δ accuracy → (pp) $5" in re.sub(r"</?tspan[^>]*>", "", svg) and "L2" in svg
    (font,) = fonts(svg)
    assert {ord(letter) for letter in "Δ accuracy→(pp)$5LH"} <= set(font.getBestCmap())
    assert len(font.getGlyphOrder()) < 150  # a subset: the font has thousands
    assert "font-family" in svg and len(svg) < 60_000


def test_letters_of_an_svg_are_as_wide_as_in_the_whole_font():
    from matplotlib import font_manager

    whole = TTFont(font_manager.findfont("DejaVu Sans"))
    (font,) = fonts(to_svg(picture().figure).decode())
    for letter, name in font.getBestCmap().items():
        assert font["hmtx"][name][0] == whole["hmtx"][whole.getBestCmap()[letter]][0], chr(letter)


def test_bold_text_has_the_bold_font_and_a_figure_without_text_none():
    figure = Figure()
    assert fonts(to_svg(figure).decode()) == []
    figure.text(0.5, 0.5, "bold", fontweight="bold")
    assert len(fonts(to_svg(figure).decode())) == 2


def test_a_pdf_contains_true_type_fonts(tmp_path):
    pdf = save_figure(picture(), tmp_path / "a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"/Type3" not in pdf


def test_a_png_is_as_wide_as_a_column(tmp_path):
    axes = plot_heads(np.ones((4, 30)))
    with Image.open(save_figure(axes, tmp_path / "a.png")) as image:
        assert image.width == pytest.approx(200 * COLUMN, abs=2)


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_the_same_picture_gives_the_same_bytes(tmp_path, ending):
    first, second = (save_figure(picture(), tmp_path / f"{i}.{ending}").read_bytes() for i in range(2))
    assert first == second


def test_the_folder_of_a_file_is_created(tmp_path):
    assert save_figure(picture(), tmp_path / "new" / "folder" / "a.svg").read_bytes().startswith(b"<?xml")


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"ends in '.bmp'; expected .svg, .png or .pdf"):
        save_figure(picture(), tmp_path / "a.bmp")


def test_a_set_of_figures_is_saved_in_three_formats(tmp_path):
    save_figures({"heads · EMG": picture().figure}, tmp_path / "figures")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        f"heads-EMG.{e}" for e in ("pdf", "png", "svg")
    ]
