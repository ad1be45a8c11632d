"""The whole model: windows, a fused image of whole levels, a follower that sees nothing else, and what nnU-Net builds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from fuse4seg.leaders.gate import GateLeader
from fuse4seg.networks.fuse_then_segment import FuseThenSegment, IntensityWindow, as_read, build_planned, mirrored, whole_levels


def column(*channels: list[float]) -> torch.Tensor:
    """Channels of one case, each a row of voxels: shape (1, N, 1, voxels)."""
    return torch.tensor(channels).view(1, len(channels), 1, -1)


class TestIntensityWindow:
    def test_maps_each_channel_linearly_through_its_own_window(self) -> None:
        window = IntensityWindow([(-1, 3), (0, 10)])
        sources, _ = window(column([-1.0, 1.0, 2.0, 3.0], [10.0, 5.0, 2.5, 1.0]))
        torch.testing.assert_close(sources, column([0.0, 0.5, 0.75, 1.0], [1.0, 0.5, 0.25, 0.1]))

    def test_clamps_what_lies_beyond_the_window(self) -> None:
        sources, _ = IntensityWindow([(-1, 3)])(column([-7.0, 99.0]))
        assert torch.equal(sources, column([0.0, 1.0]))

    def test_is_zero_where_every_channel_is_zero_though_zero_lies_inside_the_window(self) -> None:
        sources, inside = IntensityWindow([(-1, 1), (-3, 1)])(column([0.0, 0.5], [0.0, 0.0]))
        torch.testing.assert_close(sources, column([0.0, 0.75], [0.0, 0.75]))
        assert torch.equal(inside, column([0.0, 1.0]))

    @pytest.mark.parametrize("value", [1e-6, -2.0])
    def test_one_channel_that_is_not_zero_makes_a_voxel_part_of_the_image(self, value: float) -> None:
        sources, inside = IntensityWindow([(-1, 1)] * 3)(column([0.0], [value], [0.0]))
        assert inside.item() == 1
        torch.testing.assert_close(sources[:, [0, 2]], torch.full((1, 2, 1, 1), 0.5))

    def test_treats_every_slice_of_a_volume_alike(self) -> None:
        volume = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        volume[..., :2] = 0
        window = IntensityWindow([(-1, 1), (-2, 0)])
        sources, inside = window(volume)
        slices = [window(volume[:, :, index]) for index in range(3)]
        assert torch.equal(sources, torch.stack([part for part, _ in slices], dim=2))
        assert torch.equal(inside, torch.stack([part for _, part in slices], dim=2))

    def test_adds_nothing_to_a_checkpoint(self) -> None:
        assert IntensityWindow([(0, 1)]).state_dict() == {}

    @pytest.mark.parametrize("windows", [[(1, 1)], [(2, 1)], [(0, 1, 2)], [(float("nan"), 1)], [], [(0, 1), (3, 2)]])
    def test_refuses_what_is_no_window(self, windows: list[tuple[float, ...]]) -> None:
        with pytest.raises(ValueError, match="low below high"):
            IntensityWindow(windows)


class TestMirrored:
    def test_flips_each_sample_along_its_own_axes(self) -> None:
        images = torch.arange(2 * 2 * 3).view(2, 1, 2, 3)
        found = mirrored(images, torch.tensor([[True, False], [False, True]]))
        assert found[0, 0].tolist() == [[3, 4, 5], [0, 1, 2]]
        assert found[1, 0].tolist() == [[8, 7, 6], [11, 10, 9]]

    @pytest.mark.parametrize("size", [(4, 5), (3, 4, 5)])
    def test_twice_is_the_same_again(self, size: tuple[int, ...]) -> None:
        images = torch.rand(6, 2, *size)
        flips = torch.rand(6, len(size)) < 0.5
        assert torch.equal(mirrored(mirrored(images, flips), flips), images)

    def test_nothing_to_flip_leaves_all_as_it_is(self) -> None:
        images = torch.rand(2, 3, 4, 5)
        assert torch.equal(mirrored(images, torch.zeros(2, 2, dtype=torch.bool)), images)

    def test_gradients_come_back_mirrored(self) -> None:
        images = torch.rand(1, 1, 3, 2, requires_grad=True)
        weights = torch.arange(6.0).view(1, 1, 3, 2)
        (mirrored(images, torch.tensor([[True, True]])) * weights).sum().backward()
        assert torch.equal(images.grad, weights.flip(2, 3))


Architecture = Callable[[int], dict[str, Any]]
Images = Callable[..., torch.Tensor]
CLASSES = 3
LEADER = {"network_class_name": "fuse4seg.leaders.gate.GateLeader", "_kw_requires_import": [],
          "arch_kwargs": {"detail_features": 4, "base_features": 8, "couplings": 1, "transformers": 1}}
grey_and_colour = pytest.mark.parametrize("colours", [1, 3])


def planned(architecture: dict[str, Any], *, modalities: int = 2, extra: int = 0, deep_supervision: bool = False,
            seed: int = 0, colours: int = 3) -> FuseThenSegment:
    """Built and initialised from plans as nnU-Net does it."""
    arguments = architecture["arch_kwargs"]
    torch.manual_seed(seed)
    return get_network_from_plans(
        "fuse4seg.networks.fuse_then_segment.FuseThenSegment",
        {"conv_op": arguments["conv_op"], "strides": arguments["strides"], "windows": [[-2.0, 2.0]] * modalities,
         "leader": {**LEADER, "arch_kwargs": {**LEADER["arch_kwargs"], "colours": colours}}, "follower": architecture},
        ["conv_op"], modalities + extra, CLASSES, deep_supervision=deep_supervision)


@pytest.fixture
def model(follower_architecture: Architecture) -> FuseThenSegment:
    return planned(follower_architecture(2))


@pytest.fixture
def channels() -> torch.Tensor:
    """Two normalised channels of two cases."""
    return torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))


def norm_of(part: nn.Module) -> float:
    """Of all gradients in a part of the model; the reconstruction of pre-training has none."""
    return sum(parameter.grad.norm().item() for parameter in part.parameters() if parameter.grad is not None)


class TestWholeLevels:
    @settings(max_examples=50, deadline=None)
    @given(seed=st.integers(0, 10**6), colours=st.sampled_from([1, 3]), scale=st.sampled_from([1.0, 0.01, 1e-4]))
    def test_are_those_of_a_file_from_1_on_inside_and_0_outside(self, seed: int, colours: int, scale: float) -> None:
        random = np.random.default_rng(seed)
        image, inside = scale * random.random((2, colours, 7, 9)), random.random((2, 1, 7, 9)) < 0.7
        found = 255 * whole_levels(torch.from_numpy(image), torch.from_numpy(inside)).numpy()
        expected = np.where(inside, np.maximum(np.rint(255 * image), 1), 0)
        np.testing.assert_allclose(found, expected, atol=1e-10)

    def test_end_at_white(self) -> None:
        """A mixture may round to slightly more than 1."""
        levels = whole_levels(torch.tensor([1 + 1e-6, 1.1, 1.0]).view(1, 1, 3), torch.ones(1, 1, 3))
        torch.testing.assert_close(levels, torch.ones(1, 1, 3), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
    def test_are_whole_of_images_in_half_precision_too(self, precision: torch.dtype) -> None:
        image = torch.linspace(0, 1, 999).view(1, 3, 333).to(precision)
        levels = whole_levels(image, torch.ones(1, 1, 333, dtype=precision))
        assert levels.dtype == torch.float32
        torch.testing.assert_close(levels * 255, (image.float() * 255).round().clamp(1, 255), rtol=0, atol=1e-4)

    def test_differ_in_half_precision_by_one_at_most_and_in_bfloat16_more_often(self, tiny_model: Callable[..., Any]) -> None:
        model, drawn = tiny_model().eval(), torch.Generator().manual_seed(0)
        channels = 3 * nn.functional.avg_pool2d(torch.randn(2, 2, 68, 68, generator=drawn), 5, stride=1)
        share = {}
        with torch.no_grad():
            for weight in model.fusion.parameters():  # the gate begins as the palette alone
                weight.add_(0.1 * (weight.abs().mean() + 0.5 * (weight == 0)) * torch.randn(weight.shape, generator=drawn))
            exact = model.fuse(channels).fused.image
            for precision in (torch.float16, torch.bfloat16):
                with torch.autocast("cpu", dtype=precision):
                    apart = 255 * (model.fuse(channels).fused.image - exact).abs()
                assert apart.max() < 1.01
                share[precision] = (apart > 0.5).float().mean().item()
        assert 0 < 3 * share[torch.float16] < share[torch.bfloat16] < 0.1

    def test_let_gradients_through_as_if_nothing_were_rounded(self) -> None:
        image = torch.linspace(0, 1, 600).view(1, 3, 200).requires_grad_()
        inside, weights = (torch.arange(200) % 5 > 0).float().view(1, 1, 200), torch.rand(1, 3, 200)
        found, = torch.autograd.grad((whole_levels(image, inside) * weights).sum(), image)
        assert torch.equal(found, weights * inside)


class TestFuse:
    @pytest.mark.parametrize("axes", [2, 3])
    @grey_and_colour
    @pytest.mark.parametrize("modalities", [1, 2, 4])
    def test_gives_whole_levels_that_change_nothing_else_of_the_leader_s_output(
            self, modalities: int, colours: int, axes: int, follower_architecture: Architecture) -> None:
        model = planned(follower_architecture(axes), modalities=modalities, colours=colours)
        channels = torch.randn(2, modalities, *[16] * axes)
        channels[..., :5] = 0
        seen = model.fuse(channels)
        levels = 255 * seen.fused.image
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
        assert (levels[..., :5] == 0).all()
        assert levels[..., 5:].round().min() >= 1
        assert levels.max() <= 255 + 1e-4
        fused = model.fusion(seen.sources)
        # Black inside the image becomes the darkest level.
        assert ((seen.fused.image - fused.image.clamp(min=1 / 255))[..., 5:].abs() <= 0.5 / 255 + 1e-6).all()
        for name in ("own", "low", "high", "decoded"):
            assert torch.equal(getattr(seen.fused, name), getattr(fused, name))

    def test_is_zero_outside_the_image(self, model: FuseThenSegment, channels: torch.Tensor) -> None:
        channels[..., :5] = 0
        seen = model.fuse(channels)
        assert (seen.fused.image[..., :5] == 0).all()
        assert (seen.sources[..., :5] == 0).all()
        assert torch.equal(seen.inside[0, 0, 0], (torch.arange(16) >= 5).float())
        assert (seen.fused.image[..., 5:] > 0).all()

    def test_is_dark_but_not_outside_where_all_modalities_are_black(self, model: FuseThenSegment,
                                                                    channels: torch.Tensor) -> None:
        nn.init.constant_(model.fusion.gate.tint_share.bias, -50.0)
        channels[..., 5:9] = -3.0
        image = model.fuse(channels).fused.image
        torch.testing.assert_close(image[..., 5:9], torch.full_like(image[..., 5:9], 1 / 255))

    @grey_and_colour
    def test_gradient_of_the_leader_is_that_without_rounding(self, colours: int, follower_architecture: Architecture,
                                                             channels: torch.Tensor) -> None:
        model = planned(follower_architecture(2), colours=colours)
        channels[..., :5] = 0
        seen, weights = model.fuse(channels), torch.rand(2, colours, 16, 16)
        found, expected = (torch.autograd.grad((image * weights).sum(), list(model.fusion.parameters()), allow_unused=True)
                           for image in (seen.fused.image, model.fusion(seen.sources).image * seen.inside))
        for gradient, wanted in zip(found, expected, strict=True):
            if wanted is not None:
                torch.testing.assert_close(gradient, wanted)
        assert any(wanted is not None and wanted.any() for wanted in expected)

    def test_gives_attention_maps_when_asked(self, model: FuseThenSegment, channels: torch.Tensor) -> None:
        assert model.fuse(channels).fused.attention is None
        maps = model.fuse(channels, want_maps=True).fused.attention
        torch.testing.assert_close(maps.flatten(1).sum(dim=1), torch.ones(2))


class TestForward:
    @pytest.mark.parametrize("axes", [2, 3])
    @grey_and_colour
    @pytest.mark.parametrize("modalities", [1, 2, 4])
    def test_segments_the_fused_image(self, modalities: int, colours: int, axes: int,
                                      follower_architecture: Architecture) -> None:
        model = planned(follower_architecture(axes), modalities=modalities, colours=colours)
        channels = torch.randn(2, modalities, *[16] * axes)
        seen = model.fuse(channels)
        assert seen.fused.image.shape == (2, colours, *[16] * axes)
        logits = model(channels)
        assert logits.shape == (2, CLASSES, *[16] * axes)
        torch.testing.assert_close(logits, model.segment(seen.fused.image))
        torch.testing.assert_close(logits, model.segmentation((seen.fused.image - 0.3) / 0.2))

    @pytest.mark.parametrize("axes", [2, 3])
    @grey_and_colour
    def test_is_what_the_exported_image_alone_gives(self, colours: int, axes: int,
                                                    follower_architecture: Architecture) -> None:
        """The follower needs nothing but 8 bits a channel."""
        model, channels = planned(follower_architecture(axes), colours=colours), torch.randn(2, 2, *[16] * axes)
        channels[..., :5] = 0
        exported = (255 * model.fuse(channels).fused.image).round().to(torch.uint8)
        torch.testing.assert_close(model.segment(exported.float() / 255), model(channels))

    def test_knows_of_the_sources_only_what_the_fused_image_shows(self, model: FuseThenSegment,
                                                                  channels: torch.Tensor) -> None:
        """The leader gone blind to them shows the tint alone, and all sources give the same labels."""
        nn.init.constant_(model.fusion.gate.tint_share.bias, 200.0)
        for weight in (model.fusion.gate.tint.weight, model.fusion.gate.tint_share.weight):
            nn.init.zeros_(weight)
        other = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(5))
        assert torch.equal(model.fuse(channels).fused.image, model.fuse(other).fused.image)
        assert torch.equal(model(channels), model(other))

    def test_other_weights_give_other_logits_and_leave_its_own_alone(self, model: FuseThenSegment,
                                                                     channels: torch.Tensor) -> None:
        image, before = model.fuse(channels).fused.image, list(model.segmentation.parameters())
        doubled = {name: 2 * weight for name, weight in model.segmentation.named_parameters()}
        other = model.segment(image, weights=doubled)
        assert all(now is then for now, then in zip(model.segmentation.parameters(), before, strict=True))
        with torch.no_grad():
            for weight in before:
                weight.mul_(2)
        torch.testing.assert_close(model.segment(image), other)

    @grey_and_colour
    def test_extra_channels_reach_the_follower_unchanged_and_the_leader_not_at_all(
            self, colours: int, follower_architecture: Architecture, channels: torch.Tensor) -> None:
        model = planned(follower_architecture(2), extra=2, colours=colours)
        arrived: list[torch.Tensor] = []
        model.segmentation.register_forward_pre_hook(lambda _, inputs: arrived.append(inputs[0]))
        extra = torch.randint(0, 2, (2, 2, 16, 16)).float()
        for labels in (extra, 1 - extra):
            model(torch.cat([channels, labels], dim=1))
        assert arrived[0].shape[1] == colours + 2
        assert torch.equal(arrived[0][:, colours:], extra)
        assert torch.equal(arrived[1][:, colours:], 1 - extra)
        assert torch.equal(arrived[0][:, :colours], arrived[1][:, :colours])
        without_extra = planned(follower_architecture(2), colours=colours)
        without_extra.fusion.load_state_dict(model.fusion.state_dict())
        torch.testing.assert_close(0.2 * arrived[0][:, :colours] + 0.3, without_extra.fuse(channels).fused.image)


class TestAsRead:
    @grey_and_colour
    @pytest.mark.parametrize("extra", [0, 2])
    def test_brings_the_image_about_zero_and_leaves_what_is_behind_it_alone(self, colours: int, extra: int) -> None:
        channels = torch.rand(2, colours + extra, 4, 5, dtype=torch.float64)
        leader = GateLeader(2, conv_op=nn.Conv2d, strides=[1, 2], colours=colours)
        assert leader.read_channels == colours
        found = as_read(channels, leader=leader).numpy()
        np.testing.assert_allclose(found[:, :colours], 5 * (channels[:, :colours].numpy() - 0.3), atol=1e-12)
        np.testing.assert_array_equal(found[:, colours:], channels[:, colours:].numpy())


class TestFlips:
    def test_show_the_follower_a_sample_mirrored_and_it_answers_so(self, follower_architecture: Architecture,
                                                                   channels: torch.Tensor) -> None:
        """With a cascade's labels; each sample along its own axes."""
        model = planned(follower_architecture(2), extra=1)
        extra, image = torch.randint(0, 2, (2, 1, 16, 16)).float(), model.fuse(channels).fused.image
        entered: list[torch.Tensor] = []
        model.segmentation.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        model.segment(image, extra)
        answer = model.segment(image, extra, flips=torch.tensor([[True, False], [False, False]]))
        assert torch.equal(entered[1], torch.stack([entered[0][0].flip(1), entered[0][1]]))
        torch.testing.assert_close(answer, model.segment(torch.stack([image[0].flip(1), image[1]]),
                                                         torch.stack([extra[0].flip(1), extra[1]])))


