"""The error of a study that cannot be read or run."""

from emg_lens.errors import EmgLensError


class StudyError(EmgLensError, ValueError):
    """A study that cannot be read or run; the message is one line for the person who wrote it."""
