"""Volumes for the viewer: whatever is packed can be unpacked, lies where the image lay, and keeps its values."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fuse4seg.report.case_images import CaseImages
from fuse4seg.report.layers import colour_table, encoded_layers, packed


def unpacked(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """What static/viewer.js does, voxel by voxel."""
    differences = np.frombuffer(zlib.decompress(content, 31), np.uint8).reshape(shape).astype(int)
    levels = np.zeros(shape, int)
    for place in np.ndindex(*shape):
        left = levels[(*place[:3], place[3] - 1)] if place[3] else 0
        above = levels[(*place[:2], place[2] - 1, place[3])] if place[2] else 0
        levels[place] = (differences[place] + (left + above) // 2) % 256
    if shape[0] == 3:
        levels[0], levels[2] = (levels[0] + levels[1]) % 256, (levels[2] + levels[1]) % 256
    return levels


class TestPacked:
    @given(arrays(np.uint8, st.tuples(st.sampled_from([1, 3]), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))))
    def test_can_be_unpacked(self, levels: np.ndarray) -> None:
        assert np.array_equal(unpacked(packed(levels), levels.shape), levels)

    def test_is_smaller_than_the_voxels_gzipped_where_neighbours_are_alike(self) -> None:
        places = np.indices((4, 64, 64)).sum(axis=0)
        noise = np.random.default_rng(0).integers(0, 4, places.shape)
        levels = np.uint8(np.stack([places, places + 7, places + 3]) % 200 + noise)
        assert len(packed(levels)) < 0.7 * len(zlib.compress(np.moveaxis(levels, 0, -1).tobytes(), 9))


@pytest.fixture
def images() -> CaseImages:
    """A case whose foreground begins at voxel (x 6, y 5, z 4)."""
    random = np.random.default_rng(0)
    inside = np.zeros((12, 14, 16), bool)
    inside[4:9, 5:11, 6:13] = True
    fused = random.integers(1, 256, (3, *inside.shape), dtype=np.uint8) * inside
    labels = np.uint8(inside & (np.indices(inside.shape)[2] > 9))
    affine = np.array([[-1.0, 0, 0, 50], [0, -2, 0, 60], [0, 0, 3, -70], [0, 0, 0, 1]])
    return CaseImages(fused, affine, (3.0, 2.0, 1.0), labels=labels, reference=np.roll(labels, 1, axis=0),
                      sources={"T1": random.uniform(-40, 900, inside.shape), "CT": random.integers(0, 256, inside.shape) * 1.0},
                      entropy=random.uniform(0, 0.69, inside.shape).astype(np.float32))


def volume(entry: dict[str, Any], shape: list[int]) -> tuple[nibabel.Nifti1Image, np.ndarray]:
    """As a NIfTI file, which viewer.js makes of it, and its levels (C, Z, Y, X)."""
    levels = unpacked(base64.b64decode(entry["data"]), (entry["channels"], *shape[::-1])).astype(np.uint8)
    content = base64.b64decode(entry["header"]) + np.moveaxis(levels, 0, -1).tobytes()
    return nibabel.Nifti1Image.from_bytes(content), levels


class TestEncodedLayers:
    def test_hold_everything_the_fused_image_first(self, images: CaseImages) -> None:
        encoded = encoded_layers(images)
        assert [(layer["title"], layer["kind"]) for layer in encoded["layers"]] == [
            ("fused", "fused"), ("T1", "source"), ("CT", "source"), ("entropy", "entropy"), ("segmentation", "segmentation"),
            ("reference", "reference")]

    def test_are_cropped_and_lie_where_the_image_lay(self, images: CaseImages) -> None:
        encoded = encoded_layers(images)
        assert (encoded["shape"], encoded["first"]) == ([11, 10, 10], [4, 3, 2])
        found, levels = volume(encoded["layers"][0], encoded["shape"])
        assert np.array_equal(levels, images.fused[:, 2:12, 3:13, 4:15])
        # The voxel that is first here is at the place that it had in the whole image.
        assert np.allclose(found.affine @ [0, 0, 0, 1], images.affine @ [4, 3, 2, 1])
        assert np.allclose(found.affine[:3, :3], images.affine[:3, :3])
        assert found.header["datatype"] == 128
        assert np.array_equal(found.dataobj["R"] if found.dataobj.dtype.names else found.get_fdata()["R"],
                              images.fused[0, 2:12, 3:13, 4:15].T)

    def test_sources_keep_their_values_by_the_headers_scale(self, images: CaseImages) -> None:
        encoded = encoded_layers(images)
        source, box = images.sources["T1"], (slice(2, 12), slice(3, 13), slice(4, 15))
        found, _ = volume(encoded["layers"][1], encoded["shape"])
        low, high = np.percentile(source[images.inside], (0.5, 99.9))
        assert np.abs(found.get_fdata().T - source[box].clip(low, high)).max() <= (high - low) / 255 * 0.501
        assert (encoded["layers"][1]["clipped"], encoded["layers"][2]["clipped"]) == (True, False)
        exact, _ = volume(encoded["layers"][2], encoded["shape"])
        assert np.array_equal(exact.get_fdata().T, images.sources["CT"][box])
        entropy, _ = volume(encoded["layers"][3], encoded["shape"])
        assert np.abs(entropy.get_fdata().T - images.entropy[box]).max() <= images.entropy.max() / 255 * 0.501

    def test_focus_is_what_the_pictures_show(self, images: CaseImages) -> None:
        encoded = encoded_layers(images)
        cropped = images.labels[2:12, 3:13, 4:15] > 0
        assert encoded["focus"] == [int(cropped.sum(axis=others).argmax()) for others in ((0, 1), (0, 2), (1, 2))]


def test_colour_table_is_as_niivue_takes_it() -> None:
    assert colour_table({1: "#D55E00", 3: "#0072B2"}) == {"R": [0, 213, 0], "G": [0, 94, 114], "B": [0, 0, 178],
                                                          "A": [0, 255, 255], "I": [0, 1, 3]}
