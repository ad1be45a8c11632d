"""New raw datasets: whole or not at all, linked where possible."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from fuse4seg.datasets.raw_writer import new_raw_dataset, place
from fuse4seg.errors import DatasetExistsError, DuplicateCaseError, OptionError


def test_appears_when_it_is_whole(raw: Path) -> None:
    with new_raw_dataset(7, "Heads") as folder:
        (folder / "dataset.json").write_text("{}")
        assert not list(raw.glob("Dataset*"))
    assert (raw / "Dataset007_Heads" / "dataset.json").is_file()


def test_leaves_nothing_when_it_fails(raw: Path) -> None:
    def fail() -> None:
        with new_raw_dataset(7, "Heads") as folder:
            (folder / "imagesTr").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(raw.iterdir())


def test_an_id_that_is_taken_is_refused_and_what_is_there_stays(raw: Path) -> None:
    (raw / "Dataset007_Others").mkdir(parents=True)
    with pytest.raises(DatasetExistsError, match="Dataset007_Others"), new_raw_dataset(7, "Heads"):
        pass
    assert [path.name for path in raw.iterdir()] == ["Dataset007_Others"]


@pytest.mark.parametrize(("dataset_id", "name"), [(0, "Heads"), (1000, "Heads"), (7, "two__parts"), (7, "../x"), (7, "")])
def test_names_that_break_nnunet_are_refused(raw: Path, dataset_id: int, name: str) -> None:
    with pytest.raises(OptionError, match="OUT_ID"), new_raw_dataset(dataset_id, name):
        pass


def test_files_are_linked_copied_or_packed_always_to_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "a.nii"
    source.write_bytes(b"voxels")
    for name, copy in (("linked.nii", False), ("copied.nii", True), ("packed.nii.gz", False), ("again.nii.gz", False)):
        place(source, tmp_path / "images" / name, copy=copy)
    assert (tmp_path / "images" / "linked.nii").readlink() == source
    assert not (tmp_path / "images" / "copied.nii").is_symlink()
    assert (tmp_path / "images" / "copied.nii").read_bytes() == b"voxels"
    packed = (tmp_path / "images" / "packed.nii.gz").read_bytes()
    assert gzip.decompress(packed) == b"voxels"
    assert (tmp_path / "images" / "again.nii.gz").read_bytes() == packed


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_second_file_of_one_name_is_refused_and_the_first_stays(tmp_path: Path, copy: bool, ending: str) -> None:
    """A file that was linked is the user's own; a second one written there would go through the link."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"a{ending}").write_bytes(name.encode())
    target = tmp_path / "images" / f"a{ending}"
    place(tmp_path / "one" / f"a{ending}", target, copy=copy)
    with pytest.raises(DuplicateCaseError, match=f"{tmp_path / 'other' / 'a'}"):
        place(tmp_path / "other" / f"a{ending}", target, copy=copy)
    assert (tmp_path / "one" / f"a{ending}").read_bytes() == target.read_bytes() == b"one"


def test_files_are_copied_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("links are not supported")

    monkeypatch.setattr(os, "symlink", refuse)
    (tmp_path / "a.nii").write_bytes(b"voxels")
    place(tmp_path / "a.nii", tmp_path / "images" / "a.nii")
    assert (tmp_path / "images" / "a.nii").read_bytes() == b"voxels"
