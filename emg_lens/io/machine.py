"""The environment record of a run: versions of packages, and the machine."""

import importlib.metadata
import os
import platform


def environment() -> dict[str, str]:
    """Return the versions of Python and of packages, and the machine."""
    packages = ("emg-lens", "torch", "transformer-lens", "numpy", "scipy", "pandas")
    return {
        "python": platform.python_version(),
        **{p: importlib.metadata.version(p) for p in packages},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
