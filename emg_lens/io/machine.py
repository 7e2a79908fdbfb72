"""What numbers belong to: the versions and the machine that made them."""

import importlib.metadata
import os
import platform


def environment() -> dict[str, str]:
    """Versions and machine that a run's numbers belong to."""
    packages = ("emg-lens", "torch", "transformer-lens", "numpy", "scipy", "pandas")
    return {
        "python": platform.python_version(),
        **{p: importlib.metadata.version(p) for p in packages},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
