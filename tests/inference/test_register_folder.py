"""Registering a folder: what lies apart is put back, all else is copied bit for bit, and bad cases are named and passed over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Picture
from scipy.spatial.transform import Rotation

from fuse4seg.datasets.phantom import make_phantom
from fuse4seg.errors import OptionError, UnpairedCasesError
from fuse4seg.inference.register_folder import REGISTRATION, register_folder

SHAPE, SPACING = (40, 52, 48), (1.0, 1.0, 1.5)
TILT = Rotation.from_euler("xyz", (5, -8, 3), degrees=True).as_matrix()
SHIFT = 4


def placed(voxels: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING)
    image.SetOrigin((-40.0, 25.0, 7.0))
    image.SetDirection(TILT.ravel().tolist())
    return image


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Case moved, whose FLAIR (0001) lies 4 voxels off T1ce (0000), and case still, whose does not; whole numbers."""
    place = tmp_path / "images"
    place.mkdir()
    for case, shift in (("moved", SHIFT), ("still", 0)):
        images = make_phantom(0, shape=SHAPE).images
        for number, voxels in enumerate((images[1], np.roll(images[3], shift, axis=2))):
            sitk.WriteImage(placed(np.rint(voxels).astype(np.int16)), str(place / f"{case}_{number:04d}.nii.gz"))
    return place


