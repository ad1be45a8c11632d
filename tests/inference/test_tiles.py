"""Windows over a whole image: what padding adds, what blending must give back, and how often each is computed."""

from __future__ import annotations

import pytest
import torch

from fuse4seg.inference.tiles import blend_tiles, pad_to_tiles


class TestPadToTiles:
    @pytest.mark.parametrize(("size", "padded"), [((13, 11), (16, 16)), ((16, 21), (16, 21)), ((9, 35, 16), (16, 35, 16))])
    def test_fills_windows_with_zeros_and_tells_where_the_image_lies(self, size: tuple[int, ...],
                                                                     padded: tuple[int, ...]) -> None:
        images = 1 + torch.rand(2, 3, *size)
        found, inside = pad_to_tiles(images, tile=[16] * len(size))
        assert found.shape == (2, 3, *padded)
        assert torch.equal(found[inside], images)
        assert int(found.count_nonzero()) == images.numel()


class TestBlendTiles:
    @pytest.mark.parametrize("size", [(16, 16), (17, 40), (20, 16, 33)])
    @pytest.mark.parametrize("step_size", [0.5, 1.0])
    def test_of_a_pointwise_function_is_that_function(self, size: tuple[int, ...], step_size: float) -> None:
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        found = blend_tiles(images, lambda window: window[:, :2].square(), tile=[16] * len(size), step_size=step_size)
        torch.testing.assert_close(found, images[:, :2].square())

    def test_computes_a_single_window_once_and_as_it_is(self) -> None:
        images, seen = torch.rand(1, 1, 16, 16), []
        assert blend_tiles(images, lambda window: seen.append(window) or window, tile=[16, 16]) is images
        assert len(seen) == 1

    def test_steps_by_half_a_window_by_default(self) -> None:
        seen: list[torch.Tensor] = []
        blend_tiles(torch.rand(1, 1, 16, 32), lambda window: seen.append(window) or window, tile=[16, 16])
        assert len(seen) == 3
