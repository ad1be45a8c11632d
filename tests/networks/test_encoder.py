"""The dual-stream encoder: shapes, weights shared by modalities, and a high-frequency stream that loses nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fuse4seg.networks.encoder import DualStreamEncoder
from fuse4seg.networks.rearrange import space_to_depth


def encoder(axes: int = 2, modalities: int = 2, **changed: Any) -> DualStreamEncoder:
    torch.manual_seed(0)
    arguments = {"detail_stride": [2] * axes, "base_strides": [[2] * axes], "detail_features": 4, "base_features": 8,
                 "couplings": 2, "transformers": 1, **changed}
    return DualStreamEncoder(nn.Conv2d if axes == 2 else nn.Conv3d, modalities, **arguments)


class TestDualStreamEncoder:
    @pytest.mark.parametrize("modalities", [1, 2, 4])
    @pytest.mark.parametrize(("strides", "size", "low_size", "high_size"), [
        ([[2, 2], [2, 2], [2, 2]], (16, 24), (2, 3), (8, 12)),
        ([[2, 2]], (16, 24), (8, 12), (8, 12)),
        ([[1, 1]], (5, 7), (5, 7), (5, 7)),
        ([[2, 2, 2], [2, 2, 2]], (8, 8, 12), (2, 2, 3), (4, 4, 6)),
        ([[1, 2, 2], [2, 2, 2]], (6, 8, 12), (3, 2, 3), (6, 4, 6)),
        ([[1, 2, 2], [1, 2, 2], [2, 1, 3]], (4, 8, 12), (2, 2, 1), (4, 4, 6)),
    ])
    def test_divides_each_axis_by_its_strides(self, modalities: int, strides: list[list[int]], size: tuple[int, ...],
                                              low_size: tuple[int, ...], high_size: tuple[int, ...]) -> None:
        network = encoder(len(size), modalities, detail_stride=strides[0], base_strides=strides[1:])
        low, high = network(torch.rand(2, modalities, *size))
        assert low.shape == (2, modalities, 8, *low_size)
        assert high.shape == (2, modalities, 4, *high_size)

    def test_shares_its_weights_between_modalities(self) -> None:
        network, sources = encoder(modalities=3), torch.rand(2, 3, 8, 8)
        order = [2, 0, 1]
        for features, permuted in zip(network(sources), network(sources[:, order]), strict=True):
            torch.testing.assert_close(permuted, features[:, order])

    def test_can_tell_modalities_apart_by_their_offsets(self) -> None:
        network = encoder()
        nn.init.normal_(network.modality)
        image = torch.rand(1, 1, 8, 8)
        low, high = network(image.expand(1, 2, 8, 8))
        assert (low[:, 0] - low[:, 1]).abs().mean() > 1e-2
        assert (high[:, 0] - high[:, 1]).abs().mean() > 1e-2

    def test_gives_every_modality_of_every_case_its_own_offset(self) -> None:
        network, sources = encoder(), torch.rand(3, 2, 8, 8)
        nn.init.normal_(network.modality)
        low, _ = network(sources)
        alone, _ = network(sources[2:])
        torch.testing.assert_close(low[2:], alone)

    def test_high_stream_can_be_undone_up_to_its_norm(self) -> None:
        network, sources = encoder(), torch.rand(2, 2, 8, 8)
        with torch.no_grad():
            stem = network.activation(network.stem(space_to_depth(sources.view(4, 1, 8, 8), (2, 2))))
            *couplings, norm = network.high
            restored = network.high[:-1](stem)
            torch.testing.assert_close(norm(restored), network(sources)[1].flatten(0, 1))
            for coupling in reversed(couplings):
                restored = coupling.inverse(restored)
        torch.testing.assert_close(restored, stem, atol=1e-5, rtol=0)

    def test_both_streams_end_normalised(self) -> None:
        for features in encoder()(100 * torch.rand(2, 2, 8, 8)):
            torch.testing.assert_close(features.mean(dim=2), torch.zeros_like(features[:, :, 0]), atol=1e-5, rtol=0)
            torch.testing.assert_close(features.var(dim=2, correction=0), torch.ones_like(features[:, :, 0]), atol=1e-2, rtol=0)

    def test_counts_blocks_as_asked(self) -> None:
        none, one, three = (sum(p.numel() for p in encoder(couplings=n).high.parameters()) for n in (0, 1, 3))
        assert three - none == 3 * (one - none) > 0

    @pytest.mark.parametrize("axes", [2, 3])
    def test_sends_a_gradient_to_every_parameter(self, axes: int) -> None:
        network = encoder(axes)
        for features in network(torch.rand(2, 2, *[8] * axes)):
            (features * torch.randn_like(features)).sum().backward(retain_graph=True)
        assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())
