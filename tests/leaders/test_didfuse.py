"""DIDFuse: its size, its sum of features, its losses by NumPy and scikit-image, and statistics that fusion leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse4seg.leaders.didfuse import DIDFuse, Encoded
from fuse4seg.planning.leaders import leader_architecture, require_leader
from fuse4seg.planning.live_bytes import HalfPrecision
from fuse4seg.recipes.reading import read_recipe
from tests.leaders.pairs import images, maker_of, similarity

leader = maker_of(DIDFuse)


def test_has_the_published_number_of_parameters() -> None:
    count = sum(weights.numel() for weights in leader().parameters())
    assert count == 9 * 64 + 3 * 9 * 64 * 64 + 2 * 9 * 128 * 64 + 9 * 128 + 6 * 3 * 64 + 3 + 4
    assert count / 261e3 == pytest.approx(1, abs=0.01)


def test_adds_the_features_of_both_images() -> None:
    network, sources = leader().eval(), images(1, 2, 12, 12)
    first, second = (network.encode(source) for source in sources.split(1, dim=1))
    expected = network.decode(Encoded(*(one + other for one, other in zip(first, second, strict=True))))
    torch.testing.assert_close(network(sources).image, expected)
    assert (network.decode(first) - expected).abs().max() > 1e-3


class TestLosses:
    @pytest.mark.parametrize("reference", [0, 1])
    def test_are_the_paper_s(self, reference: int) -> None:
        network, sources = leader(reference=reference, details_apart=0.5, fidelity=3.0, gradient=7.0).eval(), images(2, 2, 14, 15)
        features = [network.encode(source) for source in sources.split(1, dim=1)]
        made = [network.decode(one).detach().numpy() for one in features]
        seen = [source.numpy() for source in sources.split(1, dim=1)]

        def distance(part: str) -> float:
            one, other = (getattr(of, part).detach().numpy() for of in features)
            return float(np.tanh(np.square(one - other).mean()))

        fidelity = sum(np.square(a - b).mean() + 5 * (1 - np.mean([similarity(a[i, 0], b[i, 0]) for i in range(2)])) / 2
                       for a, b in zip(made, seen, strict=True))
        wrong = made[reference] - seen[reference]
        gradient = sum(np.abs(np.diff(wrong, axis=axis)).mean() for axis in (2, 3))
        expected = {"bases": distance("base"), "details": -0.5 * distance("detail"), "fidelity": 3 * fidelity,
                    "gradient": 7 * gradient}
        for losses in (network.pretraining_losses(sources), network.losses(network(sources), sources)):
            assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)

    def test_of_stage_1_are_those_of_the_samples_that_have_both(self) -> None:
        """Of others nothing is learned, whatever stands there, unless no sample has both: then of each image by itself."""
        network, sources = leader(), images(4, 2, 14, 15)
        present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
        found = network.pretraining_losses(sources, present)
        wanted = leader().pretraining_losses(sources[[0, 3]])
        assert {name: loss.item() for name, loss in found.items()} == {name: loss.item() for name, loss in wanted.items()}
        lone = network.pretraining_losses(sources, torch.tensor([[True, False], [False, True]] * 2))
        assert lone.keys() == found.keys()
        assert (lone["bases"], lone["details"]) == (0, 0)
        assert lone["fidelity"] > 0

    def test_fall_in_training(self) -> None:
        network, sources = leader(), images(2, 2, 12, 12)
        optimiser, totals = torch.optim.Adam(network.parameters(), 1e-3), []
        for _ in range(8):
            total = sum(network.losses(network(sources), sources).values())
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            totals.append(total.item())
        assert totals[-1] < 0.8 * totals[0]

    @pytest.mark.parametrize(("axes", "modalities"), [(2, 2), (3, 3)])
    def test_send_a_gradient_to_every_weight(self, axes: int, modalities: int) -> None:
        network, sources = leader(axes, modalities), images(2, modalities, *[6] * axes)
        sum(network.pretraining_losses(sources).values()).backward()
        # A bias in front of a normalisation has none, but for rounding.
        assert all(weights.grad.abs().max() > 0 for weights in network.parameters() if weights.ndim > 1)

    def test_are_planned_in_half_precision_without_data(self) -> None:
        network, sources = leader(3).to("meta"), images(2, 2, 9, 8, 7).to("meta")
        with HalfPrecision():
            losses = [*network.losses(network(sources), sources).values(), *network.pretraining_losses(sources).values()]
        assert all(loss.shape == () and loss.dtype == torch.float32 for loss in losses)


class TestStatistics:
    def test_are_those_of_prediction_where_a_follower_is_trained(self) -> None:
        network, sources = leader(), images(2, 2, 8, 8)
        network.losses(network(sources), sources)
        in_training = network(sources).image
        assert torch.equal(in_training, network.eval()(sources).image)

    def test_are_moved_by_losses_that_teach_alone(self) -> None:
        network, sources = leader(), images(2, 2, 8, 8)
        before = {name: value.clone() for name, value in network.named_buffers()}
        fused = network(sources)
        with torch.no_grad():
            network.losses(fused, sources)
        assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
        assert network.first[1].training
        network.losses(fused, sources)
        assert not any(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_recipe_says_what_was_published() -> None:
    recipe = read_recipe("didfuse")
    require_leader(recipe, ["MRI", "CT"])
    assert leader_architecture(recipe, 1)["arch_kwargs"] == {
        "reference": 1, "colours": 1, "folding": False, "details_apart": 0.05, "fidelity": 2.0, "gradient": 10.0}
    assert (recipe.training.epochs, recipe.patches.size, recipe.patches.batch, recipe.leader.rate) == (120, (128, 128), 24, 1e-3)
