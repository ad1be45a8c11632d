"""Infrared and visible pairs in the layouts of their releases: named, split, labelled, and every fault in one line."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from fuse4seg.datasets.pairs import convert_pairs
from fuse4seg.errors import DatasetJsonError, FaultyCasesError, PairsNotFoundError, UnpairedCasesError

SHAPE = (8, 9)
RANDOM = np.random.default_rng(0)


def picture(path: Path, shape: tuple[int, ...] = SHAPE, *, most: int = 256) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(RANDOM.integers(0, most, shape, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def msrs(tmp_path: Path) -> Path:
    """Train and test as MSRS has them, visible images in colour, masks of all its classes, and boxes beside."""
    for part, cases in (("train", ("00001D", "00002N")), ("test", ("00004N",))):
        for case in cases:
            picture(tmp_path / "MSRS" / part / "ir" / f"{case}.png")
            picture(tmp_path / "MSRS" / part / "vi" / f"{case}.png", (*SHAPE, 3))
            picture(tmp_path / "MSRS" / part / "Segmentation_labels" / f"{case}.png", most=9)
    for kind in ("ir", "vi"):
        picture(tmp_path / "MSRS" / "detection" / kind / "1.png")
    (tmp_path / "MSRS" / "detection" / "labels").mkdir()
    (tmp_path / "MSRS" / "detection" / "labels" / "1.txt").write_text("0 .5 .5 .1 .1")
    return tmp_path / "MSRS"


class TestFolders:
    def test_msrs_is_split_and_labelled(self, msrs: Path, raw: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            convert_pairs(msrs, 7, name="MSRS")
        folder = raw / "Dataset007_MSRS"
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png")) == [
            *(f"imagesTr/{case}_{number}.png" for case in ("00001D", "00002N") for number in ("0000", "0001")),
            "imagesTs/00004N_0000.png", "imagesTs/00004N_0001.png",
            "labelsTr/00001D.png", "labelsTr/00002N.png", "labelsTs/00004N.png"]
        assert (folder / "imagesTs" / "00004N_0000.png").readlink() == msrs / "test" / "ir" / "00004N.png"
        assert json.loads((folder / "dataset.json").read_text()) == {
            "channel_names": {"0": "infrared", "1": "visible"}, "numTraining": 2, "file_ending": ".png",
            "labels": {"background": 0, "car": 1, "person": 2, "bike": 3, "curve": 4, "car_stop": 5, "guardrail": 6,
                       "color_cone": 7, "bump": 8},
            "normalization": {"0": "rgb_to_0_1", "1": "rgb_to_0_1"}}
        for case in ("00001D", "00002N"):
            mask = msrs / "train" / "Segmentation_labels" / f"{case}.png"
            np.testing.assert_array_equal(Picture.open(folder / "labelsTr" / f"{case}.png"), Picture.open(mask))
        assert "3 visible image(s) are in colour: their luma (ITU-R BT.601) is written" in caplog.text
        assert "as in MSRS" in caplog.text

    def test_of_visible_images_in_colour_the_luma_is_written(self, msrs: Path, raw: Path) -> None:
        convert_pairs(msrs, 7)
        written = Picture.open(raw / "Dataset007_Pairs" / "imagesTr" / "00001D_0001.png")
        assert written.mode == "L"
        colours = np.asarray(Picture.open(msrs / "train" / "vi" / "00001D.png"))
        np.testing.assert_allclose(np.asarray(written), colours @ [0.299, 0.587, 0.114], atol=0.6)

    def test_roadscene_has_no_parts_and_no_masks(self, tmp_path: Path, raw: Path) -> None:
        for case in ("FLIR_00006", "FLIR_00018"):
            picture(tmp_path / "in" / "cropinfrared" / f"{case}.jpg")
            picture(tmp_path / "in" / "crop_LR_visible" / f"{case}.jpg", (*SHAPE, 3))
            picture(tmp_path / "in" / "crop_HR_visible" / f"{case}.jpg", (2 * SHAPE[0], 2 * SHAPE[1], 3))
        convert_pairs(tmp_path / "in", 7, name="RoadScene")
        folder = raw / "Dataset007_RoadScene"
        assert {path.name for path in (folder / "imagesTr").iterdir()} == {
            f"FLIR_{case}_{number}.png" for case in ("00006", "00018") for number in ("0000", "0001")}
        stored = np.asarray(Picture.open(tmp_path / "in" / "cropinfrared" / "FLIR_00006.jpg"))
        np.testing.assert_array_equal(Picture.open(folder / "imagesTr" / "FLIR_00006_0000.png"), stored)
        assert not (folder / "labelsTr").exists()
        assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0}

    def test_classes_are_named_by_a_file_beside_them(self, msrs: Path, raw: Path) -> None:
        shutil.rmtree(msrs / "test")
        for mask in (msrs / "train" / "Segmentation_labels").iterdir():
            picture(mask, most=3)
        (msrs / "classes.txt").write_text("unlabelled\nroad\nhuman being\n")
        convert_pairs(msrs, 7)
        described = json.loads((raw / "Dataset007_Pairs" / "dataset.json").read_text())
        assert described["labels"] == {"background": 0, "road": 1, "human being": 2}

    def test_boxes_are_no_masks(self, msrs: Path, raw: Path) -> None:
        convert_pairs(msrs / "detection", 7)
        folder = raw / "Dataset007_Pairs"
        assert {path.name for path in (folder / "imagesTr").iterdir()} == {"1_0000.png", "1_0001.png"}
        assert not (folder / "labelsTr").exists()

    def test_masks_of_test_images_alone_make_no_labels(self, msrs: Path, raw: Path) -> None:
        shutil.rmtree(msrs / "train" / "Segmentation_labels")
        convert_pairs(msrs, 7)
        folder = raw / "Dataset007_Pairs"
        assert not list(folder.glob("labels*"))
        assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0}


class TestScenes:
    @pytest.fixture
    def tno(self, tmp_path: Path) -> Path:
        """Scenes of TNO's archive with every way of naming, one without thermal infrared, and a sequence."""
        for file in ("Athena_images/2_men_in_front_of_house/IR_meting003_g.bmp",
                     "Athena_images/2_men_in_front_of_house/VIS_meting003_r.bmp",
                     "Athena_images/APC_2/view_1/1_fk_ge_03_005.bmp", "Athena_images/APC_2/view_1/2_fk_ge_03_005.bmp",
                     "Athena_images/bunker/IR_bunker_g.bmp", "Athena_images/bunker/bunker_r.bmp",
                     "Athena_images/heather/IR_hei_vis_g.bmp", "Athena_images/heather/VIS_hei_vis_r.bmp",
                     "Triclobs_images/barbed_wire_1/B_LWIR.tif", "Triclobs_images/barbed_wire_1/G_NIR.tif",
                     "Triclobs_images/barbed_wire_1/R_Vis.tif", "Triclobs_images/Farm/Farm_II.bmp",
                     "Triclobs_images/Farm/Farm_IR.bmp", "Triclobs_images/Farm/Farm_Vis.bmp",
                     "Triclobs_images/Kaptein_01/IR01.bmp", "Triclobs_images/Kaptein_01/NIR01.bmp",
                     "Triclobs_images/Kaptein_01/Vis01.bmp", "Triclobs_images/Balls/NIR.bmp", "Triclobs_images/Balls/VIS.bmp",
                     "FEL_images/Tree_sequence/thermal/4900i.bmp", "FEL_images/Tree_sequence/visual/4900v.bmp"):
            picture(tmp_path / "TNO" / file)
        (tmp_path / "TNO" / "README.txt").touch()
        return tmp_path / "TNO"

    def test_are_named_by_their_folders(self, tno: Path, raw: Path, caplog: pytest.LogCaptureFixture) -> None:
        convert_pairs(tno, 7, name="TNO")
        images = raw / "Dataset007_TNO" / "imagesTr"
        for case, infrared, visible in (
                ("Athena_images_2_men_in_front_of_house", "IR_meting003_g.bmp", "VIS_meting003_r.bmp"),
                ("Athena_images_APC_2_view_1", "2_fk_ge_03_005.bmp", "1_fk_ge_03_005.bmp"),
                ("Athena_images_bunker", "IR_bunker_g.bmp", "bunker_r.bmp"),
                ("Athena_images_heather", "IR_hei_vis_g.bmp", "VIS_hei_vis_r.bmp"),
                ("Triclobs_images_barbed_wire_1", "B_LWIR.tif", "R_Vis.tif"),
                ("Triclobs_images_Farm", "Farm_IR.bmp", "Farm_Vis.bmp"),
                ("Triclobs_images_Kaptein_01", "IR01.bmp", "Vis01.bmp")):
            for number, file in enumerate((infrared, visible)):
                (source,) = tno.rglob(file)
                np.testing.assert_array_equal(Picture.open(images / f"{case}_{number:04d}.png"), Picture.open(source))
        assert len(list(images.iterdir())) == 14
        assert ("left out, as no file there is named IR: FEL_images_Tree_sequence_thermal, FEL_images_Tree_sequence_visual, "
                "Triclobs_images_Balls") in caplog.text

    def test_that_lack_an_image_or_have_several_are_named(self, tno: Path, raw: Path) -> None:
        (tno / "Triclobs_images" / "Farm" / "Farm_Vis.bmp").unlink()
        picture(tno / "Triclobs_images" / "Kaptein_01" / "IR02.bmp")
        with pytest.raises(FaultyCasesError) as caught:
            convert_pairs(tno, 7)
        farm, kaptein, _ = str(caught.value).splitlines()
        assert farm.startswith(f"{tno / 'Triclobs_images' / 'Farm'} holds 1 infrared and 0 visible images")
        assert kaptein.startswith(f"{tno / 'Triclobs_images' / 'Kaptein_01'} holds 2 infrared and 1 visible images")
        assert not raw.exists()


