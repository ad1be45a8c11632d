"""The gate: shares that add up, a readable mixture before training, and no order of modalities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fuse4seg.networks.gate import (
    BOUND_WITHOUT_TASK,
    BRIGHTER_AT_START,
    BRIGHTER_WITH_HALFTONE,
    PAINTED_AT_START,
    STRENGTH,
    Gate,
    halftone,
    owners,
)

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

    def test_without_task_starts_near_the_maximum(self, random_images: Callable[..., torch.Tensor]) -> None:
        torch.manual_seed(0)
        network, sources = Gate(nn.Conv2d, FEATURES, detail_stride=[2, 2], without_task=True), random_images(2, 2, 8, 12)
        shares = network(*features(2, 4, 6), sources)
        clear = (sources[:, 0] - sources[:, 1]).abs() > 0.5
        assert shares.gather(1, sources.argmax(dim=1, keepdim=True)).squeeze(1)[clear].min() > 0.98

    @pytest.mark.parametrize(("arguments", "bound"), [({"without_task": True}, BOUND_WITHOUT_TASK), ({"bound": 0.5}, 0.5)])
    def test_bounded_leaves_every_source_a_share_however_sure_the_features_are(
            self, arguments: dict[str, Any], bound: float, random_images: Callable[..., torch.Tensor]) -> None:
        torch.manual_seed(0)
        network, sources = Gate(nn.Conv2d, FEATURES, detail_stride=[2, 2], **arguments), random_images(2, 2, 8, 12)
        nn.init.normal_(network.source[-1].weight, std=1e4)
        nn.init.zeros_(network.brighter)
        first, second = network(*features(2, 4, 6), sources)[:, :2].unbind(dim=1)
        ratio = (first / second).log().abs()
        assert ratio.max() <= 2 * bound + 1e-4
        assert ratio.max() > 2 * bound - 0.1

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


class TestHalftone:
    def test_of_two_modalities_is_a_chequerboard(self) -> None:
        for axes in (2, 3):
            squares = torch.tensor([modality for modality, _ in owners(2, 2**axes)]).view([2] * axes)
            for axis in range(axes):
                assert (squares != squares.flip(axis)).all()

    @given(modalities=st.integers(1, 9), places=st.sampled_from([1, 2, 4, 8, 16]))
    def test_gives_every_modality_a_place_as_evenly_as_can_be(self, modalities: int, places: int) -> None:
        pairs = owners(modalities, places)
        for index, count in ((0, modalities), (1, places)):
            often = torch.tensor([pair[index] for pair in pairs]).bincount(minlength=count)
            assert often.min() > 0
            assert often.max() - often.min() <= 1

    @pytest.mark.parametrize(("modalities", "places"), [(1, 4), (2, 1), (6, 4), (2, 8)])
    def test_is_there_where_there_is_something_to_share_out(self, modalities: int, places: int) -> None:
        found = halftone(modalities, places, strength=0.6)
        assert found.shape == (modalities, places)
        assert found.any() == (min(modalities, places) > 1)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_shows_each_modality_at_its_own_voxels(self, axes: int) -> None:
        torch.manual_seed(0)
        network = Gate([nn.Conv2d, nn.Conv3d][axes - 2], FEATURES, detail_stride=[2] * axes, halftone_of=2, strength=0.6)
        for last in (network.source[-1], network.painted):
            nn.init.zeros_(last.weight)
        shares = network(*features(2, *[4] * axes), torch.rand(2, 2, *[8] * axes))[:, :2]  # however bright they are
        first = torch.stack(torch.meshgrid(*[torch.arange(8)] * axes, indexing="ij")).sum(dim=0) % 2 == 0
        own = (shares / shares.sum(dim=1, keepdim=True)).movedim(1, 0)
        torch.testing.assert_close(own[0][:, first], torch.full_like(own[0][:, first], 0.8))
        torch.testing.assert_close(own[1][:, ~first], torch.full_like(own[1][:, ~first], 0.8))

    @pytest.mark.parametrize("modalities", [2, 3, 4])
    def test_gives_each_modality_the_same_share_of_its_own_voxels(self, modalities: int) -> None:
        """So much of its owner a voxel shows beside the mean of all."""
        shares = halftone(modalities, 4, strength=0.6).softmax(dim=0)
        mean = torch.full((modalities,), 1 / modalities)
        for modality, place in owners(modalities, 4):
            torch.testing.assert_close(shares[:, place], 0.6 * torch.eye(modalities)[modality] + 0.4 * mean)

    def test_is_left_of_by_a_bounded_gate_whatever_the_features_ask_for(self, random_images: Callable[..., torch.Tensor]) -> None:
        torch.manual_seed(0)
        network = Gate(nn.Conv2d, FEATURES, detail_stride=[2, 2], halftone_of=2, bound=0.5)
        nn.init.normal_(network.source[-1].weight, std=1e4)
        shares = network(*features(2, 4, 4), torch.zeros(2, 2, 8, 8))
        chequers = (torch.arange(8)[:, None] + torch.arange(8)) % 2 == 0
        ratio = shares[:, 0] / shares[:, 1]
        own = (1 + STRENGTH) / 2
        assert ratio[:, chequers].min() >= own / (1 - own) * math.exp(-1) - 1e-4
        assert ratio[:, ~chequers].max() <= (1 - own) / own * math.exp(1) + 1e-4

    @pytest.mark.parametrize(("modalities", "stride"), [(2, [2, 2]), (4, [2, 2]), (5, [2, 2]), (2, [1, 1]), (1, [1, 1])])
    def test_says_whether_voxels_have_one_owner_each(self, modalities: int, stride: list[int]) -> None:
        network = Gate(nn.Conv2d, FEATURES, detail_stride=stride, halftone_of=modalities)
        assert network.each_has_its_own == (network.owned.sum(dim=0) == 1).all()

    def test_with_it_brightness_counts_for_nothing_before_training(self) -> None:
        assert Gate(nn.Conv2d, FEATURES, detail_stride=[2, 2], halftone_of=2).brighter == BRIGHTER_WITH_HALFTONE == 0
        assert Gate(nn.Conv2d, FEATURES, detail_stride=[2, 2]).brighter == BRIGHTER_AT_START

    def test_is_not_learned_but_kept_with_the_weights(self) -> None:
        network = Gate(nn.Conv2d, FEATURES, detail_stride=[2, 2], halftone_of=3)
        assert torch.equal(network.state_dict()["halftone"], halftone(3, 4, strength=STRENGTH))
        assert "halftone" not in dict(network.named_parameters())

    @pytest.mark.parametrize("modalities", [1, 2, 3, 4, 6])
    def test_says_which_voxels_of_a_block_are_whose(self, modalities: int) -> None:
        owned = Gate(nn.Conv2d, FEATURES, detail_stride=[2, 2], halftone_of=modalities).owned
        assert owned.shape == (modalities, 2, 2)
        pairs = {(int(modality), int(2 * row + column)) for modality, row, column in owned.nonzero()}
        assert pairs == set(owners(modalities, 4))
