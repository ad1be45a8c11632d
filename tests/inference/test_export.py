"""Export: what nnU-Net's preprocessor cropped, turned and resampled comes back to the input's grid and place."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import gaussian_filter

from fuse4seg.errors import UnwritableFolderError
from fuse4seg.inference.export import to_input_space, write_image

MakePlans = Callable[..., PlansManager]
BOX = (slice(3, 17), slice(4, 20), slice(5, 27))


def head(shape: Sequence[int] = (20, 24, 30)) -> np.ndarray:
    """Smooth image between 0.2 and 1 within BOX and 0 outside."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(shape), 2.5)
    image = np.zeros(shape, np.float32)
    image[BOX] = (0.2 + 0.8 * (noise - noise.min()) / np.ptp(noise))[BOX]
    return image


def there_and_back(image: np.ndarray, spacing: Sequence[float],
                   plans: PlansManager) -> tuple[np.ndarray, tuple[int, ...]]:
    """The image after preprocessing and its return, and its shape in between."""
    properties: dict[str, Any] = {"spacing": list(spacing)}
    configuration = plans.get_configuration("here")
    dataset_json = {"channel_names": {"0": "T1"}, "labels": {"background": 0}}
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image[None], None, properties, plans, configuration, dataset_json)
    back = to_input_space(torch.from_numpy(data), properties, plans=plans, configuration=configuration)
    return back, data.shape[1:]


class TestToInputSpace:
    @pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
    def test_undoes_cropping_and_transposition_exactly(self, make_plans: MakePlans, transpose: tuple[int, int, int]) -> None:
        image = head()
        back, between = there_and_back(image, (1, 1, 1), make_plans((1, 1, 1), transpose=transpose))
        assert between == tuple(np.array([14, 16, 22])[list(transpose)])
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, image[None])

    def test_is_0_outside_the_box_that_preprocessing_kept(self, make_plans: MakePlans) -> None:
        back, _ = there_and_back(head(), (1, 1, 1), make_plans((2, 2, 2)))
        outside = np.ones(back.shape, bool)
        outside[(slice(None), *BOX)] = False
        assert not back[outside].any()
        assert back[0][BOX].min() > 0

    @pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (1.6, 1.3, 0.7), (3.0, 0.9, 0.9)])
    def test_brings_a_resampled_image_back_to_its_grid(self, make_plans: MakePlans, spacing: tuple[float, float, float]) -> None:
        image = head()
        back, between = there_and_back(image, spacing, make_plans((1, 1, 1), transpose=(1, 0, 2)))
        assert between == tuple(round(size * spacing[axis]) for axis, size in ((1, 16), (0, 14), (2, 22)))
        assert back.shape == (1, *image.shape)
        difference = np.abs(back[0] - image)[BOX]
        assert difference.mean() < 0.02
        assert 0 <= back.min() <= back.max() <= 1

    def test_keeps_the_slices_of_a_2d_configuration(self, make_plans: MakePlans) -> None:
        """A plan of two axes leaves the spacing between slices alone."""
        image = head()
        back, between = there_and_back(image, (5, 1, 1), make_plans((2, 2)))
        assert between == (14, 8, 11)
        assert np.abs(back[0] - image)[BOX].mean() < 0.1

    def test_treats_every_image_alike(self, make_plans: MakePlans) -> None:
        plans, image = make_plans((1, 1, 1)), head()
        properties = {"spacing": [1.0, 1.0, 1.0], "shape_before_cropping": image.shape,
                      "bbox_used_for_cropping": [[part.start, part.stop] for part in BOX],
                      "shape_after_cropping_and_before_resampling": image[BOX].shape}
        pair = torch.from_numpy(np.stack([image[BOX], 1 - image[BOX]]))
        back = to_input_space(pair, properties, plans=plans, configuration=plans.get_configuration("here"))
        np.testing.assert_array_equal(back[0], image)
        np.testing.assert_array_equal(back[1][BOX], 1 - image[BOX])


