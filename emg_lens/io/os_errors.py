"""Errors of the operating system: what to do about them, and a check against files that can never be read to an end."""

import errno
import os
from pathlib import Path
from stat import S_ISREG

REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "ask its owner for the permission"),
    errno.EROFS: "the disk is read-only",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOMEM), "try again"),
}
"""Advice by the number of the error, where it is not the content of the file that is wrong."""


def remedy(error: BaseException, otherwise: str) -> str:
    """Return what to do about an error: the advice for the operating system's reason, or `otherwise`."""
    return REMEDIES.get(getattr(error, "errno", None) or 0, otherwise)


def reason_of(error: BaseException) -> str:
    """Return the operating system's words for an error, without what a library adds to them."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else " ".join(str(error).split())


def check_regular(path: Path) -> None:
    """Check that a file can be read to its end.

    Raises:
        OSError: There is no such file, the path holds a null character, or it is a pipe or a device: reading it could
            wait for ever.
    """
    if "\0" in str(path):  # Python's own error is no OSError
        raise OSError(errno.EINVAL, "a path holds no null character", str(path))
    mode = path.stat().st_mode
    if not (S_ISREG(mode) or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe or device, expected a file", str(path))
