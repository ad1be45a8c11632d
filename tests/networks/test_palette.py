"""The palette: hues that stay apart, also for people who see two kinds of cones' colours alone."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from fuse4seg.colour import LUMA
from fuse4seg.networks.palette import preferences

#: What people see who lack a kind of cones, in linear red, green and blue (Machado, Oliveira and Fernandes, A
#: Physiologically-based Model for Simulation of Color Vision Deficiency, 2009, severity 1).
SEEN_BY = {
    "all cones": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}
#: A distance in CIELAB that is just noticed (Mahy, Van Eycken and Oosterlinck, Evaluation of Uniform Color Spaces, 1994). Here
#: modalities differ by a quarter of the range: where that gives n such distances, n-th parts of it are just noticed.
JUST_NOTICED = 2.3
every_vision = pytest.mark.parametrize("vision", SEEN_BY)


def raised(modalities: int, *, by: float = 0.25) -> np.ndarray:
    """For each modality the colour where it alone is brighter than others at mid-grey, shape (N, 3)."""
    return 0.5 + by * preferences(modalities, 3).softmax(dim=1).double().numpy().T


def seen(colours: np.ndarray, vision: str) -> np.ndarray:
    """Places in CIELAB, shape (N, 3), of colours in sRGB."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    simulated = np.clip(linear @ SEEN_BY[vision].T, 0, 1)
    return rgb2lab(np.where(simulated <= 0.0031308, 12.92 * simulated, 1.055 * simulated ** (1 / 2.4) - 0.055))


def distances(places: np.ndarray) -> dict[tuple[int, int], float]:
    return {pair: float(np.linalg.norm(places[pair[0]] - places[pair[1]])) for pair in combinations(range(len(places)), 2)}


class TestPreferences:
    @pytest.mark.parametrize("modalities", [1, 2, 3, 4, 7])
    def test_of_a_grey_image_are_none(self, modalities: int) -> None:
        assert torch.equal(preferences(modalities, 1), torch.zeros(1, modalities))

    @pytest.mark.parametrize("colours", [0, 2, 4])
    def test_refuse_other_numbers_of_channels(self, colours: int) -> None:
        with pytest.raises(ValueError, match=f"1 or 3 channels, not {colours}"):
            preferences(2, colours)

    @pytest.mark.parametrize("modalities", [1, 2, 3, 4, 5, 7])
    def test_are_odds_that_add_up_to_the_number_of_modalities(self, modalities: int) -> None:
        """In every channel; so the tint beside them has the same share in each."""
        torch.testing.assert_close(preferences(modalities, 3).exp().sum(dim=1), torch.full((3,), float(modalities)))

    def test_of_more_than_four_lie_on_the_line_of_the_four(self) -> None:
        four, seven = preferences(4, 3).exp(), preferences(7, 3).exp()
        # A common factor for each channel, which keeps the sum.
        line = torch.stack([four[:, 0], (four[:, 0] + four[:, 1]) / 2, four[:, 1], (four[:, 1] + four[:, 2]) / 2, four[:, 2],
                            (four[:, 2] + four[:, 3]) / 2, four[:, 3]], dim=1)
        torch.testing.assert_close(seven, 7 * line / line.sum(dim=1, keepdim=True))


class TestHues:
    def test_of_two_modalities_are_orange_and_blue(self) -> None:
        (red, green, blue), last = raised(2)
        assert red > green > blue
        assert last[2] > last[1] > last[0]

    @every_vision
    def test_of_two_modalities_are_far_apart_for_everybody(self, vision: str) -> None:
        assert distances(seen(raised(2), vision))[0, 1] > 10 * JUST_NOTICED

    @every_vision
    @pytest.mark.parametrize(("modalities", "steps"), [(3, 6), (4, 4)])
    def test_of_three_and_four_can_be_told_apart_by_everybody(self, modalities: int, steps: int, vision: str) -> None:
        assert min(distances(seen(raised(modalities), vision)).values()) > steps * JUST_NOTICED

    def test_of_five_can_be_told_apart_by_everybody_if_only_just(self) -> None:
        assert min(min(distances(seen(raised(5), vision)).values()) for vision in SEEN_BY) > JUST_NOTICED

    @pytest.mark.parametrize("modalities", [3, 4])
    def test_give_every_modality_its_part_of_the_image(self, modalities: int) -> None:
        """The same over all channels; of the brightness, which green makes, half at least."""
        shares = (raised(modalities) - 0.5) / 0.25
        np.testing.assert_allclose(shares.sum(axis=1), 3 / modalities, atol=0.02)
        assert (modalities * shares @ LUMA).min() > 0.5

    @pytest.mark.parametrize("modalities", [3, 4])
    def test_let_three_differences_through(self, modalities: int) -> None:
        """From modalities to channels no direction is lost: the three singular values lie within a factor of 2."""
        values = np.linalg.svd((raised(modalities) - 0.5) / 0.25, compute_uv=False)
        assert values.min() > values.max() / 2

    @pytest.mark.parametrize("modalities", [2, 3, 4, 5, 7])
    def test_add_up_to_grey(self, modalities: int) -> None:
        """Where all modalities are equally bright, there is no colour."""
        np.testing.assert_allclose((raised(modalities) - 0.5).sum(axis=0), 0.25, rtol=1e-6)
