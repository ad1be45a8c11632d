"""Demosaicing against SciPy, and the laws that make it a reading of the image and nothing else."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import convolve

from fuse4seg.networks.demosaic import demosaic, unmix

blocks = pytest.mark.parametrize(("size", "block"), [((8, 10), (2, 2)), ((7, 9), (2, 2)), ((9, 8), (1, 2)), ((12, 8), (4, 2)),
                                                     ((6, 8, 7), (2, 2, 2)), ((5, 8, 6), (1, 2, 2))])
CHEQUERED = torch.tensor([[[True, False], [False, True]], [[False, True], [True, False]]])


def image_of(*size: int, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(0))


def one_each(block: tuple[int, ...]) -> torch.Tensor:
    """As many modalities as places, in row-major order."""
    return torch.eye(prod(block), dtype=torch.bool).view(prod(block), *block)


@blocks
def test_of_one_voxel_per_block_is_linear_interpolation(size: tuple[int, ...], block: tuple[int, ...]) -> None:
    image = image_of(*size)
    found = demosaic(image, one_each(block))
    assert found.shape == (2, prod(block), *size)
    for place, corner in enumerate(product(*map(range, block))):
        grid = [np.arange(start, extent, step) for start, extent, step in zip(corner, size, block, strict=True)]
        # Beyond the outermost voxels of the place their values go on.
        everywhere = np.stack(np.meshgrid(*(np.arange(extent).clip(axis[0], axis[-1])
                                            for axis, extent in zip(grid, size, strict=True)), indexing="ij"), axis=-1)
        for sample in range(2):
            values = image[sample, 0].double().numpy()[np.ix_(*grid)]
            expected = RegularGridInterpolator(grid, values)(everywhere)
            np.testing.assert_allclose(found[sample, place].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("axes", [2, 3])
def test_of_a_chequerboard_is_the_mean_of_the_neighbours_at_foreign_voxels(axes: int) -> None:
    size = [9, 8, 7][:axes]
    image, square = image_of(*size), np.indices(size).sum(axis=0) % 2
    owned = torch.from_numpy(np.stack([np.indices([2] * axes).sum(axis=0) % 2 == modality for modality in (0, 1)]))
    found = demosaic(image, owned)
    cross = np.zeros([3] * axes)
    for axis, end in product(range(axes), (0, 2)):
        cross[tuple(end if other == axis else 1 for other in range(axes))] = 1
    if axes == 3:  # the corners, too: three steps away, where the triangles' product is an eighth; neighbours weigh a half
        for corner in product((0, 2), repeat=3):
            cross[corner] = 1 / 4
    for sample, modality in product(range(2), range(2)):
        own = square == modality
        values = image[sample, 0].double().numpy()
        around = convolve(values * own, cross, mode="constant") / np.maximum(convolve(own * 1.0, cross, mode="constant"), 1e-9)
        np.testing.assert_allclose(found[sample, modality].numpy(), np.where(own, values, around), atol=1e-6)


@pytest.mark.parametrize("owned", [CHEQUERED, one_each((2, 2)), torch.tensor([[[True, False]], [[False, True]]])])
def test_keeps_every_voxel_in_the_image_of_its_owner(owned: torch.Tensor) -> None:
    image = image_of(7, 10)
    found = demosaic(image, owned)
    for place in product(*map(range, owned.shape[1:])):
        rows, columns = (slice(start, None, step) for start, step in zip(place, owned.shape[1:], strict=True))
        owner = int(owned[(slice(None), *place)].nonzero())
        assert torch.equal(found[:, owner, rows, columns], image[:, 0, rows, columns])


def test_separates_two_images_that_were_printed_into_one() -> None:
    first, second = (torch.linspace(0, 1, 64).expand(1, 1, 64, 64), torch.linspace(1, 0.3, 64)[:, None].expand(1, 1, 64, 64))
    printed = torch.where((torch.arange(64)[:, None] + torch.arange(64)) % 2 == 0, first, second)
    found = demosaic(printed, CHEQUERED)[..., 1:-1, 1:-1]
    torch.testing.assert_close(found, torch.cat([first, second], dim=1)[..., 1:-1, 1:-1])


@settings(max_examples=20, deadline=None)
@given(height=st.integers(4, 12), width=st.integers(4, 12), block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
       value=st.floats(0, 1))
def test_of_a_uniform_image_is_uniform(height: int, width: int, block: tuple[int, int], value: float) -> None:
    found = demosaic(torch.full((1, 1, height, width), value), one_each(block))
    torch.testing.assert_close(found, torch.full_like(found, value))


@settings(max_examples=20, deadline=None)
@given(corner=st.tuples(st.integers(0, 3), st.integers(0, 3)), chequered=st.booleans())
def test_depends_on_the_place_within_the_block_and_not_on_the_window(corner: tuple[int, int], chequered: bool) -> None:
    """Windows that begin with a block see, away from their border, what the whole image shows there."""
    image, owned = image_of(16, 16), CHEQUERED if chequered else one_each((2, 2))
    rows, columns = (slice(2 * start, 2 * start + 8) for start in corner)
    window = demosaic(image[..., rows, columns], owned)
    torch.testing.assert_close(window[..., 1:-1, 1:-1], demosaic(image, owned)[..., rows, columns][..., 1:-1, 1:-1])


def test_is_differentiable_and_linear() -> None:
    image = image_of(6, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda images: demosaic(images, CHEQUERED), image)
    torch.testing.assert_close(demosaic(3 * image, CHEQUERED), 3 * demosaic(image, CHEQUERED))


def test_keeps_its_precision_under_autocast() -> None:
    image = image_of(16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = demosaic(image, CHEQUERED)
    assert found.dtype == torch.float32
    assert torch.equal(found, demosaic(image, CHEQUERED))


@pytest.mark.parametrize(("modalities", "strength"), [(2, 0.4), (2, 0.9), (4, 0.4), (1, 0.4)])
def test_unmixing_solves_the_equations_of_the_mixture(modalities: int, strength: float) -> None:
    sources = np.random.default_rng(0).random((2, modalities, 5, 6))
    mixed = strength * sources + (1 - strength) * sources.mean(axis=1, keepdims=True)
    mixture = strength * np.eye(modalities) + (1 - strength) / modalities
    solved = np.linalg.solve(mixture, mixed.transpose(1, 0, 2, 3).reshape(modalities, -1))
    found = unmix(torch.from_numpy(mixed), strength=strength).numpy()
    np.testing.assert_allclose(found, sources, atol=1e-12)
    np.testing.assert_allclose(found.transpose(1, 0, 2, 3).reshape(modalities, -1), solved, atol=1e-12)


def test_unmixing_leaves_alone_what_is_not_mixed() -> None:
    images = torch.rand(2, 3, 4, 5)
    assert torch.equal(unmix(images, strength=1.0), images)
