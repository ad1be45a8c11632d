"""What is written of one predicted case: which files, under which names, and that they hold what the network gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_dilation, generate_binary_structure, label
from scipy.special import softmax
from scipy.stats import entropy

from fuse4seg.datasets.raw import Case
from fuse4seg.inference.export_case import NIFTI, NPZ, Export, Predicted, Wanted, class_names, export_case
from fuse4seg.inference.model import ModelDescription
from fuse4seg.inference.predict_case import CasePrediction
from fuse4seg.inference.preprocess_case import preprocessed_images

LABELS = ("necrotic core", "oedema", "enhancing tumour")


@pytest.fixture
def description(make_description: Callable[..., ModelDescription]) -> ModelDescription:
    description = make_description("2d")
    description.dataset_json["labels"] = {"background": 0, **{name: value for value, name in enumerate(LABELS, start=1)}}
    return description


@pytest.fixture
def predicted(case: Case, description: ModelDescription) -> Predicted:
    """As from two folds, of noise; the case's second modality is absent."""
    first, second, *others = case.images
    case = replace(case, images=(first, second.with_name("absent.nii.gz"), *others))
    channels, properties = preprocessed_images(case, description)
    assert channels.shape[1:] == tuple(properties["shape_after_cropping_and_before_resampling"])  # nothing is resampled
    draw = np.random.default_rng(0)
    whole = properties["shape_before_cropping"]
    return Predicted(case, properties, CasePrediction(
        draw.standard_normal((4, *channels.shape[1:]), dtype=np.float32), properties,
        fused=tuple(draw.integers(0, 256, (2, 3, *whole), dtype=np.uint8)),
        attention=tuple(draw.random((2, 3, *channels.shape[1:]), dtype=np.float32))))


@pytest.fixture
def export(description: ModelDescription, tmp_path: Path) -> Export:
    """Of two folds; the first modality asks."""
    return Export(description, tmp_path, (0, "all"), reference=0, wanted=Wanted())


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def in_place(images: np.ndarray, predicted: Predicted, outside: float = 0) -> np.ndarray:
    """Images (..., Z, Y, X) where preprocessing cut them out."""
    whole = np.full((*images.shape[:-3], *predicted.properties["shape_before_cropping"]), outside, images.dtype)
    whole[(..., *(slice(*ends) for ends in predicted.properties["bbox_used_for_cropping"]))] = images
    return whole


def changed(predicted: Predicted, **parts: object) -> Predicted:
    return replace(predicted, made=replace(predicted.made, **parts))


