"""Write one page for each public package: a table of its names, then every name with its docstring and its uses.

The names are those of the package's `__all__`. A name that `emg_lens` has too is described with its package, and the
page of `emg_lens` links to it. The pages are written when the site is built; they are not stored.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from sphinx.pycode import ModuleAnalyzer

from emg_lens.registry import Registry

TOP = "emg_lens"
FOLDERS = {"hooks": f"{TOP}.hooks", "studies": f"{TOP}.studies", "emg_lens": TOP}


def public_packages(root: Path) -> list[str]:
    """List the packages that have a stub with public names, `emg_lens` first."""
    found = []
    for folder, package in FOLDERS.items():
        for stub in sorted((root / folder).rglob("__init__.pyi")):
            found.append(".".join([package, *stub.parent.relative_to(root / folder).parts]))
    return sorted(found)


def pages_that_use(root: Path) -> dict[str, list[str]]:
    """Map each name to the pages whose Python code has it; pages are paths from the root, without suffix."""
    uses: dict[str, list[str]] = {}
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md")), *sorted(root.glob("notebooks/*.ipynb"))]:
        text = page.read_text(encoding="utf-8")
        code = [text] if page.suffix == ".ipynb" else re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
        for name in set(re.findall(r"\b[A-Za-z_]\w+(?=[(,\n.]|\\n| as |$)", "\n".join(code))):
            uses.setdefault(name, []).append(str(page.relative_to(root).with_suffix("")))
    return uses


def described_names(package: str, others: set[int]) -> Iterator[tuple[str, object]]:
    """Yield the names of a package that its page describes, with their values: no modules, and nothing twice."""
    module = import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if not isinstance(value, ModuleType) and id(value) not in others:
            yield name, value


def is_documented(value: object) -> bool:
    """Whether a name is a class or a function, which have docstrings of their own."""
    return inspect.isclass(value) or inspect.isroutine(value)


def comment_of(name: str, value: object) -> str:
    """Return the text in quotes below the line that defines a value; empty without one."""
    for module in [one for key, one in sys.modules.items() if key.startswith(f"{TOP}.")]:
        if vars(module).get(name) is value:
            docs = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
            if ("", name) in docs:
                return " ".join(docs["", name]).strip()
    return ""


def entry(package: str, name: str, value: object, uses: list[str]) -> str:
    """Return the lines that describe a name."""
    if inspect.isclass(value):
        bases = "   :show-inheritance:\n" if value.__bases__ != (object,) else ""
        lines = f".. autoclass:: {package}.{name}\n   :members:\n{bases}"
    elif is_documented(value):
        lines = f".. autofunction:: {package}.{name}\n"
    elif isinstance(value, Registry):
        known = ", ".join(f"``{one}``" for one in sorted(value.names()))
        text = f"Each registered {value.kind}, by name: {known}. Entry points: ``{value.group}``."
        lines = f".. py:data:: {package}.{name}\n\n   {text}\n"
    else:
        lines = f".. py:data:: {package}.{name}\n\n   {comment_of(name, value) or f'``{value!r}``'}\n"
    links = ", ".join(f":doc:`/{page}`" for page in uses)
    return lines + (f"\n   Used in: {links}.\n" if links else "")


def page_of(package: str, names: dict[str, object], elsewhere: list[str], uses: dict[str, list[str]]) -> str:
    """Return the page of a package in reStructuredText."""
    module = import_module(package)
    title = f"``{package}``"
    parts = [title, "=" * len(title), "", inspect.cleandoc(module.__doc__ or ""), ""]
    table = [*(f"{package}.{name}" for name, value in names.items() if is_documented(value)), *elsewhere]
    parts += [".. autosummary::", "   :nosignatures:", "", *(f"   ~{name}" for name in sorted(table)), ""]
    parts += [entry(package, name, value, uses.get(name, [])) for name, value in names.items()]
    return "\n".join(parts) + "\n"


def write_api_pages(root: Path) -> None:
    """Write the pages of all public packages into `docs/api`, and leave pages alone that stay the same."""
    folder, uses = root / "docs/api", pages_that_use(root)
    folder.mkdir(exist_ok=True)
    packages, homes, names = public_packages(root), {}, {}
    for package in sorted(packages, key=lambda one: one == TOP):  # the top package last: it repeats names
        names[package] = dict(described_names(package, {*homes}))
        homes |= {id(value): f"{package}.{name}" for name, value in names[package].items()}
    top = import_module(TOP)
    wanted = {}
    for package in packages:
        elsewhere = [homes[id(value)] for name in top.__all__ if id(value := getattr(top, name)) in homes]
        again = [name for name in elsewhere if name.rpartition(".")[0] != TOP] if package == TOP else []
        wanted[folder / f"{package.replace('.', '-')}.rst"] = page_of(package, names[package], again, uses)
    for path in set(folder.glob("*.rst")) - {*wanted}:
        path.unlink()
    for path, text in wanted.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
