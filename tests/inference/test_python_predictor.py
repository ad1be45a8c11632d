"""Prediction from Python: what the command gives, from files and from arrays, and mistakes told apart."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import fuse4seg
from fuse4seg.cli.predict import main
from fuse4seg.errors import FaultyImageError, MissingModalityError
from fuse4seg.model_errors import ModelNotFoundError, PreviousStageError, PreviousStageNotFoundError


@pytest.fixture(scope="module")
def files(trained_phantom: Path) -> list[Path]:
    return sorted((trained_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs").iterdir())


@pytest.fixture(scope="module")
def predictor(trained_model: Path) -> fuse4seg.Predictor:
    return fuse4seg.Predictor(trained_model, device="cpu", mirroring=False)


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


class TestPredictor:
    @pytest.mark.parametrize("absent", [None, 2])
    def test_gives_what_the_command_writes(self, predictor: fuse4seg.Predictor, files: list[Path], trained_phantom: Path,
                                           tmp_path: Path, absent: int | None) -> None:
        (tmp_path / "images").mkdir()
        given = [None if number == absent else path for number, path in enumerate(files)]
        for path in filter(None, given):
            (tmp_path / "images" / path.name).symlink_to(path)
        assert main(["-i", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--root", str(trained_phantom), "-device",
                     "cpu", "--disable_tta", "--allow_missing"]) == 0
        found = predictor.predict(given)
        np.testing.assert_array_equal(found.segmentation, voxels(tmp_path / "out" / "phantom_005.nii.gz"))
        assert (found.fused.dtype, found.fused.shape[:2]) == (np.uint8, (1, 3))
        written = voxels(tmp_path / "out" / "fused" / "phantom_005.nii.gz")
        np.testing.assert_array_equal(np.moveaxis(found.fused[0], 0, -1), written)
        assert found.probabilities is None

    @pytest.mark.parametrize("absent", [None, 0])
    def test_gives_of_arrays_what_it_gives_of_files(self, predictor: fuse4seg.Predictor, files: list[Path],
                                                    absent: int | None) -> None:
        paths = [None if number == absent else path for number, path in enumerate(files)]
        of_files = predictor.predict(paths)
        of_arrays = predictor.predict([None if path is None else voxels(path) for path in paths], spacing=of_files.spacing)
        np.testing.assert_array_equal(of_arrays.segmentation, of_files.segmentation)
        np.testing.assert_array_equal(of_arrays.fused, of_files.fused)
        assert of_arrays.spacing == of_files.spacing == (1, 1, 1)

    def test_gives_probabilities_on_request(self, predictor: fuse4seg.Predictor, files: list[Path]) -> None:
        found = predictor.predict(files, probabilities=True)
        np.testing.assert_array_equal(found.probabilities.argmax(axis=0), found.segmentation)

    def test_knows_its_modalities(self, predictor: fuse4seg.Predictor) -> None:
        assert predictor.modalities == ["T1", "T1ce", "T2", "FLAIR"]


class TestSegment:
    """Of the fused image alone."""

    def test_gives_what_prediction_gave(self, predictor: fuse4seg.Predictor, files: list[Path]) -> None:
        whole = predictor.predict(files, probabilities=True)
        again = predictor.segment(whole.fused, spacing=whole.spacing, probabilities=True)
        assert len(np.unique(whole.segmentation)) > 1
        np.testing.assert_array_equal(again.segmentation, whole.segmentation)
        np.testing.assert_array_equal(again.probabilities, whole.probabilities)
        np.testing.assert_array_equal(again.fused, whole.fused)
        assert again.spacing == whole.spacing

    def test_follows_the_image(self, predictor: fuse4seg.Predictor, files: list[Path]) -> None:
        whole = predictor.predict(files)
        changed = np.where(whole.fused > 0, 256 - whole.fused.astype(int), 0).astype(np.uint8)
        assert (predictor.segment(changed, spacing=whole.spacing).segmentation != whole.segmentation).any()

    def test_of_several_folds_takes_the_image_of_each(self, untrained_cascade: Path) -> None:
        """In 3D, and resampled: the model's spacing is 2 mm, the case's 1 mm."""
        folder = untrained_cascade / "nnUNet_results" / "Dataset990_Phantom" / "Fuse4SegTrainer__Fuse4SegPlans__3d_lowres"
        images = sorted((untrained_cascade / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs").iterdir())
        both = fuse4seg.Predictor(folder, device="cpu", mirroring=False)
        whole = both.predict(images)
        assert whole.fused.shape == (2, 3, *whole.segmentation.shape)
        np.testing.assert_array_equal(both.segment(whole.fused, spacing=whole.spacing).segmentation, whole.segmentation)
        with pytest.raises(ValueError, match=r"fused must be uint8 of shape \(2, 3\) and \(Z, Y, X\), got uint8"):
            both.segment(whole.fused[:1], spacing=whole.spacing)

    @pytest.mark.parametrize("change", [lambda fused: fused / np.float32(255), lambda fused: fused[:, :1],
                                        lambda fused: fused[0]])
    def test_refuses_what_is_no_fused_image(self, predictor: fuse4seg.Predictor,
                                            change: Callable[[np.ndarray], np.ndarray]) -> None:
        with pytest.raises(ValueError, match="fused must be uint8"):
            predictor.segment(change(np.ones((1, 3, 4, 20, 20), np.uint8)), spacing=(1, 1, 1))

    def test_is_not_had_of_a_second_stage(self, untrained_cascade: Path) -> None:
        folder = untrained_cascade / "nnUNet_results" / "Dataset990_Phantom"
        second = fuse4seg.Predictor(folder / "Fuse4SegTrainer__Fuse4SegPlans__3d_cascade_fullres", folds=[0], device="cpu")
        with pytest.raises(ValueError, match="second stage of a cascade"):
            second.segment(np.ones((1, 3, 4, 20, 20), np.uint8), spacing=(1, 1, 1))


class TestCascade:
    @pytest.fixture
    def models(self, untrained_cascade: Path) -> Path:
        return untrained_cascade / "nnUNet_results" / "Dataset990_Phantom"

    @pytest.fixture
    def second_stage(self, models: Path) -> fuse4seg.Predictor:
        return fuse4seg.Predictor(models / "Fuse4SegTrainer__Fuse4SegPlans__3d_cascade_fullres", folds=[0], device="cpu",
                                  mirroring=False)

    @pytest.fixture
    def images(self, untrained_cascade: Path) -> list[Path]:
        return sorted((untrained_cascade / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs").iterdir())

    def test_gives_what_the_command_writes(self, second_stage: fuse4seg.Predictor, images: list[Path], untrained_cascade: Path,
                                           tmp_path: Path) -> None:
        """By its own first stage, by what that segmented, by its file, and of arrays."""
        assert main(["-i", str(images[0].parent), "-o", str(tmp_path), "--root", str(untrained_cascade), "-c",
                     "3d_cascade_fullres", "-f", "0", "-device", "cpu", "--disable_tta"]) == 0
        wanted, kept = voxels(tmp_path / "phantom_005.nii.gz"), tmp_path / "previous_stage" / "phantom_005.nii.gz"
        assert len(np.unique(wanted)) > 1
        arrays = [voxels(path) for path in images]
        for found in (second_stage.predict(images), second_stage.predict(images, previous_stage=kept),
                      second_stage.predict(images, previous_stage=voxels(kept)),
                      second_stage.predict(arrays, spacing=(1, 1, 1)),
                      second_stage.predict(arrays, spacing=(1, 1, 1), previous_stage=voxels(kept))):
            np.testing.assert_array_equal(found.segmentation, wanted)

    def test_follows_what_it_is_given(self, second_stage: fuse4seg.Predictor, images: list[Path]) -> None:
        shape = voxels(images[0]).shape
        one, other = (second_stage.predict(images, previous_stage=np.full(shape, label)) for label in (1, 2))
        assert (one.segmentation != other.segmentation).any()
        np.testing.assert_array_equal(one.fused, other.fused)

    def test_refuses_what_does_not_fit(self, second_stage: fuse4seg.Predictor, images: list[Path]) -> None:
        first = voxels(images[0])
        with pytest.raises(PreviousStageError, match="case phantom_005_0000.nii.gz: the segmentation .* has shape"):
            second_stage.predict(images, previous_stage=np.zeros((1, 2, 3)))
        with pytest.raises(PreviousStageError, match="holds the value 9"):
            second_stage.predict([voxels(path) for path in images], spacing=(1, 1, 1), previous_stage=np.full(first.shape, 9))
        with pytest.raises(ValueError, match="previous_stage as an array"):
            second_stage.predict([voxels(path) for path in images], spacing=(1, 1, 1), previous_stage=images[0])

    def test_of_one_stage_takes_no_segmentation(self, models: Path, images: list[Path]) -> None:
        first = fuse4seg.Predictor(models / "Fuse4SegTrainer__Fuse4SegPlans__3d_lowres", device="cpu")
        with pytest.raises(ValueError, match="no second stage of a cascade"):
            first.predict(images, previous_stage=voxels(images[0]))

    def test_misses_its_first_stage_when_it_is_needed(self, models: Path, images: list[Path], tmp_path: Path) -> None:
        name = "Fuse4SegTrainer__Fuse4SegPlans__3d_cascade_fullres"
        alone = fuse4seg.Predictor(shutil.copytree(models / name, tmp_path / name), device="cpu", mirroring=False)
        assert alone.predict(images, previous_stage=np.zeros(voxels(images[0]).shape)).segmentation is not None
        with pytest.raises(PreviousStageNotFoundError, match="3d_lowres"):
            alone.predict(images)


class TestMistakes:
    def test_of_the_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match="no trained model"):
            fuse4seg.Predictor(tmp_path)

    @pytest.mark.parametrize("count", [0, 3, 5])
    def test_of_the_number_of_images(self, predictor: fuse4seg.Predictor, files: list[Path], count: int) -> None:
        with pytest.raises(ValueError, match=f"the model fuses T1, T1ce, T2, FLAIR: give one image for each.* got {count}"):
            predictor.predict((files * 2)[:count])

    def test_of_nothing_but_absent_modalities(self, predictor: fuse4seg.Predictor) -> None:
        with pytest.raises(ValueError, match="and one at least"):
            predictor.predict([None] * 4)

    def test_of_a_file_that_is_not_there(self, predictor: fuse4seg.Predictor, files: list[Path], tmp_path: Path) -> None:
        with pytest.raises(MissingModalityError, match="T2"):
            predictor.predict([*files[:2], tmp_path / "none.nii.gz", files[3]])

    def test_of_arrays_that_do_not_fit(self, predictor: fuse4seg.Predictor, files: list[Path]) -> None:
        arrays = [voxels(path) for path in files]
        with pytest.raises(FaultyImageError, match="T1ce has shape"):
            predictor.predict([arrays[0], arrays[1][1:], *arrays[2:]], spacing=(1, 1, 1))
        with pytest.raises(FaultyImageError, match="T2 is constant"):
            predictor.predict([*arrays[:2], np.zeros_like(arrays[2]), arrays[3]], spacing=(1, 1, 1))

    @pytest.mark.parametrize("spacing", [None, (1, 1), (1, 1, 0)])
    def test_of_the_spacing(self, predictor: fuse4seg.Predictor, files: list[Path], spacing: tuple[float, ...] | None) -> None:
        with pytest.raises(ValueError, match="spacing"):
            predictor.predict([voxels(path) for path in files], spacing=spacing)

    def test_of_files_among_arrays(self, predictor: fuse4seg.Predictor, files: list[Path]) -> None:
        with pytest.raises(ValueError, match="all modalities as files, or all as arrays"):
            predictor.predict([voxels(files[0]), *files[1:]])


def test_importing_the_package_loads_neither_torch_nor_nnunet() -> None:
    code = "import sys, fuse4seg; print([name for name in ('torch', 'nnunetv2', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are listed on Linux alone")
def test_importing_the_predictor_starts_no_process() -> None:
    code = ("import fuse4seg, pathlib; fuse4seg.Predictor; "
            "print([path.read_text() for path in pathlib.Path('/proc/self/task').glob('*/children') if path.read_text()])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        _ = fuse4seg.predict