class TestExportCase:
    def test_writes_the_likeliest_labels_last(self, predicted: Predicted, export: Export) -> None:
        exported = export_case(predicted, export)
        assert exported.files[-1] == export.output / "phantom_005.nii.gz"
        expected = in_place(predicted.made.logits.argmax(axis=0), predicted)
        np.testing.assert_array_equal(voxels(exported.files[-1]), expected)
        assert exported.voxels == {name: np.count_nonzero(expected == value) for value, name in enumerate(LABELS, start=1)}
        assert exported.seconds > 0

    def test_writes_the_fused_image_of_each_fold(self, predicted: Predicted, export: Export) -> None:
        exported = export_case(predicted, export)
        folders = [export.output / "fused" / name for name in ("fold_0", "fold_all")]
        assert list(exported.files[:-1]) == [folder / file for folder in folders
                                             for file in ("phantom_005.nii.gz", "grey/phantom_005.nii.gz")]
        for folder, fused in zip(folders, predicted.made.fused, strict=True):
            np.testing.assert_array_equal(voxels(folder / "phantom_005.nii.gz"), np.moveaxis(fused, 0, -1))

    def test_needs_no_folder_per_fold_where_there_is_one(self, predicted: Predicted, export: Export) -> None:
        exported = export_case(changed(predicted, fused=predicted.made.fused[:1]), replace(export, folds=(3,)))
        assert [path.relative_to(export.output).as_posix() for path in exported.files] == [
            "fused/phantom_005.nii.gz", "fused/grey/phantom_005.nii.gz", "phantom_005.nii.gz"]

    def test_needs_no_grey_copy_of_grey(self, predicted: Predicted, export: Export) -> None:
        grey = predicted.made.fused[0][:1]
        exported = export_case(changed(predicted, fused=(grey,)), replace(export, folds=(3,)))
        assert [path.relative_to(export.output).as_posix() for path in exported.files] == [
            "fused/phantom_005.nii.gz", "phantom_005.nii.gz"]
        np.testing.assert_array_equal(voxels(exported.files[0]), grey[0])

    def test_writes_attention_to_the_others_that_are_there(self, predicted: Predicted, export: Export) -> None:
        export_case(predicted, replace(export, wanted=Wanted(attention=True)))
        names = sorted(path.name for path in (export.output / "attention" / "fold_all").iterdir())
        channels = list(export.description.dataset_json["channel_names"].values())
        assert names == sorted(f"phantom_005_{channels[index]}.nii.gz" for index in (2, 3))
        heat = voxels(export.output / "attention" / "fold_all" / f"phantom_005_{channels[3]}.nii.gz")
        np.testing.assert_array_equal(heat, in_place(predicted.made.attention[1][2], predicted))

    def test_names_with_slashes_become_file_names(self, predicted: Predicted, export: Export) -> None:
        export.description.dataset_json["channel_names"]["3"] = "T1/post"
        labels = export.description.dataset_json["labels"]
        labels["NCR/NET"] = labels.pop("necrotic core")
        export_case(predicted, replace(export, wanted=Wanted(attention=True, probabilities=(NIFTI,))))
        assert (export.output / "attention" / "fold_all" / "phantom_005_T1-post.nii.gz").is_file()
        assert (export.output / "probabilities" / "phantom_005_NCR-NET.nii.gz").is_file()

    def test_writes_no_attention_where_there_was_none(self, predicted: Predicted, export: Export) -> None:
        export_case(changed(predicted, attention=(None, None)), replace(export, wanted=Wanted(attention=True)))
        assert sorted(path.name for path in export.output.iterdir()) == ["fused", "phantom_005.nii.gz"]

    def test_writes_probabilities_as_nnunet_and_as_images(self, predicted: Predicted, export: Export) -> None:
        export_case(predicted, replace(export, wanted=Wanted(probabilities=(NPZ, NIFTI))))
        background, *others = softmax(predicted.made.logits, axis=0)
        expected = np.stack([in_place(background, predicted, outside=1), *(in_place(share, predicted) for share in others)])
        with np.load(export.output / "phantom_005.npz") as file:
            np.testing.assert_allclose(file["probabilities"], expected, atol=1e-6)
        assert (export.output / "phantom_005.pkl").is_file()
        for index, name in enumerate(("background", *LABELS)):
            written = voxels(export.output / "probabilities" / f"phantom_005_{name}.nii.gz")
            np.testing.assert_allclose(written, expected[index], atol=1e-6)

    def test_writes_uncertainty_between_sure_and_as_unsure_as_can_be(self, predicted: Predicted, export: Export) -> None:
        exported = export_case(predicted, replace(export, wanted=Wanted(uncertainty=True)))
        path = export.output / "uncertainty" / "phantom_005.nii.gz"
        expected = entropy(softmax(predicted.made.logits.astype(float), axis=0)) / np.log(4)
        np.testing.assert_allclose(voxels(path), in_place(expected, predicted), atol=1e-6)
        assert path in exported.files
        assert sitk.ReadImage(str(path)).GetPixelID() == sitk.sitkFloat32
        assert sitk.ReadImage(str(path)).GetOrigin() == sitk.ReadImage(str(predicted.case.images[0])).GetOrigin()

    def test_tells_the_mean_of_that_image_over_the_boundary(self, predicted: Predicted, export: Export) -> None:
        exported = export_case(changed(predicted, disagreement=0.25), replace(export, wanted=Wanted(uncertainty=True)))
        box = tuple(slice(*ends) for ends in predicted.properties["bbox_used_for_cropping"])
        files = exported.files[-1], export.output / "uncertainty" / "phantom_005.nii.gz"
        labels, uncertain = (voxels(path)[box] for path in files)
        faces = generate_binary_structure(3, 1)
        boundary = np.any([(labels == value) & binary_dilation(labels != value, faces) for value in range(4)], axis=0)
        doubt = exported.facts["doubt"]
        assert doubt["entropy"] == pytest.approx(np.log(4) * uncertain[boundary].mean(), rel=1e-5)
        assert doubt["disagreement"] == 0.25
        assert doubt["components"] == {name: label(labels == value, np.ones((3, 3, 3)))[1]
                                       for value, name in enumerate(LABELS, start=1)}
        volume = exported.facts["volumes"]["oedema"]
        assert volume == pytest.approx((labels == 2).sum() * np.prod(predicted.properties["spacing"]) / 1000)

    def test_writes_images_alone_where_nothing_segments(self, predicted: Predicted, export: Export) -> None:
        exported = export_case(changed(predicted, logits=None), export)
        assert exported.voxels == exported.facts == {}
        assert sorted(path.name for path in export.output.rglob("*") if path.is_file()) == ["phantom_005.nii.gz"] * 4
        assert [path.name for path in export.output.iterdir()] == ["fused"]


class TestOfNoFold:
    def test_writes_the_segmentation_as_ever_and_no_image(self, predicted: Predicted, export: Export,
                                                               tmp_path: Path) -> None:
        wanted = replace(export, wanted=Wanted(probabilities=(NPZ, NIFTI)))
        (tmp_path / "alone").mkdir()
        whole = export_case(predicted, wanted)
        alone = export_case(predicted, replace(wanted, output=tmp_path / "alone", folds=()))
        assert alone.files[-1] == tmp_path / "alone" / "phantom_005.nii.gz"
        assert (alone.voxels, alone.facts) == (whole.voxels, whole.facts)
        found = [path.relative_to(tmp_path / "alone") for path in alone.files]
        assert found == [path.relative_to(export.output) for path in whole.files if "fused" not in path.parts]
        for path in found:
            assert (tmp_path / "alone" / path).read_bytes() == (export.output / path).read_bytes()


class TestClassNames:
    def test_follow_the_labels_values(self, description: ModelDescription) -> None:
        description.dataset_json["labels"] = {"b": 2, "background": 0, "a": 1}
        assert class_names(description) == ["background", "a", "b"]

    def test_of_regions_follow_the_file(self, description: ModelDescription) -> None:
        description.dataset_json.update(labels={"background": 0, "whole tumour": [1, 2, 3], "core": [1, 3], "ignore": 4},
                                   regions_class_order=[2, 1])
        assert class_names(description) == ["whole tumour", "core"]
