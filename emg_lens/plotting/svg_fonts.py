"""Fonts inside an svg: the letters that it uses, so that its text looks the same everywhere and stays text."""

import base64
import html
import io
import logging
import re
from functools import lru_cache

from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib import font_manager

FAMILY = "DejaVu Sans"
"""The font of all figures; matplotlib contains it."""
ALWAYS = frozenset(map(chr, range(32, 127)))
"""Letters in every subset, so that most figures of a report share one."""
_TEXT = re.compile(r"<(?:text|tspan)[^>]*>([^<]*)")
_BOLD = re.compile(r"font(?:-weight)?: ?(?:bold|700)")


def with_fonts(svg: bytes) -> bytes:
    """Add the used letters of the font (subsets, woff) to an svg that contains text."""
    text = svg.decode()
    used = set(html.unescape("".join(_TEXT.findall(text)))) - {"\n"}
    if not used:
        return svg
    letters = "".join(sorted(used | ALWAYS))
    weights = [400, 700] if _BOLD.search(text) else [400]
    faces = "".join(
        f"@font-face{{font-family:'{FAMILY}';font-weight:{weight};"
        f"src:url(data:font/woff;base64,{_subset(letters, weight)}) format('woff')}}"
        for weight in weights
    )
    return text.replace("<defs>", f"<defs>\n  <style>{faces}</style>", 1).encode()


@lru_cache(maxsize=64)
def _subset(letters: str, weight: int) -> str:
    """Base64 of the font with only these letters; without hints, as browsers scale text smoothly."""
    path = font_manager.findfont(font_manager.FontProperties(family=FAMILY, weight=weight))
    font = TTFont(path, recalcTimestamp=False)
    for table in ("GDEF", "GPOS", "GSUB"):  # ligatures and the like, which matplotlib does not use either
        if table in font:
            del font[table]
    options = subset.Options(flavor="woff", hinting=False, notdef_outline=True, name_IDs=[])
    logging.getLogger("fontTools.subset").setLevel(logging.ERROR)
    tool = subset.Subsetter(options)
    tool.populate(text=letters)
    tool.subset(font)
    font.flavor = "woff"
    buffer = io.BytesIO()
    font.save(buffer)
    return base64.b64encode(buffer.getvalue()).decode()
