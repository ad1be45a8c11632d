"""The halftone: whose voxels are whose, what they show, and that it can be read again."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse4seg.networks.demosaic import PASSES, PASSES_DESCREENED, demosaic, descreened
from fuse4seg.networks.fusion import sum_of_a_pair
from fuse4seg.networks.halftone import Halftone, owners


def shares_of(sources: torch.Tensor, *, brighter: float, sum_share: float) -> torch.Tensor:
    """Of the sources, from a gate whose features say nothing, and of a pair's sum."""
    return torch.cat([(1 - sum_share) * (brighter * sources).softmax(dim=1), torch.full_like(sources[:, :1], sum_share)], dim=1)


def shown(shares: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    return (shares * torch.cat([sources, sum_of_a_pair(sources, None).unsqueeze(1)], dim=1)).sum(dim=1, keepdim=True)


class TestOwners:
    def test_of_two_modalities_are_a_chequerboard(self) -> None:
        for axes in (2, 3):
            squares = torch.tensor([modality for modality, _ in owners(2, 2**axes)]).view([2] * axes)
            for axis in range(axes):
                assert (squares != squares.flip(axis)).all()

    @given(modalities=st.integers(1, 9), places=st.sampled_from([1, 2, 4, 8, 16]))
    def test_give_every_modality_a_place_as_evenly_as_can_be(self, modalities: int, places: int) -> None:
        pairs = owners(modalities, places)
        for index, count in ((0, modalities), (1, places)):
            often = torch.tensor([pair[index] for pair in pairs]).bincount(minlength=count)
            assert often.min() > 0
            assert often.max() - often.min() <= 1


class TestHalftone:
    @pytest.mark.parametrize("strength", [True, 0.0, 1.0, -0.3])
    def test_refuses_a_strength_that_shows_nothing_or_nothing_else(self, strength: float) -> None:
        with pytest.raises(ValueError, match="halftone must be a strength above 0 and below 1"):
            Halftone(2, block=[2, 2], strength=strength)

    @pytest.mark.parametrize("modalities", [1, 2, 3, 4, 6])
    def test_says_which_voxels_of_a_block_are_whose(self, modalities: int) -> None:
        owned = Halftone(modalities, block=[2, 2], strength=0.3).owned
        assert owned.shape == (modalities, 2, 2)
        pairs = {(int(modality), int(2 * row + column)) for modality, row, column in owned.nonzero()}
        assert pairs == set(owners(modalities, 4))

    @pytest.mark.parametrize(("modalities", "block"), [(2, [2, 2]), (4, [2, 2]), (5, [2, 2]), (2, [1, 1]), (1, [1, 1]),
                                                       (5, [2, 2, 2])])
    def test_says_whether_voxels_have_one_owner_each(self, modalities: int, block: list[int]) -> None:
        raster = Halftone(modalities, block=block, strength=0.3)
        assert raster.separates == (raster.owned.flatten(1).sum(dim=0) == 1).all()

    @pytest.mark.parametrize(("modalities", "block"), [(2, (2, 2)), (3, (2, 2)), (6, (2, 2)), (2, (2, 2, 2)), (4, (1, 2, 2))])
    def test_adds_to_every_voxel_what_is_its_owners(self, modalities: int, block: tuple[int, ...]) -> None:
        size = [3 * step for step in block]
        before = torch.rand(2, modalities + 2, *size).softmax(dim=1)
        raster = Halftone(modalities, block=block, strength=0.3)
        after = raster(before)
        torch.testing.assert_close(after.sum(dim=1), torch.ones(2, *size))
        for voxel in product(*map(range, size)):
            place = tuple(index % step for index, step in zip(voxel, block, strict=True))
            its_owners = raster.owned[(slice(None), *place)]
            expected = 0.7 * before[(slice(None), slice(None), *voxel)]
            expected[:, :modalities] += 0.3 * its_owners / its_owners.sum()
            torch.testing.assert_close(after[(slice(None), slice(None), *voxel)], expected)

    def test_tells_modalities_apart_whatever_the_shares_are(self) -> None:
        """What neighbours of two owners differ by is a fixed part of what the modalities differ by."""
        sources, shares = torch.tensor([0.2, 0.9]).view(1, 2, 1, 1), torch.tensor([0.5, 0.1, 0.4]).view(1, 3, 1, 1)
        after = Halftone(2, block=[2, 2], strength=0.3)(shares.expand(1, 3, 4, 4))
        image = shown(after, sources.expand(1, 2, 4, 4))[0, 0]
        torch.testing.assert_close(image[0::2, 1::2] - image[0::2, 0::2], torch.full((2, 2), 0.3 * 0.7))

    def test_leaves_the_others_what_an_absent_owner_would_have(self) -> None:
        before = torch.tensor([0.5, 0.0, 0.3, 0.2]).view(1, 4, 1, 1).expand(1, 4, 4, 4)
        raster = Halftone(3, block=[2, 2], strength=0.3)
        after = raster(before, present=torch.tensor([[True, False, True]]))
        assert (after[:, 1] == 0).all()
        torch.testing.assert_close(after.sum(dim=1), torch.ones(1, 4, 4))
        absent = raster.owned[1].repeat(2, 2)
        torch.testing.assert_close(after[0][:, absent], before[0][:, absent])

    @settings(max_examples=30, deadline=None)
    @given(modalities=st.integers(1, 4), strength=st.floats(0.1, 0.9), brighter=st.floats(-3, 10), sum_share=st.floats(0, 0.9),
           data=st.data())
    def test_of_uniform_modalities_is_read_back_exactly(self, modalities: int, strength: float, brighter: float, sum_share: float,
                                                        data: st.DataObject) -> None:
        values = [data.draw(st.floats(0, 1)) for _ in range(modalities)]
        sources = torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1).expand(1, modalities, 8, 8)
        raster = Halftone(modalities, block=[2, 2], strength=strength).double()
        image = shown(raster(shares_of(sources, brighter=brighter, sum_share=sum_share)), sources)
        found = raster.read(image, brighter=torch.tensor(brighter, dtype=torch.float64), sum_share=sum_share)
        torch.testing.assert_close(found, sources, atol=1e-6, rtol=0)

    def test_is_read_with_the_others_in_it_where_places_have_several_owners(self) -> None:
        raster, image = Halftone(6, block=[2, 2], strength=0.3), torch.rand(1, 1, 8, 8)
        assert torch.equal(raster.read(image, brighter=torch.tensor(2.0)), demosaic(image, raster.owned))

    def test_is_not_learned_but_kept_with_the_weights(self) -> None:
        raster = Halftone(3, block=[2, 2], strength=0.3)
        assert list(raster.state_dict()) == ["own"]
        assert not list(raster.parameters())

    @pytest.mark.parametrize("present", [None, torch.tensor([[True, False, True], [True, True, True]])])
    def test_over_an_image_is_the_mixture_by_its_shares(self, present: torch.Tensor | None) -> None:
        sources, shares = torch.rand(2, 3, 8, 8), torch.rand(2, 4, 8, 8).softmax(dim=1)
        if present is not None:
            sources = sources * present.view(2, 3, 1, 1)
        others = torch.rand(2, 1, 8, 8)
        raster = Halftone(3, block=[2, 2], strength=0.3)
        mixed, expected = ((each * torch.cat([sources, others], dim=1)).sum(dim=1, keepdim=True)
                           for each in (shares, raster(shares, present=present)))
        torch.testing.assert_close(raster.over(mixed, sources, present=present), expected)

    @pytest.mark.parametrize("modalities", [1, 2, 3, 4])
    def test_lies_over_a_descreened_image_and_is_read_as_sharply_as_that_allows(self, modalities: int) -> None:
        sources, image = torch.rand(2, modalities, 8, 8), torch.rand(2, 1, 8, 8)
        plain = Halftone(modalities, block=[2, 2], strength=0.3)
        raster = Halftone(modalities, block=[2, 2], strength=0.3, descreen=True)
        assert (plain.passes, raster.passes) == (PASSES, PASSES_DESCREENED)
        below = descreened(image, raster.owned, passes=raster.passes).clamp(0, 1)
        torch.testing.assert_close(raster.over(image, sources), plain.over(below, sources))

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 99), modalities=st.integers(1, 6), descreen=st.booleans())
    def test_over_an_image_stays_in_0_to_1(self, seed: int, modalities: int, descreen: bool) -> None:
        numbers = torch.Generator().manual_seed(seed)
        sources, image = (torch.rand(1, channels, 8, 8, generator=numbers).round() for channels in (modalities, 1))
        shown = Halftone(modalities, block=[2, 2], strength=0.3, descreen=descreen).over(image, sources)
        assert shown.min() >= 0
        assert shown.max() <= 1

    @pytest.mark.parametrize("modalities", [2, 4])
    def test_is_read_whatever_raster_the_image_below_has(self, modalities: int) -> None:
        """As a leader would paint it that takes the raster back."""
        sources = torch.rand(1, modalities, 1, 1).expand(1, modalities, 16, 16)
        raster = Halftone(modalities, block=[2, 2], strength=0.1, descreen=True)
        against = 0.5 - 0.1 * (raster.owned.repeat(1, 8, 8) * sources).sum(dim=1, keepdim=True)
        read = raster.read(raster.over(against, sources), brighter=torch.tensor(2.0))
        torch.testing.assert_close(read - read.mean(dim=1, keepdim=True), sources - sources.mean(dim=1, keepdim=True))

    def test_leaves_the_image_as_it_is_where_modalities_share_voxels(self) -> None:
        sources, image = torch.rand(1, 6, 8, 8), torch.rand(1, 1, 8, 8)
        found = Halftone(6, block=[2, 2], strength=0.3, descreen=True).over(image, sources)
        torch.testing.assert_close(found, Halftone(6, block=[2, 2], strength=0.3).over(image, sources))
