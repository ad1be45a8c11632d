"""Mirroring samples: each along its own axes, and back."""

from __future__ import annotations

import pytest
import torch

from fuse4seg.networks.mirror import mirrored


class TestMirrored:
    def test_flips_each_sample_along_its_own_axes(self) -> None:
        images = torch.arange(2 * 2 * 3).view(2, 1, 2, 3)
        found = mirrored(images, torch.tensor([[True, False], [False, True]]))
        assert found[0, 0].tolist() == [[3, 4, 5], [0, 1, 2]]
        assert found[1, 0].tolist() == [[8, 7, 6], [11, 10, 9]]

    @pytest.mark.parametrize("size", [(4, 5), (3, 4, 5)])
    def test_twice_is_the_same_again(self, size: tuple[int, ...]) -> None:
        images = torch.rand(6, 2, *size)
        flips = torch.rand(6, len(size)) < 0.5
        assert torch.equal(mirrored(mirrored(images, flips), flips), images)

    def test_nothing_to_flip_leaves_all_as_it_is(self) -> None:
        images = torch.rand(2, 3, 4, 5)
        assert torch.equal(mirrored(images, torch.zeros(2, 2, dtype=torch.bool)), images)

    def test_gradients_come_back_mirrored(self) -> None:
        images = torch.rand(1, 1, 3, 2, requires_grad=True)
        weights = torch.arange(6.0).view(1, 1, 3, 2)
        (mirrored(images, torch.tensor([[True, True]])) * weights).sum().backward()
        assert torch.equal(images.grad, weights.flip(2, 3))
