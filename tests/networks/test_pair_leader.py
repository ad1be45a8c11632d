"""Leaders for two modalities: in which order more are folded in, what becomes of absent ones, and by what they are taught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fuse4seg.errors import RecipeError
from fuse4seg.networks.pair_leader import Fold, PairLeader, PairSettings
from fuse4seg.recipes.reading import read_recipe
from fuse4seg.recipes.recipe import Leader

Images = Callable[..., torch.Tensor]


class ThreeQuarters(PairLeader):
    """Three quarters of the first image and one of the second; says which it saw, and is taught by what lies between."""

    def fuse_pair(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return 0.75 * first + 0.25 * second, {"second": second}

    def pair_losses(self, fold: Fold) -> dict[str, torch.Tensor]:
        return {"first": (fold.image - fold.first).abs().mean(), "second": (fold.image - fold.own["second"]).square().mean()}


def fusion(modalities: int = 2, *, folding: bool = True, colours: int = 1, axes: int = 2, reference: int = 0) -> ThreeQuarters:
    return ThreeQuarters(modalities, conv_op={2: nn.Conv2d, 3: nn.Conv3d}[axes], strides=[1, 2], colours=colours, folding=folding,
                         reference=reference)


class TestForward:
    @pytest.mark.parametrize("size", [(7, 5), (4, 3, 5)])
    def test_fuses_two_as_the_method_does(self, size: tuple[int, ...], random_images: Images) -> None:
        sources = random_images(3, 2, *size)
        fused = fusion(folding=False, axes=len(size))(sources)
        torch.testing.assert_close(fused.image, 0.75 * sources[:, :1] + 0.25 * sources[:, 1:])
        (fold,) = fused.own
        assert torch.equal(fold.first, sources[:, :1])
        assert torch.equal(fold.second, sources[:, 1:])
        assert torch.equal(fold.image, fused.image)
        assert (fused.low, fused.high, fused.decoded, fused.attention) == (None, None, None, None)

    def test_is_taught_by_the_samples_that_have_both_images(self, random_images: Images) -> None:
        network, sources = fusion(), random_images(4, 2, 6, 6)
        present = torch.tensor([[True, True], [True, False], [True, True], [False, True]])
        found = network.losses(network(sources, present=present), sources, present)
        whole = sources[[0, 2]]
        assert found == network.losses(network(whole), whole)
        lacking, some = sources[1:2], present[1:2]
        assert network.losses(network(lacking, present=some), lacking, some) == {}

    def test_folds_the_third_into_what_was_fused_of_the_first_two_and_so_on(self, random_images: Images) -> None:
        sources = random_images(2, 4, 6, 6)
        fused = fusion(4)(sources)
        # Each fold leaves three quarters of what came before.
        shares = torch.tensor([27 / 64, 9 / 64, 3 / 16, 1 / 4]).view(1, 4, 1, 1)
        torch.testing.assert_close(fused.image, (shares * sources).sum(dim=1, keepdim=True))
        assert [torch.equal(fold.second, sources[:, index:index + 1]) for index, fold in enumerate(fused.own, 1)] == [True] * 3
        assert fused.own[1].first is fused.own[0].image
        assert fused.own[2].first is fused.own[1].image
        assert torch.equal(fused.own[2].image, fused.image)

    @pytest.mark.parametrize("reference", [0, 1, 2])
    def test_begins_with_the_reference(self, reference: int, random_images: Images) -> None:
        """The others follow in their order."""
        sources = random_images(2, 3, 6, 6)
        order = [reference, *(index for index in range(3) if index != reference)]
        present = torch.tensor([[True, False, True], [True, True, True]])
        found = fusion(3, reference=reference)(sources, present=present)
        wanted = fusion(3)(sources[:, order], present=present[:, order])
        assert torch.equal(found.image, wanted.image)
        assert torch.equal(found.own[0].first, sources[:, reference:reference + 1] * present[:, reference, None, None, None])

    @pytest.mark.parametrize(("size", "padded"), [((8, 12), (8, 12)), ((3, 13), (8, 16)), ((9, 4, 8), (12, 8, 8))])
    def test_shows_the_method_what_it_divides_and_gives_what_came(self, size: tuple[int, ...], padded: tuple[int, ...],
                                                                  random_images: Images) -> None:
        """Extents of a multiple of 4, and 8 at least, by repeating the border."""
        network, sources = fusion(axes=len(size)), random_images(2, 2, *size)
        network.multiple, network.smallest = 4, 8
        fused = network(sources)
        (fold,) = fused.own
        assert fold.first.shape == fold.second.shape == fold.image.shape == (2, 1, *padded)
        for axis, extent in enumerate(size, 2):
            for image in (fold.first, fold.second):
                border = image.narrow(axis, extent - 1, 1)
                assert (image.narrow(axis, extent, image.shape[axis] - extent) == border).all()
        torch.testing.assert_close(fused.image, fusion(axes=len(size))(sources).image)


class TestAbsentModalities:
    def test_leave_a_case_the_fusion_of_those_it_has(self, random_images: Images) -> None:
        """Each sample lacks something else."""
        sources = random_images(5, 3, 6, 6)
        present = torch.tensor([[True, True, True], [True, False, True], [False, True, True], [False, False, True],
                                [True, True, False]])
        image = fusion(3)(sources, present=present).image
        first, second, third = sources.split(1, dim=1)
        wanted = [0.75 * (0.75 * first + 0.25 * second) + 0.25 * third, 0.75 * first + 0.25 * third,
                  0.75 * second + 0.25 * third, third, 0.75 * first + 0.25 * second]
        for index, expected in enumerate(wanted):
            torch.testing.assert_close(image[index], expected[index])

    @settings(max_examples=30, deadline=None)
    @given(rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=2, max_size=2),
           content=st.sampled_from([1.0, torch.nan, torch.inf]))
    def test_do_not_matter_whatever_stands_in_their_place(self, rows: list[list[bool]], content: float,
                                                          random_images: Images) -> None:
        sources, present = random_images(2, 3, 6, 6), torch.tensor(rows)
        other = torch.where(present[:, :, None, None], sources, torch.full_like(sources, content))
        network = fusion(3)
        found, wanted = (network(images, present=present) for images in (other, sources))
        assert torch.equal(found.image, wanted.image)
        assert network.losses(found, other, present) == network.losses(wanted, sources, present)

    def test_that_are_none_change_no_bit(self, random_images: Images) -> None:
        sources = random_images(2, 3, 6, 6)
        everywhere = torch.ones(2, 3, dtype=torch.bool)
        assert torch.equal(fusion(3)(sources, present=everywhere).image, fusion(3)(sources).image)

    def test_of_all_are_refused(self, random_images: Images) -> None:
        with pytest.raises(ValueError, match="at least one modality"):
            fusion()(random_images(1, 2, 6, 6), present=torch.zeros(1, 2, dtype=torch.bool))


class TestLosses:
    def test_are_those_of_the_pair(self, random_images: Images) -> None:
        network, sources = fusion(), random_images(2, 2, 6, 6)
        difference = sources[:, :1] - sources[:, 1:]
        found = network.losses(network(sources), sources)
        assert found.keys() == {"first", "second"}
        torch.testing.assert_close(found["first"], difference.abs().mean() / 4)
        torch.testing.assert_close(found["second"], difference.square().mean() * 9 / 16)

    def test_are_means_over_the_folds(self, random_images: Images) -> None:
        network, sources = fusion(3), random_images(2, 3, 6, 6)
        fused = network(sources)
        first, second = (network.pair_losses(fold) for fold in fused.own)
        assert first["first"] != second["first"]
        found = network.losses(fused, sources)
        for name in ("first", "second"):
            torch.testing.assert_close(found[name], (first[name] + second[name]) / 2)


class TestRefusals:
    @pytest.mark.parametrize(("modalities", "folding"), [(1, False), (1, True), (3, False), (4, False)])
    def test_of_other_than_two_modalities_unless_they_are_folded(self, modalities: int, folding: bool) -> None:
        with pytest.raises(ValueError, match=f"ThreeQuarters fuses two modalities, not {modalities}"):
            fusion(modalities, folding=folding)

    def test_of_colours(self) -> None:
        with pytest.raises(ValueError, match="ThreeQuarters gives one channel, not 3"):
            fusion(colours=3)

    def test_of_colours_in_a_recipe(self) -> None:
        grey = read_recipe("grey").leader
        entries: dict[str, Any] = {own.name: getattr(grey, own.name) for own in fields(Leader)}
        assert PairSettings(**entries, folding=True).folding
        with pytest.raises(RecipeError, match=r"^recipe: leader\.fused_image: gate gives one channel\. Set it to grey\.$"):
            PairSettings(**{**entries, "fused_image": "colour"}, folding=False)
