"""Zip archives from strangers: refused before anything is unpacked unless every member is a plain file in its place."""

from __future__ import annotations

import hashlib
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from fuse4seg.model_errors import ModelArchiveError

CHUNK = 1 << 20
#: A dozen configurations of six folds with a few checkpoints each stay far below.
MOST_MEMBERS = 1000
LARGEST_JSON = 32 << 20
LARGEST_ARCHIVE = 64 << 30
#: Weights hardly compress, and JSON twentyfold.
HIGHEST_RATIO = 100
#: What is too small for its ratio to mean anything.
SMALL = 1 << 16
#: Fixed part of what stands before a member's data.
LOCAL_HEADER = 30
ENCRYPTED = 0x1
#: What reading a damaged archive can end in.
UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, LookupError, ValueError,
              OverflowError)


@contextmanager
def opened(path: Path) -> Iterator[ZipFile]:
    """An archive, open for reading.

    Raises:
        ModelArchiveError: It is missing or no zip archive.
    """
    if not path.is_file():
        raise ModelArchiveError(path, "is no file. Check the path.")
    try:
        archive = ZipFile(path)
    except UNREADABLE as error:
        raise ModelArchiveError(path, f"cannot be read as a zip archive ({error}). Get it again.") from error
    with archive:
        yield archive


def sound_members(archive: ZipFile, path: Path) -> dict[str, ZipInfo]:
    """Members by name, but for what macOS adds when it packs a folder, which nobody reads.

    Raises:
        ModelArchiveError: One is no plain file with a plain name, or they could unpack to more than they should.
    """
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise ModelArchiveError(path, f"has {len(members)} members, more than {MOST_MEMBERS}. It is no archive of models.")
    members = [member for member in members if not _is_of_macos(member.filename)]
    folded: set[str] = set()
    for member in members:
        problem = _problem(member)
        alike = unicodedata.normalize("NFC", member.filename).casefold()
        if not problem and alike in folded:
            problem = "is there twice, or differs from another in upper and lower case alone"
        folded.add(alike)
        if problem:
            raise ModelArchiveError(path, f"member {member.filename[:100]!r} {problem}. Do not trust this archive.")
    if sum(member.file_size for member in members) > LARGEST_ARCHIVE:
        raise ModelArchiveError(path, f"would unpack to more than {LARGEST_ARCHIVE >> 30} GiB. Do not trust this archive.")
    _refuse_overlaps(archive, members, path)
    return {member.filename: member for member in members}


def _is_of_macos(name: str) -> bool:
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last == ".DS_Store" or last.startswith("._")


def _problem(member: ZipInfo) -> str | None:
    name, mode = member.filename, member.external_attr >> 16
    # Python cuts names off at a zero byte.
    if name != member.orig_filename or not name.isprintable() or "\\" in name or ":" in name:
        return "has a name that systems read differently"
    parts = name.split("/")
    if name.startswith("/") or not all(parts) or {".", ".."} & set(parts):
        return "has a name that leads elsewhere, or is a folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a link, a device or another special file"
    if member.flag_bits & ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is encrypted, or compressed in an unusual way"
    if member.file_size > SMALL and member.file_size > HIGHEST_RATIO * member.compress_size:
        return f"would unpack to more than {HIGHEST_RATIO} times its size"
    return None


def _refuse_overlaps(archive: ZipFile, members: list[ZipInfo], path: Path) -> None:
    """Members that share their data can unpack to any size at an innocent ratio."""
    ordered = sorted(members, key=lambda member: member.header_offset)
    for number, member in enumerate(ordered, 1):
        end = ordered[number].header_offset if number < len(ordered) else archive.start_dir
        if member.header_offset + LOCAL_HEADER + member.compress_size > end:
            raise ModelArchiveError(path, f"member {member.filename!r} overlaps another. Do not trust this archive.")


def read_member(archive: ZipFile, member: ZipInfo, path: Path, *, limit: int = LARGEST_JSON) -> bytes:
    """A small member's content.

    Raises:
        ModelArchiveError: It is damaged, or larger than it says or than ``limit``.
    """
    if member.file_size > limit:
        raise ModelArchiveError(path, f"member {member.filename} has {member.file_size} bytes, more than {limit}.")
    return b"".join(_chunks(archive, member, path))


def unpack_member(archive: ZipFile, member: ZipInfo, path: Path, target: Path) -> str:
    """Write a member to a new file; gives back its SHA-256.

    Raises:
        ModelArchiveError: It is damaged, or larger than it says.
        OSError: The operating system refused to write.
    """
    digest = hashlib.sha256()
    with target.open("xb") as stream:
        for chunk in _chunks(archive, member, path):
            digest.update(chunk)
            stream.write(chunk)
    return digest.hexdigest()


def _chunks(archive: ZipFile, member: ZipInfo, path: Path) -> Iterator[bytes]:
    """A member's content, counted whatever its headers say."""
    left = member.file_size
    try:
        with archive.open(member) as stream:
            while chunk := stream.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
    except UNREADABLE as error:
        raise ModelArchiveError(path, f"member {member.filename} is damaged ({error}). Get the archive again.") from error
    if left:
        raise ModelArchiveError(path, f"member {member.filename} has another size than it says. Do not trust this archive.")
