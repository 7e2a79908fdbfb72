"""The shipped views: one file each, named in `pyproject.toml` as entry points `emg_lens.views`."""