class TestFaults:
    def test_of_files_are_a_line_each_and_nothing_is_written(self, msrs: Path, raw: Path) -> None:
        picture(msrs / "train" / "vi" / "00001D.png", (5, 5))
        (msrs / "train" / "ir" / "00002N.png").write_bytes(b"no picture")
        picture(msrs / "test" / "Segmentation_labels" / "00004N.png", (7, 9), most=9)
        with pytest.raises(FaultyCasesError) as caught:
            convert_pairs(msrs, 7)
        size, unreadable, mask, _ = str(caught.value).splitlines()
        assert "train/vi/00001D.png has shape (5, 5) instead of (8, 9)" in size
        assert "train/ir/00002N.png cannot be read as an image" in unreadable
        assert "test/Segmentation_labels/00004N.png has shape (7, 9) instead of (8, 9)" in mask
        assert not list(raw.iterdir())

    def test_of_masks_name_the_value(self, msrs: Path, raw: Path) -> None:
        mask = msrs / "train" / "Segmentation_labels" / "00002N.png"
        Picture.fromarray(np.full(SHAPE, 255, np.uint8)).save(mask)
        picture(msrs / "train" / "Segmentation_labels" / "00001D.png", (*SHAPE, 3))
        with pytest.raises(FaultyCasesError) as caught:
            convert_pairs(msrs, 7)
        colour, value, _ = str(caught.value).splitlines()
        assert "00001D.png is in colour, and label values are wanted" in colour
        assert f"{mask} holds the value 255, and there are names for 0 to 8" in value
        assert not list(raw.iterdir())

    @pytest.mark.parametrize("lacks", ["ir/00001D.png", "vi/00001D.png", "Segmentation_labels/00001D.png"])
    def test_images_without_a_partner_are_refused(self, msrs: Path, raw: Path, lacks: str) -> None:
        (msrs / "train" / lacks).unlink()
        with pytest.raises(UnpairedCasesError, match="1 image.*: 00001D"):
            convert_pairs(msrs, 7)
        assert not raw.exists()

    def test_a_case_of_two_parts_replaces_nothing(self, msrs: Path, raw: Path) -> None:
        """The dataset holds links: what is written through one would replace the user's own image."""
        shutil.copytree(msrs / "test", msrs / "val")
        before = {path: path.read_bytes() for path in msrs.rglob("*.png")}
        picture(msrs / "test" / "ir" / "00004N.png")
        before[msrs / "test" / "ir" / "00004N.png"] = (msrs / "test" / "ir" / "00004N.png").read_bytes()
        with pytest.raises(FaultyCasesError, match="case 00004N_0000.png is there twice: .*val/ir/0.* and .*test/ir/0"):
            convert_pairs(msrs, 7)
        assert {path: path.read_bytes() for path in msrs.rglob("*.png")} == before

    @pytest.mark.parametrize("names", ["", "background\n", "background\ncar\ncar\n", "background\nbackground\n"])
    def test_classes_without_names_of_their_own_are_refused(self, msrs: Path, raw: Path, names: str) -> None:
        (msrs / "classes.txt").write_text(names)
        with pytest.raises(DatasetJsonError, match=r"classes.txt: names no class behind the background, or gives two"):
            convert_pairs(msrs, 7)
        assert not raw.exists()

    def test_classes_in_no_utf_8_are_refused(self, msrs: Path, raw: Path) -> None:
        (msrs / "classes.txt").write_bytes("background\nVögel\n".encode("latin-1"))
        with pytest.raises(DatasetJsonError, match=r"classes.txt: cannot be read as text"):
            convert_pairs(msrs, 7)

    def test_a_folder_without_pairs_is_refused(self, tmp_path: Path, raw: Path) -> None:
        picture(tmp_path / "in" / "train" / "vi" / "a.png")
        with pytest.raises(PairsNotFoundError, match=r"holds no folder ir \(or infrared"):
            convert_pairs(tmp_path / "in", 7)
