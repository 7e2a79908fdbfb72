"""Write the section on other libraries in docs/compatibility.md.

`PYTHONPATH=tests python -m zoo.libraries.page` cuts every architecture of the installed libraries, and fails if one is
cut wrongly or crashes. The other environment of the Makefile has all libraries.
"""

import re
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

from zoo.libraries.collection import LIBRARIES, architectures, installed  # first: it imports torchvision

# isort: split
from zoo.libraries.outcomes import Outcome, outcome

PAGE = Path(__file__).parents[3] / "docs" / "compatibility.md"
START, END = "<!-- libraries: written by make compatibility -->", "<!-- end of libraries -->"
KINDS = {"right": "Right", "routes": "Right, after `allow_routes=True`", "refused": "Refused"}


def section(outcomes: dict[str, dict[str, Outcome]]) -> str:
    """Return the text: counts, then for each library the models of each kind."""
    lines = [
        "| library | architectures | right | right, after `allow_routes=True` | refused |",
        "|---|---|---|---|---|",
    ]
    for library, of_library in outcomes.items():
        kinds = [kind_of(one) for one in of_library.values()]
        counts = " | ".join(str(kinds.count(kind)) for kind in KINDS)
        lines.append(f"| {library} {version(library)} | {len(kinds)} | {counts} |")
    for library, of_library in outcomes.items():
        lines += ["", f"### {library}", ""]
        right = [name for name, one in of_library.items() if kind_of(one) == "right"]
        lines.append(f"{KINDS['right']}: {'; '.join(right)}.")
        for kind in ("routes", "refused"):
            chosen = {name: one for name, one in of_library.items() if kind_of(one) == kind}
            if chosen:
                lines += ["", f"{KINDS[kind]}:", ""]
                lines += [f"* {name}: “{_short(one.routes or one.reason)}”" for name, one in chosen.items()]
    return "\n".join(lines)


def kind_of(result: Outcome) -> str:
    """Return `"routes"` where the cut is right but refused without `allow_routes`, otherwise the outcome's kind."""
    return "routes" if result.kind == "right" and result.reason else result.kind


def on_page(text: str, library: str) -> dict[str, str]:
    """Return the kind of each architecture of a library that the page lists."""
    part = text.split(f"### {library}\n")[1].split("\n### ")[0].split(END)[0]
    right, _, rest = part.partition(f"\n\n{KINDS['routes']}:")
    right, _, refused = right.partition(f"\n\n{KINDS['refused']}:")
    routes, _, later = rest.partition(f"\n\n{KINDS['refused']}:")
    names = right.strip().removeprefix("Right: ").removesuffix(".").split("; ")
    kinds = {name: "right" for name in names if name}
    for kind, lines in (("routes", routes), ("refused", refused + later)):
        kinds |= dict.fromkeys(re.findall(r"^\* (.+?): “", lines, re.MULTILINE), kind)
    return kinds


def _short(text: str) -> str:
    """Return a text of at most 300 characters, without line breaks."""
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:299]}…"


def main() -> None:
    """Write the section; with `--check`, fail if it would change."""
    warnings.simplefilter("ignore")
    missing = set(LIBRARIES) - set(installed())
    if missing:
        raise SystemExit(f"not installed: {', '.join(sorted(missing))}; install the extra `zoo`")
    outcomes = {library: {name: outcome(one) for name, one in architectures(library).items()} for library in LIBRARIES}
    before, _, rest = (stored := PAGE.read_text()).partition(START)
    new = f"{before}{START}\n\n{section(outcomes)}\n\n{END}{rest.partition(END)[2]}"
    faults = [f"{name}: {one.kind}" for all_ in outcomes.values() for name, one in all_.items() if one.fault]
    if faults:
        raise SystemExit(f"wrong or crashed: {'; '.join(faults)}")
    if sys.argv[1:] == ["--check"] and new != stored:
        changed = [line for line in new.splitlines() if line not in stored.splitlines()]
        raise SystemExit("\n".join(["docs/compatibility.md is not what happens now (make compatibility):", *changed]))
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
