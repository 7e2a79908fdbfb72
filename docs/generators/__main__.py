"""Write the generated pages of the documentation: `python docs/generators`, or with `--check` compare them only."""

import argparse
import sys
from pathlib import Path

from gallery import gallery
from study_reference import study_reference

DOCS = Path(__file__).resolve().parents[1]
PAGES = {"study-reference.md": study_reference, "gallery.md": gallery}


def main() -> None:
    """Write each page that changed; with `--check`, exit with 1 if a page would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page would change")
    check, changed = parser.parse_args().check, []
    for name, make in PAGES.items():
        text, page = make(), DOCS / name
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            changed.append(name)
            if not check:
                page.write_text(text, encoding="utf-8")
    if check and changed:
        sys.exit(f"not up to date: {', '.join(changed)}; run make docs")


if __name__ == "__main__":
    main()
