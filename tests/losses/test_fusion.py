"""The fusion loss: the weighted sum, all of the luma but the chroma, what a weight of 0 leaves out, and weights it refuses."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import torch

from fuse4seg.colour import luma
from fuse4seg.errors import RecipeError
from fuse4seg.losses.adversarial import generator_loss
from fuse4seg.losses.chroma import chroma_loss
from fuse4seg.losses.decomposition import decomposition_loss
from fuse4seg.losses.fusion import fusion_loss, image_losses
from fuse4seg.losses.scd import scd_loss
from fuse4seg.losses.ssim import balance_loss, ssim_loss
from fuse4seg.losses.strongest_source import edge_loss, intensity_loss, texture_loss
from fuse4seg.losses.vif import vif_loss
from fuse4seg.recipes.reading import read_recipe
from fuse4seg.recipes.recipe import Losses

#: A weight of its own for each part.
PAPER = Losses.only(intensity=1, texture=5, decomposition=0.1, adversarial=0.01)
USUAL = read_recipe("fuse4seg").losses
ALL = Losses(1.5, 2, 3, 0.5, 0.25, 4, 0.75, 0.625, 0.125, 0.375, 5)
PARTS = [field.name for field in fields(Losses)]


@pytest.fixture
def fusion() -> dict[str, Any]:
    """Arguments of the fusion loss for one case of three modalities, fused in colour."""
    random = torch.Generator().manual_seed(0)
    return {"image": torch.rand(1, 3, 8, 8, generator=random).requires_grad_(),
            "sources": torch.rand(1, 3, 8, 8, generator=random),
            "streams": (torch.randn(1, 3, 4, 2, 2, generator=random), torch.randn(1, 3, 2, 4, 4, generator=random)),
            "given": {"adversarial": generator_loss([torch.randn(1, 1, 2, 2, generator=random) for _ in range(3)]),
                      "own": torch.rand((), generator=random)},
            "tissue": (torch.rand(1, 1, 8, 8, generator=random) < 0.7).float()}


class TestFusionLoss:
    def test_is_the_weighted_sum_of_its_parts(self, fusion: dict[str, Any]) -> None:
        total, parts = fusion_loss(**fusion, weights=ALL)
        images = luma(fusion["image"]), fusion["sources"]
        expected = {"intensity": intensity_loss(*images), "texture": texture_loss(*images),
                    "decomposition": decomposition_loss(*fusion["streams"]), **fusion["given"], "edges": edge_loss(*images),
                    "ssim": ssim_loss(*images), "balance": balance_loss(*images),
                    "vif": vif_loss(*images), "scd": scd_loss(*images),
                    "chroma": chroma_loss(fusion["image"], fusion["tissue"])}
        assert parts == expected
        torch.testing.assert_close(total, sum(getattr(ALL, name) * part for name, part in expected.items()))

    def test_parts_carry_no_gradient_and_the_total_does(self, fusion: dict[str, Any]) -> None:
        total, parts = fusion_loss(**fusion, weights=USUAL)
        assert not any(part.requires_grad for part in parts.values())
        total.backward()
        assert fusion["image"].grad.abs().amax(dim=(0, 2, 3)).min() > 0

    def test_of_a_grey_image_in_three_channels_is_that_of_one(self, fusion: dict[str, Any]) -> None:
        grey = fusion["image"][:, :1].detach()
        in_three, in_one = (fusion_loss(**{**fusion, "image": grey.expand(-1, channels, -1, -1)}, weights=ALL)
                            for channels in (3, 1))
        torch.testing.assert_close(in_three[0], in_one[0])
        assert in_three[1].pop("chroma") == pytest.approx(0, abs=1e-4)
        assert in_three[1].keys() == in_one[1].keys()
        for name, part in in_one[1].items():
            torch.testing.assert_close(in_three[1][name], part)

    def test_of_all_but_the_chroma_sees_the_luma_alone(self, fusion: dict[str, Any]) -> None:
        """Of equal luma: more red, and less of green and blue."""
        image = 0.25 + 0.5 * fusion["image"].detach()
        shift = torch.tensor([0.1 / 0.299, -0.06 / 0.587, -0.04 / 0.114]).view(1, 3, 1, 1) / 2
        first, second = (fusion_loss(**{**fusion, "image": pixels}, weights=ALL)[1] for pixels in (image, image + shift))
        assert abs(second.pop("chroma") - first.pop("chroma")) > 0.01
        for name, part in first.items():
            torch.testing.assert_close(second[name], part, atol=1e-5, rtol=1e-5)

    def test_holds_nothing_but_tissue_to_grey(self, fusion: dict[str, Any]) -> None:
        image, tissue = fusion["image"].detach(), fusion["tissue"]
        lesion_aside = torch.where(tissue > 0, luma(image).expand(-1, 3, -1, -1), image)
        parts = fusion_loss(**{**fusion, "image": lesion_aside}, weights=ALL)[1]
        assert parts["chroma"] == pytest.approx(0, abs=1e-4)
        elsewhere = fusion_loss(**{**fusion, "image": lesion_aside, "tissue": 1 - tissue}, weights=ALL)[1]
        assert elsewhere["chroma"] > 0.1

    def test_leaves_the_chroma_of_a_grey_image_out(self, fusion: dict[str, Any]) -> None:
        _, parts = fusion_loss(**{**fusion, "image": fusion["image"][:, :1]}, weights=ALL)
        assert set(parts) == set(PARTS) - {"chroma"}

    @pytest.mark.parametrize("left_out", PARTS)
    def test_leaves_out_a_part_of_weight_zero(self, fusion: dict[str, Any], left_out: str) -> None:
        weights = Losses(**{**asdict(ALL), left_out: 0})
        _, parts = fusion_loss(**fusion, weights=weights)
        assert set(parts) == set(PARTS) - {left_out}

    def test_does_not_compute_a_part_of_weight_zero(self, fusion: dict[str, Any]) -> None:
        nothing = torch.full((1, 3, 1, 1, 1), math.nan)
        without_features = {**fusion, "streams": (nothing, nothing)}
        total, _ = fusion_loss(**without_features, weights=replace(ALL, decomposition=0))
        assert total.isfinite()

    def test_leaves_out_the_adversarial_part_without_discriminators(self, fusion: dict[str, Any]) -> None:
        for given in (None, {}):
            _, parts = fusion_loss(**{**fusion, "given": given}, weights=PAPER)
            assert set(parts) == {"intensity", "texture", "decomposition"}

    def test_leaves_out_the_decomposition_of_a_leader_that_takes_nothing_apart(self, fusion: dict[str, Any]) -> None:
        _, parts = fusion_loss(**{**fusion, "streams": None}, weights=PAPER)
        assert set(parts) == {"intensity", "texture", "adversarial"}

    def test_teaches_by_what_is_given(self) -> None:
        """The leader's own losses and its discriminators' carry a gradient through their weights."""
        own, adversarial = (torch.tensor(value, requires_grad=True) for value in (2.0, 3.0))
        image = torch.rand(1, 1, 8, 8)
        total, parts = fusion_loss(image, image, weights=Losses.only(own=0.5, adversarial=0.25), tissue=image,
                                   given={"own": own, "adversarial": adversarial})
        total.backward()
        assert (total.item(), own.grad.item(), adversarial.grad.item()) == (1.75, 0.5, 0.25)
        assert parts == {"own": 2, "adversarial": 3}
        assert not any(part.requires_grad for part in parts.values())

    @pytest.mark.parametrize("present", [[True, False, True], [False, True, False]])
    def test_holds_the_fused_image_to_the_modalities_that_are_there(self, fusion: dict[str, Any],
                                                                    present: list[bool]) -> None:
        zeroed = fusion["sources"] * torch.tensor(present).view(1, 3, 1, 1)
        found = fusion_loss(**{**fusion, "sources": zeroed}, weights=ALL, present=torch.tensor([present]))
        alone = {"sources": fusion["sources"][:, present], "streams": tuple(part[:, present] for part in fusion["streams"])}
        expected = fusion_loss(**{**fusion, **alone}, weights=ALL)
        torch.testing.assert_close(found[0], expected[0])
        for name in PARTS:
            torch.testing.assert_close(found[1][name], expected[1][name], atol=1e-6, rtol=1e-5)

    def test_is_zero_when_all_weights_are(self, fusion: dict[str, Any]) -> None:
        total, parts = fusion_loss(**fusion, weights=Losses.only())
        assert (total.item(), parts) == (0, {})

    def test_works_on_volumes_of_one_modality(self) -> None:
        fused = torch.rand(1, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
        features = torch.randn(1, 1, 2, 2, 2, 3)
        total, _ = fusion_loss(fused, fused.clone(), streams=(features, features), weights=USUAL, tissue=torch.ones_like(fused))
        assert total == 0

    def test_works_on_volumes_in_colour(self) -> None:
        image, sources = torch.rand(1, 3, 8, 9, 10), torch.rand(1, 2, 8, 9, 10)
        features = torch.randn(1, 2, 2, 4, 4, 5)
        total, parts = fusion_loss(image, sources, streams=(features, features), weights=USUAL,
                                   tissue=torch.ones(1, 1, 8, 9, 10))
        assert set(parts) == {"edges", "balance", "scd", "chroma"}
        assert total.isfinite()


class TestImageLosses:
    def test_gives_the_parts_asked_for_unweighted(self, fusion: dict[str, Any]) -> None:
        images = luma(fusion["image"]), fusion["sources"]
        assert image_losses(*images, ["ssim", "edges", "adversarial"]) == {
            "edges": edge_loss(*images), "ssim": ssim_loss(*images)}


class TestLossesOfRecipes:
    @pytest.mark.parametrize(("weights", "parts"), [
        (USUAL, {"edges", "balance", "scd", "chroma"}),
        (PAPER, {"intensity", "texture", "decomposition", "adversarial"})])
    def test_ask_for_these_parts(self, weights: Losses, parts: set[str]) -> None:
        assert {name for name, weight in asdict(weights).items() if weight} == parts

    def test_without_labels_ask_for_what_can_be_seen_in_the_image(self, fusion: dict[str, Any]) -> None:
        _, parts = fusion_loss(**fusion, weights=read_recipe("fusion_alone").losses)
        assert set(parts) == {"decomposition", "edges", "ssim", "vif", "scd", "chroma"}

    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
    def test_refuses_a_weight_that_is_no_weight(self, part: str, weight: float) -> None:
        with pytest.raises(RecipeError, match=f"losses.{part}: must be at least 0"):
            Losses.only(**{part: weight})
