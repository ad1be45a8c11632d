"""Viewing: small changes of the fused image, drawn from their own numbers, that leave its range and its outside alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve1d
from scipy.stats import kstest

from fuse4seg.networks.fuse_then_segment import whole_levels
from fuse4seg.recipes.recipe import VIEWING
from fuse4seg.steps.viewing import GAIN, GAMMA, NOISE, OFFSET, UNCHANGED, as_viewed, blurred, draw_viewing

#: Columns that each change moves.
COLUMNS = {"blur": [0], "gamma": [1], "window": [2, 3], "noise": [4]}
MakeImage = Callable[..., torch.Tensor]
some_changes = st.lists(st.sampled_from(VIEWING), unique=True)


@pytest.fixture(scope="module")
def image_of_levels() -> MakeImage:
    """Function of a shape that gives whole levels, 0 outside and from 1 on inside."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        random = torch.Generator().manual_seed(seed)
        inside = (torch.rand(shape[0], 1, *shape[2:], generator=random) < 0.8).float()
        return whole_levels(torch.rand(shape, generator=random), inside)

    return make


def viewing(samples: int = 2, *, blur: float = 0.0, gamma: float = 1.0, gain: float = 1.0, offset: float = 0.0,
            noise: float = 0.0) -> torch.Tensor:
    return torch.tensor([[blur, gamma, gain, offset, noise]] * samples)


