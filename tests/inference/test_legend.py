"""The legend: how raising one modality changes the image, against mixtures whose shares are known."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fuse4seg.inference.legend import measure_legend
from fuse4seg.inference.model import Model
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

MakeNetwork = Callable[..., FuseThenSegment]
MakeLoaded = Callable[..., Model]
#: Hues of two modalities, orange and blue, as method.md has them; beside the tint's odds, theirs add up to 2.
HUES = np.array([[0.91, 0.55, 0.11], [0.09, 0.45, 0.89]])


def channels(modalities: int, shape: tuple[int, ...] = (4, 40, 21)) -> torch.Tensor:
    """In the middle of the windows, so that nothing is cut off when it is raised; 0 in some rows."""
    images = 2 * torch.rand(modalities, *shape, generator=torch.Generator().manual_seed(0)) - 1
    images[:, :, :6] = 0
    return images


def with_palette_alone(network: FuseThenSegment) -> FuseThenSegment:
    """A leader whose features say nothing, so that shares are the palette's and the tint is one grey, of share logit 0."""
    for last in (network.fusion.gate.source[-1], network.fusion.gate.tint_share, network.fusion.gate.tint):
        torch.nn.init.zeros_(last.weight)
    return network


@pytest.mark.parametrize("axes", [2, 3])
def test_of_the_palette_alone_is_each_hues_part_of_all_and_of_the_tint(make_network: MakeNetwork, make_loaded: MakeLoaded,
                                                                       axes: int) -> None:
    found = measure_legend(make_loaded(with_palette_alone(make_network(axes, modalities=2))), channels(2))
    np.testing.assert_allclose(found, 2 * HUES / 3, atol=0.002)


def test_of_a_leader_as_it_starts_is_near_its_palette(make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
    found = measure_legend(make_loaded(make_network(modalities=2)), channels(2))
    np.testing.assert_allclose(found, 2 * HUES / 3, atol=0.1)


def test_of_absent_modalities_is_0_and_of_the_others_what_they_do_alone(make_network: MakeNetwork,
                                                                        make_loaded: MakeLoaded) -> None:
    model, given = make_loaded(with_palette_alone(make_network(modalities=2))), channels(2)
    given[0] = torch.nan
    found = measure_legend(model, given, present=(False, True))
    assert not found[0].any()
    np.testing.assert_allclose(found[1], 2 * HUES[1] / (2 * HUES[1] + 1), atol=0.002)


def test_of_a_grey_image_has_one_number_for_each_modality(make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
    """None is preferred, and the tint has as much as each of them."""
    found = measure_legend(make_loaded(with_palette_alone(make_network(colours=1))), channels(3))
    np.testing.assert_allclose(found, np.full((3, 1), 1 / 4), atol=0.002)


def test_of_a_fixed_mixture_is_that_mixture_inside_the_image(make_network: MakeNetwork, make_loaded: MakeLoaded,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured inside alone, in the units of the windows, of the first set of weights."""
    network, mixture = make_network(), torch.tensor([[0.6, 0.2, 0.1], [0.1, 0.5, 0.1], [0.0, 0.3, 0.7]])

    def fuse(given: torch.Tensor, **_: object) -> SimpleNamespace:
        sources, inside = network.window(given)
        image = torch.einsum("cn,bn...->bc...", mixture, sources) + 0.05 * inside
        return SimpleNamespace(fused=SimpleNamespace(image=image, attention=None))

    monkeypatch.setattr(network, "fuse", fuse)
    np.testing.assert_allclose(measure_legend(make_loaded(network), channels(3)), mixture.T, atol=1e-5)


def test_leaves_the_case_as_it_was(make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
    given = channels(3)
    before = given.clone()
    measure_legend(make_loaded(make_network()), given)
    assert torch.equal(given, before)
