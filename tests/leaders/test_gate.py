"""The gate as leader: what its image is made of, and a readable one in colour or grey from the start."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torch import nn

from fuse4seg.inference.fusion_rules import fuse_by_rule
from fuse4seg.leaders.gate import TINT_AT_START, Gate, GateLeader

Images = Callable[..., torch.Tensor]
grey_and_colour = pytest.mark.parametrize("colours", [1, 3])
FEATURES = 4


def fusion(modalities: int = 2, *, axes: int = 2, colours: int = 3, brighter: float = 0.0) -> GateLeader:
    torch.manual_seed(0)
    network = GateLeader(modalities, conv_op=nn.Conv2d if axes == 2 else nn.Conv3d, strides=[1, 2, 2], detail_features=4,
                         base_features=8, couplings=1, transformers=1, colours=colours, brighter=brighter)
    network.initialise()
    return network


class TestForward:
    @grey_and_colour
    def test_image_is_the_mixture_that_its_shares_say(self, colours: int, random_images: Images) -> None:
        network, sources = fusion(3, colours=colours), random_images(2, 3, 8, 8)
        fused = network(sources)
        mixed = (fused.own[:, :, :3] * sources.unsqueeze(1)).sum(dim=2)
        tint = (fused.image - mixed) / fused.own[:, :, 3]
        torch.testing.assert_close(fused.own.sum(dim=2), torch.ones(2, colours, 8, 8))
        assert tint.min() >= -1e-3
        assert tint.max() <= 1 + 1e-3

    @pytest.mark.parametrize("size", [(16, 24), (17, 13), (8, 8, 8)])
    def test_of_constant_sources_has_nothing_finer_than_its_features(self, size: tuple[int, ...]) -> None:
        """However the gate is trained: the lines on which shares change between features meet in these."""
        network = fusion(axes=len(size))
        nn.init.normal_(network.gate.source[-1].weight, std=3.0)
        nn.init.normal_(network.gate.tint.weight, std=3.0)
        network.encoder.modality.data.normal_()
        sources = torch.tensor([0.3, 0.8]).view(1, 2, *[1] * len(size)).expand(1, 2, *size)
        shares = network(sources).own
        leads = shares[:, :, 0].log() - shares[:, :, 1].log()
        # From the second voxel on, each pair lies between two features, a quarter and three quarters of the way.
        for axis in range(-len(size), 0):
            pairs = leads.narrow(axis, 1, (size[axis] - 2) // 2 * 2).unflatten(axis, (-1, 2))
            first, second = pairs.unbind(axis)
            steps, few = second - first, first.shape[axis]
            arriving, leaving = second + steps / 2, first - steps / 2
            torch.testing.assert_close(arriving.narrow(axis, 0, few - 1), leaving.narrow(axis, 1, few - 1), atol=1e-4, rtol=1e-4)
        assert leads.std() > 0.01

    @pytest.mark.parametrize("modalities", [2, 3, 4])
    @pytest.mark.parametrize("size", [(40, 32), (12, 16, 8)])
    def test_in_grey_is_near_the_mean_of_the_sources_before_training(self, modalities: int, size: tuple[int, ...],
                                                                     random_images: Images) -> None:
        sources = random_images(2, modalities, *size)
        mean, strongest = sources.mean(dim=1, keepdim=True), sources.amax(dim=1, keepdim=True)
        image = fusion(modalities, axes=len(size), colours=1, brighter=1.0)(sources).image
        assert (image - mean).abs().mean() < 0.07
        assert (image - mean).mean() > 0.01
        assert (image - strongest).abs().mean() < (mean - strongest).abs().mean()

    @pytest.mark.parametrize("modalities", [2, 3, 4])
    @pytest.mark.parametrize("size", [(40, 32), (12, 16, 8)])
    def test_in_colour_is_near_the_rule_s_before_training(self, modalities: int, size: tuple[int, ...],
                                                          random_images: Images) -> None:
        sources = random_images(1, modalities, *size)
        ruled = torch.from_numpy(fuse_by_rule(list(255 * sources[0].double().numpy()), "colour")) / 255
        image = fusion(modalities, axes=len(size))(sources).image[0].double()
        assert (image - ruled).abs().mean() < 0.05
        for channel, wanted in zip(image, ruled, strict=True):
            assert np.corrcoef(channel.detach().flatten(), wanted.flatten())[0, 1] > 0.97

    @grey_and_colour
    def test_gives_back_equal_sources_before_training(self, colours: int, random_images: Images) -> None:
        image = random_images(1, 1, 32, 32)
        assert (fusion(colours=colours)(image.expand(1, 2, 32, 32)).image - image).abs().mean() < 0.05

    def test_gives_one_modality_back_before_training(self, random_images: Images) -> None:
        source = random_images(2, 1, 13, 9)
        assert (fusion(1, colours=1)(source).image - source).abs().mean() < 0.05

    @pytest.mark.parametrize("colours", [2, 4])
    def test_refuses_an_image_of_other_than_1_or_3_channels(self, colours: int) -> None:
        with pytest.raises(ValueError, match=f"1 or 3 channels, not {colours}"):
            fusion(colours=colours)


class TestInitialise:
    def test_leaves_the_gate_its_own_design(self) -> None:
        gate = fusion(brighter=0.5).gate
        assert (gate.tint_share.bias == -2).all()
        assert gate.tint_share.weight.std() < 0.02
        assert gate.source[-1].weight.std() < 0.02
        assert gate.brighter.item() == 0.5


def gate(axes: int = 2, *, modalities: int = 2, colours: int = 3, brighter: float = 0.0, trained: bool = False) -> Gate:
    """As it starts, or with weights that say much of the features."""
    torch.manual_seed(0)
    network = Gate(nn.Conv2d if axes == 2 else nn.Conv3d, FEATURES, modalities=modalities, colours=colours, brighter=brighter)
    if trained:
        for last in (network.source[-1], network.tint_share, network.tint):
            nn.init.normal_(last.weight, std=2.0)
    return network


def without_features(network: Gate) -> Gate:
    """The same without what the last layers' small random weights make of the features at the start."""
    for last in (network.source[-1], network.tint_share):
        nn.init.zeros_(last.weight)
    return network


