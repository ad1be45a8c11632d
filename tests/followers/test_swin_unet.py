"""Swin-Unet: its published size, patch expanding by hand, and windows at the edges of small and odd maps."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch.nn import functional

from fuse4seg.followers.swin_unet import WINDOW, PatchExpanding, SwinLevel, SwinUNet


class TestPatchExpanding:
    @pytest.mark.parametrize("times", [2, 4])
    def test_moves_channels_into_space(self, times: int) -> None:
        torch.manual_seed(0)
        expand, features = PatchExpanding(8, 4, times=times), torch.rand(2, 8, 3, 5)
        tokens = torch.einsum("oi,bihw->bhwo", expand[0].weight.flatten(1), features)
        moved = rearrange(tokens, "b h w (c p q) -> b (h p) (w q) c", p=times, q=times)
        expected = functional.layer_norm(moved, (4,)).movedim(-1, 1)
        torch.testing.assert_close(expand(features), expected, rtol=1e-4, atol=1e-5)


class TestSwinLevel:
    def test_sees_a_map_smaller_than_a_window_as_part_of_one(self) -> None:
        torch.manual_seed(0)
        level, features = SwinLevel(12, 3), torch.rand(1, 12, 4, WINDOW)
        padded = functional.pad(features, (0, 0, 0, WINDOW - 4))
        torch.testing.assert_close(level(features), level(padded)[..., :4, :])

    def test_looks_out_of_a_window_by_shifting_it(self) -> None:
        torch.manual_seed(0)
        level, features = SwinLevel(12, 3), torch.rand(1, 12, 2 * WINDOW, 2 * WINDOW)
        other = features.clone()
        other[..., 0, 0] += torch.arange(12.0)
        changed = (level(other) - level(features)).detach().abs().amax(dim=1)[0] > 1e-7
        # The first block spreads it over its window; the second over the shifted windows that this one touches.
        reach = WINDOW + WINDOW // 2
        assert changed[:reach, :reach].all()
        assert not changed[reach:].any()
        assert not changed[:, reach:].any()


class TestSwinUNet:
    def test_has_the_published_parameters(self) -> None:
        """At 224 x 224 with nine classes; the number of parameters knows no size."""
        with torch.device("meta"):
            network = SwinUNet(3, 9)
            assert network(torch.empty(1, 3, 224, 224)).shape == (1, 9, 224, 224)
        assert sum(part.numel() for part in network.parameters()) / 1e6 == pytest.approx(27.17, abs=0.005)

    def test_sees_the_whole_image(self) -> None:
        torch.manual_seed(0)
        network, images = SwinUNet(1, 2), torch.rand(1, 1, 64, 64)
        other = images.clone()
        other[..., :4, :4] = 1 - other[..., :4, :4]
        with torch.no_grad():
            assert float((network(other) - network(images))[..., -4:, -4:].abs().max()) > 0
