"""The commands of `emg-lens`, one file each. A command is added to `COMMANDS` in `emg_lens/cli.py`."""
