"""The pre-trained encoder in front of a follower: it leaves the image alone, is read, and stays as stage 1 left it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from scipy.ndimage import map_coordinates
from torch import nn
from torch.nn.functional import cross_entropy

from fuse4seg.errors import RecipeError
from fuse4seg.leaders.decoder import DecoderLeader
from fuse4seg.leaders.encoder import EncoderLeader
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.planning.leaders import leader_architecture, require_leader
from fuse4seg.planning.step_memory import CountedTraining, count_memory
from fuse4seg.plans import NETWORK
from fuse4seg.recipes.reading import changed, read_recipe
from fuse4seg.recipes.recipe import Recipe
from fuse4seg.steps.hypergradients import ESTIMATORS
from fuse4seg.steps.levels import Levels, build_levels
from tests.leaders.conftest import FOLLOWER, STRIDES

Images = Callable[..., torch.Tensor]
SIZES = {"detail_features": 4, "base_features": 8, "couplings": 1, "transformers": 1}
SMALL = tuple(f"leader.{entry}={value}" for entry, value in SIZES.items())
ARCHITECTURE = {"conv_op": "torch.nn.modules.conv.Conv2d", "strides": STRIDES, "windows": [(0.0, 1.0)], "follower": FOLLOWER}


def leader(axes: int = 2) -> EncoderLeader:
    made = EncoderLeader(1, conv_op=nn.Conv2d if axes == 2 else nn.Conv3d, strides=[1, 2, 2], **SIZES)
    made.initialise()
    return made


def levels(recipe: Recipe, *, classes: int = 2) -> Levels:
    arguments = {**ARCHITECTURE, "leader": leader_architecture(recipe, 0)}
    network = get_network_from_plans(NETWORK, arguments, ["conv_op"], 1, classes, allow_init=True, deep_supervision=False)
    return build_levels(network, classes=classes, recipe=recipe)


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return deepcopy(network.state_dict())


def in_its_middle(features: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Channels (C, *s) at the centres of the voxels of a grid of ``size``, on lines between the features' own centres."""
    steps = [extent / fine for extent, fine in zip(features.shape[1:], size, strict=True)]
    places = np.meshgrid(*(np.clip((np.arange(fine) + 0.5) * step - 0.5, 0, extent - 1)
                           for fine, step, extent in zip(size, steps, features.shape[1:], strict=True)), indexing="ij")
    return np.stack([map_coordinates(channel, places, order=1) for channel in features])


