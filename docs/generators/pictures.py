"""Draw the pictures of `docs/pictures.md`: run its blocks in `docs/`, and reduce the png files to 256 colours."""

import re
from contextlib import chdir
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parents[1]
MOST_BYTES = 40_000


def draw() -> None:
    """Run every block, each in a namespace of its own."""
    text = (DOCS / "pictures.md").read_text(encoding="utf-8")
    with chdir(DOCS):
        for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            exec(compile(block, "docs/pictures.md", "exec"), {"__name__": "__main__"})
            for name in re.findall(r"picture-[a-z]+\.png", block):
                Image.open(name).convert("RGB").quantize(256).save(name, optimize=True)
                assert Path(name).stat().st_size <= MOST_BYTES, name


if __name__ == "__main__":
    draw()