class TestWriteImage:
    AFFINES = {"RAS": np.diag([0.9, 1.1, 2.5, 1]), "LPS": np.diag([-0.9, -1.1, 2.5, 1]),
               "PSR": np.array([[0, 0, 2.5, -30], [-0.9, 0, 0, 12], [0, 1.1, 0, 7], [0, 0, 0, 1]])}

    @pytest.fixture
    def voxels(self) -> np.ndarray:
        return np.random.default_rng(1).random((5, 6, 7), dtype=np.float32)

    @pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient])
    @pytest.mark.parametrize("order", AFFINES)
    def test_gives_back_what_was_read_where_it_was(self, voxels: np.ndarray, order: str, reader: type[BaseReaderWriter],
                                                   tmp_path: Path) -> None:
        affine = self.AFFINES[order].copy()
        affine[:3, 3] += [10, -20, 30]
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "in.nii.gz")
        read, properties = reader().read_images([str(tmp_path / "in.nii.gz")])
        write_image(read[0], tmp_path / "out.nii.gz", properties)
        written = nibabel.load(tmp_path / "out.nii.gz")
        np.testing.assert_allclose(written.affine, affine, atol=1e-5)
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), voxels)

    @pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
    def test_keeps_origin_spacing_and_direction(self, voxels: np.ndarray, ending: str, tmp_path: Path) -> None:
        tilted = sitk.Euler3DTransform((0, 0, 0), 0.1, -0.2, 0.3).GetMatrix()
        image = sitk.GetImageFromArray(voxels)
        image.SetOrigin((-12.5, 40, 3))
        image.SetSpacing((0.7, 1.2, 3))
        image.SetDirection(tilted)
        sitk.WriteImage(image, str(tmp_path / f"in{ending}"))
        read, properties = SimpleITKIO().read_images([str(tmp_path / f"in{ending}")])
        write_image(read[0], tmp_path / f"out{ending}", properties)
        written = sitk.ReadImage(str(tmp_path / f"out{ending}"))
        assert written.GetPixelID() == sitk.sitkFloat32
        assert written.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-4)
        assert written.GetSpacing() == pytest.approx(image.GetSpacing(), abs=1e-6)
        assert written.GetDirection() == pytest.approx(tilted, abs=1e-6)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), voxels)

    def test_keeps_a_2d_nifti_2d(self, tmp_path: Path) -> None:
        image = sitk.GetImageFromArray(np.random.default_rng(2).random((6, 7), dtype=np.float32))
        image.SetSpacing((0.5, 0.25))
        sitk.WriteImage(image, str(tmp_path / "in.nii.gz"))
        read, properties = SimpleITKIO().read_images([str(tmp_path / "in.nii.gz")])
        write_image(read[0], tmp_path / "out.nii.gz", properties)
        written = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
        assert written.GetSize() == (7, 6)
        assert written.GetSpacing() == (0.5, 0.25)

    def test_writes_8_bit_png(self, tmp_path: Path) -> None:
        voxels = np.array([[[0, 0.5, 1], [-0.1, 0.2, 1.2]]], np.float32)
        write_image(voxels, tmp_path / "out.png", {"spacing": (999, 1, 1)})
        read, _ = NaturalImage2DIO().read_images([str(tmp_path / "out.png")])
        np.testing.assert_array_equal(read[0, 0], [[0, 128, 255], [0, 51, 255]])

    def test_keeps_all_pages_of_a_tiff(self, voxels: np.ndarray, tmp_path: Path) -> None:
        write_image(voxels, tmp_path / "out.tif", {"spacing": (1, 1, 1)})
        read, _ = Tiff3DIO().read_images([str(tmp_path / "out.tif")])
        np.testing.assert_array_equal(read[0], np.rint(voxels * 255))

    @pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".tif"])
    def test_leaves_nothing_on_a_full_disk(self, ending: str, tmp_path: Path) -> None:
        properties: dict[str, Any] = {"spacing": (1, 1, 1)}
        if ending not in (".png", ".tif"):
            identity = np.eye(3).ravel().tolist()
            properties["sitk_stuff"] = {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": identity}
        voxels = np.random.default_rng(3).random((1, 300, 300), dtype=np.float32)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(UnwritableFolderError, match=str(tmp_path)):
                write_image(voxels, tmp_path / f"out{ending}", properties)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(tmp_path.iterdir())

    def test_leaves_no_temporary_file(self, voxels: np.ndarray, tmp_path: Path) -> None:
        write_image(voxels, tmp_path / "out.tif", {"spacing": (1, 1, 1)})
        assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]
