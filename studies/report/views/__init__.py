"""The shipped views, one per file; `pyproject.toml` lists them as entry points `emg_lens.views`."""
