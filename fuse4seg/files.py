"""Files appear whole or not at all: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuse4seg.errors import Fuse4SegError, UnwritableFolderError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` when the block succeeds, delete it when it fails.

    The temporary name keeps the file's ending, because image writers choose their format by it.

    Args:
        path: Final path. Its folder must exist.

    Raises:
        UnwritableFolderError: The operating system refused to write or rename.
    """
    temporary = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UnwritableFolderError(path.parent, error.strerror or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, error: Callable[..., Fuse4SegError]) -> Any:
    """Content of a JSON file.

    Args:
        path: The file.
        error: Makes what is raised where it is missing (from the path) or cannot be read (from the path and the reason).

    Raises:
        Fuse4SegError: As ``error`` makes it.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as missing:
        raise error(path) from missing
    # Brackets nested by the thousands end in a RecursionError.
    except (OSError, ValueError, RecursionError) as unreadable:
        raise error(path, f"cannot be read ({unreadable})") from unreadable


def write_json(content: Any, path: Path) -> None:
    """Write ``content`` as indented JSON, whole or not at all.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=4))


def make_writable_folder(folder: Path) -> Path:
    """Create ``folder`` and prove that files can be written to it.

    Returns:
        The folder itself.

    Raises:
        UnwritableFolderError: It cannot be created or written to.
    """
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UnwritableFolderError(folder, error.strerror or str(error)) from error
    return folder
