"""Group norms in place of instance norms: the same numbers, and only within the block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fuse4seg.inference.instance_norm import as_group_norms


class TestAsGroupNorms:
    @pytest.mark.parametrize("shape", [(2, 8, 20, 12), (2, 8, 6, 10, 7), (2, 64, 4, 4)])
    @pytest.mark.parametrize("affine", [True, False])
    @pytest.mark.parametrize("channels_last", [True, False])
    def test_are_the_same(self, shape: tuple[int, ...], affine: bool, channels_last: bool) -> None:
        torch.manual_seed(0)
        norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[len(shape) - 4](shape[1], affine=affine)
        images = 3 + 2 * torch.randn(shape)
        if channels_last:
            layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
            images = images.contiguous(memory_format=layout)
        expected = norm(images)
        with as_group_norms(nn.Sequential(norm)):
            torch.testing.assert_close(norm(images), expected, atol=1e-5, rtol=1e-5)

    def test_keep_half_precision_under_autocast(self) -> None:
        norm, images = nn.InstanceNorm2d(4), torch.randn(1, 4, 16, 16, dtype=torch.bfloat16)
        with as_group_norms(nn.Sequential(norm)), torch.autocast("cpu", dtype=torch.bfloat16):
            found = norm(images)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), norm(images.float()), atol=0.03, rtol=0.01)

    def test_are_gone_after_the_block_whatever_happened_in_it(self) -> None:
        norm = nn.InstanceNorm2d(4)
        with pytest.raises(ZeroDivisionError), as_group_norms(nn.Sequential(norm)):
            _ = 1 / ("forward" not in vars(norm))
        assert "forward" not in vars(norm)

    def test_leave_norms_with_running_statistics_alone(self) -> None:
        norm = nn.InstanceNorm2d(4, track_running_stats=True)
        with as_group_norms(nn.Sequential(norm)):
            assert "forward" not in vars(norm)
