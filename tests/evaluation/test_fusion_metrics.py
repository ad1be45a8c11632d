"""All eight metrics: conventions, volumes, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fuse4seg.evaluation.fusion_metrics import METRICS, Conventions, fusion_metrics, stretch
from fuse4seg.evaluation.grey_statistics import entropy, mutual_information
from fuse4seg.evaluation.ssim import ssim


def test_are_given_in_the_order_of_tables(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    values = fusion_metrics(fused, sources)
    assert tuple(values) == METRICS
    assert values["EN"] == entropy(fused)
    assert values["MI"] == mutual_information(fused, sources)


def test_follow_the_conventions(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    dim = fused / 3 + 10
    values = fusion_metrics(dim, sources, Conventions(normalise=True, mi_unit="bits", ssim_range=1.0))
    assert values["SD"] == pytest.approx(255 / np.ptp(dim) * dim.std())
    assert values["MI"] == mutual_information(stretch(dim), sources, unit="bits")
    assert values["SSIM"] == ssim(stretch(dim), sources, data_range=1.0)


def test_of_a_volume_are_means_over_slices_where_defined(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    copied = sources[0]
    volume = fusion_metrics(np.stack([fused, copied]), [np.stack([source] * 2) for source in sources])
    slices = [fusion_metrics(image, sources) for image in (fused, copied)]
    for name in METRICS:
        expected = slices[0]["SCD"] if name == "SCD" else (slices[0][name] + slices[1][name]) / 2
        assert volume[name] == pytest.approx(expected)


def test_that_no_slice_defines_are_nan(sources: list[np.ndarray]) -> None:
    assert math.isnan(fusion_metrics(sources[0][None], [source[None] for source in sources])["SCD"])


def test_stretching_leaves_an_image_of_one_level(sources: list[np.ndarray]) -> None:
    np.testing.assert_array_equal(stretch(np.full((3, 3), 7, np.uint8)), 7)
    assert (stretch(sources[0] / 2 + 9).min(), stretch(sources[0] / 2 + 9).max()) == (0, 255)


def test_resized_images_are_refused(fused: np.ndarray, sources: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"\(64, 72\) and \(64, 72\), \(63, 72\)"):
        fusion_metrics(fused, [sources[0], sources[1][1:]])


@pytest.mark.parametrize(("chosen", "problem"), [({"mi_unit": "bans"}, "nats or bits"), ({"ssim_range": 0.0}, "above 0")])
def test_conventions_are_checked(chosen: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Conventions(**chosen)


def test_conventions_go_into_results() -> None:
    assert Conventions().to_plain() == {"normalise": False, "mi_unit": "nats", "ssim_range": 255.0}
