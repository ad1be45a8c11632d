"""Demosaicing against SciPy, and the laws that make it a reading of the image and nothing else."""

from __future__ import annotations

from functools import reduce
from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve
from scipy.special import softmax
from scipy.stats import binom

from fuse4seg.networks.demosaic import demosaic, descreened, separate

blocks = pytest.mark.parametrize(("size", "block"), [((8, 10), (2, 2)), ((7, 9), (2, 2)), ((9, 8), (1, 2)), ((12, 8), (4, 2)),
                                                     ((6, 8, 7), (2, 2, 2)), ((5, 8, 6), (1, 2, 2))])
CHEQUERED = torch.tensor([[[True, False], [False, True]], [[False, True], [True, False]]])


def image_of(*size: int, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(0))


def one_each(block: tuple[int, ...]) -> torch.Tensor:
    """As many modalities as places, in row-major order."""
    return torch.eye(prod(block), dtype=torch.bool).view(prod(block), *block)


def triangles(step: int, passes: int) -> np.ndarray:
    """A mean over ``step`` voxels, twice for every pass: of 2, the binomial weights."""
    return reduce(np.convolve, [np.full(step, 1 / step)] * (2 * passes))


def weighted_mean(image: np.ndarray, own: np.ndarray, block: tuple[int, ...], passes: int = 3) -> np.ndarray:
    kernel = reduce(np.multiply.outer, [triangles(step, passes) for step in block])
    return convolve(image * own, kernel, mode="constant") / convolve(own, kernel, mode="constant")


