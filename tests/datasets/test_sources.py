"""Which files belong together: both layouts, and everything that does not pair."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.datasets.sources import find_sources
from fuse4seg.errors import MissingModalityError, OptionError, UnpairedCasesError


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_folders_pair_by_names_whatever_their_endings(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "CT", "b.png", "a.png"), touch(tmp_path / "MRI", "a.bmp", "b.png")
    sources = find_sources([first, second])
    assert sources.names == ("CT", "MRI")
    assert sources.images == {"a": (first / "a.png", second / "a.bmp"), "b": (first / "b.png", second / "b.png")}


def test_folders_of_the_same_name_are_named_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    folders = [touch(tmp_path / "images", "a.png"), touch(tmp_path / "x" / "images", "a.png")]
    assert find_sources(folders).names == tuple(map(str, folders))


def test_one_folder_holds_numbered_modalities(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in", "b_0001.nii.gz", "b_0000.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz")
    sources = find_sources([folder])
    assert sources.names == ("0000", "0001")
    assert list(sources.images) == ["a", "b"]
    assert sources.images["b"] == (folder / "b_0000.nii.gz", folder / "b_0001.nii.gz")


def test_names_in_one_folder_only_are_refused_in_both_directions(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "CT", "a.png", "b.png"), touch(tmp_path / "MRI", "a.png")
    for folders in ([first, second], [second, first]):
        with pytest.raises(UnpairedCasesError, match=r"MRI lacks 1 image\(s\) that .*CT holds: b\."):
            find_sources(folders)


def test_incomplete_and_misnamed_cases_of_one_folder_are_refused(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in", "a_0000.png", "a_0001.png", "b_0001.png")
    with pytest.raises(MissingModalityError, match="case b has no 0000"):
        find_sources([folder])
    (folder / "b_0001.png").rename(folder / "b.png")
    with pytest.raises(UnpairedCasesError, match=r"b\.png is not named"):
        find_sources([folder])
    with pytest.raises(UnpairedCasesError, match="one modality alone"):
        find_sources([touch(tmp_path / "single", "a_0000.png")])


def test_too_many_folders_and_one_given_twice_are_refused(tmp_path: Path) -> None:
    folders = [touch(tmp_path / str(index), "a.png") for index in range(5)]
    for given in (folders, [folders[0], folders[0]]):
        with pytest.raises(OptionError, match="-i: takes one folder"):
            find_sources(given)
