"""Volumes for the viewer: whatever is packed can be unpacked, lies where the image lay, and keeps its values."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fuse4seg.report.case_images import CaseImages
from fuse4seg.report.layers import MOST, colour_table, encoded_layers, mixture, packed


def unpacked(content: bytes, shape: tuple[int, ...], sources: Sequence[np.ndarray] = (), weights: Any = None) -> np.ndarray:
    """What static/viewer.js does, voxel by voxel."""
    differences = np.frombuffer(zlib.decompress(content, 31), np.uint8).reshape(shape).astype(int)
    rest = np.zeros(tuple(length + (number > 0) for number, length in enumerate(shape)), int)
    for channel, z, y, x in np.ndindex(*shape):
        a, b, c = rest[channel, z + 1, y + 1, x], rest[channel, z + 1, y, x + 1], rest[channel, z, y + 1, x + 1]
        ab, ac, bc = rest[channel, z + 1, y, x], rest[channel, z, y + 1, x], rest[channel, z, y, x + 1]
        planes = (a + b - ab) + (a + c - ac) + (b + c - bc)
        rest[channel, z + 1, y + 1, x + 1] = (differences[channel, z, y, x] + planes // 3) % 256
    levels = rest[:, 1:, 1:, 1:].copy()
    if weights is not None:
        for channel, row in enumerate(weights):
            mixed = sum(weight * source.astype(int) for weight, source in zip(row, sources, strict=False)) + row[-1]
            levels[channel] = (levels[channel] + mixed // 256 - 128) % 256
    elif shape[0] == 3:
        levels[0], levels[2] = ((levels[channel] + levels[1] - 128) % 256 for channel in (0, 2))
    return levels


class TestPacked:
    @settings(deadline=None)
    @given(arrays(np.uint8, st.tuples(st.sampled_from([1, 3]), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))))
    def test_can_be_unpacked(self, levels: np.ndarray) -> None:
        assert np.array_equal(unpacked(packed(levels), levels.shape), levels)

    @settings(deadline=None)
    @given(st.data())
    def test_can_be_unpacked_by_the_sources(self, data: st.DataObject) -> None:
        shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
        *sources, red, green, blue = (data.draw(arrays(np.uint8, shape)) for _ in range(5))
        weights = data.draw(arrays(np.int64, (3, 3), elements=st.integers(-MOST, MOST)))
        levels = np.stack([red, green, blue])
        assert np.array_equal(unpacked(packed(levels, sources=sources, weights=weights), levels.shape, sources, weights), levels)

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


def volume(encoded: dict[str, Any], number: int) -> tuple[nibabel.Nifti1Image, np.ndarray]:
    """A layer as a NIfTI file, which viewer.js makes of it, and its levels (C, Z, Y, X)."""
    entry, shape = encoded["layers"][number], encoded["shape"][::-1]
    sources = [volume(encoded, other)[1][0] for other in (1, 2)] if number == 0 else []
    levels = unpacked(base64.b64decode(entry["data"]), (entry["channels"], *shape), sources, entry["mixed"]).astype(np.uint8)
    content = base64.b64decode(entry["header"]) + np.moveaxis(levels, 0, -1).tobytes()
    return nibabel.Nifti1Image.from_bytes(content), levels


class TestMixture:
    def test_finds_the_weights_of_a_sum(self) -> None:
        one, other = np.random.default_rng(0).integers(0, 120, (2, 9, 20, 20), dtype=np.uint8)
        levels = np.uint8(np.rint([0.5 * one + 0.25 * other + 20, 0.75 * one + 7]))
        found = mixture(levels, [one, other], np.ones(one.shape, bool)) / 256
        assert found == pytest.approx(np.array([[0.5, 0.25, 20], [0.75, 0, 7]]), abs=0.15)
        assert found[:, :2] == pytest.approx(np.array([[0.5, 0.25], [0.75, 0]]), abs=0.01)

    def test_makes_a_fused_image_small(self, images: CaseImages) -> None:
        sources = [np.rint(volume).astype(np.uint8) for volume in (images.sources["CT"], images.sources["CT"][::-1])]
        levels = np.uint8(np.stack([0.6 * sources[0] + 0.4 * sources[1], sources[0], 0.3 * sources[1]]))
        weights = mixture(levels, sources, images.inside)
        assert len(packed(levels, sources=sources, weights=weights)) < 0.5 * len(packed(levels))


class TestEncodedLayers:
    def test_hold_everything_the_fused_image_first(self, images: CaseImages) -> None:
        encoded = encoded_layers(images)
        assert [(layer["title"], layer["kind"]) for layer in encoded["layers"]] == [
            ("fused", "fused"), ("T1", "source"), ("CT", "source"), ("entropy", "entropy"), ("segmentation", "segmentation"),
            ("reference", "reference")]

    def test_are_cropped_and_lie_where_the_image_lay(self, images: CaseImages) -> None:
        encoded = encoded_layers(images)
        assert (encoded["shape"], encoded["first"]) == ([11, 10, 10], [4, 3, 2])
        found, levels = volume(encoded, 0)
        assert np.array_equal(levels, images.fused[:, 2:12, 3:13, 4:15])
        # The voxel that is first here is at the place that it had in the whole image.
        assert np.allclose(found.affine @ [0, 0, 0, 1], images.affine @ [4, 3, 2, 1])
        assert np.allclose(found.affine[:3, :3], images.affine[:3, :3])
        assert found.header["datatype"] == 128
        assert np.array_equal(np.asanyarray(found.dataobj)["R"], images.fused[0, 2:12, 3:13, 4:15].T)

    def test_sources_keep_their_values_by_the_headers_scale(self, images: CaseImages) -> None:
        encoded = encoded_layers(images)
        source, box = images.sources["T1"], (slice(2, 12), slice(3, 13), slice(4, 15))
        found, _ = volume(encoded, 1)
        low, high = np.percentile(source[images.inside], (0.5, 99.9))
        assert np.abs(found.get_fdata().T - source[box].clip(low, high)).max() <= (high - low) / 255 * 0.501
        assert (encoded["layers"][1]["clipped"], encoded["layers"][2]["clipped"]) == (True, False)
        exact, _ = volume(encoded, 2)
        assert np.array_equal(exact.get_fdata().T, images.sources["CT"][box])
        entropy, _ = volume(encoded, 3)
        assert np.abs(entropy.get_fdata().T - images.entropy[box]).max() <= images.entropy.max() / 255 * 0.501

    def test_focus_is_what_the_pictures_show(self, images: CaseImages) -> None:
        encoded = encoded_layers(images)
        cropped = images.labels[2:12, 3:13, 4:15] > 0
        assert encoded["focus"] == [int(cropped.sum(axis=others).argmax()) for others in ((0, 1), (0, 2), (1, 2))]


def test_colour_table_is_as_niivue_takes_it() -> None:
    assert colour_table({1: "#D55E00", 3: "#0072B2"}) == {"R": [0, 213, 0], "G": [0, 94, 114], "B": [0, 0, 178],
                                                          "A": [0, 255, 255], "I": [0, 1, 3]}
