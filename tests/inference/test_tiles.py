"""Windows over a whole image: what padding adds, what blending must give back, and how often each is computed."""

from __future__ import annotations

import pytest
import torch

from fuse4seg.inference.tiles import blend_tiles, pad_to_tiles


class TestPadToTiles:
    @pytest.mark.parametrize(("size", "grid", "padded"), [((13, 11), None, (16, 16)), ((16, 21), None, (16, 21)),
                                                          ((13, 21), (2, 2), (16, 22)), ((9, 35, 16), (2, 4, 4), (16, 36, 16))])
    def test_fills_windows_with_zeros_and_tells_where_the_image_lies(self, size: tuple[int, ...], grid: tuple[int, ...] | None,
                                                                     padded: tuple[int, ...]) -> None:
        images = 1 + torch.rand(2, 3, *size)
        found, inside = pad_to_tiles(images, tile=[16] * len(size), on_grid=grid)
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

    @pytest.mark.parametrize("size", [(16, 16), (16, 18), (34, 50), (38, 20)])
    def test_on_a_grid_begins_every_window_there_and_leaves_no_voxel_out(self, size: tuple[int, int]) -> None:
        places = torch.arange(size[0] * size[1], dtype=torch.float32).view(1, 1, *size)
        corners: list[int] = []
        found = blend_tiles(places, lambda window: corners.append(int(window[0, 0, 0, 0])) or window, tile=[16, 16],
                            on_grid=[2, 2])
        torch.testing.assert_close(found, places)
        assert not any(corner // size[1] % 2 or corner % size[1] % 2 for corner in corners)

    def test_refuses_a_grid_that_the_last_window_does_not_begin_on(self) -> None:
        with pytest.raises(ValueError, match="do not end on a grid"):
            blend_tiles(torch.rand(1, 1, 16, 33), lambda window: window, tile=[16, 16], on_grid=[2, 2])
