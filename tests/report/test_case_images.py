"""The images of a case: turned as films hang, and what is left out is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.errors import UnsuitableImageError
from fuse4seg.report.case_images import read_case
from fuse4seg.report.prediction import read_prediction


class TestReadCase:
    def test_gives_every_image_as_it_is_stored(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        prediction = read_prediction(made.folder)
        images = read_case(prediction.cases[0], prediction, reference=made.labels / "a.nii.gz")
        assert np.array_equal(np.moveaxis(images.fused, 0, -1), made.fused["a"])
        assert np.array_equal(images.labels, made.segmented["a"])
        assert np.array_equal(images.reference, made.true["a"])
        assert np.array_equal(images.sources["FLAIR"], made.sources["a"][1])
        assert (images.spacing, images.is_flat, images.absent, images.faults) == ((3.0, 2.0, 1.0), False, {}, [])
        # ITK's millimetres go left and back, the affine's right and front.
        assert np.allclose(images.affine, [[-1, 0, 0, -5], [0, -2, 0, 7], [0, 0, 3, 11], [0, 0, 0, 1]])

    def test_turns_what_was_stored_otherwise(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        for path in [*made.folder.glob("*.nii.gz"), *made.folder.glob("fused/*"), *made.images.iterdir(), *made.labels.iterdir()]:
            sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "SRA"), str(path))
        made.told("a", sources={})
        prediction = read_prediction(made.folder)
        images = read_case(prediction.cases[0], prediction, reference=made.labels / "a.nii.gz")
        assert np.array_equal(np.moveaxis(images.fused, 0, -1), made.fused["a"])
        assert np.array_equal(images.labels, made.segmented["a"])
        assert np.allclose(images.sources["T1"], made.sources["a"][0])
        assert np.allclose(images.affine, [[-1, 0, 0, -5], [0, -2, 0, 7], [0, 0, 3, 11], [0, 0, 0, 1]])

    def test_leaves_out_sources_that_have_gone_changed_or_were_absent(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("gone", "changed", "absent")
        (made.images / "gone_0001.nii.gz").unlink()
        (made.images / "changed_0000.nii.gz").write_bytes((made.images / "gone_0000.nii.gz").read_bytes())
        made.told("absent", absent=["T1"])
        prediction = read_prediction(made.folder)
        found = {case.name: read_case(case, prediction) for case in prediction.cases}
        assert list(found["gone"].sources) == ["T1"]
        assert "gone_0001.nii.gz has gone" in found["gone"].absent["FLAIR"]
        assert "has changed since it was predicted" in found["changed"].absent["T1"]
        assert found["absent"].absent == {"T1": "the case was predicted without it"}

    def test_names_true_labels_that_cannot_be_used(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        (made.labels / "a.nii.gz").write_bytes(b"no image")
        prediction = read_prediction(made.folder)
        images = read_case(prediction.cases[0], prediction, reference=made.labels / "a.nii.gz")
        assert images.reference is None
        assert len(images.faults) == 1
        assert "labels/a.nii.gz cannot be read" in images.faults[0]

    def test_refuses_a_segmentation_of_another_shape_or_value(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        image = sitk.ReadImage(str(made.folder / "a.nii.gz"))
        sitk.WriteImage(image[:, :, 1:], str(made.folder / "a.nii.gz"))
        prediction = read_prediction(made.folder)
        with pytest.raises(UnsuitableImageError, match="shape .* in the fused image"):
            read_case(prediction.cases[0], prediction)
        sitk.WriteImage(image + 5, str(made.folder / "a.nii.gz"))
        with pytest.raises(UnsuitableImageError, match="holds the value 5"):
            read_case(prediction.cases[0], prediction)

    def test_hangs_pictures_as_they_are(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        made.as_pictures("a")
        flat = read_prediction(made.folder)
        images = read_case(flat.cases[0], flat)
        assert (images.is_flat, images.spacing) == (True, (1.0, 1.0, 1.0))
        assert np.array_equal(images.fused[:, 0], np.moveaxis(made.fused["a"][6], -1, 0))
        assert np.array_equal(images.labels[0], made.segmented["a"][6])
        assert np.array_equal(images.sources["T1"][0], made.sources["a"][0][6].astype(np.uint8))
