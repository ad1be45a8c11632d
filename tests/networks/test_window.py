"""The intensity window: values by hand, clamping, what lies outside the image, and windows it refuses."""

from __future__ import annotations

import pytest
import torch

from fuse4seg.networks.window import IntensityWindow


def column(*channels: list[float]) -> torch.Tensor:
    """Channels of one case, each a row of voxels: shape (1, N, 1, voxels)."""
    return torch.tensor(channels).view(1, len(channels), 1, -1)


class TestIntensityWindow:
    def test_maps_each_channel_linearly_through_its_own_window(self) -> None:
        window = IntensityWindow([(-1, 3), (0, 10)])
        sources, _ = window(column([-1.0, 1.0, 2.0, 3.0], [10.0, 5.0, 2.5, 1.0]))
        torch.testing.assert_close(sources, column([0.0, 0.5, 0.75, 1.0], [1.0, 0.5, 0.25, 0.1]))

    def test_clamps_what_lies_beyond_the_window(self) -> None:
        sources, _ = IntensityWindow([(-1, 3)])(column([-7.0, 99.0]))
        assert torch.equal(sources, column([0.0, 1.0]))

    def test_is_zero_where_every_channel_is_zero_though_zero_lies_inside_the_window(self) -> None:
        sources, inside = IntensityWindow([(-1, 1), (-3, 1)])(column([0.0, 0.5], [0.0, 0.0]))
        torch.testing.assert_close(sources, column([0.0, 0.75], [0.0, 0.75]))
        assert torch.equal(inside, column([0.0, 1.0]))

    @pytest.mark.parametrize("value", [1e-6, -2.0])
    def test_one_channel_that_is_not_zero_makes_a_voxel_part_of_the_image(self, value: float) -> None:
        sources, inside = IntensityWindow([(-1, 1)] * 3)(column([0.0], [value], [0.0]))
        assert inside.item() == 1
        torch.testing.assert_close(sources[:, [0, 2]], torch.full((1, 2, 1, 1), 0.5))

    def test_treats_every_slice_of_a_volume_alike(self) -> None:
        volume = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        volume[..., :2] = 0
        window = IntensityWindow([(-1, 1), (-2, 0)])
        sources, inside = window(volume)
        slices = [window(volume[:, :, index]) for index in range(3)]
        assert torch.equal(sources, torch.stack([part for part, _ in slices], dim=2))
        assert torch.equal(inside, torch.stack([part for _, part in slices], dim=2))

    def test_adds_nothing_to_a_checkpoint(self) -> None:
        assert IntensityWindow([(0, 1)]).state_dict() == {}

    @pytest.mark.parametrize("windows", [[(1, 1)], [(2, 1)], [(0, 1, 2)], [(float("nan"), 1)], [], [(0, 1), (3, 2)]])
    def test_refuses_what_is_no_window(self, windows: list[tuple[float, ...]]) -> None:
        with pytest.raises(ValueError, match="low below high"):
            IntensityWindow(windows)