@blocks
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_of_one_voxel_per_block_is_a_weighted_mean_over_the_own_voxels(size: tuple[int, ...], block: tuple[int, ...],
                                                                       passes: int) -> None:
    image = image_of(*size)
    found = demosaic(image, one_each(block), passes=passes)
    assert found.shape == (2, prod(block), *size)
    for place, corner in enumerate(product(*map(range, block))):
        own = np.zeros(size)
        own[tuple(slice(start, None, step) for start, step in zip(corner, block, strict=True))] = 1
        for sample in range(2):
            expected = weighted_mean(image[sample, 0].double().numpy(), own, block, passes)
            np.testing.assert_allclose(found[sample, place].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("axes", [2, 3])
def test_of_a_chequerboard_is_a_binomial_mean_over_the_own_voxels(axes: int) -> None:
    size = [9, 8, 7][:axes]
    image, square = image_of(*size), np.indices(size).sum(axis=0) % 2
    owned = torch.from_numpy(np.stack([np.indices([2] * axes).sum(axis=0) % 2 == modality for modality in (0, 1)]))
    found = demosaic(image, owned)
    np.testing.assert_allclose(triangles(2, 3), binom.pmf(range(7), 6, 0.5))
    for sample, modality in product(range(2), range(2)):
        expected = weighted_mean(image[sample, 0].double().numpy(), (square == modality) * 1.0, (2,) * axes)
        np.testing.assert_allclose(found[sample, modality].numpy(), expected, atol=1e-6)


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
    image, owned = image_of(20, 20), CHEQUERED if chequered else one_each((2, 2))
    rows, columns = (slice(2 * start, 2 * start + 12) for start in corner)
    window = demosaic(image[..., rows, columns], owned)
    torch.testing.assert_close(window[..., 3:-3, 3:-3], demosaic(image, owned)[..., rows, columns][..., 3:-3, 3:-3])


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


def halftone_of(sources: np.ndarray, owned: torch.Tensor, *, strength: float, brighter: float,
                sum_share: float = 0.0) -> torch.Tensor:
    """Sources (N, *S) as they are shown where the leader adds nothing of its own, shape (1, 1, *S)."""
    times = [extent // step for extent, step in zip(sources.shape[1:], owned.shape[1:], strict=True)]
    own = (sources * np.tile(owned.numpy(), (1, *times))).sum(axis=0)
    rest = (1 - sum_share) * (softmax(brighter * sources, axis=0) * sources).sum(axis=0)
    rest = rest + sum_share * np.minimum(1, 2 * sources.mean(axis=0))
    return torch.from_numpy(strength * own + (1 - strength) * rest)[None, None]


separated = pytest.mark.parametrize(("owned", "mixed"), [
    (CHEQUERED, {"strength": 0.3, "brighter": 2.0, "sum_share": 0.3}), (CHEQUERED, {"strength": 0.9, "brighter": 0.0}),
    (CHEQUERED, {"strength": 0.3, "brighter": 10.0}), (one_each((2, 2)), {"strength": 0.4, "brighter": 1.0, "sum_share": 0.1}),
    (one_each((1, 2)), {"strength": 0.5, "brighter": -1.0})])


def separated_from(image: torch.Tensor, owned: torch.Tensor, *, brighter: float, **mixed: float) -> np.ndarray:
    return separate(image, owned, brighter=torch.tensor(brighter), **mixed)[0].numpy()


@separated
def test_separating_gives_uniform_modalities_back(owned: torch.Tensor, mixed: dict[str, float]) -> None:
    sources = np.broadcast_to(np.random.default_rng(0).random((len(owned), 1, 1)), (len(owned), 8, 12))
    found = separated_from(halftone_of(sources, owned, **mixed), owned, **mixed)
    np.testing.assert_allclose(found, sources, atol=1e-12)


@separated
def test_separating_gives_slopes_back(owned: torch.Tensor, mixed: dict[str, float]) -> None:
    """Each its own, where there is no preference; with one, differences alone are linear in the image where slopes agree."""
    rows, columns = np.indices((16, 16)) / 32
    starts, slopes = np.random.default_rng(1).random((2, len(owned), 1, 1))
    sources = 0.15 * (starts + 0.3 * rows + (slopes if mixed["brighter"] == 0 else 0.2) * columns)  # whose sum is not cut
    found = separated_from(halftone_of(sources, owned, **mixed), owned, **mixed)
    np.testing.assert_allclose(found[:, 4:-4, 4:-4], sources[:, 4:-4, 4:-4], atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_of_a_chequerboard_shared_detail_along_an_axis_is_no_difference(axis: int) -> None:
    """Stripes one voxel wide, in both modalities, and nothing of them in what tells these apart."""
    stripes = np.indices((16, 16))[axis] % 2 / 4
    sources = np.stack([0.2 + stripes, 0.6 + stripes])
    image = halftone_of(sources, CHEQUERED, strength=0.3, brighter=2.0)
    found = separate(image, CHEQUERED, strength=0.3, brighter=torch.tensor(2.0))[0].numpy()
    np.testing.assert_allclose(found[:, 3:-3, 3:-3], sources[:, 3:-3, 3:-3], atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), strength=st.floats(0.1, 1), brighter=st.floats(0, 5), sum_share=st.floats(0, 0.9))
def test_separating_adds_to_all_modalities_alike_what_is_added_to_the_image_everywhere(
        seed: int, strength: float, brighter: float, sum_share: float) -> None:
    """As much, or, where there is a sum, which rises by as much as both of them, accordingly less, until it is cut."""
    image = 0.1 * torch.rand(1, 1, 8, 10, generator=torch.Generator().manual_seed(seed)).double()
    mixed = {"strength": strength, "brighter": brighter, "sum_share": sum_share}
    first, second = (separated_from(shown, CHEQUERED, **mixed) for shown in (image, image + 0.05))
    np.testing.assert_allclose(second, first + 0.05 / (1 + (1 - strength) * sum_share), atol=1e-12)


class TestDescreened:
    @pytest.mark.parametrize("passes", [1, 2])
    @pytest.mark.parametrize(("size", "owned"), [((9, 8), CHEQUERED), ((8, 10), one_each((2, 2))),
                                                 ((5, 8, 6), one_each((1, 2, 2)))])
    def test_takes_from_every_voxel_what_its_owner_s_show_above_the_mean(self, size: tuple[int, ...], owned: torch.Tensor,
                                                                         passes: int) -> None:
        block = tuple(owned.shape[1:])
        times = [-(-extent // step) for extent, step in zip(size, block, strict=True)]
        own = np.tile(owned.numpy(), (1, *times))[(slice(None), *map(slice, size))] * 1.0
        image = image_of(*size, batch=1)
        before = image[0, 0].double().numpy()
        shown = np.stack([weighted_mean(before, each, block, passes) for each in own])
        expected = before - (own * (shown - shown.mean(axis=0))).sum(axis=0)
        np.testing.assert_allclose(descreened(image, owned, passes=passes)[0, 0].numpy(), expected, atol=1e-6)

    @settings(max_examples=20, deadline=None)
    @given(value=st.floats(0, 1), raster=st.floats(-1, 1), passes=st.integers(1, 3))
    def test_of_a_chequerboard_over_a_uniform_image_leaves_that(self, value: float, raster: float, passes: int) -> None:
        chequerboard = torch.from_numpy(1.0 - np.indices((12, 12)).sum(axis=0) % 2 * 2)
        found = descreened(value + raster * chequerboard[None, None], CHEQUERED, passes=passes)
        torch.testing.assert_close(found, torch.full_like(found, value))

    @pytest.mark.parametrize("axis", [0, 1])
    def test_leaves_two_modalities_stripes_along_an_axis(self, axis: int) -> None:
        stripes = torch.from_numpy(np.indices((16, 16))[axis] % 2 / 4)[None, None]
        found = descreened(stripes, CHEQUERED, passes=1)
        torch.testing.assert_close(found[..., 3:-3, 3:-3], stripes[..., 3:-3, 3:-3])

    @settings(max_examples=20, deadline=None)
    @given(frequency=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), passes=st.integers(1, 3))
    def test_leaves_of_a_wave_over_the_chequerboard_what_the_smoothing_leaves_out(self, frequency: tuple[float, float],
                                                                                 passes: int) -> None:
        """What the smoothing lets through, a share k, goes; of what is left k (1 - k), a quarter at most, is read."""
        rows, columns = np.indices((40, 40))
        wave = torch.from_numpy(np.cos(2 * np.pi * (frequency[0] * rows + frequency[1] * columns)))
        chequerboard = torch.from_numpy(1.0 - (rows + columns) % 2 * 2)
        share = np.prod([np.cos(np.pi * each) ** (2 * passes) for each in frequency])
        found = descreened((chequerboard * wave)[None, None], CHEQUERED, passes=passes)[0, 0]
        middle = (slice(8, -8), slice(8, -8))
        torch.testing.assert_close(found[middle], (chequerboard * wave * (1 - share))[middle])
