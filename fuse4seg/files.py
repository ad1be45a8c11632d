"""Files appear whole or not at all: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuse4seg.errors import Fuse4SegError, UnreadableImageError, UnwritableFolderError

TEMPORARY = re.compile(r"\.(?P<process>\d+)\.(?P<host>[\w-]*)\.partial\.")


@contextmanager
def written_whole(path: Path, *, previous: Path | None = None) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` when the block succeeds, delete it when it fails.

    The temporary name keeps the file's ending, because image writers choose their format by it, and nothing else of its name:
    ITK writes x.nii.nii.gz as x.nii.gz, and a long name would become too long.

    Args:
        path: Final path. Its folder must exist.
        previous: Where the file goes that is replaced; if None, it is lost. A kill between the two renames leaves it there alone.

    Raises:
        UnwritableFolderError: The operating system refused to write or rename.
    """
    temporary = path.with_name(_temporary_name(path))
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UnwritableFolderError(path.parent, error.strerror or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a loss of power, where folders can be opened for that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(folder: Path) -> None:
    """Delete what processes that are dead left half-written in ``folder`` and below; of other machines, nothing is known."""
    for path in folder.rglob(".*.partial.*"):
        matched = TEMPORARY.match(path.name)
        if matched and matched["host"] == _host() and not _is_alive(int(matched["process"])):
            path.unlink(missing_ok=True)


def _temporary_name(path: Path) -> str:
    ending = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
    return f".{os.getpid()}.{_host()}.partial.{zlib.crc32(os.fsencode(path.name)):08x}{ending}"


def _host() -> str:
    return re.sub(r"[^\w-]", "-", platform.node())


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def read_json(path: Path, error: Callable[..., Fuse4SegError]) -> Any:
    """Content of a JSON file.

    Args:
        path: The file.
        error: Makes what is raised where it is missing (from the path) or cannot be read, or gives a key twice, of which other
            readers keep the last (from the path and the reason).

    Raises:
        Fuse4SegError: As ``error`` makes it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once_each)
    except FileNotFoundError as missing:
        raise error(path) from missing
    # Brackets nested by the thousands end in a RecursionError.
    except (OSError, ValueError, RecursionError) as unreadable:
        raise error(path, f"cannot be read as JSON ({unreadable})") from unreadable


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"it gives {key[:40]!r} twice")
        content[key] = value
    return content


def write_json(content: Any, path: Path) -> None:
    """Write ``content`` as indented JSON, whole or not at all.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=4))


def has_plain_name(path: Path) -> bool:
    """Whether a path is in UTF-8; ITK's process is aborted by one in Latin-1, as old shares have them."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def require_plain_name(path: Path) -> None:
    """Make sure that an image's path can be given to ITK.

    Raises:
        UnreadableImageError: It is not in UTF-8.
    """
    if not has_plain_name(path):
        raise UnreadableImageError(path, "its name is not in UTF-8", mend="Rename it in plain letters.")


def make_writable_folder(folder: Path) -> Path:
    """Create ``folder`` and prove that files can be written to it.

    Returns:
        The folder itself.

    Raises:
        UnwritableFolderError: It cannot be created or written to, or not by ITK.
    """
    if not has_plain_name(folder):
        raise UnwritableFolderError(folder, "its name is not in UTF-8")
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UnwritableFolderError(folder, error.strerror or str(error)) from error
    return folder


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
