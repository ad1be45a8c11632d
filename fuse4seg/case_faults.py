"""What one case's files lead to is that case's fault, and ends no run of others."""

from __future__ import annotations

import errno
import logging
from concurrent.futures.process import BrokenProcessPool

from fuse4seg.errors import CaseTooLargeError, FaultyImageError, Fuse4SegError, UnwritableFolderError, first_line

logger = logging.getLogger(__name__)

#: A full disk, a place that cannot be written, too many open files: what every further case would meet, too.
OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE}


def fault_in_scoring(error: Exception, case: str) -> Fuse4SegError:
    """:func:`fault_of` for work that writes no more than temporary copies, where full disks and the like end nothing either.

    What is scored already would be lost with the run, and cases that need no copy can be scored all the same.
    """
    try:
        return fault_of(error, case)
    except (UnwritableFolderError, OSError) as refused:
        return FaultyImageError(case, f"it was not scored ({first_line(refused)}). Free space for temporary files, score again.")


def fault_of(error: Exception, case: str) -> Fuse4SegError:
    """The fault of a case, of whatever was raised while it was worked on; call it where that is caught.

    Errors of ours stand for themselves. Others, which readers and nnU-Net raise of any kind, and so do mistakes of ours, are
    named in a line; their traceback is logged at debug level.

    Raises:
        Exception: The error itself, if it is no case's fault: a process that died, a full disk, a device out of memory.
    """
    if isinstance(error, UnwritableFolderError | BrokenProcessPool):
        raise error
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        raise error
    # PyTorch's classes for a device: after such an error no further case would do better.
    if any(kind.__name__ in ("OutOfMemoryError", "AcceleratorError") for kind in type(error).__mro__):
        raise error
    if isinstance(error, Fuse4SegError):
        return error
    if isinstance(error, MemoryError):
        return CaseTooLargeError(case)
    logger.debug("case %s", case, exc_info=error)
    return FaultyImageError(case, f"it cannot be used ({first_line(error, kind=True)}). Mend or remove it; --verbose shows where "
                                  "that was raised.")
