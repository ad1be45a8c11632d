"""The fusion network: any number of modalities, any size and stride, a readable image from the start."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fuse4seg.networks.fusion import FusionNetwork

Images = Callable[..., torch.Tensor]


def fusion(modalities: int = 2, *, strides: list[list[int]] | None = None, axes: int = 2,
           reference: int = 0) -> FusionNetwork:
    torch.manual_seed(0)
    strides = strides or [[1] * axes, [2] * axes, [2] * axes]
    network = FusionNetwork(modalities, conv_op=nn.Conv2d if axes == 2 else nn.Conv3d, strides=strides,
                            detail_features=4, base_features=8, couplings=1, transformers=1, reference=reference)
    network.initialise()
    return network


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
