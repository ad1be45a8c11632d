"""One training at a time in a fold's folder."""

from __future__ import annotations

import errno
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fuse4seg.errors import UnwritableFolderError
from fuse4seg.model_errors import TrainingRunningError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

log = logging.getLogger(__name__)

LOCK = "training.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other trainings out of ``folder`` within the block.

    The lock is POSIX's, not a library's flock: it vanishes with the process that holds it, however that ends, is not inherited
    by background processes (which may outlive a killed training by seconds), and NFS carries it to other machines. The system
    drops it when the process closes any handle of the file, so this is the only place that may open it.

    Raises:
        TrainingRunningError: Another process holds the lock.
        UnwritableFolderError: The folder cannot be written to.
    """
    if fcntl is None:
        yield
        return
    try:
        stream = _open_and_lock(folder / LOCK)
    except (BlockingIOError, PermissionError) as error:
        raise TrainingRunningError(folder, holder(folder)) from error
    except OSError as error:
        raise UnwritableFolderError(folder, error.strerror or str(error)) from error
    with stream:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}")
        stream.flush()
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def require_unlocked(folder: Path) -> None:
    """Make sure, before anything is written, that no other process trains in ``folder``, which need not exist.

    Raises:
        TrainingRunningError: One does.
    """
    if (folder / LOCK).exists():
        with locked(folder):
            pass


def holder(folder: Path) -> str:
    """Who holds the lock of ``folder``, for a message."""
    return (folder / LOCK).read_text() or "another process"


def _open_and_lock(path: Path) -> TextIO:
    """The lock's file, locked.

    Raises:
        BlockingIOError, PermissionError: Another process holds it.
        OSError: It cannot be opened.
    """
    while True:
        stream = path.open("a")
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                log.warning("%s: no locks on this file system (%s). Make sure that no other training uses the folder.",
                            path.parent, error.strerror)
                return stream
            stream.close()
            raise
        if path.exists() and os.fstat(stream.fileno()).st_ino == path.stat().st_ino:
            return stream
        stream.close()  # the one that held it took it away while it was being opened