class TestAbsentModalities:
    @grey_and_colour
    def test_do_not_matter_whatever_stands_in_their_channel(self, colours: int, follower_architecture: Architecture,
                                                            channels: torch.Tensor) -> None:
        model = planned(follower_architecture(2), colours=colours)
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
            assert norm_of(part) > 1e-6
        model.decoder.deep_supervision = False
        assert model(torch.randn(1, 2, *[16] * axes)).shape == (1, CLASSES, *[16] * axes)

    def test_segments_with_borrowed_weights_as_their_owner_does(self, any_follower: Architecture,
                                                                channels: torch.Tensor) -> None:
        model, owner = planned(any_follower(2), seed=0), planned(any_follower(2), seed=1)
        with torch.no_grad():
            for parameter in owner.segmentation.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        image = model.fuse(channels).fused.image
        before = model.segment(image)
        assert torch.equal(model.segment(image, weights=dict(owner.segmentation.named_parameters())), owner.segment(image))
        assert torch.equal(model.segment(image), before)

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
    @grey_and_colour
    @pytest.mark.parametrize("deep_supervision", [False, True])
    def test_of_the_task_alone_reaches_every_part_of_the_leader(self, axes: int, colours: int, deep_supervision: bool,
                                                                follower_architecture: Architecture) -> None:
        model = planned(follower_architecture(axes), deep_supervision=deep_supervision, colours=colours)
        torch.manual_seed(0)
        logits = model(torch.randn(2, 2, *[16] * axes))
        logits = logits[0] if deep_supervision else logits
        nn.functional.cross_entropy(logits, torch.randint(0, CLASSES, (2, *[16] * axes))).backward()
        norms = {name: norm_of(part) for name, part in model.fusion.named_children()}
        assert set(norms) == {"encoder", "fuse_low", "fuse_high", "cross_attention", "decoder", "gate"}
        assert min(norms.values()) > 1e-6, norms
        silent = [name for name, parameter in model.fusion.named_parameters() if parameter.grad is None]
        assert silent == ["decoder.paint.weight", "decoder.paint.bias"]


