"""f4s_register: a folder in, another out, and a status that tells of bad cases."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fuse4seg.cli.register import main


@pytest.fixture
def folder(phantom_roots: Path, tmp_path: Path) -> Path:
    """The phantom's one unseen case, of four modalities."""
    place = tmp_path / "images"
    shutil.copytree(phantom_roots / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs", place)
    return place


def test_copies_what_needs_no_repair(folder: Path, tmp_path: Path) -> None:
    assert main(["-i", str(folder), "-o", str(tmp_path / "out"), "--reference", "1", "-np", "1"]) == 0
    for path in folder.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_names_a_bad_case(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = folder / "phantom_005_0002.nii.gz"
    bad.write_bytes(b"no image")
    assert main(["-i", str(folder), "-o", str(tmp_path / "out"), "-np", "1"]) == 1
    assert str(bad) in capsys.readouterr().err
