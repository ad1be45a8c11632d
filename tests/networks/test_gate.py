"""The gate: shares that add up, a readable mixture before training, and no order of modalities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fuse4seg.networks.gate import BRIGHTER_AT_START, PAINTED_AT_START, Gate

FEATURES = 4


def gate(axes: int = 2, *, detail_stride: list[int] | None = None) -> Gate:
    torch.manual_seed(0)
    return Gate(nn.Conv2d if axes == 2 else nn.Conv3d, FEATURES, detail_stride=detail_stride or [2] * axes)


def features(modalities: int, *size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoder's features and high-frequency features."""
    return torch.randn(2, FEATURES, *size), torch.randn(2, modalities, FEATURES, *size)


class TestGate:
    @pytest.mark.parametrize("modalities", [1, 2, 3, 4])
    @pytest.mark.parametrize("size", [(8, 12), (4, 6, 8)])
    def test_shares_are_probabilities(self, modalities: int, size: tuple[int, ...],
                                      random_images: Callable[..., torch.Tensor]) -> None:
        sources = random_images(2, modalities, *size)
        shares = gate(len(size))(*features(modalities, *(extent // 2 for extent in size)), sources)
        assert shares.shape == (2, modalities + 1, *size)
        assert shares.min() >= 0
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(2, *size))

    def test_that_prefers_the_brighter_starts_near_the_maximum(self, random_images: Callable[..., torch.Tensor]) -> None:
        torch.manual_seed(0)
        sources = random_images(2, 2, 8, 12)
        network = Gate(nn.Conv2d, FEATURES, detail_stride=[2, 2], brighter=10.0)
        shares = network(*features(2, 4, 6), sources)
        clear = (sources[:, 0] - sources[:, 1]).abs() > 0.5
        assert shares.gather(1, sources.argmax(dim=1, keepdim=True)).squeeze(1)[clear].min() > 0.98

    @pytest.mark.parametrize("bound", [0.5, 3.0])
    def test_bounded_leaves_every_source_a_share_however_sure_the_features_are(
            self, bound: float, random_images: Callable[..., torch.Tensor]) -> None:
        torch.manual_seed(0)
        network, sources = Gate(nn.Conv2d, FEATURES, detail_stride=[2, 2], bound=bound), random_images(2, 2, 8, 12)
        nn.init.normal_(network.source[-1].weight, std=1e4)
        nn.init.zeros_(network.brighter)
        first, second = network(*features(2, 4, 6), sources)[:, :2].unbind(dim=1)
        ratio = (first / second).log().abs()
        assert ratio.max() <= 2 * bound + 1e-4
        assert ratio.max() > 2 * bound - 0.1

    @pytest.mark.parametrize("detail_stride", [[2, 2], [1, 2, 2], [2, 2, 2]])
    def test_per_block_differs_within_one_by_the_sources_alone(self, detail_stride: list[int]) -> None:
        """Without the sources' grey levels, what trained features say is the same for all voxels of a block."""
        torch.manual_seed(0)
        axes = len(detail_stride)
        network = Gate(nn.Conv2d if axes == 2 else nn.Conv3d, FEATURES, detail_stride=detail_stride, per_block=True)
        for last in (network.source[-1], network.painted):
            nn.init.normal_(last.weight, std=3.0)
        size, given = [3 * stride for stride in detail_stride], features(2, *[3] * axes)
        sources = torch.rand(2, 2, *size)

        def lead(images: torch.Tensor) -> torch.Tensor:
            first, second = network(*given, images)[:, :2].log().unbind(dim=1)
            return first - second

        torch.testing.assert_close(lead(sources), lead(torch.full_like(sources, 0.5)) + sources[:, 0] - sources[:, 1])
        shares = network(*given, torch.full_like(sources, 0.5))
        for axis, stride in enumerate(detail_stride, start=2):
            shares = shares.unflatten(axis, (3, stride)).movedim(axis + 1, 0)
            torch.testing.assert_close(shares, shares[:1].expand_as(shares))
            shares = shares[0]
        assert shares.shape == (2, 3, *[3] * axes)
        assert shares.std() > 0.1

    @pytest.mark.parametrize("detail_stride", [[1, 2, 2], [1, 1, 1], [2, 1, 3]])
    def test_knows_anisotropic_strides(self, detail_stride: list[int]) -> None:
        size = [2 * stride for stride in detail_stride]
        shares = gate(3, detail_stride=detail_stride)(*features(2, 2, 2, 2), torch.rand(2, 2, *size))
        assert shares.shape == (2, 3, *size)

    def test_is_a_softmax_of_brightness_where_the_scores_are_zero(
            self, random_images: Callable[..., torch.Tensor]) -> None:
        network, sources = gate(), random_images(2, 2, 8, 8)
        for last in (network.source[-1], network.painted):
            nn.init.zeros_(last.weight)
        painted = torch.full((2, 1, 8, 8), PAINTED_AT_START)
        expected = torch.cat([BRIGHTER_AT_START * sources, painted], dim=1).softmax(dim=1)
        torch.testing.assert_close(network(*features(2, 4, 4), sources), expected)

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_mixture_starts_near_the_mean_and_leans_to_the_brighter_source(
            self, modalities: int, random_images: Callable[..., torch.Tensor]) -> None:
        sources = random_images(2, modalities, 32, 32)
        shares = gate()(*features(modalities, 16, 16), sources)[:, :modalities]
        mixed = (shares * sources).sum(dim=1) / shares.sum(dim=1)
        above = mixed - sources.mean(dim=1)
        assert 0.01 < above.mean() < 0.1
        assert (mixed - sources.amax(dim=1)).max() < 0
        # The last layers' small random weights aside, a brighter source never weighs less.
        assert above.min() > -0.05

    def test_painted_share_starts_small_and_is_smaller_where_sources_are_bright(self) -> None:
        given = features(2, 4, 4)
        dark, bright = (gate()(*given, torch.full((2, 2, 8, 8), value))[:, 2] for value in (0.0, 1.0))
        # But for the last layers' small random weights.
        painted, in_light = math.exp(PAINTED_AT_START), math.exp(BRIGHTER_AT_START)
        assert dark.mean().item() == pytest.approx(painted / (2 + painted), rel=0.05)
        assert bright.mean().item() == pytest.approx(painted / (2 * in_light + painted), rel=0.05)
        assert dark.mean().item() == pytest.approx(0.06, abs=0.005)

    def test_permuting_the_modalities_permutes_their_shares(self, random_images: Callable[..., torch.Tensor]) -> None:
        (decoded, high), sources, order = features(3, 4, 4), random_images(2, 3, 8, 8), [2, 0, 1]
        network = gate()
        torch.testing.assert_close(network(decoded, high[:, order], sources[:, order]),
                                   network(decoded, high, sources)[:, [*order, 3]])

    def test_painted_image_can_take_over(self) -> None:
        network = gate()
        nn.init.constant_(network.painted.bias, 50.0)
        assert network(*features(2, 4, 4), torch.ones(2, 2, 8, 8))[:, 2].min() > 0.999

    def test_reset_undoes_training(self) -> None:
        network = gate()
        for parameter in network.parameters():
            nn.init.constant_(parameter, 3.0)
        network.reset()
        assert network.brighter == BRIGHTER_AT_START
        assert (network.painted.bias == PAINTED_AT_START).all()
        assert network.painted.weight.abs().max() < 0.1
        assert network.source[-1].weight.abs().max() < 0.1
        assert (network.source[-1].bias == 0).all()

    def test_gives_absent_sources_no_share_and_the_others_what_they_would_have_alone(
            self, random_images: Callable[..., torch.Tensor]) -> None:
        sources, (decoded, high) = random_images(2, 3, 8, 12), features(3, 4, 6)
        shares = gate()(decoded, high, sources, present=torch.tensor([[True, False, True]] * 2))
        assert (shares[:, 1] == 0).all()
        torch.testing.assert_close(shares[:, [0, 2, 3]], gate()(decoded, high[:, [0, 2]], sources[:, [0, 2]]))