class TestBuilding:
    @grey_and_colour
    @pytest.mark.parametrize("extra", [0, 3])
    def test_gives_the_follower_the_fused_image_s_channels_and_a_cascade_s(self, colours: int, extra: int,
                                                                           follower_architecture: Architecture) -> None:
        model = planned(follower_architecture(2), modalities=4, extra=extra, colours=colours)
        first = next(module for module in model.segmentation.modules() if isinstance(module, nn.Conv2d))
        assert first.in_channels == colours + extra

    def test_refuses_fewer_channels_than_windows(self, follower_architecture: Architecture) -> None:
        with pytest.raises(ValueError, match="1 input channels, but windows for 2 modalities"):
            planned(follower_architecture(2), extra=-1)

    def test_refuses_a_follower_that_does_not_exist(self, follower_architecture: Architecture) -> None:
        architecture = {**follower_architecture(2), "network_class_name": "no.such.Network"}
        with pytest.raises(ValueError, match="no.such.Network cannot be imported"):
            build_planned(architecture, input_channels=1, num_classes=2, deep_supervision=False)

    def test_builds_the_follower_that_nnu_net_would_build(self, follower_architecture: Architecture,
                                                          random_images: Images) -> None:
        architecture = follower_architecture(2)
        torch.manual_seed(0)
        ours = build_planned(architecture, input_channels=1, num_classes=2, deep_supervision=False)
        torch.manual_seed(0)
        stock = get_network_from_plans(architecture["network_class_name"], architecture["arch_kwargs"],
                                       architecture["_kw_requires_import"], 1, 2, allow_init=False,
                                       deep_supervision=False)
        assert torch.equal(ours(random_images(1, 1, 16, 16)), stock(random_images(1, 1, 16, 16)))

    def test_leaves_the_plans_as_they_are(self, follower_architecture: Architecture) -> None:
        architecture = follower_architecture(2)
        build_planned(architecture, input_channels=1, num_classes=2, deep_supervision=False)
        assert architecture == follower_architecture(2)