def features(modalities: int, *size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoder's features and high-frequency features."""
    random = torch.Generator().manual_seed(1)
    return (torch.randn(2, FEATURES, *size, generator=random),
            torch.randn(2, modalities, FEATURES, *size, generator=random))


def tint_of(image: torch.Tensor, shares: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """What must have been mixed in beside the sources, shape (B, C, *S)."""
    return (image - (shares[:, :, :-1] * sources.unsqueeze(1)).sum(dim=2)) / shares[:, :, -1]


def brought_up(coarse: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """SciPy's linear interpolation of (..., *t) to (..., *size); a feature lies in the middle of its voxels."""
    places = np.meshgrid(*[(np.arange(extent) + 0.5) * few / extent - 0.5
                           for extent, few in zip(size, coarse.shape[-len(size):], strict=True)], indexing="ij")
    flat = coarse.detach().double().numpy().reshape(-1, *coarse.shape[-len(size):])
    fine = np.stack([map_coordinates(part, places, order=1, mode="nearest") for part in flat])
    return torch.from_numpy(fine).view(*coarse.shape[:-len(size)], *size)


class TestMixture:
    @pytest.mark.parametrize("trained", [False, True])
    @grey_and_colour
    @pytest.mark.parametrize("modalities", [1, 2, 3, 4])
    @pytest.mark.parametrize("size", [(8, 12), (4, 6, 8)])
    def test_is_convex(self, modalities: int, size: tuple[int, ...], colours: int, trained: bool, random_images: Images) -> None:
        sources = random_images(2, modalities, *size)
        network = gate(len(size), modalities=modalities, colours=colours, trained=trained)
        image, shares = network(*features(modalities, *(extent // 2 for extent in size)), sources)
        assert image.shape == (2, colours, *size)
        assert shares.shape == (2, colours, modalities + 1, *size)
        assert shares.min() >= 0
        torch.testing.assert_close(shares.sum(dim=2), torch.ones(2, colours, *size))
        assert image.min() >= 0
        assert image.max() <= 1 + 1e-6

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10**6), scale=st.floats(0, 100), colours=st.sampled_from([1, 3]),
           modalities=st.integers(1, 4), brighter=st.floats(-20, 20))
    def test_lies_between_the_darkest_and_the_brightest_of_sources_and_tint(self, seed: int, scale: float, colours: int,
                                                                          modalities: int, brighter: float) -> None:
        network = gate(modalities=modalities, colours=colours, brighter=brighter, trained=True)
        torch.manual_seed(seed)
        sources = torch.rand(2, modalities, 6, 6)
        decoded, high = scale * torch.randn(2, FEATURES, 3, 3), scale * torch.randn(2, modalities, FEATURES, 3, 3)
        image, _ = network(decoded, high, sources)
        tint = brought_up(network.tint(decoded).sigmoid(), (6, 6)).float()
        candidates = torch.cat([sources.unsqueeze(1).expand(-1, colours, -1, -1, -1), tint.unsqueeze(2)], dim=2)
        assert (image >= candidates.amin(dim=2) - 1e-5).all()
        assert (image <= candidates.amax(dim=2) + 1e-5).all()

    @grey_and_colour
    def test_of_the_tint_alone_can_take_over(self, colours: int, random_images: Images) -> None:
        network, (decoded, high) = gate(colours=colours), features(2, 4, 4)
        nn.init.constant_(network.tint_share.bias, 50.0)
        image, shares = network(decoded, high, random_images(2, 2, 8, 8))
        assert shares[:, :, -1].min() > 0.999
        torch.testing.assert_close(image.double(), brought_up(network.tint(decoded).sigmoid(), (8, 8)), atol=1e-3, rtol=0)

    @grey_and_colour
    def test_gives_equal_sources_back_but_for_the_tint(self, colours: int, random_images: Images) -> None:
        source = random_images(2, 1, 8, 8)
        network, given_features = gate(colours=colours, trained=True), features(2, 4, 4)
        nn.init.constant_(network.tint_share.bias, -50.0)
        image, _ = network(*given_features, source.expand(-1, 2, -1, -1))
        torch.testing.assert_close(image, source.expand(-1, colours, -1, -1))


class TestSmoothness:
    """Whatever the features say: between them, only the sources differ from voxel to voxel."""

    @grey_and_colour
    @pytest.mark.parametrize(("few", "size"), [((4, 6), (8, 12)), ((5, 3), (5, 3)), ((3, 4), (9, 8)), ((2, 3, 4), (2, 6, 8)),
                                               ((3, 2, 2), (6, 4, 4)), ((2, 2, 2), (4, 2, 6))])
    def test_scores_and_tint_are_one_value_per_feature_brought_up_linearly(self, few: tuple[int, ...], size: tuple[int, ...],
                                                                           colours: int, random_images: Images) -> None:
        network, given_features = gate(len(size), colours=colours, trained=True), features(2, *few)
        # Where there is a voxel per feature, nothing is brought up.
        level = random_images(2, 2, *few, seed=1)
        coarse_image, coarse_shares = network(*given_features, level)
        sources = random_images(2, 2, *size)
        image, shares = network(*given_features, sources)

        leads, coarse_leads = (part[:, :, :-1].log() - part[:, :, -1:].log() for part in (shares, coarse_shares))
        assert coarse_leads.std() > 1
        torch.testing.assert_close(leads.double(), brought_up(coarse_leads, size), atol=1e-4, rtol=1e-4)
        tint, coarse_tint = tint_of(image, shares, sources), tint_of(coarse_image, coarse_shares, level)
        there = shares[:, :, -1] > 1e-2  # of a smaller share the tint cannot be found out
        assert there.float().mean() > 0.2
        assert (tint.double() - brought_up(network.tint(given_features[0]).sigmoid(), size))[there].abs().max() < 1e-4
        assert (coarse_tint - network.tint(given_features[0]).sigmoid())[coarse_shares[:, :, -1] > 1e-2].abs().max() < 1e-4

    @pytest.mark.parametrize(("few", "size"), [((6, 5), (24, 20)), ((4, 3, 3), (16, 12, 12))])
    def test_of_constant_sources_is_no_structure_finer_than_the_features(self, few: tuple[int, ...],
                                                                         size: tuple[int, ...]) -> None:
        """Within the four voxels between two features the logarithms of the shares' ratios lie on a line, along each axis."""
        axes = len(size)
        network = gate(axes, trained=True)
        image, shares = network(*features(2, *few), torch.tensor([0.2, 0.7]).view(1, 2, *[1] * axes).expand(2, 2, *size))
        leads = shares[:, :, :-1].log() - shares[:, :, -1:].log()
        for axis in range(-axes, 0):
            between = leads.narrow(axis, 2, size[axis] - 4).unflatten(axis, (-1, 4))
            bends = between.diff(n=2, dim=axis)
            assert between.diff(dim=axis).abs().max() > 0.5
            assert bends.abs().max() < 1e-4
        assert image.std() > 0.05

    @grey_and_colour
    @pytest.mark.parametrize("brighter", [0.0, 1.5, -3.0])
    def test_shares_differ_from_those_of_other_sources_by_their_brightness_alone(self, colours: int, brighter: float,
                                                                                random_images: Images) -> None:
        network, given_features = gate(colours=colours, brighter=brighter, trained=True), features(2, 4, 4)

        def lead(sources: torch.Tensor) -> torch.Tensor:
            first, second = network(*given_features, sources)[1][:, :, :2].log().unbind(dim=2)
            return first - second

        sources = random_images(2, 2, 8, 8)
        by_brightness = (brighter * (sources[:, :1] - sources[:, 1:])).expand(-1, colours, -1, -1)
        torch.testing.assert_close(lead(sources), lead(torch.full_like(sources, 0.5)) + by_brightness, atol=1e-4, rtol=1e-4)


class TestStart:
    @pytest.mark.parametrize("modalities", [2, 3, 4])
    @pytest.mark.parametrize("size", [(8, 12), (4, 6, 8)])
    def test_of_colour_is_the_rule_s_but_for_the_tint(self, modalities: int, size: tuple[int, ...],
                                                      random_images: Images) -> None:
        sources = random_images(2, modalities, *size)
        network = without_features(gate(len(size), modalities=modalities))
        image, shares = network(*features(modalities, *(extent // 2 for extent in size)), sources)
        ruled = [fuse_by_rule(list(case.double().numpy() * 255), "colour") / 255 for case in sources]
        tint_share = shares[:, :, -1].double()
        mixed = image - shares[:, :, -1] * tint_of(image, shares, sources)
        torch.testing.assert_close(mixed.double(), (1 - tint_share) * torch.from_numpy(np.stack(ruled)))
        # The same of every channel: the tint is no veil in any colour.
        expected = math.exp(TINT_AT_START) / (modalities + math.exp(TINT_AT_START))
        torch.testing.assert_close(shares[:, :, -1], torch.full_like(shares[:, :, -1], expected))
        assert expected < 0.07

    def test_with_small_random_weights_is_near_that(self, random_images: Images) -> None:
        sources, given_features = random_images(2, 2, 8, 12), features(2, 4, 6)
        found, wanted = gate()(*given_features, sources)[0], without_features(gate())(*given_features, sources)[0]
        assert 0 < (found - wanted).abs().max() < 0.02

    @pytest.mark.parametrize("brighter", [0.0, 1.0, 10.0])
    def test_of_grey_is_a_softmax_of_brightness(self, brighter: float, random_images: Images) -> None:
        network, sources = without_features(gate(colours=1, brighter=brighter)), random_images(2, 2, 8, 8)
        tint = torch.full((2, 1, 8, 8), TINT_AT_START)
        expected = torch.cat([brighter * sources, tint], dim=1).softmax(dim=1)
        torch.testing.assert_close(network(*features(2, 4, 4), sources)[1].squeeze(1), expected)

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_of_grey_is_near_the_mean_and_leans_to_the_brighter_source(self, modalities: int, random_images: Images) -> None:
        sources = random_images(2, modalities, 32, 32)
        network = gate(modalities=modalities, colours=1, brighter=1.0)
        shares = network(*features(modalities, 16, 16), sources)[1].squeeze(1)[:, :modalities]
        mixed = (shares * sources).sum(dim=1) / shares.sum(dim=1)
        above = mixed - sources.mean(dim=1)
        assert 0.01 < above.mean() < 0.1
        assert (mixed - sources.amax(dim=1)).max() < 0
        # The last layers' small random weights aside, a brighter source never weighs less.
        assert above.min() > -0.05

    @grey_and_colour
    def test_that_prefers_the_brighter_much_is_near_the_maximum(self, colours: int, random_images: Images) -> None:
        sources = random_images(2, 2, 8, 12)
        shares = gate(colours=colours, brighter=20.0)(*features(2, 4, 6), sources)[1]
        clear = (sources[:, 0] - sources[:, 1]).abs() > 0.5
        brightest = shares.gather(2, sources.argmax(dim=1)[:, None, None].expand(-1, colours, -1, -1, -1)).squeeze(2)
        assert brightest.transpose(0, 1)[:, clear].min() > 0.98

    def test_share_of_the_tint_is_small_and_smaller_where_sources_are_bright(self) -> None:
        given_features = features(2, 4, 4)
        dark, bright = (gate(colours=1, brighter=1.0)(*given_features, torch.full((2, 2, 8, 8), value))[1][:, 0, 2]
                        for value in (0.0, 1.0))
        # But for the last layers' small random weights.
        tint = math.exp(TINT_AT_START)
        assert dark.mean().item() == pytest.approx(tint / (2 + tint), rel=0.05)
        assert bright.mean().item() == pytest.approx(tint / (2 * math.e + tint), rel=0.05)
        assert dark.mean().item() == pytest.approx(0.06, abs=0.005)

    def test_is_come_back_to_by_a_reset(self) -> None:
        network = gate(brighter=0.7)
        for parameter in network.parameters():
            nn.init.constant_(parameter, 3.0)
        network.reset()
        assert network.brighter.item() == pytest.approx(0.7)
        assert (network.tint_share.bias == TINT_AT_START).all()
        assert network.tint_share.weight.abs().max() < 0.1
        assert network.source[-1].weight.abs().max() < 0.1
        assert (network.source[-1].bias == 0).all()


class TestModalities:
    @grey_and_colour
    def test_of_any_number_share_weights(self, colours: int, random_images: Images) -> None:
        of_two = gate(colours=colours, trained=True)
        for modalities in (1, 3, 5) if colours == 1 else (3, 5):
            network = gate(modalities=modalities, colours=colours)
            network.load_state_dict(of_two.state_dict())
            image, _ = network(*features(modalities, 4, 4), random_images(2, modalities, 8, 8))
            assert image.shape == (2, colours, 8, 8)

    @settings(max_examples=20, deadline=None)
    @given(order=st.permutations(range(3)), colours=st.sampled_from([1, 3]), brighter=st.floats(-3, 3))
    def test_of_the_same_preferences_may_stand_in_any_order(self, order: list[int], colours: int, brighter: float,
                                                            random_images: Images) -> None:
        """In grey all have them; in colour each takes its own along."""
        (decoded, high), sources = features(3, 4, 4), random_images(2, 3, 8, 8)
        network, permuted = (gate(modalities=3, colours=colours, brighter=brighter, trained=True) for _ in range(2))
        if colours == 3:
            permuted.preferred = network.preferred[:, order]
        image, shares = network(decoded, high, sources)
        found = permuted(decoded, high[:, order], sources[:, order])
        torch.testing.assert_close(found[0], image)
        torch.testing.assert_close(found[1], shares[:, :, [*order, 3]])

    def test_in_another_order_have_other_colours(self, random_images: Images) -> None:
        (decoded, high), sources = features(2, 4, 4), random_images(2, 2, 8, 8)
        first, second = (gate()(decoded, high[:, order], sources[:, order])[0] for order in ([0, 1], [1, 0]))
        red, blue = (first - second)[:, 0], (first - second)[:, 2]
        lead = sources[:, 0] - sources[:, 1]
        torch.testing.assert_close(red.sign()[lead.abs() > 0.1], lead.sign()[lead.abs() > 0.1])
        torch.testing.assert_close(blue.sign()[lead.abs() > 0.1], -lead.sign()[lead.abs() > 0.1])


class TestAbsentSources:
    @grey_and_colour
    def test_get_no_share_and_the_others_what_they_would_have_alone(self, colours: int, random_images: Images) -> None:
        sources, (decoded, high), there = random_images(2, 3, 8, 12), features(3, 4, 6), [0, 2]
        network = gate(modalities=3, colours=colours, brighter=1.0, trained=True)
        image, shares = network(decoded, high, sources, present=torch.tensor([[True, False, True]] * 2))
        assert (shares[:, :, 1] == 0).all()
        alone = gate(colours=colours, brighter=1.0, trained=True)
        alone.preferred = network.preferred[:, there]  # the colours that they have beside the absent one
        expected = alone(decoded, high[:, there], sources[:, there])
        torch.testing.assert_close(image, expected[0])
        torch.testing.assert_close(shares[:, :, [0, 2, 3]], expected[1])

    @settings(max_examples=30, deadline=None)
    @given(rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=2, max_size=2),
           seed=st.integers(1, 10**6), colours=st.sampled_from([1, 3]))
    def test_do_not_matter_whatever_stands_in_their_place(self, rows: list[list[bool]], seed: int, colours: int,
                                                          random_images: Images) -> None:
        present, (decoded, high), sources = torch.tensor(rows), features(3, 4, 4), random_images(2, 3, 8, 8)
        network = gate(modalities=3, colours=colours, brighter=1.0, trained=True)
        other_sources, other_high, noise = sources.clone(), high.clone(), random_images(2, 3, 8, 8, seed=seed)
        other_sources[~present] = noise[~present]
        other_high[~present] = 10 * noise[:, :, None, :4, :4].expand_as(high)[~present]
        found, wanted = (network(decoded, *content, present=present)
                         for content in ((other_high, other_sources), (high, sources)))
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])


class TestGradient:
    @grey_and_colour
    @pytest.mark.parametrize("axes", [2, 3])
    def test_reaches_every_weight_features_and_sources(self, axes: int, colours: int, random_images: Images) -> None:
        network, sources = gate(axes, colours=colours), random_images(2, 2, *[8] * axes).requires_grad_()
        decoded, high = (part.requires_grad_() for part in features(2, *[4] * axes))
        network(decoded, high, sources)[0].square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad.abs().max() > 0, name
        for given_part in (decoded, high, sources):
            assert given_part.grad.abs().amax(dim=tuple(range(2, given_part.ndim))).min() > 0

    def test_is_finite_where_a_source_is_absent(self, random_images: Images) -> None:
        network, (decoded, high), sources = gate(), features(2, 4, 4), random_images(2, 2, 8, 8).requires_grad_()
        image, _ = network(decoded, high.requires_grad_(), sources, present=torch.tensor([[True, False], [True, True]]))
        image.square().sum().backward()
        assert all(bool(parameter.grad.isfinite().all()) for parameter in network.parameters())
        assert sources.grad.isfinite().all()
        assert (sources.grad[0, 1] == 0).all()
        assert (high.grad[0, 1] == 0).all()
