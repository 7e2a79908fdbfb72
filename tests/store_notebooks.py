"""Run the notebooks on simulated data and store them with their outputs: `make store-notebooks`."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

os.environ.pop("EMG_LENS_DATA", None)
os.environ["TQDM_DISABLE"] = "1"  # progress bars are of no use in a stored notebook

for path in sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb")):
    notebook = nbformat.read(path, as_version=4)
    metadata = notebook.metadata.copy()
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, record_timing=False, timeout=600, resources=resources).execute()
    notebook.metadata = metadata  # the versions of this machine would change with every run
    nbformat.write(notebook, path)
