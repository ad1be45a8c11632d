"""Dual-stream leaders and their encoder: any number of modalities, any size and stride, and what is absent left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fuse4seg.leaders.decoder import DecoderLeader
from fuse4seg.leaders.embedding import EmbeddingLeader
from fuse4seg.leaders.gate import GateLeader
from fuse4seg.networks.convolution import space_to_depth
from fuse4seg.networks.dual_stream import AffineCoupling, DualStreamEncoder, DualStreamLeader, LiteTransformerBlock
from fuse4seg.networks.leader import Fused

Images = Callable[..., torch.Tensor]
LEADERS = {"gate": GateLeader, "decoder": DecoderLeader, "embedding": EmbeddingLeader}
every_leader = pytest.mark.parametrize(("leader", "colours"), [("gate", 1), ("gate", 3), ("decoder", 1), ("embedding", 1),
                                                               ("embedding", 3)])
#: For each of two cases of three modalities whether it has them, one at least.
masks = st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=2, max_size=2)


def fusion(modalities: int = 2, *, strides: list[list[int]] | None = None, axes: int = 2, reference: int = 0,
           leader: str = "gate", colours: int | None = None) -> DualStreamLeader:
    torch.manual_seed(0)
    strides = strides or [[1] * axes, [2] * axes, [2] * axes]
    network = LEADERS[leader](modalities, conv_op=nn.Conv2d if axes == 2 else nn.Conv3d, strides=strides,
                              detail_features=4, base_features=8, couplings=1, transformers=1, reference=reference,
                              colours=colours or {"gate": 3, "decoder": 1, "embedding": 3}[leader])
    network.initialise()
    return network


def like(network: DualStreamLeader, modalities: int, **arguments: Any) -> DualStreamLeader:
    """Another one of its kind."""
    name = next(name for name, kind in LEADERS.items() if isinstance(network, kind))
    return fusion(modalities, leader=name, colours=network.colours, **arguments)


def reordered(network: DualStreamLeader, order: list[int]) -> DualStreamLeader:
    """The same network for modalities in another order, each with the colour that it has."""
    permuted = like(network, network.modalities, reference=order.index(network.reference))
    permuted.load_state_dict(network.state_dict())
    if isinstance(network, GateLeader):
        permuted.gate.preferred = network.gate.preferred[:, order]
    return permuted


def decoding(network: DualStreamLeader, sources: torch.Tensor, **arguments: Any) -> tuple[Fused, list[torch.Tensor]]:
    """What a network fuses, and what is decoded for it: features fused per frequency, low and high."""
    taken: list[torch.Tensor] = []
    with mock.patch.object(network, "decoded", wraps=network.decoded) as decode:
        fused = network(sources, **arguments)
        taken.extend(decode.call_args.args)
    return fused, taken


def tensors(fused: Fused) -> list[torch.Tensor]:
    return [part for part in fused if part is not None]


class TestForward:
    @every_leader
    @pytest.mark.parametrize("modalities", [2, 3, 4])
    @pytest.mark.parametrize("size", [(16, 24), (17, 13), (5, 3), (8, 8, 8), (7, 9, 5)])
    def test_gives_one_image_in_0_to_1_of_the_sources_size(self, modalities: int, size: tuple[int, ...], leader: str,
                                                           colours: int, random_images: Images) -> None:
        network = fusion(modalities, axes=len(size), leader=leader, colours=colours)
        fused = network(random_images(2, modalities, *size), want_maps=True)
        assert fused.image.shape == (2, colours, *size)
        assert (None if fused.own is None else fused.own.shape) == {
            "gate": (2, colours, modalities + 1, *size)}.get(leader)
        assert fused.low.shape[:3] == (2, modalities, 8)
        assert fused.high.shape[:3] == (2, modalities, 4)
        assert fused.decoded.shape == (2, 4, *fused.high.shape[3:])
        assert fused.attention.shape[:2] == (2, modalities - 1)
        assert fused.image.min() >= 0
        assert fused.image.max() <= 1 + 1e-6

    @pytest.mark.parametrize(("strides", "low_size"), [
        ([[1, 1, 1], [1, 2, 2], [2, 2, 2]], (3, 4, 5)),
        ([[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 1], [1, 2, 2]], (2, 2, 5)),
        ([[1, 1, 1], [2, 2, 2]], (3, 7, 9)),
        ([[1, 1, 1]], (5, 13, 18)),
    ])
    def test_shares_the_follower_s_strides_down_to_the_third(self, strides: list[list[int]], low_size: tuple[int, ...],
                                                             random_images: Images) -> None:
        sources = random_images(1, 2, 5, 13, 18)
        fused = fusion(axes=3, strides=strides)(sources)
        assert fused.image.shape == (1, 3, 5, 13, 18)
        assert fused.low.shape[3:] == low_size

    @pytest.mark.parametrize("strides", [[[1, 1], [2, 2]], [[1, 1]], [1, 2, 2], [[1, 1], [3, 2], [2, 3]]])
    def test_works_with_few_stages_and_with_one_stride_for_all_axes(self, strides: list, random_images: Images) -> None:
        assert fusion(strides=strides)(random_images(1, 2, 11, 7)).image.shape == (1, 3, 11, 7)

    def test_pads_by_repeating_the_border(self, random_images: Images) -> None:
        sources = random_images(1, 2, 14, 11)
        padded = nn.functional.pad(sources, (0, 1, 0, 2), mode="replicate")
        torch.testing.assert_close(fusion()(sources).image, fusion()(padded).image[..., :14, :11])

    @every_leader
    def test_one_modality_needs_no_attention(self, leader: str, colours: int, random_images: Images) -> None:
        network = fusion(1, leader=leader, colours=colours)
        fused = network(random_images(2, 1, 13, 9), want_maps=True)
        assert network.cross_attention is None
        assert not network.attends
        assert fused.attention is None

    def test_gives_maps_only_when_asked(self, random_images: Images) -> None:
        sources = random_images(1, 2, 16, 16)
        without, asked = fusion()(sources), fusion()(sources, want_maps=True)
        assert without.attention is None
        torch.testing.assert_close(asked.attention.sum(), torch.tensor(1.0))
        torch.testing.assert_close(asked.image, without.image)

    def test_does_not_let_one_case_of_a_batch_change_another(self, random_images: Images) -> None:
        network, sources = fusion(), random_images(3, 2, 12, 12)
        torch.testing.assert_close(network(sources).image[1:2], network(sources[1:2]).image)

    @every_leader
    @pytest.mark.parametrize("reference", [0, 1, 2])
    def test_order_of_modalities_only_matters_to_the_reference_and_the_palette(
            self, reference: int, leader: str, colours: int, random_images: Images) -> None:
        network, order = fusion(3, reference=reference, leader=leader, colours=colours), [2, 0, 1]
        sources = random_images(1, 3, 12, 12)
        permuted = reordered(network, order)
        torch.testing.assert_close(permuted(sources[:, order]).image, network(sources).image)

    @every_leader
    @pytest.mark.parametrize("axes", [2, 3])
    def test_sends_a_gradient_to_every_weight_but_a_gate_s_leaves_those_of_the_reconstruction(
            self, axes: int, leader: str, colours: int, random_images: Images) -> None:
        network = fusion(3, axes=axes, leader=leader, colours=colours)
        network(random_images(2, 3, *[8] * axes)).image.pow(2).sum().backward()
        silent = [name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
        assert silent == {"gate": ["decoder.paint.weight", "decoder.paint.bias"]}.get(leader, [])

    @pytest.mark.parametrize("reference", [-1, 2])
    def test_refuses_a_reference_that_is_no_modality(self, reference: int) -> None:
        with pytest.raises(ValueError, match=r"reference must lie in 0\.\.1"):
            fusion(2, reference=reference)


def without(network: DualStreamLeader, absent: set[int], *, axes: int) -> DualStreamLeader:
    """A network that has never heard of the absent modalities, of which the reference is none, with the same weights and hues."""
    there = [index for index in range(network.modalities) if index not in absent]
    smaller = like(network, len(there), axes=axes, reference=there.index(network.reference))
    weights = network.state_dict()
    weights["encoder.modality"] = weights["encoder.modality"][there]
    smaller.load_state_dict(weights, strict=len(there) > 1)  # one modality alone has no cross-attention
    if isinstance(network, GateLeader):
        smaller.gate.preferred = network.gate.preferred[:, there]
    return smaller


class TestAbsentModalities:
    @every_leader
    @pytest.mark.parametrize("size", [(13, 16), (8, 8, 5)])
    @pytest.mark.parametrize(("modalities", "reference", "absent"), [(2, 0, {1}), (3, 0, {2}), (3, 1, {0}), (4, 2, {0, 3}),
                                                                     (3, 2, {0, 1})])
    def test_are_left_out_as_if_the_network_had_never_had_them(self, modalities: int, reference: int, absent: set[int],
                                                               size: tuple[int, ...], leader: str, colours: int,
                                                               random_images: Images) -> None:
        network = fusion(modalities, axes=len(size), reference=reference, leader=leader, colours=colours)
        sources = random_images(2, modalities, *size)
        nn.init.normal_(network.encoder.modality)
        there = [index for index in range(modalities) if index not in absent]
        present = torch.tensor([[index in there for index in range(modalities)]] * 2)
        found, found_base = decoding(network, sources, present=present, want_maps=True)
        expected, expected_base = decoding(without(network, absent, axes=len(size)), sources[:, there], want_maps=True)
        torch.testing.assert_close([found.image, found.decoded, *found_base], [expected.image, expected.decoded, *expected_base])
        if leader == "gate":
            torch.testing.assert_close(found.own[:, :, [*there, modalities]], expected.own)
            assert (found.own[:, :, sorted(absent)] == 0).all()
        if expected.attention is not None:
            torch.testing.assert_close(found.attention[found.attention.flatten(2).any(dim=2)],
                                       expected.attention.flatten(0, 1))

    @settings(max_examples=60, deadline=None)
    @given(rows=masks, reference=st.integers(0, 2), axes=st.sampled_from([2, 3]), leader=st.sampled_from([*LEADERS]),
           content=st.sampled_from([0.0, 1.0, -3.0, torch.nan, torch.inf]))
    def test_do_not_matter_whatever_stands_in_their_place(self, rows: list[list[bool]], reference: int, axes: int, leader: str,
                                                          content: float, random_images: Images) -> None:
        network, sources = fusion(3, axes=axes, reference=reference, leader=leader), random_images(2, 3, *[8] * axes)
        present, other = torch.tensor(rows), sources.clone()
        other[~present] = content
        first, second = (tensors(network(images, present=present, want_maps=True)) for images in (sources, other))
        assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))

    @settings(max_examples=40, deadline=None)
    @given(rows=masks, order=st.permutations(range(3)), leader=st.sampled_from([*LEADERS]))
    def test_may_stand_in_any_order(self, rows: list[list[bool]], order: list[int], leader: str, random_images: Images) -> None:
        network, sources, present = fusion(3, reference=1, leader=leader), random_images(2, 3, 12, 12), torch.tensor(rows)
        permuted = reordered(network, order)
        torch.testing.assert_close(permuted(sources[:, order], present=present[:, order]).image,
                                   network(sources, present=present).image)

    @settings(max_examples=20, deadline=None)
    @given(row=st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
    def test_of_one_case_do_not_change_another(self, row: list[bool], random_images: Images) -> None:
        network, sources = fusion(3), random_images(2, 3, 12, 12)
        torch.testing.assert_close(network(sources, present=torch.tensor([row, [True] * 3])).image[1:],
                                   network(sources[1:]).image)

    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("leader", LEADERS)
    def test_that_are_none_change_no_bit(self, axes: int, leader: str, random_images: Images) -> None:
        network, sources = fusion(3, axes=axes, leader=leader), random_images(2, 3, *[9] * axes)
        everywhere = torch.ones(2, 3, dtype=torch.bool)
        plain, masked = (tensors(network(sources, present=present, want_maps=True)) for present in (None, everywhere))
        assert all(torch.equal(*pair) for pair in zip(plain, masked, strict=True))

    @settings(max_examples=60, deadline=None)
    @given(rows=masks, reference=st.integers(0, 2), axes=st.sampled_from([2, 3]), leader=st.sampled_from([*LEADERS]))
    def test_leave_every_gradient_finite(self, rows: list[list[bool]], reference: int, axes: int, leader: str,
                                         random_images: Images) -> None:
        network = fusion(3, axes=axes, reference=reference, leader=leader)
        sources = random_images(2, 3, *[8] * axes).requires_grad_()
        present = torch.tensor(rows)
        network(sources, present=present).image.square().sum().backward()
        of_reconstruction = set(network.decoder.paint.parameters()) if leader == "gate" else set()
        assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in {*network.parameters()} - of_reconstruction)
        assert torch.isfinite(sources.grad).all()
        assert (sources.grad[~present] == 0).all()


class TestReconstruct:
    @pytest.mark.parametrize("modalities", [1, 2, 4])
    @pytest.mark.parametrize("size", [(16, 12), (9, 7), (5, 8, 6)])
    def test_gives_every_modality_back_in_its_size_and_range(self, modalities: int, size: tuple[int, ...],
                                                             random_images: Images) -> None:
        sources = random_images(2, modalities, *size)
        images, low, high = fusion(modalities, axes=len(size)).reconstruct(sources)
        assert images.shape == sources.shape
        assert 0 <= images.min() <= images.max() <= 1
        assert (low.shape[:3], high.shape[:3]) == ((2, modalities, 8), (2, modalities, 4))

    def test_sees_each_modality_alone(self, random_images: Images) -> None:
        network, sources = fusion(3), random_images(1, 3, 12, 12)
        changed = sources.clone()
        changed[:, 1] = 0
        before, after = network.reconstruct(sources)[0], network.reconstruct(changed)[0]
        torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
        assert (after[:, 1] - before[:, 1]).abs().mean() > 1e-3

    def test_shares_encoder_and_decoder_with_fusion_and_needs_nothing_else(self, random_images: Images) -> None:
        network = fusion()
        network.reconstruct(random_images(1, 2, 8, 8))[0].sum().backward()
        moved = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.grad is not None}
        assert moved == {"encoder", "decoder"}


class TestInitialise:
    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("leader", LEADERS.values())
    def test_gives_convolutions_the_spread_of_he(self, axes: int, leader: type[DualStreamLeader]) -> None:
        network = leader(2, conv_op=nn.Conv2d if axes == 2 else nn.Conv3d, strides=[[1] * axes, [2] * axes],
                         detail_features=32, base_features=64)
        network.initialise()
        convolution = network.fuse_low if network.decoder is None else network.decoder.join[0][0]
        fan_in = convolution.in_channels * math.prod(convolution.kernel_size)
        assert convolution.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / fan_in) ** 0.5, rel=0.02)
        assert (convolution.bias == 0).all()


@pytest.mark.parametrize("conv_op", [nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize("leader", LEADERS.values())
def test_starts_from_a_seed_s_weights_in_the_usual_order_of_memory(leader: type[DualStreamLeader],
                                                                   conv_op: type[nn.Module]) -> None:
    network = leader(2, conv_op=conv_op, strides=[1, 2, 2])
    torch.manual_seed(0)
    network.initialise()
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, conv_op):
            drawn = nn.init.kaiming_normal_(torch.empty(module.weight.shape), a=0.01)
            if module is network.encoder.stem:
                torch.testing.assert_close(module.weight.detach().contiguous(), drawn, rtol=0, atol=0)
                break


def coupling(axes: int, channels: int, *, seed: int = 0) -> AffineCoupling:
    torch.manual_seed(seed)
    return AffineCoupling(nn.Conv2d if axes == 2 else nn.Conv3d, channels)


def undone(block: AffineCoupling, features: torch.Tensor) -> torch.Tensor:
    """The input that a block maps to ``features``."""
    rest = features.shape[1] - block.split
    moved, a = features[:, :rest], features[:, rest:]
    rho, eta = block.scale_and_shift(a).chunk(2, dim=1)
    b = (moved - eta) * torch.exp(-torch.tanh(rho))
    return torch.cat([a - block.shift(b), b], dim=1)


class TestAffineCoupling:
    @given(st.sampled_from([2, 3]), st.integers(2, 7), st.integers(0, 9))
    @settings(deadline=None, max_examples=30)
    def test_can_be_undone(self, axes: int, channels: int, seed: int) -> None:
        block = coupling(axes, channels, seed=seed)
        features = torch.randn(2, channels, *[4] * axes)
        with torch.no_grad():
            torch.testing.assert_close(undone(block, block(features)), features, atol=1e-5, rtol=0)
            torch.testing.assert_close(block(undone(block, features)), features, atol=1e-5, rtol=0)

    def test_two_with_strong_weights_are_undone_in_reverse_order(self) -> None:
        first, second = coupling(2, 6, seed=1), coupling(2, 6, seed=2)
        for module in [*first.modules(), *second.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
        features = torch.randn(1, 6, 8, 8)
        with torch.no_grad():
            restored = undone(first, undone(second, second(first(features))))
        torch.testing.assert_close(restored, features, atol=1e-4, rtol=0)

    def test_follows_its_formula(self) -> None:
        block, features = coupling(2, 5), torch.randn(1, 5, 4, 4)
        a, b = features[:, :2], features[:, 2:]
        moved = a + block.shift(b)
        rho, eta = block.scale_and_shift(moved)[:, :3], block.scale_and_shift(moved)[:, 3:]
        expected = torch.cat([b * torch.exp(torch.tanh(rho)) + eta, moved], dim=1)
        torch.testing.assert_close(block(features), expected)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_changes_its_input(self, axes: int) -> None:
        features = torch.randn(1, 4, *[6] * axes)
        assert (coupling(axes, 4)(features) - features).abs().mean() > 0.1

    @pytest.mark.parametrize("channels", [2, 4, 5])
    def test_sends_a_gradient_to_every_parameter(self, channels: int) -> None:
        block = coupling(2, channels)
        block(torch.randn(2, channels, 6, 6)).pow(2).sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in block.parameters())


def block(axes: int = 2, channels: int = 8, *, heads: int = 2) -> LiteTransformerBlock:
    torch.manual_seed(0)
    return LiteTransformerBlock(nn.Conv2d if axes == 2 else nn.Conv3d, channels, heads=heads)


def reach_of(layer: nn.Module, side: int = 21) -> torch.Tensor:
    """Where in a square image a change of its centre shows."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 8, side, side, generator=generator, dtype=torch.float64)
    changed = image.clone()
    changed[0, :, side // 2, side // 2] = torch.randn(8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return (layer.double()(changed) - layer(image)).abs().amax(dim=1)[0] > 1e-12


class TestLiteTransformerBlock:
    @pytest.mark.parametrize("size", [(7, 9), (3, 4, 5)])
    @pytest.mark.parametrize(("channels", "heads"), [(8, 2), (4, 1), (12, 3)])
    def test_keeps_the_shape(self, size: tuple[int, ...], channels: int, heads: int) -> None:
        features = torch.randn(2, channels, *size)
        assert block(len(size), channels, heads=heads)(features).shape == features.shape

    def test_sees_the_whole_image_at_once(self) -> None:
        assert reach_of(block()).all()

    def test_sees_three_voxels_wide_without_its_attention(self) -> None:
        near = block()
        nn.init.zeros_(near.mix.weight[:, :4])
        reach = reach_of(near)
        assert reach[9:12, 9:12].all()
        assert reach.sum() == 9

    def test_passes_its_input_on_when_both_branches_end_in_zero(self) -> None:
        skipping = block()
        for last in (skipping.mix, skipping.feed_forward[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        features = torch.randn(1, 8, 6, 6)
        assert torch.equal(skipping(features), features)

    def test_does_not_mind_how_strong_its_input_is(self) -> None:
        # What the branches add comes from normalised features.
        layer, features = block(), torch.randn(1, 8, 6, 6)
        nn.init.zeros_(layer.feed_forward[-1].weight)
        added, added_to_strong = (layer(strength * features) - strength * features for strength in (1, 50))
        torch.testing.assert_close(added, added_to_strong, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_sends_a_gradient_to_every_weight(self, axes: int) -> None:
        layer = block(axes)
        layer(torch.randn(2, 8, *[5] * axes)).pow(2).sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


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
            for block in reversed(couplings):
                restored = undone(block, restored)
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