def binomial(images: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    for axis in axes:
        images = convolve1d(images, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    return images


class TestBlurred:
    @pytest.mark.parametrize("shape", [(2, 3, 9, 7), (1, 1, 2, 1), (2, 1, 4, 5, 6)])
    def test_is_scipy_s_convolution_with_the_border_repeated(self, shape: tuple[int, ...]) -> None:
        images = torch.rand(shape, dtype=torch.float64)
        np.testing.assert_allclose(blurred(images), binomial(images.numpy(), range(2, len(shape))), atol=1e-12)


class TestDrawViewing:
    def test_is_repeated_by_its_seed_alone(self) -> None:
        first, again, other = (draw_viewing(np.random.default_rng(seed), 7) for seed in (3, 3, 4))
        assert first.shape == (7, 5)
        assert first.dtype == torch.float32
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    @settings(deadline=None, max_examples=50)
    @given(seed=st.integers(0, 10**6), samples=st.integers(1, 9), changes=some_changes)
    def test_of_some_changes_is_that_of_all_without_the_others(self, seed: int, samples: int, changes: list[str]) -> None:
        numbers = [np.random.default_rng(seed) for _ in range(2)]
        whole, some = draw_viewing(numbers[0], samples), draw_viewing(numbers[1], samples, changes=changes)
        for change, columns in COLUMNS.items():
            wanted = whole[:, columns] if change in changes else torch.tensor(UNCHANGED)[columns].expand(samples, -1)
            assert torch.equal(some[:, columns], wanted)
        assert numbers[0].bit_generator.state == numbers[1].bit_generator.state

    def test_makes_each_change_of_every_other_sample_by_itself(self) -> None:
        drawn = draw_viewing(np.random.default_rng(0), 20_000).numpy()
        changed = np.stack([(drawn[:, columns] != np.float32(UNCHANGED)[columns]).any(axis=1) for columns in COLUMNS.values()])
        np.testing.assert_allclose(changed.mean(axis=1), 0.5, atol=4 * 0.5 / 20_000**0.5)
        together = np.corrcoef(changed)
        assert max(abs(together[pair]) for pair in combinations(range(4), 2)) < 0.03
        # Gain and offset are changed together.
        assert ((drawn[:, 2] != 1) == (drawn[:, 3] != 0)).all()

    @pytest.mark.parametrize(("column", "low", "high", "taken"), [
        (0, 0, 1, lambda part: part), (1, -GAMMA, GAMMA, np.log), (2, 1 - GAIN, 1 + GAIN, lambda part: part),
        (3, -OFFSET, OFFSET, lambda part: part), (4, 0, NOISE, lambda part: part)])
    def test_draws_evenly_between_the_largest_changes(self, column: int, low: float, high: float, taken: Callable) -> None:
        drawn = draw_viewing(np.random.default_rng(1), 20_000)[:, column].double().numpy()
        changes = taken(drawn[drawn != UNCHANGED[column]])
        assert kstest((changes - low) / (high - low), "uniform").pvalue > 1e-3


class TestAsViewed:
    @pytest.mark.parametrize("shape", [(2, 1, 9, 7), (2, 3, 9, 7), (2, 3, 4, 5, 6)])
    def test_of_no_change_is_the_fused_image(self, shape: tuple[int, ...], image_of_levels: MakeImage) -> None:
        image = image_of_levels(*shape)
        for rows in (torch.tensor([UNCHANGED] * 2), draw_viewing(np.random.default_rng(0), 2, changes=())):
            assert torch.equal(as_viewed(image, rows), image)

    @pytest.mark.parametrize("colours", [1, 3])
    def test_of_no_change_keeps_every_level(self, colours: int) -> None:
        """The darkest inside the image among them, however dark the voxel."""
        levels = whole_levels(torch.arange(256).view(1, 1, 16, 16) / 255, torch.ones(1, 1, 16, 16)).repeat(1, colours, 1, 1)
        assert torch.equal(as_viewed(levels, viewing(1)), levels)

    @settings(deadline=None, max_examples=60)
    @given(seed=st.integers(0, 10**6), colours=st.sampled_from([1, 3]), size=st.sampled_from([(6, 7), (3, 4, 5)]))
    def test_stays_in_the_range_and_zero_outside(self, seed: int, colours: int, size: tuple[int, ...],
                                                 image_of_levels: MakeImage) -> None:
        image = image_of_levels(4, colours, *size, seed=seed)
        found = as_viewed(image, 3 * (draw_viewing(np.random.default_rng(seed), 4) - torch.tensor(UNCHANGED))
                          + torch.tensor(UNCHANGED))
        assert found.min() >= 0
        assert found.max() <= 1
        outside = (image == 0).all(dim=1, keepdim=True).expand_as(image)
        assert outside.any()
        assert (found[outside] == 0).all()

    @pytest.mark.parametrize("part", [0.3, 1.0])
    @pytest.mark.parametrize("shape", [(2, 3, 9, 7), (2, 1, 4, 5, 6)])
    def test_blurs_in_part(self, part: float, shape: tuple[int, ...], image_of_levels: MakeImage) -> None:
        image = image_of_levels(*shape)
        whole = binomial(image.numpy(), range(2, len(shape)))
        expected = np.where(image.numpy().any(axis=1, keepdims=True), (1 - part) * image.numpy() + part * whole, 0)
        np.testing.assert_allclose(as_viewed(image, viewing(blur=part)), expected, atol=1e-6)

    @settings(deadline=None, max_examples=40)
    @given(gamma=st.floats(0.7, 1.4), gain=st.floats(0.8, 1.2), offset=st.floats(-0.1, 0.1))
    def test_is_its_formula(self, gamma: float, gain: float, offset: float, image_of_levels: MakeImage) -> None:
        image = image_of_levels(2, 3, 9, 7)
        expected = np.clip(gain * image.double().numpy() ** gamma + offset, 0, 1) * image.numpy().any(axis=1, keepdims=True)
        np.testing.assert_allclose(as_viewed(image, viewing(gamma=gamma, gain=gain, offset=offset)), expected, atol=1e-6)

    def test_changes_each_sample_by_its_own_draw(self, image_of_levels: MakeImage) -> None:
        image = image_of_levels(3, 3, 9, 7)
        rows = torch.cat([viewing(1, blur=0.5), viewing(1), viewing(1, gamma=1.2, offset=0.02)])
        found = as_viewed(image, rows)
        for sample in range(3):
            alone = as_viewed(image[sample:sample + 1], rows[sample:sample + 1])
            torch.testing.assert_close(found[sample:sample + 1], alone)
        assert (found[0] - image[0]).abs().max() > 0.05
        assert torch.equal(found[1], image[1])

    def test_adds_noise_of_the_spread_drawn_apart_for_each_channel(self) -> None:
        image = torch.full((2, 3, 100, 100), 0.5)
        rows = torch.cat([viewing(1, noise=0.01), viewing(1, noise=0.03)])
        torch.manual_seed(0)
        off = (as_viewed(image, rows) - image).double()
        np.testing.assert_allclose(off.std(dim=(1, 2, 3)), [0.01, 0.03], rtol=0.02)
        assert kstest((off[0].flatten() / 0.01).numpy(), "norm").pvalue > 1e-3
        between = np.corrcoef(off[0].flatten(1))
        assert max(abs(between[pair]) for pair in combinations(range(3), 2)) < 0.05

    def test_is_repeated_by_pytorch_s_seed(self, image_of_levels: MakeImage) -> None:
        image, rows = image_of_levels(2, 3, 9, 7), viewing(noise=0.01)
        found = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            found.append(as_viewed(image, rows))
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])

    def test_lets_gradients_through_to_the_leader(self, image_of_levels: MakeImage) -> None:
        image = image_of_levels(2, 3, 9, 7).requires_grad_()
        as_viewed(image, viewing(blur=0.5, gamma=0.9, gain=1.05, offset=-0.01, noise=0.005)).sum().backward()
        assert image.grad.isfinite().all()
        inside = (image > 0).expand_as(image)
        assert (image.grad[inside] > 0).float().mean() > 0.9
