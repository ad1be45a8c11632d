"""Preprocessing for prediction: nnU-Net's numbers, and images that do not fit the model are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.datasets.raw import Case
from fuse4seg.errors import FaultyImageError
from fuse4seg.inference.preprocess_case import Recipe, preprocessed_images, with_absent


@pytest.fixture
def recipe(planned_phantom: Path, request: pytest.FixtureRequest) -> Recipe:
    folder = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"
    plans = PlansManager(json.loads((folder / "Fuse4SegPlans.json").read_text()))
    return Recipe(plans, plans.get_configuration(request.param), json.loads((folder / "dataset.json").read_text()))


@pytest.fixture
def case(planned_phantom: Path) -> Case:
    folder = planned_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    return Case("phantom_005", tuple(sorted(folder.iterdir())))


class TestPreprocessedImages:
    @pytest.mark.parametrize("recipe", ["2d", "3d_fullres"], indirect=True)
    @pytest.mark.parametrize("scale", [1.0, 1.3])
    def test_are_nnunets(self, case: Case, recipe: Recipe, scale: float, tmp_path: Path) -> None:
        files = tuple(tmp_path / path.name for path in case.images)
        for path, file in zip(case.images, files, strict=True):
            image = sitk.ReadImage(str(path))
            image.SetSpacing([scale * step for step in image.GetSpacing()])
            sitk.WriteImage(image, str(file))
        channels, properties = preprocessed_images(Case(case.name, files), recipe)
        expected, _, wanted = DefaultPreprocessor(verbose=False).run_case(
            [str(path) for path in files], None, recipe.plans, recipe.configuration, recipe.dataset_json)
        np.testing.assert_allclose(channels, expected, atol=1e-4)
        assert channels.dtype == np.float32
        assert str(properties) == str(wanted)

    @pytest.mark.parametrize("recipe", ["3d_fullres"], indirect=True)
    def test_refuse_a_2d_image_for_a_3d_model(self, case: Case, recipe: Recipe, tmp_path: Path) -> None:
        files = tuple(tmp_path / path.name for path in case.images)
        for path, file in zip(case.images, files, strict=True):
            sitk.WriteImage(sitk.ReadImage(str(path))[:, :, 16], str(file))
        with pytest.raises(FaultyImageError, match=f"case flat: {files[0]} is 2D, but the model segments volumes"):
            preprocessed_images(Case("flat", files), recipe)


def test_absent_channels_get_the_first_one_that_is_there() -> None:
    voxels = np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1)
    assert with_absent(voxels, (True, True)) is voxels
    assert with_absent(voxels, (False, True, False, True)).ravel().tolist() == [0, 0, 0, 1]
