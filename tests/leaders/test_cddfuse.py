"""CDDFuse: its size, its invertible blocks, and losses of both stages by NumPy, SciPy and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import sobel
from torch import nn

from fuse4seg.leaders.cddfuse import CDDFuse, DetailCoupling, Parted
from fuse4seg.planning.leaders import leader_architecture, require_leader
from fuse4seg.planning.live_bytes import HalfPrecision
from fuse4seg.recipes.reading import read_recipe
from fuse4seg.steps.bilevel import half
from tests.leaders.pairs import images, maker_of, similarity

leader = maker_of(CDDFuse)


def decomposition(parted: list[Parted]) -> float:
    """Of both images' features."""
    base, detail = (np.mean([np.corrcoef(one.flatten(), other.flatten())[0, 1]
                             for one, other in zip(*(getattr(of, part).detach().flatten(0, 1).numpy() for of in parted),
                                                   strict=True)]) for part in ("base", "detail"))
    return detail ** 2 / (base + 1.01)


def test_has_the_published_number_of_parameters() -> None:
    count = sum(weights.numel() for weights in leader().parameters())
    restormer = 256 + 8 + 64 * 192 + 9 * 192 + 64 ** 2 + 64 * 256 + 9 * 256 + 128 * 64
    base = 256 + 8 + 64 * 192 + 9 * 192 ** 2 + 64 ** 2 + 64 * 128 + 2 * 9 * 128 + 64 ** 2
    detail = 64 * 65 + 3 * (32 * 64 + 9 * 64 + 64 * 32)
    rest = 9 * 64 + 128 * 64 + 9 * 64 * 32 + 9 * 32
    assert count == 8 * restormer + 2 * base + 4 * detail + rest
    assert count / 1.19e6 == pytest.approx(1, abs=0.005)


def test_fuses_the_sums_of_both_images_features() -> None:
    network, sources = leader(), images(1, 2, 10, 12)
    first, second = (network.encode(source) for source in sources.split(1, dim=1))
    sums = Parted(first.base + second.base, first.detail + second.detail)
    expected = network.decode(Parted(network.fuse_base(sums.base), network.fuse_detail(sums.detail)))
    torch.testing.assert_close(network(sources).image, expected)


@pytest.mark.parametrize("axes", [2, 3])
def test_coupling_can_be_undone(axes: int) -> None:
    torch.manual_seed(0)
    block, features = DetailCoupling(nn.Conv2d if axes == 2 else nn.Conv3d, 4), torch.randn(2, 4, *[5] * axes)
    with torch.no_grad():
        first, second = block(features).chunk(2, dim=1)
        first = (first - block.offset(second)) * torch.exp(-block.scale(second))
        shuffled = torch.cat([first, second - block.shift(first)], dim=1)
        torch.testing.assert_close(shuffled, block.shuffle(features), atol=1e-5, rtol=0)
        assert (shuffled - block(features)).abs().max() > 0.01


class TestLosses:
    def test_of_stage_1_are_the_paper_s(self) -> None:
        network, sources = leader(similarity=3.0, decomposition=4.0), images(2, 2, 13, 12)
        parted = [network.encode(source) for source in sources.split(1, dim=1)]
        made = [network.decode(of).detach().numpy() for of in parted]
        seen = [source.numpy() for source in sources.split(1, dim=1)]
        pixel = sum(np.square(a - b).mean() for a, b in zip(made, seen, strict=True))
        unlike = sum(1 - np.mean([similarity(a[i, 0], b[i, 0]) for i in range(2)]) for a, b in zip(made, seen, strict=True))
        losses = {name: loss.item() for name, loss in network.pretraining_losses(sources).items()}
        assert losses == pytest.approx({"pixel": pixel, "ssim": 3 * unlike, "decomposition": 4 * decomposition(parted)}, rel=1e-3)

    def test_of_stage_1_are_of_all_images_there_are(self) -> None:
        """Two samples of which each lacks another modality are as good as one that has both, but for their correlation."""
        network, sources = leader(), images(2, 2, 13, 12)
        found = network.pretraining_losses(sources, torch.tensor([[True, False], [False, True]]))
        wanted = network.pretraining_losses(sources[[0, 1], [0, 1]][None])
        for name in ("pixel", "ssim"):
            assert found[name].item() == pytest.approx(wanted[name].item(), rel=1e-5)
        assert found["decomposition"] == 0

    def test_of_stage_2_are_the_paper_s(self) -> None:
        network, sources = leader(decomposition=4.0, gradient=6.0), images(2, 2, 9, 8)
        fused = network(sources)
        image, seen = fused.image.detach().double().numpy(), sources.double().numpy()

        def slopes(of: np.ndarray) -> np.ndarray:
            return sum(np.abs(sobel(of, axis=axis, mode="nearest")) for axis in (0, 1))

        gradient = np.mean([np.abs(slopes(image[i, 0]) - np.maximum(slopes(seen[i, 0]), slopes(seen[i, 1]))).mean()
                            for i in range(2)])
        parted = [network.encode(source) for source in sources.split(1, dim=1)]
        losses = {name: loss.item() for name, loss in network.losses(fused, sources).items()}
        assert losses == pytest.approx({"intensity": np.abs(image - seen.max(axis=1, keepdims=True)).mean(),
                                        "gradient": 6 * gradient, "decomposition": 4 * decomposition(parted)}, rel=1e-3)

    def test_of_half_of_a_batch_are_those_of_its_samples(self) -> None:
        network, sources = leader(), images(3, 2, 6, 6)
        halved = network.losses(half(network(sources), offset=0), half(sources, offset=0))
        alone = network.losses(network(sources[::2]), sources[::2])
        for name, loss in alone.items():
            torch.testing.assert_close(halved[name], loss)

    def test_fall_in_training(self) -> None:
        network, sources = leader(), images(1, 2, 8, 8)
        for losses in (network.pretraining_losses, lambda shown: network.losses(network(shown), shown)):
            optimiser, totals = torch.optim.Adam(network.parameters(), 1e-3), []
            for _ in range(5):
                total = sum(losses(sources).values())
                optimiser.zero_grad()
                total.backward()
                optimiser.step()
                totals.append(total.item())
            assert totals[-1] < 0.95 * totals[0]

    def test_of_stage_2_send_a_gradient_to_every_weight(self) -> None:
        network, sources = leader(3, 2), images(1, 2, 4, 4, 4)
        sum(network.losses(network(sources), sources).values()).backward()
        assert all(weights.grad.abs().max() > 0 for weights in network.parameters())

    def test_are_planned_in_half_precision_without_data(self) -> None:
        network, sources = leader(3).to("meta"), images(2, 2, 9, 8, 7).to("meta")
        with HalfPrecision():
            losses = [*network.losses(network(sources), sources).values(), *network.pretraining_losses(sources).values()]
        assert all(loss.shape == () and loss.dtype == torch.float32 for loss in losses)


def test_recipe_says_what_was_published() -> None:
    recipe = read_recipe("cddfuse")
    require_leader(recipe, ["MRI", "CT"])
    assert leader_architecture(recipe, 0)["arch_kwargs"] == {
        "reference": 0, "colours": 1, "folding": False, "similarity": 5.0, "decomposition": 2.0, "gradient": 10.0}
    assert (recipe.pretraining.epochs, recipe.training.epochs, recipe.patches.size, recipe.patches.batch, recipe.leader.schedule,
            recipe.leader.rate) == (40, 80, (128, 128), 16, "halved", 1e-4)
