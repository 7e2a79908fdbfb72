"""The error of studies that cannot be read or run."""

from emg_lens.errors import EmgLensError


class StudyError(EmgLensError, ValueError):
    """A study cannot be read or run; the message is one line for the author of the study file."""
