"""Preprocessing for prediction: nnU-Net's numbers, and images and previous labels that do not fit are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.data_iterators import preprocess_fromfiles_save_to_queue
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from fuse4seg.datasets.images import Geometry, read_image
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import FaultyImageError
from fuse4seg.inference.model import ModelDescription
from fuse4seg.inference.preprocess_case import preprocessed_images, previous_labels
from fuse4seg.model_errors import PreviousStageError


@pytest.fixture
def description(make_description: Callable[..., ModelDescription], request: pytest.FixtureRequest) -> ModelDescription:
    return make_description(request.param)


class TestPreprocessedImages:
    @pytest.mark.parametrize("description", ["2d", "3d_fullres"], indirect=True)
    @pytest.mark.parametrize("scale", [1.0, 1.3])
    def test_are_nnunets(self, case: Case, description: ModelDescription, scale: float, tmp_path: Path) -> None:
        files = tuple(tmp_path / path.name for path in case.images)
        for path, file in zip(case.images, files, strict=True):
            image = sitk.ReadImage(str(path))
            image.SetSpacing([scale * step for step in image.GetSpacing()])
            sitk.WriteImage(image, str(file))
        channels, properties = preprocessed_images(Case(case.name, files), description)
        expected, _, wanted = DefaultPreprocessor(verbose=False).run_case(
            [str(path) for path in files], None, description.plans, description.configuration, description.dataset_json)
        np.testing.assert_allclose(channels, expected, atol=1e-4)
        assert channels.dtype == np.float32
        properties.pop("nifti_header")
        assert str(properties) == str(wanted)

    @pytest.mark.parametrize("description", ["3d_fullres"], indirect=True)
    def test_refuse_a_2d_image_for_a_3d_model(self, case: Case, description: ModelDescription, tmp_path: Path) -> None:
        files = tuple(tmp_path / path.name for path in case.images)
        for path, file in zip(case.images, files, strict=True):
            sitk.WriteImage(sitk.ReadImage(str(path))[:, :, 16], str(file))
        with pytest.raises(FaultyImageError, match=f"case flat: {files[0]} is 2D, but the model segments volumes"):
            preprocessed_images(Case("flat", files), description)

    @pytest.mark.parametrize("description", ["2d", "3d_fullres"], indirect=True)
    @pytest.mark.parametrize("scale", [1e-3, 1e3])
    def test_refuse_a_spacing_of_another_unit(self, case: Case, description: ModelDescription, scale: float,
                                              tmp_path: Path) -> None:
        files = tuple(tmp_path / path.name for path in case.images)
        for path, file in zip(case.images, files, strict=True):
            image = sitk.ReadImage(str(path))
            image.SetSpacing([scale * step for step in image.GetSpacing()])
            sitk.WriteImage(image, str(file))
        with pytest.raises(FaultyImageError, match="case far: its spacing is .* mm, and the model's .* more than 20 times"):
            preprocessed_images(Case("far", files), description)

    @pytest.mark.parametrize("description", ["2d"], indirect=True)
    def test_refuse_4d(self, case: Case, description: ModelDescription, tmp_path: Path) -> None:
        files = tuple(tmp_path / path.name for path in case.images)
        for path, file in zip(case.images, files, strict=True):
            sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(str(path))] * 2), str(file))
        with pytest.raises(FaultyImageError):
            preprocessed_images(Case("four", files), description)


class TestCascade:
    @pytest.fixture
    def second_stage(self, make_description: Callable[..., ModelDescription], untrained_cascade: Path) -> ModelDescription:
        model = untrained_cascade / "nnUNet_results/Dataset990_Phantom/Fuse4SegTrainer__Fuse4SegPlans__3d_cascade_fullres"
        return make_description("3d_cascade_fullres", model)

    @pytest.fixture
    def labels(self, case: Case, tmp_path: Path) -> Path:
        """Blobs of all labels, also outside the head, where nnU-Net keeps them."""
        image = sitk.ReadImage(str(case.images[0]))
        values = np.random.default_rng(0).integers(0, 4, [size // 4 for size in reversed(image.GetSize())], dtype=np.uint8)
        segmentation = sitk.GetImageFromArray(values.repeat(4, 0).repeat(4, 1).repeat(4, 2))
        segmentation.CopyInformation(image)
        sitk.WriteImage(segmentation, str(tmp_path / "phantom_005.nii.gz"))
        return tmp_path / "phantom_005.nii.gz"

    @pytest.mark.parametrize("transposed", [False, True])
    def test_channels_are_those_of_nnunets_data_iterator(self, case: Case, second_stage: ModelDescription, labels: Path,
                                                         transposed: bool) -> None:
        if transposed:
            second_stage.plans.plans.update(transpose_forward=[2, 0, 1], transpose_backward=[1, 2, 0])
        channels, properties = preprocessed_images(case, second_stage, previous=labels)
        queue: Queue = Queue()
        preprocess_fromfiles_save_to_queue([[str(path) for path in case.images]], [str(labels)], None, second_stage.plans,
                                           second_stage.dataset_json, second_stage.configuration, queue, Event(), Event())
        item = queue.get_nowait()
        wanted = item["data"].numpy()
        assert channels.shape == wanted.shape
        assert len(channels) == 4 + 3
        np.testing.assert_array_equal(channels[4:], wanted[4:])
        np.testing.assert_allclose(channels[:4], wanted[:4], atol=1e-4)
        assert all(0.1 < share < 0.4 for share in channels[4:].mean(axis=(1, 2, 3)))
        del item["data_properties"]["class_locations"]
        properties.pop("nifti_header")
        assert str(properties) == str(item["data_properties"])

    def test_channels_of_nothing_found_are_zero(self, case: Case, second_stage: ModelDescription) -> None:
        size = sitk.ReadImage(str(case.images[0])).GetSize()
        channels, _ = preprocessed_images(case, second_stage, previous=np.zeros(size[::-1], dtype=np.uint8))
        alone, _ = preprocessed_images(case, second_stage)
        np.testing.assert_array_equal(channels[:4], alone)
        assert channels.shape == (7, *alone.shape[1:])
        assert not channels[4:].any()

    def test_labels_stay_where_a_modality_is_absent(self, case: Case, second_stage: ModelDescription, labels: Path,
                                                    tmp_path: Path) -> None:
        whole, _ = preprocessed_images(case, second_stage, previous=labels)
        absent = Case(case.name, (tmp_path / "absent", *case.images[1:]))
        channels, _ = preprocessed_images(absent, second_stage, previous=labels)
        np.testing.assert_array_equal(channels[4:], whole[4:])


LABELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
DESCRIPTION = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(LABELS, tmp_path / "a.nii.gz")


@pytest.fixture
def given(path: Path) -> dict[str, Any]:
    return {"expected": read_image(path, SimpleITKIO).geometry, "reader": SimpleITKIO, "dataset_json": DESCRIPTION}


def write(labels: np.ndarray, path: Path, *, spacing: float = 1.5) -> Path:
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((1, 1, spacing))
    sitk.WriteImage(image, str(path))
    return path


class TestPreviousLabels:
    def test_are_the_same_of_a_file_and_of_an_array(self, path: Path, given: dict[str, Any]) -> None:
        for source in (path, LABELS, LABELS.astype(np.float32)):
            labels = previous_labels(source, "a", **given)
            np.testing.assert_array_equal(labels, LABELS[None])
            assert labels.dtype == np.int16

    def test_are_missed(self, tmp_path: Path, given: dict[str, Any]) -> None:
        with pytest.raises(PreviousStageError, match=f"case b: there is no segmentation of the previous stage: expected "
                                                     f"{tmp_path / 'b.nii.gz'}. Add it, or"):
            previous_labels(tmp_path / "b.nii.gz", "b", **given)

    def test_are_unreadable(self, path: Path, given: dict[str, Any]) -> None:
        path.write_bytes(b"no image")
        with pytest.raises(PreviousStageError, match=f"case a: {path} cannot be read as an image"):
            previous_labels(path, "a", **given)

    def test_lie_on_another_grid(self, path: Path, given: dict[str, Any]) -> None:
        write(LABELS, path, spacing=2)
        with pytest.raises(PreviousStageError, match=rf"{path} has spacing \(2, 1, 1\) instead of \(1.5, 1, 1\)"):
            previous_labels(path, "a", **given)
        with pytest.raises(PreviousStageError, match=r"shape \(1, 3, 4\) instead of \(2, 3, 4\)"):
            previous_labels(LABELS[:1], "a", **{**given, "expected": Geometry((2, 3, 4), (1, 1, 1))})

    @pytest.mark.parametrize(("value", "named"), [(3, "3"), (0.5, "0.5"), (np.nan, "nan"), (-1, "-1")])
    def test_are_not_the_datasets(self, path: Path, given: dict[str, Any], value: float, named: str) -> None:
        labels = LABELS.astype(np.float32)
        labels[0, 0, 0] = value
        with pytest.raises(PreviousStageError, match=f"holds the value {named}, which the model's dataset.json does not name"):
            previous_labels(labels, "a", **given)
