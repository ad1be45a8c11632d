"""NIfTI headers: rounded directions and NIfTI-2 are read, tilted gantries are named, and headers come back."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization

from fuse4seg.datasets.images import read_image
from fuse4seg.datasets.integrity import find_fault
from fuse4seg.datasets.nifti import HEADER, give_header_back, header_of, itk_header, readable_by_itk
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import UnreadableImageError
from fuse4seg.planning.fingerprint import summarise_case

VOXELS = np.random.default_rng(0).integers(1, 200, (7, 6, 5), dtype=np.int16)
#: Two oblique axes.
TURNED = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
ENDINGS = pytest.mark.parametrize("ending", [".nii", ".nii.gz"])


def sheared(radians: float, turned: np.ndarray = TURNED) -> np.ndarray:
    """Affine of voxels of 0.9 x 1.1 x 2.5 mm whose slices are tilted by an angle."""
    affine = np.eye(4)
    affine[:3, :3] = turned @ np.array([[1, 0, 0], [0, 1, np.sin(radians)], [0, 0, np.cos(radians)]]) @ np.diag([0.9, 1.1, 2.5])
    affine[:3, 3] = (-12, 30, 4)
    return affine


def written(path: Path, affine: np.ndarray, kind: type = nibabel.Nifti1Image) -> Path:
    """An image placed by its sform alone, so that ITK has nothing else to go by."""
    image = kind(VOXELS, affine)
    image.set_qform(None, 0)
    nibabel.save(image, path)
    return path


class TestReading:
    @ENDINGS
    @pytest.mark.parametrize("radians", [1e-3, -5e-3])
    def test_straightens_rounded_directions(self, tmp_path: Path, ending: str, radians: float,
                                            caplog: pytest.LogCaptureFixture) -> None:
        path = written(tmp_path / f"a{ending}", sheared(radians))
        with caplog.at_level(logging.WARNING):
            image = read_image(path, SimpleITKIO)
        np.testing.assert_array_equal(image.voxels[0], VOXELS.T)
        axes = np.reshape(image.geometry.direction, (3, 3))
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
        np.testing.assert_allclose(np.diag([-1, -1, 1]) @ axes, TURNED, atol=abs(radians))
        np.testing.assert_allclose(image.geometry.spacing, (2.5, 1.1, 0.9), rtol=1e-6)
        np.testing.assert_allclose(image.geometry.origin, (12, -30, 4), rtol=1e-6)
        assert f"{path}: its axes are {np.degrees(abs(radians)):.3g} degrees off right angles" in caplog.text

    @ENDINGS
    def test_reads_nifti_2(self, tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture) -> None:
        image = read_image(written(tmp_path / f"a{ending}", sheared(0), nibabel.Nifti2Image), SimpleITKIO)
        np.testing.assert_array_equal(image.voxels[0], VOXELS.T)
        np.testing.assert_allclose(np.diag([-1, -1, 1]) @ np.reshape(image.geometry.direction, (3, 3)), TURNED, atol=1e-6)
        assert not caplog.text

    def test_says_how_far_a_tilted_gantry_is_off(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.nii.gz", sheared(np.radians(15)))
        said = rf"{path} .*its axes are 15 degrees off right angles, up to 0.5 .*Resample"
        with pytest.raises(UnreadableImageError, match=said):
            read_image(path, SimpleITKIO)
        assert read_image(path, NibabelIO).voxels.shape == (1, 5, 6, 7)

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".tif"])
    def test_gives_itk_no_name_that_would_abort_it(self, tmp_path: Path, ending: str) -> None:
        path = Path(str(tmp_path), b"M\xfcller".decode(errors="surrogateescape") + ending)
        path.write_bytes(b"")
        with pytest.raises(UnreadableImageError, match="its name is not in UTF-8"), readable_by_itk([path]):
            pass
        with pytest.raises(UnreadableImageError, match="its name is not in UTF-8"):
            itk_header(path)

    def test_names_what_is_cut_off(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.nii", sheared(0), nibabel.Nifti2Image)
        path.write_bytes(path.read_bytes()[:-300])
        with pytest.raises(UnreadableImageError, match=str(path)):
            read_image(path, SimpleITKIO)

    @pytest.mark.parametrize(("affine", "kind"), [(sheared(1e-3), nibabel.Nifti1Image), (sheared(0), nibabel.Nifti2Image)])
    def test_is_that_of_planning(self, tmp_path: Path, affine: np.ndarray, kind: type) -> None:
        path = written(tmp_path / "a_0000.nii.gz", affine, kind)
        label = tmp_path / "a.nii.gz"
        nibabel.save(kind((VOXELS > 100).astype(np.uint8), affine), label)
        assert find_fault(Case("a", (path,), label), channels=["T1"], allowed={0, 1}, reader=SimpleITKIO) is None
        summary = summarise_case({"images": [str(path)], "present": (True,), "label": str(label)}, reader=SimpleITKIO,
                                 schemes=[ZScoreNormalization], classes={"bright": 1}, draws=10, limit=10)
        assert summary.shape == [5, 6, 7]
        np.testing.assert_allclose(summary.spacing, (2.5, 1.1, 0.9), rtol=1e-6)
        assert summary.volumes["bright"] == pytest.approx((VOXELS > 100).sum() * 2.5 * 1.1 * 0.9 / 1000, rel=1e-6)


class TestGivingBack:
    @pytest.mark.parametrize("codes", [(0, 1), (1, 0), (1, 1), (4, 2), (0, 0)])
    @pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
    def test_restores_forms_codes_and_units(self, tmp_path: Path, codes: tuple[int, int], kind: type) -> None:
        source = kind(VOXELS, sheared(0))
        source.set_sform(sheared(0.1), codes[0])
        source.set_qform(sheared(0), codes[1])
        source.header.set_xyzt_units("micron")
        nibabel.save(source, tmp_path / "source.nii")
        nibabel.save(nibabel.Nifti1Image(VOXELS.astype(np.uint8), np.eye(4)), tmp_path / "made.nii")
        give_header_back(tmp_path / "made.nii", header_of(tmp_path / "source.nii"))
        made = nibabel.load(tmp_path / "made.nii")
        assert made.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asanyarray(made.dataobj), VOXELS.astype(np.uint8))
        assert (int(made.header["sform_code"]), int(made.header["qform_code"])) == codes
        np.testing.assert_allclose(made.get_sform(), sheared(0.1), atol=1e-5)
        np.testing.assert_allclose(made.get_qform(), sheared(0), atol=1e-5)
        assert made.header.get_zooms() == pytest.approx((0.9, 1.1, 2.5))
        assert made.header.get_xyzt_units()[0] == "micron"

    def test_leaves_what_has_no_header(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.nii", sheared(0))
        before = path.read_bytes()
        give_header_back(path, {})
        assert path.read_bytes() == before
        (tmp_path / "a.png").write_bytes(b"")
        assert header_of(tmp_path / "a.png") == {}
        assert list(header_of(path)) == [HEADER]
