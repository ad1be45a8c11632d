"""RFN-Nest: its size, images of any extents, and losses of both stages by NumPy and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fuse4seg.leaders.rfn_nest import NestDecoder, ResidualFusion, RFNNest
from fuse4seg.planning.leaders import leader_architecture, require_leader
from fuse4seg.planning.live_bytes import HalfPrecision
from fuse4seg.recipes.reading import read_recipe
from tests.leaders.pairs import images, maker_of, similarity

WIDTHS = (64, 112, 160, 208)
leader = maker_of(RFNNest)


def block(channels: int, features: int) -> int:
    half = channels // 2
    return (9 * channels + 1) * half + (half + 1) * features


def test_has_the_published_number_of_parameters() -> None:
    fusion = sum(56 * width ** 2 + 6 * width for width in WIDTHS)
    encoder = 2 * 16 + sum(block(*pair) for pair in zip((16, *WIDTHS), WIDTHS))  # noqa: B905 (one more before than after)
    decoder = sum(block(nodes * WIDTHS[scale] + WIDTHS[scale + 1], WIDTHS[scale])
                  for nodes, scale in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0)]) + 65
    count = sum(weights.numel() for weights in leader().parameters())
    assert count == fusion + encoder + decoder
    assert count / 7.524e6 == pytest.approx(1, abs=0.001)


class TestForward:
    def test_does_not_mind_a_border_that_is_repeated_already(self) -> None:
        network, sources = leader(), images(1, 2, 12, 16)
        repeated = torch.cat([sources, *[sources[:, :, -1:]] * 4], dim=2)
        torch.testing.assert_close(network(repeated).image[:, :, :12], network(sources).image)

    def test_paints_equal_images_as_they_are_whatever_range_they_are_painted_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network, image = leader(), images(1, 1, 16, 16)
        monkeypatch.setattr(network, "encode", lambda shown: [shown] * 4)
        monkeypatch.setattr(ResidualFusion, "forward", lambda _, one, other: 3 * one + 6 * other)
        monkeypatch.setattr(NestDecoder, "forward", lambda _, features: 0.7 * features[0] + 2)
        torch.testing.assert_close(network(torch.cat([image, image], dim=1)).image, image)

    def test_paints_a_patch_as_bright_as_in_the_whole_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network, sources = leader(), images(1, 2, 16, 40)
        monkeypatch.setattr(network, "encode", lambda shown: [shown] * 4)
        monkeypatch.setattr(ResidualFusion, "forward", lambda _, one, other: 3 * one + 6 * other)
        monkeypatch.setattr(NestDecoder, "forward", lambda _, features: features[0] - 1)
        torch.testing.assert_close(network(sources[..., 8:24]).image, network(sources).image[..., 8:24])

    def test_takes_the_reference_first(self) -> None:
        sources = images(1, 2, 16, 16)
        torch.testing.assert_close(leader(reference=1)(sources).own[0].image, leader()(sources.flip(1)).own[0].image)
        assert torch.equal(leader(reference=1)(sources).own[0].first, sources[:, 1:])

    def test_keeps_the_image_of_a_case_that_has_no_other(self) -> None:
        sources = images(2, 2, 16, 16)
        image = leader()(sources, present=torch.tensor([[True, False], [True, True]])).image
        assert torch.equal(image[0], sources[0, :1])
        assert not torch.equal(image[1], sources[1, :1])


def test_residual_fusion_adds_what_it_finds_to_a_rough_fusion() -> None:
    network, first, second = ResidualFusion(nn.Conv2d, 4), torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6)
    rough = network.rough(torch.cat([first, second], dim=1))
    fine = network.fine(torch.cat([network.first(first), network.second(second)], dim=1))
    torch.testing.assert_close(network(first, second), rough + fine)
    assert rough.abs().max() > 0
    assert fine.abs().max() > 0


def test_decoder_looks_at_every_scale() -> None:
    torch.manual_seed(0)
    features = [torch.rand(1, width, side, side, requires_grad=True) for width, side in zip(WIDTHS, (16, 8, 4, 2), strict=True)]
    image = NestDecoder(nn.Conv2d)(features)
    image.sum().backward()
    assert image.shape == (1, 1, 16, 16)
    assert all(feature.grad.abs().max() > 0 for feature in features)


class TestLosses:
    def test_of_stage_2_are_the_paper_s(self) -> None:
        network, sources = leader(detail=70.0, reference_features=2.0, other_features=5.0), images(2, 2, 16, 24)
        fused = network(sources)
        own = fused.own[0].own
        first, second = (network.encode(source) for source in sources.split(1, dim=1))
        far = sum(weight * np.square((found - 2 * one - 5 * other).detach().double().numpy()).mean()
                  for weight, found, one, other in zip((1, 10, 100, 1000), own.fused, first, second, strict=True))
        plain = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
        of_plain = [net(scale, scale) for net, scale in zip(network.fusion, network.encode(plain), strict=True)]
        black, white = network.decoder(of_plain).mean(dim=(1, 2, 3))
        painted = ((network.decoder(own.fused) - black) / max(white - black, 1)).detach().numpy()
        alike = np.mean([similarity(painted[i, 0], sources[i, 0].numpy()) for i in range(2)])
        losses = {name: loss.item() for name, loss in network.losses(fused, sources).items()}
        assert losses == pytest.approx({"detail": 70 * (1 - alike), "features": 255 ** 2 * far}, rel=1e-4)

    def test_of_stage_1_are_the_paper_s(self) -> None:
        network, sources = leader(), images(2, 2, 16, 16)
        shown = sources.flatten(0, 1).unsqueeze(1)
        painted = network.decoder(network.encode(shown)).detach().numpy()
        alike = np.mean([similarity(made[0], image[0].numpy()) for made, image in zip(painted, shown, strict=True)])
        losses = {name: loss.item() for name, loss in network.pretraining_losses(sources).items()}
        assert losses == pytest.approx({"pixel": np.square(255 * (painted - shown.numpy())).mean(), "ssim": 100 * (1 - alike)},
                                       rel=1e-4)

    def test_of_stage_1_are_of_all_images_there_are(self) -> None:
        """Two samples of which each lacks another modality are as good as one that has both."""
        network, sources = leader(), images(2, 2, 16, 16)
        found = network.pretraining_losses(sources, torch.tensor([[True, False], [False, True]]))
        wanted = network.pretraining_losses(sources[[0, 1], [0, 1]][None])
        assert {name: loss.item() for name, loss in found.items()} == {name: loss.item() for name, loss in wanted.items()}

    def test_of_each_stage_fall_and_teach_its_part_alone(self) -> None:
        network, sources = leader(), images(1, 2, 16, 16)
        stages = [({"stem", "encoder", "decoder"}, list(network.parameters()), network.pretraining_losses),
                  ({"fusion"}, network.taught_parameters(), lambda shown: network.losses(network(shown), shown))]
        for taught, parameters, losses in stages:
            before = {name: weights.clone() for name, weights in network.named_parameters()}
            optimiser, totals = torch.optim.Adam(parameters, 1e-3), []
            for _ in range(4):
                total = sum(losses(sources).values())
                network.zero_grad()
                total.backward()
                optimiser.step()
                totals.append(total.item())
            assert totals[-1] < 0.9 * totals[0]
            moved = {name for name, weights in network.named_parameters() if not torch.equal(weights, before[name])}
            assert {name.split(".")[0] for name in moved} == taught

    def test_are_planned_in_half_precision_without_data(self) -> None:
        network, sources = leader(3).to("meta"), images(2, 2, 20, 5, 16).to("meta")
        with HalfPrecision():
            losses = [*network.losses(network(sources), sources).values(), *network.pretraining_losses(sources).values()]
        assert all(loss.shape == () and loss.dtype == torch.float32 for loss in losses)


def test_recipe_says_what_was_published() -> None:
    recipe = read_recipe("rfn_nest")
    require_leader(recipe, ["MRI", "CT"])
    assert leader_architecture(recipe, 0)["arch_kwargs"] == {
        "reference": 0, "colours": 1, "folding": False, "detail": 700.0, "reference_features": 3.0, "other_features": 6.0}
    assert (recipe.patches.size, recipe.patches.batch, recipe.leader.rate, recipe.leader.schedule,
            recipe.pretraining.own) == ((256, 256), 4, 1e-4, "constant", True)
