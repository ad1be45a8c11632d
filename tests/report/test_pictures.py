"""Pictures of a report: which slices, whose colours, and that heads are up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image as Picture

from fuse4seg.inference.panel import LABEL_COLOURS
from fuse4seg.report.case_images import CaseImages
from fuse4seg.report.pictures import GAP, SIDE, shown_box, strips, telling_index, write_strip


@pytest.fixture
def images() -> CaseImages:
    """Grey 100 in a box, labels in a part of it, FLAIR brighter from slice to slice."""
    shape = (10, 20, 16)
    fused, labels = np.zeros((1, *shape), np.uint8), np.zeros(shape, np.uint8)
    fused[0, 2:8, 4:16, 4:12] = 100
    labels[3:5, 6:8, 5:7], labels[4, 8:12, 7:10] = 1, 2
    flair = np.broadcast_to(np.arange(10.0)[:, None, None], shape) * (fused[0] > 0)
    return CaseImages(fused, np.eye(4), (2.0, 1.0, 1.0), labels=labels, sources={"T1": flair[:, ::-1], "FLAIR": flair})


class TestTellingIndex:
    def test_is_the_slice_with_most_foreground_along_each_axis(self, images: CaseImages) -> None:
        found = [telling_index(images.fused, images.labels, axis) for axis in range(3)]
        assert found == [int((images.labels > 0).sum(axis=others).argmax()) for others in ((1, 2), (0, 2), (0, 1))]

    def test_is_the_brightest_without_labels(self, images: CaseImages) -> None:
        fused = images.fused.copy()
        fused[0, 7] *= 2
        assert telling_index(fused, None, 0) == telling_index(fused, np.zeros_like(images.labels), 0) == 7


class TestShownBox:
    def test_is_the_foreground_with_a_margin_of_two_voxels_within_the_image(self, images: CaseImages) -> None:
        assert shown_box(images) == (slice(0, 10), slice(2, 18), slice(2, 14))

    def test_is_everything_where_nothing_is(self) -> None:
        nothing = CaseImages(np.zeros((1, 2, 3, 4), np.uint8), np.eye(4), (1, 1, 1))
        assert shown_box(nothing) == (slice(0, 2), slice(0, 3), slice(0, 4))


class TestStrips:
    def test_have_a_tile_for_each_image_in_three_planes(self, images: CaseImages) -> None:
        made = strips(images)
        assert [(strip.plane, strip.index) for strip in made] == [("axial", 4), ("coronal", 6), ("sagittal", 5)]
        assert {strip.titles for strip in made} == {("T1", "FLAIR", "fused", "segmentation")}
        # 16 x 12 voxels of 1 mm; 20 mm along Z.
        assert made[0].pixels.shape == (SIDE, 4 * (round(SIDE * 12 / 16) + GAP) - GAP, 3)
        assert made[1].pixels.shape[0] == SIDE

    def test_labels_have_their_colours_over_grey(self, images: CaseImages) -> None:
        axial = strips(images)[0]
        width = (axial.pixels.shape[1] + GAP) // 4
        fused, segmented = (axial.pixels[:, start:start + width - GAP].astype(float) for start in (2 * width, 3 * width))
        # Voxel (y 9, x 8) of the box that begins at (2, 2) holds label 2.
        at = round((9 - 2 + 0.5) * SIDE / 16), round((8 - 2 + 0.5) * SIDE / 16)
        assert fused[at].tolist() == [100, 100, 100]
        assert segmented[at] == pytest.approx(0.4 * 100 + 0.6 * 255 * np.array(to_rgb(LABEL_COLOURS[1])), abs=1)

    def test_heads_are_up(self, images: CaseImages) -> None:
        coronal = strips(images)[1]
        width = (coronal.pixels.shape[1] + GAP) // 4
        flair = coronal.pixels[:, width:2 * width - GAP, 0]
        top, bottom = flair[round(SIDE * 0.25), width // 2], flair[round(SIDE * 0.6), width // 2]
        assert top > bottom > 0

    def test_a_suspect_has_a_checkerboard_of_itself_and_another(self, images: CaseImages) -> None:
        axial = strips(images, suspects=[("T1", "FLAIR")])[0]
        assert axial.titles == ("T1", "FLAIR", "T1 and FLAIR", "fused", "segmentation")
        assert "T1 and FLAIR" not in strips(images)[0].titles

    def test_a_picture_has_one_plane(self) -> None:
        flat = CaseImages(np.full((3, 1, 8, 8), 9, np.uint8), np.eye(4), (1, 1, 1))
        assert [strip.plane for strip in strips(flat)] == ["axial"]

    def test_are_written_as_they_are(self, images: CaseImages, tmp_path: Path) -> None:
        strip = strips(images)[0]
        write_strip(strip, tmp_path / "a.png")
        assert np.array_equal(np.asarray(Picture.open(tmp_path / "a.png")), strip.pixels)
