"""The decoder: sizes it restores, what reaches what it reconstructs, and the auxiliary head on its features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fuse4seg.networks.decoder import AuxiliaryHead, Decoder


def decoder(detail_stride: list[int], base_strides: list[list[int]]) -> Decoder:
    torch.manual_seed(0)
    return Decoder(nn.Conv2d if len(detail_stride) == 2 else nn.Conv3d, detail_stride=detail_stride,
                   base_strides=base_strides, detail_features=4, base_features=8)


class TestDecoder:
    @pytest.mark.parametrize(("detail_stride", "base_strides", "low_size", "high_size", "size"), [
        ([2, 2], [[2, 2], [2, 2]], (2, 3), (8, 12), (16, 24)),
        ([2, 2], [], (8, 12), (8, 12), (16, 24)),
        ([1, 1], [], (5, 7), (5, 7), (5, 7)),
        ([1, 2, 2], [[2, 2, 2]], (3, 2, 3), (6, 4, 6), (6, 8, 12)),
        ([1, 2, 2], [[1, 2, 2], [2, 1, 3]], (2, 2, 2), (4, 4, 12), (4, 8, 24)),
    ])
    def test_restores_the_size_that_the_encoder_divided(
            self, detail_stride: list[int], base_strides: list[list[int]], low_size: tuple[int, ...],
            high_size: tuple[int, ...], size: tuple[int, ...]) -> None:
        low, high = torch.randn(2, 8, *low_size), torch.randn(2, 4, *high_size)
        network = decoder(detail_stride, base_strides)
        assert network(low, high).shape == (2, 1, *size)
        assert network.features(low, high).shape == (2, 4, *high_size)

    def test_reconstructs_between_0_and_1_whatever_its_features(self) -> None:
        image = decoder([2, 2], [[2, 2]])(1e4 * torch.randn(1, 8, 4, 4), 1e4 * torch.randn(1, 4, 8, 8))
        assert image.min() == 0
        assert image.max() == 1

    def test_starts_from_grey_where_features_say_nothing(self) -> None:
        network = decoder([2, 2], [[2, 2]])
        nn.init.zeros_(network.paint.weight)
        nn.init.zeros_(network.paint.bias)
        image = network(torch.randn(1, 8, 4, 4), torch.randn(1, 4, 8, 8))
        assert torch.equal(image, torch.full((1, 1, 16, 16), 0.5))

    @pytest.mark.parametrize("base_strides", [[], [[2, 2]], [[2, 2], [2, 2]]])
    def test_listens_to_both_frequencies(self, base_strides: list[list[int]]) -> None:
        coarse = 8 // 2 ** len(base_strides)
        low, high = torch.randn(1, 8, coarse, coarse, requires_grad=True), torch.randn(1, 4, 8, 8, requires_grad=True)
        network = decoder([2, 2], base_strides)
        for decode in (network, network.features):
            low.grad = high.grad = None
            decode(low, high).square().sum().backward()
            assert low.grad.abs().amax(dim=(0, 2, 3)).min() > 0
            assert high.grad.abs().amax(dim=(0, 2, 3)).min() > 0

    def test_reconstructs_from_the_features_alone(self) -> None:
        """Of equal features, one voxel of each block is like the others of its place."""
        network = decoder([2, 2], [[2, 2]])
        low, high = torch.randn(1, 8, 4, 4), torch.randn(1, 4, 8, 8)
        logits = network.paint(network.features(low, high))
        for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            torch.testing.assert_close(network(low, high)[:, 0, row::2, column::2], logits[:, place].sigmoid())

    def test_reconstructs_every_voxel_of_a_block_for_itself(self) -> None:
        image = decoder([2, 2], [[2, 2]])(torch.randn(1, 8, 4, 4), torch.randn(1, 4, 8, 8))
        corners = [image[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        assert all((corner - corners[0]).abs().mean() > 1e-3 for corner in corners[1:])


class TestAuxiliaryHead:
    @pytest.mark.parametrize(("conv_op", "size"), [(nn.Conv2d, (6, 5)), (nn.Conv3d, (4, 6, 5))])
    def test_gives_one_logit_per_class_at_the_resolution_of_the_features(self, conv_op: type[nn.Module],
                                                                         size: tuple[int, ...]) -> None:
        head = AuxiliaryHead(conv_op, 8, classes=3)
        assert head(torch.randn(2, 8, *size)).shape == (2, 3, *size)

    def test_learns_a_threshold_on_a_feature(self) -> None:
        torch.manual_seed(0)
        features = torch.randn(2, 4, 8, 8)
        labels = (features[:, 0] > 0).long()
        head = AuxiliaryHead(nn.Conv2d, 4, classes=2)
        optimiser = torch.optim.Adam(head.parameters(), 0.05)
        for _ in range(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(features), labels).backward()
            optimiser.step()
        assert (head(features).argmax(dim=1) == labels).float().mean() > 0.95

    def test_sends_a_gradient_to_the_features(self) -> None:
        features = torch.randn(1, 4, 8, 8, requires_grad=True)
        AuxiliaryHead(nn.Conv2d, 4, classes=2)(features).square().mean().backward()
        assert (features.grad != 0).all()