class TestEncoderLeader:
    @pytest.mark.parametrize("size", [(16, 24), (17, 13), (8, 8, 8), (7, 9, 5)])
    def test_leaves_the_image_as_it_is(self, size: tuple[int, ...], random_images: Images) -> None:
        image = random_images(2, 1, *size)
        assert torch.equal(leader(len(size))(image).image, image)

    @pytest.mark.parametrize("size", [(16, 24), (8, 12, 4)])
    def test_is_read_by_the_features_of_both_streams_on_the_image_s_grid(self, size: tuple[int, ...],
                                                                        random_images: Images) -> None:
        network, image = leader(len(size)), random_images(1, 1, *size)
        read = network.read(image)[0]
        low, high = (features[0, 0].detach().numpy() for features in network.encoder(image))
        assert low.shape[1:] == tuple(extent // 4 for extent in size)
        assert len(read) == network.read_channels == 8 + 4
        np.testing.assert_allclose(read[:8], in_its_middle(low, size), atol=1e-5)
        np.testing.assert_allclose(read[8:], in_its_middle(high, size), atol=1e-5)

    @pytest.mark.parametrize("size", [(17, 13), (7, 9, 5)])
    def test_reads_images_of_any_size(self, size: tuple[int, ...], random_images: Images) -> None:
        read = leader(len(size)).read(random_images(2, 1, *size))
        assert read.shape == (2, 12, *size)
        assert read.isfinite().all()

    def test_is_rebuilt_in_stage_1_as_the_paper_s_leader_is(self, random_images: Images) -> None:
        network, paper_s = leader(), DecoderLeader(1, conv_op=nn.Conv2d, strides=[1, 2, 2], **SIZES)
        missing = paper_s.load_state_dict(network.state_dict(), strict=False).missing_keys
        assert {name.partition(".")[0] for name in missing} == {"fuse_low", "fuse_high"}
        image = random_images(2, 1, 17, 13)
        for found, expected in zip(network.reconstruct(image), paper_s.reconstruct(image), strict=True):
            assert torch.equal(found, expected)

    def test_reads_one_image_alone(self) -> None:
        with pytest.raises(ValueError, match="one image, not 2"):
            EncoderLeader(2, conv_op=nn.Conv2d, strides=[1, 2], **SIZES)


class TestRecipe:
    @pytest.fixture
    def recipe(self) -> Recipe:
        return changed(read_recipe("pretrained_encoder"), SMALL)

    @pytest.fixture
    def arrived(self, recipe: Recipe) -> Iterator[tuple[FuseThenSegment, list[torch.Tensor]]]:
        network, entered = levels(recipe).network, []
        hook = network.segmentation.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].detach()))
        yield network, entered
        hook.remove()

    def test_gives_the_follower_the_features_of_what_is_exported(
            self, arrived: tuple[FuseThenSegment, list[torch.Tensor]], random_images: Images) -> None:
        (network, entered), image = arrived, random_images(2, 1, 16, 24)
        network(image)
        levels_of_8_bits = torch.from_numpy(np.clip(np.rint(255 * image.numpy()), 1, 255) / 255).float()
        torch.testing.assert_close(entered[0], network.fusion.read(levels_of_8_bits))
        assert entered[0].shape[1] == 12

    @pytest.mark.parametrize("hypergradient", ESTIMATORS)
    def test_keeps_the_encoder_as_stage_1_left_it(self, recipe: Recipe, hypergradient: str, random_images: Images) -> None:
        """Whatever a user makes of the losses: nothing of stage 2 reaches it."""
        built = levels(changed(recipe, [f"bilevel.hypergradient={hypergradient}", "losses.texture=5", "losses.ssim=1",
                                        "losses.adversarial=0.01"]))
        batch, labels = random_images(4, 1, 16, 16), random_images(4, 1, 16, 16, seed=1).round()
        drawn = weights_of(built.network.fusion)
        built.pretraining_step()(batch)
        first, follower = weights_of(built.network.fusion), weights_of(built.network.segmentation)
        assert all(not torch.equal(drawn[name], first[name]) for name in ("encoder.stem.weight", "encoder.modality"))
        step = built.bilevel_step(lambda logits, targets: cross_entropy(logits, targets[:, 0].long()),
                                  loss_at_one_resolution=cross_entropy)
        for _ in range(3):
            step(batch, labels)
        for name, weight in built.network.fusion.state_dict().items():
            assert torch.equal(weight, first[name]), name
        assert all(not torch.equal(weight, follower[name]) for name, weight in built.network.segmentation.state_dict().items()
                   if name.endswith("conv.weight"))

    def test_of_stage_1_has_the_paper_s_losses_but_for_what_needs_two_modalities(self, recipe: Recipe) -> None:
        paper = read_recipe("paper")
        assert recipe.pretraining.decomposition == 0
        assert (recipe.pretraining.epochs, recipe.pretraining.adversarial) == (80, paper.pretraining.adversarial)
        assert (recipe.training, recipe.leader.rate, recipe.leader.schedule) == (paper.training, 1e-4, "halved")

    def test_counts_both_stages(self, recipe: Recipe) -> None:
        architecture = {"network_class_name": NETWORK, "_kw_requires_import": ["conv_op"],
                        "arch_kwargs": {**ARCHITECTURE, "leader": leader_architecture(recipe, 0)}}
        counted = count_memory(architecture, (16, 16), 4, CountedTraining(1, 2, recipe, mixed_precision=False))
        assert min(counted.stage_1, counted.stage_2) > 0

    def test_refuses_several_modalities_and_a_training_without_labels(self, recipe: Recipe) -> None:
        require_leader(recipe, ["FILM"])
        with pytest.raises(RecipeError, match="leader.network: encoder fuses nothing: it reads one image, and the dataset has 2"):
            require_leader(recipe, ["T1", "T2"])
        alone = changed(read_recipe("fusion_alone"), ["leader.network=encoder", "losses.decomposition=0"])
        with pytest.raises(RecipeError, match="leader.network: encoder leaves the image as it is"):
            require_leader(alone, ["T1"])

    @pytest.mark.parametrize(("change", "said"), [("losses.decomposition=1", "losses.decomposition"),
                                                  ("bilevel.auxiliary_weight=1", "bilevel.auxiliary_weight")])
    def test_refuses_losses_that_look_at_a_fusion(self, recipe: Recipe, change: str, said: str) -> None:
        with pytest.raises(RecipeError, match=f"{said}: the leader encoder has nothing for it. Set it to 0"):
            require_leader(changed(recipe, [change]), ["FILM"])
