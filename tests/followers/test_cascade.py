"""CASCADE: its published size, and its decoder level by level."""

from __future__ import annotations

import pytest
import torch

from fuse4seg.followers.cascade import Cascade


class TestCascade:
    def test_has_the_published_parameters(self) -> None:
        """Table of the later G-CASCADE, which has 35.28 million."""
        with torch.device("meta"):
            network = Cascade(3, 9)
        assert sum(part.numel() for part in network.parameters()) / 1e6 == pytest.approx(35.28, abs=0.005)

    def test_puts_what_passes_a_gate_beside_the_features(self) -> None:
        torch.manual_seed(0)
        network, features, skip = Cascade(1, 2), torch.rand(1, 64, 8, 8), torch.rand(1, 64, 8, 8)
        joined = network.join(features, network.gates[-1](features, skip))
        assert joined.shape[1] == network.joined(64) == 128
        assert torch.equal(joined[:, 64:], features)
        assert (joined[:, :64] < skip).all()  # sigmoid lies below 1
        assert network.refinements[-1](joined).shape == (1, 64, 8, 8)

    def test_narrows_its_gates_with_the_level(self) -> None:
        with torch.device("meta"):
            network = Cascade(1, 2)
        assert [gate.asked[0].out_channels for gate in network.gates] == [128, 64, 32]

    def test_doubles_each_voxel_on_its_way_up(self) -> None:
        torch.manual_seed(0)
        up = Cascade(1, 2).ups[-1].eval()
        features = torch.rand(1, 128, 3, 4)
        torch.testing.assert_close(up(features), up[1](features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)))
