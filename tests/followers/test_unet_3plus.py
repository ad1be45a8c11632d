"""UNet 3+: its published size, and what each level of its decoder reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.measure import block_reduce
from skimage.transform import resize

from fuse4seg.followers import unet_3plus
from fuse4seg.followers.unet_3plus import FullScaleLevel, UNet3Plus, resampled


class TestResampled:
    def test_takes_the_maximum_of_finer_maps(self) -> None:
        values = np.random.default_rng(0).random((8, 12)).astype(np.float32)
        coarse = resampled(torch.from_numpy(values)[None, None], (2, 3))
        np.testing.assert_array_equal(coarse[0, 0].numpy(), block_reduce(values, (4, 4), np.max))

    def test_interpolates_coarser_maps(self) -> None:
        values = np.random.default_rng(0).random((2, 3)).astype(np.float32)
        fine = resampled(torch.from_numpy(values)[None, None], (8, 12))
        np.testing.assert_allclose(fine[0, 0].numpy(), resize(values, (8, 12), order=1, mode="edge"), atol=1e-6)

    def test_leaves_a_map_of_the_same_size_alone(self) -> None:
        features = torch.rand(1, 2, 4, 4)
        assert resampled(features, (4, 4)) is features


class TestFullScaleLevel:
    @pytest.mark.parametrize("changed", range(4))
    def test_reads_every_scale(self, changed: int) -> None:
        torch.manual_seed(0)
        level = FullScaleLevel((3, 4, 5, 6)).eval()
        scales = [torch.rand(1, width, 16 >> scale, 16 >> scale) for scale, width in enumerate((3, 4, 5, 6))]
        before = level(scales, (8, 8))
        scales[changed] = scales[changed] + torch.rand_like(scales[changed])
        assert before.shape == (1, 4 * unet_3plus.SENT, 8, 8)
        assert float((level(scales, (8, 8)) - before).detach().abs().max()) > 1e-4


class TestUNet3Plus:
    def test_has_the_published_parameters(self) -> None:
        """The paper's Table 1."""
        with torch.device("meta"):
            network = UNet3Plus(3, 1)
        assert sum(part.numel() for part in network.parameters()) / 1e6 == pytest.approx(26.97, abs=0.005)

    def test_reads_finer_scales_from_the_encoder_and_coarser_ones_from_the_decoder(self) -> None:
        seen: list[list[tuple[int, int]]] = []
        with torch.device("meta"):
            network = UNet3Plus(1, 2)
            for level in network.levels:
                level.register_forward_pre_hook(
                    lambda _, inputs: seen.append([(scale.shape[1], scale.shape[2]) for scale in inputs[0]]))
            network(torch.empty(1, 1, 64, 64))
        assert seen == [[(64, 64), (128, 32), (256, 16), (512, 8), (1024, 4)],
                        [(64, 64), (128, 32), (256, 16), (320, 8), (1024, 4)],
                        [(64, 64), (128, 32), (320, 16), (320, 8), (1024, 4)],
                        [(64, 64), (320, 32), (320, 16), (320, 8), (1024, 4)]]
