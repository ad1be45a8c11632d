"""The fusion network: any number of modalities, any size and stride, a readable image from the start."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fuse4seg.networks.fusion import FusionNetwork, sum_of_a_pair

Images = Callable[..., torch.Tensor]


def fusion(modalities: int = 2, *, strides: list[list[int]] | None = None, axes: int = 2,
           reference: int = 0, sum_share: float = 0.0, halftone: float | None = None, per_block: bool = False,
           descreen: bool = False) -> FusionNetwork:
    torch.manual_seed(0)
    strides = strides or [[1] * axes, [2] * axes, [2] * axes]
    network = FusionNetwork(modalities, conv_op=nn.Conv2d if axes == 2 else nn.Conv3d, strides=strides,
                            detail_features=4, base_features=8, couplings=1, transformers=1, reference=reference,
                            sum_share=sum_share, halftone=halftone, per_block=per_block, descreen=descreen)
    network.initialise()
    return network


class TestSumOfAPair:
    @pytest.mark.parametrize("modalities", [2, 3, 4])
    def test_is_the_mean_over_pairs_cut_at_1(self, modalities: int, random_images: Images) -> None:
        sources = random_images(2, modalities, 6, 8)
        sums = [sources[:, one] + sources[:, other] for one, other in combinations(range(modalities), 2)]
        torch.testing.assert_close(sum_of_a_pair(sources, None), torch.stack(sums).mean(dim=0).clamp(max=1))

    def test_of_one_modality_is_that_modality(self, random_images: Images) -> None:
        alone, sources = random_images(2, 1, 6, 8), random_images(2, 3, 6, 8)
        torch.testing.assert_close(sum_of_a_pair(alone, None), alone[:, 0])
        present = torch.tensor([[False, True, False], [True, False, True]])
        sources = sources * present.view(2, 3, 1, 1)
        expected = torch.stack([sources[0, 1], (sources[1, 0] + sources[1, 2]).clamp(max=1)])
        torch.testing.assert_close(sum_of_a_pair(sources, present), expected)


class TestForward:
    @pytest.mark.parametrize("modalities", [2, 3, 4])
    @pytest.mark.parametrize("size", [(16, 24), (17, 13), (5, 3), (8, 8, 8), (7, 9, 5)])
    def test_gives_one_image_in_0_to_1_of_the_sources_size(self, modalities: int, size: tuple[int, ...],
                                                           random_images: Images) -> None:
        fused = fusion(modalities, axes=len(size))(random_images(2, modalities, *size), want_maps=True)
        assert fused.image.shape == (2, 1, *size)
        assert fused.gates.shape == (2, modalities + 1, *size)
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
        assert fused.image.shape == (1, 1, 5, 13, 18)
        assert fused.low.shape[3:] == low_size

    @pytest.mark.parametrize("strides", [[[1, 1], [2, 2]], [[1, 1]], [1, 2, 2], [[1, 1], [3, 2], [2, 3]]])
    def test_works_with_few_stages_and_with_one_stride_for_all_axes(self, strides: list, random_images: Images) -> None:
        assert fusion(strides=strides)(random_images(1, 2, 11, 7)).image.shape == (1, 1, 11, 7)

    def test_pads_by_repeating_the_border(self, random_images: Images) -> None:
        sources = random_images(1, 2, 14, 11)
        padded = nn.functional.pad(sources, (0, 1, 0, 2), mode="replicate")
        torch.testing.assert_close(fusion()(sources).image, fusion()(padded).image[..., :14, :11])

    def test_image_is_the_mixture_that_its_gates_say(self, random_images: Images) -> None:
        network, sources = fusion(3), random_images(2, 3, 8, 8)
        fused = network(sources)
        mixed = (fused.gates[:, :3] * sources).sum(dim=1, keepdim=True)
        painted = (fused.image - mixed) / fused.gates[:, 3:]
        torch.testing.assert_close(fused.gates.sum(dim=1), torch.ones(2, 8, 8))
        assert painted.min() >= -1e-3
        assert painted.max() <= 1 + 1e-3

    @pytest.mark.parametrize("share", [0.12, 0.3])
    def test_holds_its_share_of_the_sum_and_the_rest_is_as_without(self, share: float, random_images: Images) -> None:
        network, sources = fusion(3, sum_share=share), random_images(2, 3, 8, 8)
        fused = network(sources)
        network.sum_share = 0.0
        without = network(sources)
        expected = (1 - share) * without.image + share * sum_of_a_pair(sources, None).unsqueeze(1)
        torch.testing.assert_close(fused.image, expected)
        torch.testing.assert_close(fused.gates[:, :4], (1 - share) * without.gates)
        torch.testing.assert_close(fused.gates.sum(dim=1), torch.ones(2, 8, 8))

    def test_with_a_share_of_the_sum_can_be_brighter_than_every_source(self, random_images: Images) -> None:
        network, sources = fusion(2, sum_share=0.12), 0.45 * random_images(2, 2, 8, 8) + 0.05
        nn.init.constant_(network.gate.brighter, 1e4)  # the brighter source alone, as far as the gate goes
        assert (network(sources).image > sources.amax(dim=1, keepdim=True)).all()

    def test_the_halftone_lies_over_the_sum_too(self, random_images: Images) -> None:
        network, sources = fusion(2, sum_share=0.25, halftone=0.4), random_images(2, 2, 8, 8)
        fused = network(sources)
        raster, network.halftone = network.halftone, None
        without = network(sources)
        owner = (raster.owned.repeat(1, 4, 4) * sources).sum(dim=1, keepdim=True)
        torch.testing.assert_close(fused.image, 0.4 * owner + 0.6 * without.image)

    @pytest.mark.parametrize(("per_block", "descreen", "correlation"), [(True, False, (0.95, 1.0)), (False, False, (-1.0, 0.8)),
                                                                        (False, True, (0.95, 1.0))])
    def test_a_gate_per_block_or_what_is_descreened_cannot_take_the_halftone_back(
            self, per_block: bool, descreen: bool, correlation: tuple[float, float], random_images: Images) -> None:
        """However the gate is trained: by how much modalities differ can be read from the image."""
        network = fusion(2, halftone=0.2, per_block=per_block, descreen=descreen)
        sources = functional.interpolate(random_images(2, 2, 8, 8), size=(64, 64), mode="bicubic").clamp(0, 1)
        nn.init.normal_(network.gate.source[-1].weight, std=1.0)
        read = network.read(network(sources).image)
        differences = [(images[:, 0] - images[:, 1]).detach().flatten() for images in (read, sources)]
        low, high = correlation
        assert low < torch.corrcoef(torch.stack(differences))[0, 1] <= high

    @pytest.mark.parametrize("share", [-0.1, 1.0, 7.0])
    def test_refuses_a_share_of_the_sum_that_is_none(self, share: float) -> None:
        with pytest.raises(ValueError, match="sum_share must be from 0 to below 1"):
            fusion(sum_share=share)

    @pytest.mark.parametrize("modalities", [2, 3, 4])
    @pytest.mark.parametrize("size", [(40, 32), (12, 16, 8)])
    def test_is_near_the_mean_of_the_sources_before_training(self, modalities: int, size: tuple[int, ...],
                                                             random_images: Images) -> None:
        sources = random_images(2, modalities, *size)
        mean, strongest = sources.mean(dim=1, keepdim=True), sources.amax(dim=1, keepdim=True)
        image = fusion(modalities, axes=len(size))(sources).image
        assert (image - mean).abs().mean() < 0.07
        assert (image - mean).mean() > 0.01
        assert (image - strongest).abs().mean() < (mean - strongest).abs().mean()

    def test_gives_back_equal_sources_before_training(self, random_images: Images) -> None:
        image = random_images(1, 1, 32, 32)
        assert (fusion()(image.expand(1, 2, 32, 32)).image - image).abs().mean() < 0.05

    def test_one_modality_needs_no_attention(self, random_images: Images) -> None:
        source = random_images(2, 1, 13, 9)
        fused = fusion(1)(source, want_maps=True)
        assert fusion(1).cross_attention is None
        assert fused.attention is None
        assert (fused.image - source).abs().mean() < 0.05

    def test_gives_maps_only_when_asked(self, random_images: Images) -> None:
        sources = random_images(1, 2, 16, 16)
        without, asked = fusion()(sources), fusion()(sources, want_maps=True)
        assert without.attention is None
        torch.testing.assert_close(asked.attention.sum(), torch.tensor(1.0))
        torch.testing.assert_close(asked.image, without.image)

    def test_does_not_let_one_case_of_a_batch_change_another(self, random_images: Images) -> None:
        network, sources = fusion(), random_images(3, 2, 12, 12)
        torch.testing.assert_close(network(sources).image[1:2], network(sources[1:2]).image)

    @pytest.mark.parametrize("reference", [0, 1, 2])
    def test_order_of_modalities_only_matters_to_the_reference(self, reference: int, random_images: Images) -> None:
        network, sources, order = fusion(3, reference=reference), random_images(1, 3, 12, 12), [2, 0, 1]
        permuted = fusion(3, reference=order.index(reference))
        permuted.load_state_dict(network.state_dict())
        torch.testing.assert_close(permuted(sources[:, order]).image, network(sources).image)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_sends_a_gradient_to_every_weight(self, axes: int, random_images: Images) -> None:
        network = fusion(3, axes=axes)
        network(random_images(2, 3, *[8] * axes)).image.pow(2).sum().backward()
        silent = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]
        assert silent == []

    @pytest.mark.parametrize("reference", [-1, 2])
    def test_refuses_a_reference_that_is_no_modality(self, reference: int) -> None:
        with pytest.raises(ValueError, match=r"reference must lie in 0\.\.1"):
            fusion(2, reference=reference)



def without(network: FusionNetwork, absent: set[int], *, axes: int) -> FusionNetwork:
    """A network that has never heard of the absent modalities, of which the reference is none, with the same weights."""
    there = [index for index in range(network.modalities) if index not in absent]
    smaller = fusion(len(there), axes=axes, reference=there.index(network.reference))
    weights = network.state_dict()
    weights["encoder.modality"] = weights["encoder.modality"][there]
    smaller.load_state_dict(weights, strict=len(there) > 1)  # one modality alone has no cross-attention
    return smaller


#: For each of two cases of three modalities whether it has them, one at least.
masks = st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=2, max_size=2)


class TestAbsentModalities:
    @pytest.mark.parametrize("size", [(13, 16), (8, 8, 5)])
    @pytest.mark.parametrize(("modalities", "reference", "absent"), [(2, 0, {1}), (3, 0, {2}), (3, 1, {0}), (4, 2, {0, 3}),
                                                                     (3, 2, {0, 1})])
    def test_are_left_out_as_if_the_network_had_never_had_them(self, modalities: int, reference: int, absent: set[int],
                                                               size: tuple[int, ...], random_images: Images) -> None:
        network, sources = fusion(modalities, axes=len(size), reference=reference), random_images(2, modalities, *size)
        nn.init.normal_(network.encoder.modality)
        there = [index for index in range(modalities) if index not in absent]
        present = torch.tensor([[index in there for index in range(modalities)]] * 2)
        found = network(sources, present=present, want_maps=True)
        expected = without(network, absent, axes=len(size))(sources[:, there], want_maps=True)
        for name in ("image", "base", "detail", "decoded"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
        torch.testing.assert_close(found.gates[:, [*there, modalities]], expected.gates)
        assert (found.gates[:, sorted(absent)] == 0).all()
        if expected.attention is not None:
            torch.testing.assert_close(found.attention[found.attention.flatten(2).any(dim=2)],
                                       expected.attention.flatten(0, 1))

    @settings(max_examples=30, deadline=None)
    @given(rows=masks, reference=st.integers(0, 2), axes=st.sampled_from([2, 3]),
           content=st.sampled_from([0.0, 1.0, -3.0, torch.nan, torch.inf]))
    def test_do_not_matter_whatever_stands_in_their_place(self, rows: list[list[bool]], reference: int, axes: int, content: float,
                                                          random_images: Images) -> None:
        network, sources = fusion(3, axes=axes, reference=reference), random_images(2, 3, *[8] * axes)
        present, other = torch.tensor(rows), sources.clone()
        other[~present] = content
        first, second = (network(images, present=present, want_maps=True) for images in (sources, other))
        assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))

    @settings(max_examples=20, deadline=None)
    @given(rows=masks, order=st.permutations(range(3)))
    def test_may_stand_in_any_order(self, rows: list[list[bool]], order: list[int], random_images: Images) -> None:
        network, sources, present = fusion(3, reference=1), random_images(2, 3, 12, 12), torch.tensor(rows)
        permuted = fusion(3, reference=order.index(1))
        permuted.load_state_dict(network.state_dict())
        torch.testing.assert_close(permuted(sources[:, order], present=present[:, order]).image,
                                   network(sources, present=present).image)

    @settings(max_examples=20, deadline=None)
    @given(row=st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
    def test_of_one_case_do_not_change_another(self, row: list[bool], random_images: Images) -> None:
        network, sources = fusion(3), random_images(2, 3, 12, 12)
        torch.testing.assert_close(network(sources, present=torch.tensor([row, [True] * 3])).image[1:],
                                   network(sources[1:]).image)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_that_are_none_change_no_bit(self, axes: int, random_images: Images) -> None:
        network, sources = fusion(3, axes=axes), random_images(2, 3, *[9] * axes)
        everywhere = torch.ones(2, 3, dtype=torch.bool)
        plain, masked = (network(sources, present=present, want_maps=True) for present in (None, everywhere))
        assert all(torch.equal(*pair) for pair in zip(plain, masked, strict=True))

    @settings(max_examples=40, deadline=None)
    @given(rows=masks, reference=st.integers(0, 2), axes=st.sampled_from([2, 3]))
    def test_leave_every_gradient_finite(self, rows: list[list[bool]], reference: int, axes: int, random_images: Images) -> None:
        network = fusion(3, axes=axes, reference=reference)
        sources = random_images(2, 3, *[8] * axes).requires_grad_()
        present = torch.tensor(rows)
        network(sources, present=present).image.square().sum().backward()
        assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in network.parameters())
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
    def test_gives_convolutions_the_spread_of_he(self, axes: int) -> None:
        network = FusionNetwork(2, conv_op=nn.Conv2d if axes == 2 else nn.Conv3d, strides=[[1] * axes, [2] * axes],
                                detail_features=32, base_features=64)
        network.initialise()
        convolution = network.decoder.join[0][0]
        fan_in = convolution.in_channels * 3**axes
        assert convolution.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / fan_in) ** 0.5, rel=0.02)
        assert (convolution.bias == 0).all()

    def test_leaves_the_gate_its_own_design(self) -> None:
        assert (fusion().gate.painted.bias == -2).all()
        assert fusion().gate.source[-1].weight.std() < 0.02


@pytest.mark.parametrize("conv_op", [nn.Conv2d, nn.Conv3d])
def test_starts_from_a_seed_s_weights_in_the_usual_order_of_memory(conv_op: type[nn.Module]) -> None:
    network = FusionNetwork(2, conv_op=conv_op, strides=[1, 2, 2])
    torch.manual_seed(0)
    network.initialise()
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, conv_op):
            drawn = nn.init.kaiming_normal_(torch.empty(module.weight.shape), a=0.01)
            if module is network.encoder.stem:
                torch.testing.assert_close(module.weight.detach().contiguous(), drawn, rtol=0, atol=0)
                break
