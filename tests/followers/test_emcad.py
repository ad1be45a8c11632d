"""EMCAD: its published size, and its block by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fuse4seg.followers.emcad import KERNELS, Emcad, MultiScaleBlock


class TestMultiScaleBlock:
    def test_is_what_the_formula_says(self) -> None:
        torch.manual_seed(0)
        block, features = MultiScaleBlock(4).eval(), 4 * torch.rand(1, 4, 5, 6)
        for scale, kernel, factor in zip(block.scales, KERNELS, (1.0, 2.0, 3.0), strict=True):
            with torch.no_grad():  # each voxel alone, times a factor
                nn.init.zeros_(scale[0].weight)[..., kernel // 2, kernel // 2] = factor
        # Before training batch normalisation only divides by the root of 1 + 1e-5.
        scale = (1 + 1e-5) ** -0.5
        widen, narrow = block.widen[0].weight.flatten(1), block.narrow[1].weight.flatten(1)
        wide = (scale * torch.einsum("oi,bihw->bohw", widen, features)).clamp(0, 6)
        summed = sum((scale * factor * wide).clamp(0, 6) for factor in (1.0, 2.0, 3.0))
        # Four groups of two are shuffled to two groups of four.
        shuffled = summed[:, [0, 2, 4, 6, 1, 3, 5, 7]]
        expected = features + scale * torch.einsum("oi,bihw->bohw", narrow, shuffled)
        torch.testing.assert_close(block(features), expected)

    @pytest.mark.parametrize(("alone", "reach"), [(0, 0), (1, 1), (2, 2)])
    def test_looks_at_several_scales(self, alone: int, reach: int) -> None:
        torch.manual_seed(0)
        block, features = MultiScaleBlock(4).eval(), torch.rand(1, 4, 9, 9)
        for index, scale in enumerate(block.scales):
            nn.init.constant_(scale[0].weight, 0.1 if index == alone else 0.0)
        nn.init.constant_(block.widen[0].weight, 0.1)
        other = features.clone()
        other[..., 4, 4] += 1
        changed = (block(other) - block(features)).detach().abs().amax(dim=1)[0].nonzero()
        assert int((changed - 4).abs().max()) == reach


class TestEmcad:
    def test_has_the_published_parameters(self) -> None:
        """The paper's Table 1, and its decoder's."""
        with torch.device("meta"):
            network = Emcad(3, 1)
        total, encoder = (sum(part.numel() for part in module.parameters()) / 1e6 for module in (network, network.encoder))
        assert total == pytest.approx(26.76, abs=0.005)
        assert total - encoder == pytest.approx(1.91, abs=0.005)

    def test_adds_what_passes_a_gate_to_the_features(self) -> None:
        torch.manual_seed(0)
        network, features, skip = Emcad(1, 2), torch.rand(1, 64, 8, 8), torch.rand(1, 64, 8, 8)
        passed = network.join(features, network.gates[-1](features, skip)) - features
        assert (passed > 0).all()
        assert (passed < skip).all()
