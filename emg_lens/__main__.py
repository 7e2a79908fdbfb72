"""`python -m emg_lens` is the command `emg-lens`."""

from emg_lens.cli import main

main()
