"""Which files are DICOM."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.datasets import dicom_files as module
from fuse4seg.datasets.dicom_files import dicom_files, is_dicom, require_dicom
from fuse4seg.errors import MissingExtraError


@pytest.mark.parametrize(("name", "content", "dicom"), [
    ("IM0001", bytes(128) + b"DICM...", True), ("a.dcm", b"", True), ("b.DCM", b"?", True), ("a.nii", bytes(400), False),
    ("short", b"DICM", False), ("empty", b"", False)])
def test_are_told_by_their_name_or_their_beginning(name: str, content: bytes, dicom: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert is_dicom(tmp_path / name) == dicom


def test_are_found_in_all_sub_folders_but_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/c/3", "DICOMDIR", ".x/4", "a/.5", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"notes" if name.endswith("txt") else bytes(128) + b"DICM")
    assert [str(path.relative_to(tmp_path)) for path in dicom_files(tmp_path)] == ["DICOMDIR", "a/c/3", "b/1", "b/2"]


def test_what_cannot_be_opened_is_none(tmp_path: Path) -> None:
    assert not is_dicom(tmp_path / "not there")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "highdicom" else object())
    with pytest.raises(MissingExtraError, match=r"reading DICOM needs highdicom.*pip install 'fuse4seg\[dicom\]'"):
        require_dicom()
