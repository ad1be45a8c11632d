"""The whole model: what nnU-Net builds, switches and initialises, and that the task reaches the leader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from fuse4seg.networks.fuse_then_segment import FuseThenSegment, build_follower

Architecture = Callable[[int], dict[str, Any]]
Images = Callable[..., torch.Tensor]
CLASSES = 3
FUSION = {"detail_features": 4, "base_features": 8, "couplings": 1, "transformers": 1}


def planned(architecture: dict[str, Any], *, modalities: int = 2, extra: int = 0, deep_supervision: bool = False,
            seed: int = 0, **arguments_of_ours: Any) -> FuseThenSegment:
    """Built and initialised from plans as nnU-Net does it."""
    arguments = architecture["arch_kwargs"]
    torch.manual_seed(seed)
    return get_network_from_plans(
        "fuse4seg.networks.fuse_then_segment.FuseThenSegment",
        {"conv_op": arguments["conv_op"], "strides": arguments["strides"], "windows": [[-2.0, 2.0]] * modalities,
         "follower": architecture, "fusion": FUSION, **arguments_of_ours},
        ["conv_op"], modalities + extra, CLASSES, deep_supervision=deep_supervision)


@pytest.fixture
def model(follower_architecture: Architecture) -> FuseThenSegment:
    return planned(follower_architecture(2))


@pytest.fixture
def channels() -> torch.Tensor:
    """Two normalised channels of two cases."""
    return torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))


class TestForward:
    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("modalities", [1, 2, 4])
    def test_segments_the_fused_image(self, axes: int, modalities: int, follower_architecture: Architecture) -> None:
        model = planned(follower_architecture(axes), modalities=modalities)
        channels = torch.randn(2, modalities, *[16] * axes)
        seen = model.fuse(channels)
        assert seen.fused.image.shape == (2, 1, *[16] * axes)
        logits = model(channels)
        assert logits.shape == (2, CLASSES, *[16] * axes)
        torch.testing.assert_close(logits, model.segment(seen))
        torch.testing.assert_close(logits, model.segmentation(seen.fused.image))

    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize(("follower_input", "shown"), [("fused+sources", 1 + 3), ("embedding", 4 + 8)])
    def test_segments_what_the_plans_say(self, follower_input: str, shown: int, axes: int,
                                         follower_architecture: Architecture) -> None:
        model = planned(follower_architecture(axes), modalities=3, follower_input=follower_input)
        channels = torch.randn(2, 3, *[16] * axes)
        channels[..., :5] = 0
        seen = model.fuse(channels)
        given = model.shown(seen)
        assert given.shape == (2, shown, *[16] * axes)
        assert (given[..., :5] == 0).all()
        torch.testing.assert_close(model(channels), model.segmentation(given))

    def test_sources_are_shown_behind_the_fused_image(self, follower_architecture: Architecture,
                                                      channels: torch.Tensor) -> None:
        model = planned(follower_architecture(2), follower_input="fused+sources")
        seen = model.fuse(channels)
        assert torch.equal(model.shown(seen), torch.cat([seen.fused.image, seen.sources], dim=1))

    def test_the_embedding_does_without_the_reconstruction_of_an_image(self, follower_architecture: Architecture,
                                                                       channels: torch.Tensor) -> None:
        model = planned(follower_architecture(2), follower_input="embedding")
        model(channels).square().mean().backward()
        reached = {name.split(".")[0] for name, weight in model.fusion.named_parameters() if weight.grad is not None}
        assert reached == {"encoder", "fuse_low", "fuse_high", "cross_attention"}

    def test_other_weights_give_other_logits_and_leave_its_own_alone(self, model: FuseThenSegment,
                                                                     channels: torch.Tensor) -> None:
        seen, before = model.fuse(channels), list(model.segmentation.parameters())
        doubled = {name: 2 * weight for name, weight in model.segmentation.named_parameters()}
        other = model.segment(seen, weights=doubled)
        assert all(now is then for now, then in zip(model.segmentation.parameters(), before, strict=True))
        with torch.no_grad():
            for weight in before:
                weight.mul_(2)
        torch.testing.assert_close(model.segment(seen), other)

    def test_fused_image_is_zero_outside_the_image(self, model: FuseThenSegment, channels: torch.Tensor) -> None:
        channels[..., :5] = 0
        seen = model.fuse(channels)
        assert (seen.fused.image[..., :5] == 0).all()
        assert (seen.sources[..., :5] == 0).all()
        assert torch.equal(seen.inside[0, 0, 0], (torch.arange(16) >= 5).float())
        assert (seen.fused.image[..., 5:] > 0).all()

    def test_gives_attention_maps_when_asked(self, model: FuseThenSegment, channels: torch.Tensor) -> None:
        assert model.fuse(channels).fused.attention is None
        maps = model.fuse(channels, want_maps=True).fused.attention
        torch.testing.assert_close(maps.flatten(1).sum(dim=1), torch.ones(2))

    def test_extra_channels_reach_the_follower_unchanged_and_the_leader_not_at_all(
            self, follower_architecture: Architecture, channels: torch.Tensor) -> None:
        model = planned(follower_architecture(2), extra=2)
        arrived: list[torch.Tensor] = []
        model.segmentation.register_forward_pre_hook(lambda _, inputs: arrived.append(inputs[0]))
        extra = torch.randint(0, 2, (2, 2, 16, 16)).float()
        for labels in (extra, 1 - extra):
            model(torch.cat([channels, labels], dim=1))
        assert torch.equal(arrived[0][:, 1:], extra)
        assert torch.equal(arrived[1][:, 1:], 1 - extra)
        assert torch.equal(arrived[0][:, :1], arrived[1][:, :1])
        without_extra = planned(follower_architecture(2))
        without_extra.fusion.load_state_dict(model.fusion.state_dict())
        assert torch.equal(arrived[0][:, :1], without_extra.fuse(channels).fused.image)


class TestDemosaicing:
    @pytest.fixture
    def reads(self, follower_architecture: Architecture) -> Callable[..., FuseThenSegment]:
        """Function that makes a model whose follower demosaics."""
        return lambda axes=2, **more: planned(follower_architecture(axes), **{
            "fusion": {**FUSION, "halftone": 0.4}, "demosaic": True, **more})

    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("modalities", [1, 2, 4])
    def test_the_follower_reads_each_modality_from_the_fused_image_alone(self, axes: int, modalities: int,
                                                                         reads: Callable[..., FuseThenSegment]) -> None:
        model = reads(axes, modalities=modalities)
        seen = model.fuse(torch.randn(2, modalities, *[16] * axes))
        assert torch.equal(model.shown(seen), seen.fused.image)
        shown = model.fusion.halftone.read(seen.fused.image, brighter=model.fusion.gate.brighter)
        assert shown.shape[1] == modalities
        # The windows are all -2 to 2.
        read = 4 * shown - 2
        torch.testing.assert_close(model.segment(seen), model.segmentation(read))

    @pytest.mark.parametrize("sum_share", [0.0, 0.3])
    @pytest.mark.parametrize("modalities", [2, 3, 4])
    def test_brings_back_what_nnunet_would_see(self, modalities: int, sum_share: float,
                                               reads: Callable[..., FuseThenSegment]) -> None:
        """Before training, of modalities that are uniform, if the decoder paints nothing."""
        model = reads(modalities=modalities, fusion={**FUSION, "halftone": 0.4, "sum_share": sum_share})
        nn.init.constant_(model.fusion.gate.painted.bias, -50.0)
        for last in (model.fusion.gate.source[-1], model.fusion.gate.painted):
            nn.init.zeros_(last.weight)
        channels = torch.linspace(-1.5, 0.7, modalities).view(1, -1, 1, 1).expand(1, modalities, 16, 16)
        torch.testing.assert_close(model.read(model.shown(model.fuse(channels))), channels, atol=1e-5, rtol=1e-5)

    def test_what_is_read_is_in_the_units_of_the_sources_and_ends_with_the_image(
            self, reads: Callable[..., FuseThenSegment], channels: torch.Tensor) -> None:
        model = reads()
        channels[..., :6] = 0
        seen = model.fuse(channels)
        found = model.modalities_read(seen)
        assert (found[..., :6] == 0).all()
        torch.testing.assert_close(4 * found[..., 6:] - 2, model.read(model.shown(seen))[..., 6:])

    @pytest.mark.parametrize("more", [{"demosaic": False}, {"fusion": FUSION}, {"follower_input": "embedding"},
                                      {"modalities": 5}])
    def test_no_modality_is_read_where_none_can_be(self, more: dict[str, Any],
                                                   reads: Callable[..., FuseThenSegment]) -> None:
        """Five share the four voxels of a block."""
        model = reads(**more)
        assert model.modalities_read(model.fuse(torch.randn(1, model.modalities, 16, 16))) is None

    def test_says_what_is_read_and_where_it_may_begin(self, reads: Callable[..., FuseThenSegment]) -> None:
        for model, channels, grid in ((reads(modalities=3), 3, (2, 2)), (reads(modalities=3, demosaic=False), 1, (1, 1)),
                                      (reads(follower_input="fused+sources"), 3, (1, 1))):
            assert (model.channels_read, model.reading_grid) == (channels, grid)

    def test_comes_before_mirroring(self, reads: Callable[..., FuseThenSegment], channels: torch.Tensor) -> None:
        """So that a follower meets the same modality in the same channel, mirrored or not."""
        model = reads()
        seen = model.fuse(channels)
        entered: list[torch.Tensor] = []
        model.segmentation.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        model.segment(seen)
        model.segment(seen, flips=torch.tensor([[True, False], [False, False]]))
        assert torch.equal(entered[1], torch.stack([entered[0][0].flip(1), entered[0][1]]))

    def test_leaves_extra_channels_alone(self, reads: Callable[..., FuseThenSegment], channels: torch.Tensor) -> None:
        model = reads(extra=2)
        entered: list[torch.Tensor] = []
        model.segmentation.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        extra = torch.randint(0, 2, (2, 2, 16, 16)).float()
        model(torch.cat([channels, extra], dim=1))
        assert torch.equal(entered[0][:, 2:], extra)

    @pytest.mark.parametrize("more", [{"follower_input": "fused+sources"}, {"follower_input": "embedding"}, {"fusion": FUSION}])
    def test_has_no_part_without_a_halftone_or_where_more_than_the_image_is_shown(
            self, more: dict[str, Any], reads: Callable[..., FuseThenSegment], channels: torch.Tensor) -> None:
        models = [reads(demosaic=demosaicing, **more) for demosaicing in (True, False)]
        assert torch.equal(models[0](channels), models[1](channels))


class TestAbsentModalities:
    @pytest.mark.parametrize("follower_input", ["fused", "fused+sources", "embedding"])
    def test_do_not_matter_whatever_stands_in_their_channel(self, follower_input: str, follower_architecture: Architecture,
                                                            channels: torch.Tensor) -> None:
        architecture = follower_architecture(2)
        model = FuseThenSegment(2, CLASSES, conv_op=nn.Conv2d, strides=architecture["arch_kwargs"]["strides"],
                                windows=[[-2.0, 2.0]] * 2, follower=architecture, fusion=FUSION, follower_input=follower_input)
        present, other = torch.tensor([[True, False], [False, True]]), channels.clone()
        other[~present] = torch.nan
        assert torch.equal(model(channels, present=present), model(other, present=present))
        assert (model.fuse(other, present=present).sources[~present] == 0).all()

    def test_say_nothing_about_where_the_image_ends(self, model: FuseThenSegment, channels: torch.Tensor) -> None:
        channels[:, 0, :, :5] = 0
        seen = model.fuse(channels, present=torch.tensor([[True, False], [True, True]]))
        assert (seen.inside[0, ..., :5] == 0).all()
        assert (seen.fused.image[0, ..., :5] == 0).all()
        assert (seen.inside[1] == 1).all()

    def test_are_told_on(self, model: FuseThenSegment, channels: torch.Tensor) -> None:
        present = torch.tensor([[True, False], [True, True]])
        assert torch.equal(model.fuse(channels, present=present).present, present)
        assert model.fuse(channels).present is None

    def test_that_are_none_change_no_bit(self, model: FuseThenSegment, channels: torch.Tensor) -> None:
        assert torch.equal(model(channels, present=torch.ones(2, 2, dtype=torch.bool)), model(channels))

    def test_are_not_left_out_by_leaving_out_channels(self, model: FuseThenSegment, channels: torch.Tensor) -> None:
        for call in (model, model.fuse):
            with pytest.raises(ValueError, match="1 channels, but the model fuses 2 modalities"):
                call(channels[:, :1])


class TestDeepSupervision:
    def test_is_switched_where_nnu_net_switches_it(self, follower_architecture: Architecture,
                                                   channels: torch.Tensor) -> None:
        model = planned(follower_architecture(2), deep_supervision=True)
        assert [tuple(logits.shape) for logits in model(channels)] == [(2, CLASSES, 16, 16), (2, CLASSES, 8, 8)]
        model.decoder.deep_supervision = False
        assert model(channels).shape == (2, CLASSES, 16, 16)
        model.decoder.deep_supervision = True
        assert len(model(channels)) == 2

    def test_full_resolution_is_the_same_with_and_without(self, follower_architecture: Architecture,
                                                          channels: torch.Tensor) -> None:
        model = planned(follower_architecture(2), deep_supervision=True)
        deep = model(channels)[0]
        model.decoder.deep_supervision = False
        torch.testing.assert_close(model(channels), deep)


class TestAnyFollower:
    @pytest.mark.parametrize("axes", [2, 3])
    def test_learns_together_with_the_leader(self, any_follower: Architecture, axes: int) -> None:
        model = planned(any_follower(axes), deep_supervision=True)
        fine, coarse = model(torch.randn(2, 2, *[16] * axes))
        assert (fine.shape, coarse.shape) == ((2, CLASSES, *[16] * axes), (2, CLASSES, *[8] * axes))
        sum(nn.functional.cross_entropy(part, torch.randint(0, CLASSES, part[:, 0].shape)) for part in (fine, coarse)).backward()
        for part in (*model.fusion.children(), *model.segmentation.children()):
            assert sum(float(parameter.grad.norm()) for parameter in part.parameters()) > 1e-6
        model.decoder.deep_supervision = False
        assert model(torch.randn(1, 2, *[16] * axes)).shape == (1, CLASSES, *[16] * axes)

    def test_segments_with_borrowed_weights_as_their_owner_does(self, any_follower: Architecture,
                                                                channels: torch.Tensor) -> None:
        model, owner = planned(any_follower(2), seed=0), planned(any_follower(2), seed=1)
        with torch.no_grad():
            for parameter in owner.segmentation.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        seen = model.fuse(channels)
        before = model.segment(seen)
        assert torch.equal(model.segment(seen, weights=dict(owner.segmentation.named_parameters())), owner.segment(seen))
        assert torch.equal(model.segment(seen), before)

    def test_starts_from_the_seed_alone(self, any_follower: Architecture) -> None:
        first, again, other = (planned(any_follower(2), seed=seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first if name.startswith("segmentation"))


class TestInitialize:
    def test_depends_on_the_seed_alone(self, follower_architecture: Architecture) -> None:
        first, again, other = (planned(follower_architecture(2), seed=seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        convolutions = [name for name in first if first[name].ndim == 4]
        assert not any(torch.equal(first[name], other[name]) for name in convolutions)

    def test_initialises_leader_and_follower_anew(self, model: FuseThenSegment) -> None:
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        torch.manual_seed(7)
        model.apply(model.initialize)
        kept = {name for name, weight in model.state_dict().items() if torch.equal(weight, before[name])}
        assert not any(before[name].ndim == 4 for name in kept)
        biases = [module.bias for module in model.segmentation.modules() if isinstance(module, nn.Conv2d)]
        assert all((bias == 0).all() for bias in biases)

    def test_leader_starts_the_same_whatever_the_follower(self, follower_architecture: Architecture) -> None:
        wide = follower_architecture(2)
        wide["arch_kwargs"]["features_per_stage"] = [8, 8, 8]
        leaders = []
        for architecture in (follower_architecture(2), wide):
            model = planned(architecture)
            torch.manual_seed(3)
            model.apply(model.initialize)
            leaders.append(model.fusion.state_dict())
        assert all(torch.equal(leaders[0][name], leaders[1][name]) for name in leaders[0])


class TestStateDict:
    def test_brings_every_output_back(self, follower_architecture: Architecture, channels: torch.Tensor) -> None:
        model, other = planned(follower_architecture(2), seed=0), planned(follower_architecture(2), seed=1)
        assert not torch.allclose(model(channels), other(channels))
        other.load_state_dict(model.state_dict())
        assert torch.equal(model(channels), other(channels))

    def test_separates_leader_and_follower_by_name(self, model: FuseThenSegment) -> None:
        assert {name.split(".")[0] for name in model.state_dict()} == {"fusion", "segmentation"}


class TestGradient:
    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("deep_supervision", [False, True])
    def test_of_the_task_alone_reaches_every_part_of_the_leader(self, axes: int, deep_supervision: bool,
                                                                follower_architecture: Architecture) -> None:
        model = planned(follower_architecture(axes), deep_supervision=deep_supervision)
        torch.manual_seed(0)
        logits = model(torch.randn(2, 2, *[16] * axes))
        logits = logits[0] if deep_supervision else logits
        nn.functional.cross_entropy(logits, torch.randint(0, CLASSES, (2, *[16] * axes))).backward()
        norms = {name: sum(parameter.grad.norm().item() for parameter in part.parameters())
                 for name, part in model.fusion.named_children()}
        assert set(norms) == {"encoder", "fuse_low", "fuse_high", "cross_attention", "decoder", "gate"}
        assert min(norms.values()) > 1e-6, norms


class TestBuilding:
    def test_refuses_fewer_channels_than_windows(self, follower_architecture: Architecture) -> None:
        with pytest.raises(ValueError, match="1 input channels, but windows for 2 modalities"):
            planned(follower_architecture(2), extra=-1)

    def test_refuses_a_follower_that_does_not_exist(self, follower_architecture: Architecture) -> None:
        architecture = {**follower_architecture(2), "network_class_name": "no.such.Network"}
        with pytest.raises(ValueError, match="no.such.Network cannot be imported"):
            build_follower(architecture, channels=1, classes=2, deep_supervision=False)

    def test_builds_the_follower_that_nnu_net_would_build(self, follower_architecture: Architecture,
                                                          random_images: Images) -> None:
        architecture = follower_architecture(2)
        torch.manual_seed(0)
        ours = build_follower(architecture, channels=1, classes=2, deep_supervision=False)
        torch.manual_seed(0)
        stock = get_network_from_plans(architecture["network_class_name"], architecture["arch_kwargs"],
                                       architecture["_kw_requires_import"], 1, 2, allow_init=False,
                                       deep_supervision=False)
        assert torch.equal(ours(random_images(1, 1, 16, 16)), stock(random_images(1, 1, 16, 16)))

    def test_leaves_the_plans_as_they_are(self, follower_architecture: Architecture) -> None:
        architecture = follower_architecture(2)
        build_follower(architecture, channels=1, classes=2, deep_supervision=False)
        assert architecture == follower_architecture(2)
