"""The chroma loss: zero for grey, the distance from it by hand, tissue alone, and a gradient that stays finite."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr

from fuse4seg.losses.chroma import chroma_loss

RandomImages = Callable[..., torch.Tensor]
#: What the floor under the root may change.
CLOSE = 1.1e-3


def painted(colour: tuple[float, float, float], *size: int) -> torch.Tensor:
    """An image of one colour, shape (1, 3, *size)."""
    return torch.tensor(colour).view(1, 3, *[1] * len(size)).expand(1, 3, *size)


class TestChromaLoss:
    @pytest.mark.parametrize("shape", [(2, 8, 9), (1, 5, 6, 7)])
    def test_is_zero_for_grey_in_one_channel_or_three(self, shape: tuple[int, ...], random_images: RandomImages) -> None:
        batch, *size = shape
        grey, tissue = random_images(batch, 1, *size), torch.ones(batch, 1, *size)
        assert chroma_loss(grey, tissue) == 0
        assert chroma_loss(grey.expand(batch, 3, *size), tissue).item() == pytest.approx(0, abs=1e-6)

    def test_is_the_mean_distance_from_grey_in_scikit_image_s_cb_and_cr(self, random_images: RandomImages) -> None:
        image, tissue = random_images(2, 3, 8, 9), (random_images(2, 1, 8, 9, seed=1) < 0.6).float()
        studio = rgb2ycbcr(image.double().numpy(), channel_axis=1)
        chroma = np.hypot(*((studio[:, part] - 128) / 224 for part in (1, 2)))
        expected = chroma[tissue[:, 0].numpy() > 0].mean()
        assert chroma_loss(image, tissue).item() == pytest.approx(expected, abs=CLOSE)

    def test_matches_orange_computed_by_hand(self) -> None:
        # Y = .299 * .8 + .587 * .5 + .114 * .2 = .5555; Cb = -.3555 / 1.772, Cr = .2445 / 1.402.
        expected = ((0.3555 / 1.772) ** 2 + (0.2445 / 1.402) ** 2) ** 0.5
        found = chroma_loss(painted((0.8, 0.5, 0.2), 4, 5), torch.ones(1, 1, 4, 5))
        assert found.item() == pytest.approx(expected, abs=CLOSE)

    def test_is_at_most_that_of_green_and_magenta(self) -> None:
        """Chroma is convex, so that no colour has more than one of the cube's corners."""
        corners = {colour: chroma_loss(painted(colour, 2, 2), torch.ones(1, 1, 2, 2)).item()
                   for colour in product((0.0, 1.0), repeat=3)}
        assert max(corners.values()) == pytest.approx(corners[0, 1, 0]) == pytest.approx(corners[1, 0, 1])
        assert corners[0, 1, 0] == pytest.approx(0.5339, abs=CLOSE)

    @settings(deadline=None, max_examples=30)
    @given(seed=st.integers(0, 10**6))
    def test_depends_on_tissue_alone(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        image, other = torch.rand(2, 2, 3, 6, 7, generator=random)
        tissue = (torch.rand(2, 1, 6, 7, generator=random) < 0.5).float()
        mixed = torch.where(tissue > 0, image, other)
        torch.testing.assert_close(chroma_loss(mixed, tissue), chroma_loss(image, tissue))

    def test_is_zero_where_there_is_no_tissue(self, random_images: RandomImages) -> None:
        image = random_images(2, 3, 8, 9).requires_grad_()
        loss = chroma_loss(image, torch.zeros(2, 1, 8, 9))
        loss.backward()
        assert loss == 0
        assert (image.grad == 0).all()

    @settings(deadline=None, max_examples=30)
    @given(seed=st.integers(0, 10**6), brightness=st.floats(-0.2, 0.2), scale=st.floats(0.1, 1))
    def test_ignores_brightness_and_grows_with_saturation(self, seed: int, brightness: float, scale: float) -> None:
        image = 0.3 + 0.4 * torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
        tissue, grey = torch.ones(1, 1, 5, 6), image.mean(dim=1, keepdim=True)
        whole = chroma_loss(image, tissue).item()
        assert chroma_loss(image + brightness, tissue).item() == pytest.approx(whole, abs=1e-5)
        assert chroma_loss(grey + scale * (image - grey), tissue).item() == pytest.approx(scale * whole, abs=CLOSE)

    def test_gradient_leaves_grey_alone_and_is_finite_there(self) -> None:
        image = painted((0.4, 0.4, 0.4), 3, 3).clone().requires_grad_()
        chroma_loss(image, torch.ones(1, 1, 3, 3)).backward()
        assert image.grad.abs().max() < 1e-3

    def test_gradient_pulls_pale_and_strong_colours_alike(self) -> None:
        """So a strong colour, where it is worth its price, need not be paler."""
        pulls = []
        for saturation in (0.1, 0.4):
            image = painted((0.5 + saturation, 0.5, 0.5 - saturation), 2, 2).clone().requires_grad_()
            chroma_loss(image, torch.ones(1, 1, 2, 2)).backward()
            pulls.append(image.grad[0, :, 0, 0])
        torch.testing.assert_close(pulls[0], pulls[1], rtol=1e-2, atol=1e-6)

    def test_is_the_same_for_a_volume_of_equal_slices(self, random_images: RandomImages) -> None:
        image, tissue = random_images(1, 3, 8, 9), (random_images(1, 1, 8, 9, seed=1) < 0.6).float()
        volumes = [part.unsqueeze(2).expand(-1, -1, 4, -1, -1) for part in (image, tissue)]
        torch.testing.assert_close(chroma_loss(*volumes), chroma_loss(image, tissue))
