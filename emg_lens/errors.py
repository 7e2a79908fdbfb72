"""The one base class of errors that the person who wrote the call, the study or the file can mend."""


class EmgLensError(Exception):
    """What came in, what was expected and what to do, in one line; the command line prints it without a traceback."""
