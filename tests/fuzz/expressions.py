"""Fuzz of edge expressions: random ones by their grammar, some of them damaged."""

from pathlib import Path

from changes import changed_bytes, pick
from numpy.random import Generator
from verdicts import SilentlyWrong, Target, Verdict, digest, judge

from emg_lens import TokenLayout, parse_edges

LAYOUTS = (
    TokenLayout.channels({"emg": 3, "acc": 2}),
    TokenLayout.patches({"emg": 2, "acc": 1}, 3, cls=False),
    TokenLayout.groups({"subject": [1, 2], "last": [4]}, 5),
)
GROUPS = ("'emg'", "'acc'", "'cls'", "'emg.0'", "'gyro'", "'subject'", "''", "'NA'", '"emg"')
NUMBERS = ("0", "1", "-1", "2", "3", "99", "True", "None", "1.0", "10**9", "9" * 22, "-(10**30)", "0x10", "1e3", "1j")
ATOMS = (
    "unimodal({g})", "cross_modal({g}, {g})", "flow({g}, {g})", "self_edges()", "same_channel()", "same_patch()",
    "lag({n}, {n})", "positions(dest={p})", "positions(dest={p}, src={p})", "every()", "none()", "positions()",
    "unimodal()", "cross_modal()", "positions({p}, {p}, {p})", "lag(low={n}, low={n})", "unimodal(*{p})",
    "edges_from_mask({p})", "positions(dest=range(10**9))", "every", "eval('1')", "().__class__", "lambda: 0",
    "unimodal().mask", "[every()]", "cls_edges()", "every().at(stage='fusion')", "every().at(stage={p})",
)  # fmt: skip
PLACES = (
    "0", "[0]", "[0, 1]", "range(3)", "range({n}, {n})", "slice(0, 2)", "slice({n}, {n}, {n})", "{g}", "[{g}, 0]",
    "({n},)", "[]", "{{0, 1}}", "[[0]]", "range(0, 10, {n})", "{n}", "[{n}] * 3", "None", "{{'a': 1}}", "'0'",
)  # fmt: skip
GIANTS = (
    lambda: "~" * 100_000 + "every()",
    lambda: "(" * 5_000 + "every()" + ")" * 5_000,
    lambda: "every()" + ".at(layers=0)" * 20_000,
    lambda: "lag(" + "9" * 100_000 + ", 1)",
    lambda: "positions(dest=range(0, " + "9" * 22 + "))",
    lambda: "every()\n" * 1000,
    lambda: "positions(dest=" + "[" * 90 + "]" * 90 + ")",
    lambda: "every().at(layers=range(10**9))",
    lambda: "every().at(layers=range(0, 10000000000))",
    lambda: "- - - every()",
    lambda: " | ".join(["every()"] * 900),
    lambda: " | ".join(f"positions(dest=[{i % 5}])" for i in range(3000)),
)


def grown(rng: Generator, depth: int = 0) -> str:
    """Make a random expression."""
    chance = rng.random() + 0.15 * depth
    if chance < 0.3:
        return f"{grown(rng, depth + 1)} {pick(rng, '|&-')} {grown(rng, depth + 1)}"
    if chance < 0.45:
        return f"~{grown(rng, depth + 1)}"
    if chance < 0.6:
        return f"({grown(rng, depth + 1)})"
    if chance < 0.75:
        name = pick(rng, ("layers", "heads", "layers", "heads", "stage"))
        return f"({grown(rng, depth + 1)}).at({name}={filled(pick(rng, PLACES), rng)})"
    end = len(ATOMS) if rng.random() < 0.2 else 14
    return filled(ATOMS[int(rng.integers(end))], rng)


def filled(pattern: str, rng: Generator) -> str:
    """Fill the gaps of a pattern, mostly with valid words."""
    usual = rng.random() < 0.7
    for _ in range(3):
        pattern = pattern.replace("{p}", pick(rng, PLACES[:5] if usual else PLACES), 1)
    for gap, some, few in (("{g}", GROUPS, 3), ("{n}", NUMBERS, 4)):
        while gap in pattern:
            pattern = pattern.replace(gap, pick(rng, some[:few] if usual else some), 1)
    return pattern.replace("{{", "{").replace("}}", "}")


def read(text: str) -> tuple[dict, set]:
    """Return the masks of the expression on every layout that it fits."""
    edges = parse_edges(text)
    again = parse_edges(str(edges))
    if again != edges or hash(again) != hash(edges) or str(again) != str(edges):
        raise SilentlyWrong(f"the text of {text[:60]!r} means something else")
    refusal, masks = None, {}
    for i, layout in enumerate(LAYOUTS):
        try:
            mask = edges.mask(layout, 2, 2)
        except ValueError as error:
            if type(error) is ValueError:
                raise
            refusal = error
            continue
        masks[str(i)] = digest(mask)
        if tuple(mask.shape) != (2, 2, len(layout), len(layout)) or not mask.eq(again.mask(layout, 2, 2)).all():
            raise SilentlyWrong("the mask has another shape, or another content the second time")
    if refusal is not None and not masks:
        raise refusal
    return {}, set()


def attempt(made: None, rng: Generator, folder: Path) -> Verdict:
    """Run one case."""
    chance = rng.random()
    if chance < 0.03:
        text = pick(rng, GIANTS)()
    else:
        text = grown(rng)
        if chance < 0.4:
            text = changed_bytes(text.encode(), rng)[0].decode(
                "utf-8", "replace" if chance < 0.3 else "surrogateescape"
            )
    return judge(lambda: read(text), ({}, set()), text[:90])


TARGETS = (Target("edges", lambda folder: None, attempt),)