class TestRegisterFolder:
    def test_puts_back_what_lies_apart(self, folder: Path, tmp_path: Path) -> None:
        """Nearly all of the movement is gone: the image is as it was before it, but for interpolation."""
        assert register_folder(folder, tmp_path / "out") == []
        before, after, true = (read(path / f"{case}_0001.nii.gz").astype(float) for path, case in (
            (folder, "moved"), (tmp_path / "out", "moved"), (folder, "still")))
        inner = (slice(6, -6),) * 3
        assert np.abs(after - true)[inner].mean() < 0.35 * np.abs(before - true)[inner].mean()
        told = json.loads((tmp_path / "out" / REGISTRATION).read_text())
        assert told["reference"] == 0
        found = told["cases"]["moved"]["moved_0001.nii.gz"]
        assert found["moved"]
        np.testing.assert_allclose(found["shift"], (SHIFT * SPACING[0], 0, 0), atol=0.5)

    def test_copies_all_else_bit_for_bit(self, folder: Path, tmp_path: Path) -> None:
        register_folder(folder, tmp_path / "out")
        for name in ("moved_0000", "still_0000", "still_0001"):
            assert (tmp_path / "out" / f"{name}.nii.gz").read_bytes() == (folder / f"{name}.nii.gz").read_bytes()

    def test_keeps_grid_header_and_type_of_voxels(self, folder: Path, tmp_path: Path) -> None:
        register_folder(folder, tmp_path / "out")
        reference = nibabel.load(folder / "moved_0000.nii.gz")
        written = nibabel.load(tmp_path / "out" / "moved_0001.nii.gz")
        np.testing.assert_array_equal(written.affine, reference.affine)
        assert written.get_data_dtype() == np.int16

    def test_says_what_it_moved(self, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            register_folder(folder, tmp_path / "out")
        said = [record.message for record in caplog.records]
        assert len(said) == 2
        assert said[0].startswith("moved_0001.nii.gz: moved by -")
        assert said[1].startswith("1 of 4 files were moved onto channel 0000, on whose grid labels stay right")

    def test_moves_onto_the_modality_that_is_named(self, folder: Path, tmp_path: Path) -> None:
        names = {"channel_names": {"0": "T1ce", "1": "FLAIR"}, "labels": {"background": 0}, "numTraining": 2,
                 "file_ending": ".nii.gz"}
        (tmp_path / "dataset.json").write_text(json.dumps(names))
        register_folder(folder, tmp_path / "out" / "images", reference="FLAIR")
        told = json.loads((tmp_path / "out" / "images" / REGISTRATION).read_text())["cases"]["moved"]
        assert {name: file["moved"] for name, file in told.items()} == {"moved_0000.nii.gz": True, "moved_0001.nii.gz": False}

    def test_brings_another_grid_to_the_reference(self, folder: Path, tmp_path: Path) -> None:
        """Half as many slices, and 30 mm off by the header: as far off as a scan of another day."""
        image = sitk.ReadImage(str(folder / "still_0001.nii.gz"))[:, :, ::2]
        image.SetOrigin((np.array(image.GetOrigin()) + TILT @ (30.0, 0.0, 0.0)).tolist())
        true = read(folder / "still_0001.nii.gz").astype(float)
        sitk.WriteImage(image, str(folder / "still_0001.nii.gz"))
        assert register_folder(folder, tmp_path / "out") == []
        written = read(tmp_path / "out" / "still_0001.nii.gz").astype(float)
        assert np.corrcoef(written.ravel(), true.ravel())[0, 1] > 0.95

    def test_is_the_same_from_several_processes(self, folder: Path, tmp_path: Path) -> None:
        for processes in (1, 2):
            register_folder(folder, tmp_path / f"out{processes}", processes=processes)
        for path in (tmp_path / "out1").iterdir():
            assert path.read_bytes() == (tmp_path / "out2" / path.name).read_bytes()

    def test_registers_pictures_in_colour(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        images = make_phantom(0, shape=(40, 96, 96)).images[:, 20]
        levels = [np.rint(255 * image / image.max()).astype(np.uint8) for image in (images[1], np.roll(images[3], 5, axis=1))]
        Picture.fromarray(levels[0]).save(tmp_path / "in" / "a_0000.png")
        Picture.fromarray(np.stack([levels[1], levels[1] // 2, levels[1] // 3], axis=-1)).save(tmp_path / "in" / "a_0001.png")
        assert register_folder(tmp_path / "in", tmp_path / "out") == []
        found = json.loads((tmp_path / "out" / REGISTRATION).read_text())["cases"]["a"]["a_0001.png"]
        np.testing.assert_allclose(found["shift"], (5, 0, 0), atol=0.6)
        assert read(tmp_path / "out" / "a_0001.png").shape == (96, 96, 3)


class TestBadInput:
    def test_a_bad_case_is_named_and_ends_nothing(self, folder: Path, tmp_path: Path) -> None:
        path = folder / "moved_0001.nii.gz"
        path.write_bytes(path.read_bytes()[:1000])
        faults = register_folder(folder, tmp_path / "out")
        assert len(faults) == 1
        assert str(path) in faults[0]
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"still_0000.nii.gz", "still_0001.nii.gz", REGISTRATION,
                                                                      "f4s_outputs.json"}

    def test_a_case_without_reference_is_named(self, folder: Path, tmp_path: Path) -> None:
        (folder / "moved_0000.nii.gz").unlink()
        fault, = register_folder(folder, tmp_path / "out")
        assert str(folder / "moved_0000.nii.gz") in fault

    def test_an_empty_image_of_another_grid_is_named(self, folder: Path, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.Image((20, 20, 20), sitk.sitkInt16), str(folder / "moved_0001.nii.gz"))
        fault, = register_folder(folder, tmp_path / "out")
        assert "moved_0001.nii.gz does not overlap" in fault

    def test_nothing_is_written_where_no_case_is_sound(self, folder: Path, tmp_path: Path) -> None:
        for path in folder.iterdir():
            path.write_bytes(b"")
        assert len(register_folder(folder, tmp_path / "out")) == 2
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_the_input_is_never_the_output(self, folder: Path, overwrite: bool) -> None:
        with pytest.raises(OptionError, match="holds the input"):
            register_folder(folder, folder, overwrite=overwrite)

    def test_files_of_others_are_not_replaced(self, folder: Path, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "out")
        with pytest.raises(OptionError, match="this tool did not write"):
            register_folder(folder, tmp_path / "out")

    @pytest.mark.parametrize(("reference", "named"), [("7", "no case has a channel 0007"), ("FLAIR", "no dataset.json")])
    def test_a_reference_that_is_not_there_is_refused(self, folder: Path, tmp_path: Path, reference: str, named: str) -> None:
        with pytest.raises(OptionError, match=named):
            register_folder(folder, tmp_path / "out", reference=reference)

    def test_files_of_other_names_are_refused(self, folder: Path, tmp_path: Path) -> None:
        (folder / "moved_0000.nii.gz").rename(folder / "moved.nii.gz")
        with pytest.raises(UnpairedCasesError, match=r"moved\.nii\.gz is not named"):
            register_folder(folder, tmp_path / "out")
