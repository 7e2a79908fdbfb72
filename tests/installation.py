"""Check an installed emg-lens: run this file with the Python of the environment, outside the clone.

It loads every module, public name and plug-in. A module may miss a library only if an extra of the package names it.
"""

import re
import sys
from importlib import import_module
from importlib.metadata import distribution, requires, version
from pkgutil import walk_packages

import emg_lens

EXTRAS = {re.match(r"[\w.-]+", line)[0].lower() for line in requires("emg-lens") if "extra ==" in line}
"""The distributions that `pip install emg-lens[...]` adds."""


def module_names() -> list[str]:
    """Every module of the package, from its files."""
    found = [module.name for module in walk_packages(emg_lens.__path__, "emg_lens.")]
    return [name for name in found if name != "emg_lens.__main__"]


def main() -> None:
    """Load everything that there is, and say how much."""
    missing = {}
    for name in module_names():
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0].replace("_", "-") not in EXTRAS:
                raise
            missing[name] = error.name
    for name in emg_lens.__all__:
        getattr(emg_lens, name)
    plugins = distribution("emg-lens").entry_points
    for plugin in plugins:
        plugin.load()
    sys.stdout.write(
        f"emg-lens {version('emg-lens')} in {emg_lens.__path__[0]}: {len(module_names())} modules,"
        f" {len(emg_lens.__all__)} names, {len(plugins)} plug-ins; without their extras: {missing or 'none'}\n"
    )


if __name__ == "__main__":
    main()
