"""Resampling in blocks: nnU-Net's numbers, whatever the plans say about slices."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from scipy.ndimage import gaussian_filter

from fuse4seg.inference import resampling
from fuse4seg.inference.resampling import resampled, resampled_blocks

#: Shapes before and after, and spacings (mm) before and after: slices that stay, that do not, thick and thin ones, and thick
#: ones along another axis.
CASES = {"slices stay": ((7, 20, 15), (7, 13, 22), (2, 1, 1), (2, 1.5, 0.7)),
         "thick slices stay": ((7, 20, 15), (7, 13, 22), (5, 1, 1), (5, 1.5, 0.7)),
         "all move": ((7, 20, 15), (11, 13, 22), (1.5, 1, 1), (1, 1.5, 0.7)),
         "fewer": ((11, 20, 15), (6, 20, 15), (1, 1, 1), (1.8, 1, 1)),
         "thick slices move": ((7, 20, 15), (11, 13, 22), (6, 1, 1), (4, 1.5, 0.7)),
         "thick along X": ((7, 20, 9), (11, 13, 14), (1.5, 1, 6), (1, 1.5, 4)),
         "nothing moves": ((7, 20, 15), (7, 20, 15), (1, 1, 1), (1, 1, 1))}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[tuple[float, ...], ...]:
    return CASES[request.param]


def images_of(shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((3, *shape))
    return gaussian_filter(noise, (0, 1, 1, 1)).astype(np.float32)


def plans_function(order: int) -> partial[np.ndarray]:
    return partial(resample_data_or_seg_to_shape, is_seg=False, order=order, order_z=0, force_separate_z=None)


class TestResampled:
    @pytest.mark.parametrize("order", [1, 3])
    def test_is_nnunets(self, case: tuple[tuple[float, ...], ...], order: int) -> None:
        before, after, *spacings = case
        images, resample = images_of(before), plans_function(order)
        found = resampled(images, after, *spacings, resample=resample)
        np.testing.assert_allclose(found, resample(images, after, *spacings), atol=1e-5)
        assert found.dtype == np.float32


class TestResampledBlocks:
    @pytest.mark.parametrize("order", [1, 3])
    @pytest.mark.parametrize("voxels", [1, 2000, 2**23])
    def test_are_nnunets_one_after_the_other(self, case: tuple[tuple[float, ...], ...], order: int, voxels: int,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resampling, "VOXELS_IN_BLOCK", voxels)
        before, after, *spacings = case
        images, resample = images_of(before), plans_function(order)
        blocks = list(resampled_blocks(images, after, *spacings, resample=resample))
        assert [place for block, _ in blocks for place in range(block.start, block.stop)] == list(range(after[0]))
        np.testing.assert_allclose(np.concatenate([part for _, part in blocks], axis=1), resample(images, after, *spacings),
                                   atol=1e-5)

    def test_of_half_precision_are_in_float32(self) -> None:
        images = images_of((7, 20, 15)).astype(np.float16)
        (_, found), = resampled_blocks(images, (11, 13, 22), (1, 1, 1), (1, 1, 1), resample=plans_function(1))
        assert found.dtype == np.float32

    def test_by_a_function_of_the_plans_that_we_do_not_know_are_its(self) -> None:
        images, resample = images_of((7, 20, 15)), partial(resample_torch_fornnunet, is_seg=False, mode="linear")
        spacings = (1.5, 1, 1), (1, 1.5, 0.7)
        (_, found), = resampled_blocks(images, (11, 13, 22), *spacings, resample=resample)
        np.testing.assert_allclose(found, resample(images, (11, 13, 22), *spacings), atol=1e-6)
