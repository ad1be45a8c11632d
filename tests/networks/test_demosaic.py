"""Demosaicing against SciPy's interpolation, and the laws that make it a reading of the image and nothing else."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from fuse4seg.networks.demosaic import demosaic

blocks = pytest.mark.parametrize(("size", "block"), [((8, 10), (2, 2)), ((7, 9), (2, 2)), ((9, 8), (1, 2)), ((12, 8), (4, 2)),
                                                     ((6, 8, 7), (2, 2, 2)), ((5, 8, 6), (1, 2, 2))])


def image_of(size: tuple[int, ...], *, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(0))


@blocks
def test_is_linear_interpolation_between_the_voxels_of_a_place(size: tuple[int, ...], block: tuple[int, ...]) -> None:
    image = image_of(size)
    found = demosaic(image, block)
    assert found.shape == (2, int(np.prod(block)), *size)
    for place, corner in enumerate(product(*map(range, block))):
        grid = [np.arange(start, extent, step) for start, extent, step in zip(corner, size, block, strict=True)]
        # Beyond the outermost voxels of the place their values go on.
        everywhere = np.stack(np.meshgrid(*(np.arange(extent).clip(axis[0], axis[-1])
                                            for axis, extent in zip(grid, size, strict=True)), indexing="ij"), axis=-1)
        for sample in range(2):
            values = image[sample, 0].double().numpy()[np.ix_(*grid)]
            expected = RegularGridInterpolator(grid, values)(everywhere)
            np.testing.assert_allclose(found[sample, place].numpy(), expected, atol=1e-6)


@blocks
def test_leaves_each_voxel_s_value_in_the_image_of_its_place(size: tuple[int, ...], block: tuple[int, ...]) -> None:
    image = image_of(size)
    found = demosaic(image, block)
    for place, corner in enumerate(product(*map(range, block))):
        own = (..., *(slice(start, None, step) for start, step in zip(corner, block, strict=True)))
        torch.testing.assert_close(found[:, place][own], image[:, 0][own], rtol=1e-6, atol=0)


def test_separates_two_images_that_were_printed_into_one() -> None:
    first, second = (image_of((64, 64), batch=1), torch.linspace(0, 1, 64).expand(1, 1, 64, 64))
    printed = second.clone()
    printed[..., ::2, ::2] = first[..., ::2, ::2]
    found = demosaic(printed, (2, 2))
    torch.testing.assert_close(found[:, 1:, 1:-1, 1:-1], second.expand(1, 3, 64, 64)[..., 1:-1, 1:-1])
    assert torch.equal(found[:, 0, ::2, ::2], first[:, 0, ::2, ::2])


@settings(max_examples=20, deadline=None)
@given(height=st.integers(4, 12), width=st.integers(4, 12), block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
       value=st.floats(0, 1))
def test_of_a_uniform_image_is_uniform(height: int, width: int, block: tuple[int, int], value: float) -> None:
    found = demosaic(torch.full((1, 1, height, width), value), block)
    torch.testing.assert_close(found, torch.full_like(found, value))


@settings(max_examples=20, deadline=None)
@given(corner=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_depends_on_the_place_within_the_block_and_not_on_the_window(corner: tuple[int, int]) -> None:
    """Windows that begin with a block see, away from their border, what the whole image shows there."""
    image = image_of((16, 16))
    rows, columns = (slice(2 * start, 2 * start + 8) for start in corner)
    window = demosaic(image[..., rows, columns], (2, 2))
    torch.testing.assert_close(window[..., 1:-1, 1:-1], demosaic(image, (2, 2))[..., rows, columns][..., 1:-1, 1:-1])


def test_is_differentiable_and_linear() -> None:
    image = image_of((6, 8)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda images: demosaic(images, (2, 2)), image)
    torch.testing.assert_close(demosaic(3 * image, (2, 2)), 3 * demosaic(image, (2, 2)))


def test_keeps_its_precision_under_autocast() -> None:
    image = image_of((16, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = demosaic(image, (2, 2))
    assert found.dtype == torch.float32
    assert torch.equal(found, demosaic(image, (2, 2)))
