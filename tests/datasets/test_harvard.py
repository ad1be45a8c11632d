"""Harvard's pairs: grey linked, colour by its luma, sets put together, and every fault in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from fuse4seg.datasets.harvard import convert_harvard
from fuse4seg.errors import FaultyCasesError, PairsNotFoundError, UnpairedCasesError


@pytest.fixture
def harvard(tmp_path: Path) -> Path:
    """Two sets, divided: CT in grey, PET in colour."""
    random = np.random.default_rng(0)
    for other, shape in (("CT", (8, 9)), ("PET", (8, 9, 3))):
        for part, cases in (("train", "ab"), ("val", "c")):
            for modality, wanted in (("MRI", (8, 9)), (other, shape)):
                folder = tmp_path / "Harvard" / f"{other}-MRI" / part / modality
                folder.mkdir(parents=True)
                for case in cases:
                    Picture.fromarray(random.integers(0, 256, wanted, dtype=np.uint8)).save(folder / f"{case}.png")
    return tmp_path / "Harvard"


def test_grey_pictures_are_linked(harvard: Path, raw: Path) -> None:
    convert_harvard(harvard / "CT-MRI", 7)
    folder = raw / "Dataset007_Harvard"
    names = {path.name for path in (folder / "imagesTr").iterdir()}
    assert names == {f"{case}_{number}.png" for case in "ab" for number in ("0000", "0001")}
    assert (folder / "imagesTr" / "a_0000.png").readlink() == harvard / "CT-MRI" / "train" / "MRI" / "a.png"
    assert (folder / "imagesTs" / "c_0001.png").readlink() == harvard / "CT-MRI" / "val" / "CT" / "c.png"
    assert not (folder / "labelsTr").exists()
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "MRI", "1": "CT"}, "labels": {"background": 0}, "numTraining": 2, "file_ending": ".png",
        "normalization": {"0": "rgb_to_0_1", "1": "rgb_to_0_1"}}


def test_of_colour_the_luma_is_written(harvard: Path, raw: Path) -> None:
    convert_harvard(harvard / "PET-MRI", 7, name="PET")
    written = Picture.open(raw / "Dataset007_PET" / "imagesTr" / "b_0001.png")
    colours = np.asarray(Picture.open(harvard / "PET-MRI" / "train" / "PET" / "b.png"))
    assert written.mode == "L"
    # ITU-R BT.601.
    np.testing.assert_allclose(np.asarray(written), colours @ [0.299, 0.587, 0.114], atol=0.6)


def test_several_sets_are_put_together(harvard: Path, raw: Path) -> None:
    convert_harvard(harvard, 7)
    described = json.loads((raw / "Dataset007_Harvard" / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "MRI", "1": "other"}
    assert described["numTraining"] == 4
    cases = {path.name[:-9] for path in (raw / "Dataset007_Harvard" / "imagesTr").iterdir()}
    assert cases == {"CT_a", "CT_b", "PET_a", "PET_b"}


def test_a_set_that_is_not_divided_is_for_training(harvard: Path, raw: Path) -> None:
    convert_harvard(harvard / "CT-MRI" / "train", 7)
    assert len(list((raw / "Dataset007_Harvard" / "imagesTr").iterdir())) == 4


def test_faulty_pictures_are_named_and_nothing_is_written(harvard: Path, raw: Path) -> None:
    train = harvard / "CT-MRI" / "train"
    Picture.new("L", (5, 5)).save(train / "CT" / "a.png")
    Picture.fromarray(np.zeros((8, 9), np.uint16)).save(train / "MRI" / "b.png")
    with pytest.raises(FaultyCasesError) as caught:
        convert_harvard(harvard / "CT-MRI", 7)
    lines = str(caught.value).splitlines()
    assert "CT/a.png has shape (5, 5) instead of (8, 9)" in lines[0]
    assert "MRI/b.png is no 8-bit" in lines[1]
    assert not list(raw.iterdir())


def test_any_error_of_a_case_is_its_fault(harvard: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuse4seg.datasets.raw_writer.read_grey_image", lambda path: [][0])
    with pytest.raises(FaultyCasesError, match=r"case a: it cannot be used \(IndexError: list index out of range\)"):
        convert_harvard(harvard / "CT-MRI", 7)
    assert not list(raw.iterdir())


def test_pictures_without_a_partner_are_refused(harvard: Path, raw: Path) -> None:
    (harvard / "PET-MRI" / "val" / "PET" / "c.png").rename(harvard / "PET-MRI" / "val" / "PET" / "d.png")
    with pytest.raises(UnpairedCasesError, match="lacks 1 image"):
        convert_harvard(harvard, 7)
    assert not list(raw.iterdir())


def test_folders_without_pairs_are_refused(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "train" / "CT").mkdir(parents=True)
    with pytest.raises(PairsNotFoundError, match="no folder MRI"):
        convert_harvard(tmp_path, 7)
