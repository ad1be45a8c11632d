"""Records of fused folders: kept, compared, and refused when damaged."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fuse4seg.datasets.fused_record import RECORD, FusedRecord, read_record
from fuse4seg.errors import UnreadableRecordError
from fuse4seg.files import checksum


def test_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = FusedRecord({"rule": "max"}, ("CT", "MRI"), {"a": ("12", "34")})
    record.write(tmp_path)
    assert read_record(tmp_path) == record


def test_a_folder_of_another_tool_has_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"method": {}, "sources": [], "checksums": 3}'])
def test_a_damaged_one_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(UnreadableRecordError, match=f"{RECORD} .*Fuse again"):
        read_record(tmp_path)


def test_names_the_source_that_changed_whatever_the_order(tmp_path: Path) -> None:
    paths = [tmp_path / "CT.png", tmp_path / "MRI.png"]
    for path in paths:
        path.write_text(path.name)
    record = FusedRecord({}, ("CT", "MRI"), {"a": tuple(map(checksum, paths))})
    assert record.changed_source("a", paths[::-1]) is None
    assert record.changed_source("unknown", paths) is None
    paths[1].write_text("another")
    assert record.changed_source("a", paths) == paths[1]


def test_checksums_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert checksum(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
