"""What `pyproject.toml` cannot say: packages from three folders, a description without links into the repository."""

import re
from pathlib import Path

from setuptools import find_packages, setup

readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", readme)  # a package index has no figures of ours
readme = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", readme)  # and no pages: their titles stay

setup(
    packages=find_packages(include=["emg_lens*"])
    + [f"emg_lens.{name}" for name in find_packages(include=["hooks*", "studies*"])],
    long_description=readme,
    long_description_content_type="text/markdown",
)
