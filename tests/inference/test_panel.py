"""Pictures of a case: panels with their legend, and checkerboards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image as Picture
from scipy.ndimage import label

from fuse4seg.inference.model import Model
from fuse4seg.inference.panel import (
    BAR,
    EDGE,
    GAP,
    LABEL_COLOURS,
    LEGEND_GREY,
    SQUARES,
    checkerboard,
    legend_colours,
    measure_legend,
    telling_slice,
    write_checkerboard,
    write_panel,
)
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

MakeNetwork = Callable[..., FuseThenSegment]
MakeLoaded = Callable[..., Model]
#: Hues of two modalities, orange and blue, as method.md has them; beside the tint's odds, theirs add up to 2.
HUES = np.array([[0.91, 0.55, 0.11], [0.09, 0.45, 0.89]])
SQUARE = EDGE // SQUARES


@pytest.fixture
def segmentation() -> np.ndarray:
    labels = np.zeros((6, 20, 16), np.uint8)
    labels[2, 4:8, 4:8] = 1
    labels[4, 4:14, 4:12] = 2
    return labels


def panel(path: Path, labels: np.ndarray, **parts: object) -> np.ndarray:
    """The picture's pixels in 0 to 255, shape (H, W, 3)."""
    rng = np.random.default_rng(0)
    sources = rng.random((2, *labels.shape), dtype=np.float32)
    fused = np.full((1, *labels.shape), 128, np.uint8)
    write_panel(path, **{"sources": sources, "names": ["T1", "FLAIR"], "fused": fused, "attention": None,
                         "segmentation": labels, **parts})
    return np.rint(plt.imread(path)[..., :3] * 255)


def count_tiles(picture: np.ndarray) -> int:
    """Islands in the black picture that are larger than letters."""
    islands, _ = label(picture.max(axis=2) > 0)
    return int((np.bincount(islands.flat)[1:] > 2000).sum())


def share_of(picture: np.ndarray, colour: np.ndarray) -> float:
    """Part of the picture's pixels that are of a colour."""
    return float((np.abs(picture - colour).max(axis=2) <= 2).mean())


class TestTellingSlice:
    def test_has_most_foreground(self, segmentation: np.ndarray) -> None:
        assert telling_slice(segmentation) == 4

    def test_is_the_middle_one_without_foreground(self) -> None:
        assert telling_slice(np.zeros((7, 3, 3))) == 3


class TestPanel:
    def test_shows_sources_fused_image_and_segmentation(self, segmentation: np.ndarray, tmp_path: Path) -> None:
        assert count_tiles(panel(tmp_path / "case.png", segmentation)) == 4

    def test_shows_the_brightest_slice_where_nothing_is_segmented(self, segmentation: np.ndarray, tmp_path: Path) -> None:
        fused = np.full((1, *segmentation.shape), 25, np.uint8)
        fused[:, 3] = 178
        picture = panel(tmp_path / "case.png", segmentation, segmentation=None, fused=fused)
        assert count_tiles(picture) == 3
        assert (np.abs(picture - 178).max(axis=2) <= 2).sum() > 2000

    def test_shows_attention_and_reference_where_there_are_any(self, segmentation: np.ndarray, tmp_path: Path) -> None:
        attention = {1: np.random.default_rng(1).random(segmentation.shape) + 0.5}
        assert count_tiles(panel(tmp_path / "case.png", segmentation, attention=attention, asking="T1",
                                 reference=segmentation)) == 6

    def test_colours_the_labels_of_that_slice_over_the_fused_image(self, segmentation: np.ndarray,
                                                                   tmp_path: Path) -> None:
        picture = panel(tmp_path / "case.png", segmentation).reshape(-1, 3)
        second = np.array([int(LABEL_COLOURS[1][start:start + 2], 16) for start in (1, 3, 5)])
        expected = 0.6 * second + 0.4 * 128
        assert (np.abs(picture - expected).max(axis=1) <= 2).sum() > 100
        first = np.array([int(LABEL_COLOURS[0][start:start + 2], 16) for start in (1, 3, 5)])
        assert not (np.abs(picture - (0.6 * first + 0.4 * 128)).max(axis=1) <= 2).any()

    def test_shows_a_fused_image_in_colour_and_lays_labels_over_its_luma(self, segmentation: np.ndarray,
                                                                         tmp_path: Path) -> None:
        orange = np.array([204, 120, 40])
        fused = np.broadcast_to(orange.astype(np.uint8).reshape(3, 1, 1, 1), (3, *segmentation.shape))
        picture = panel(tmp_path / "case.png", segmentation, fused=fused)
        assert count_tiles(picture) == 4
        assert share_of(picture, orange) > 0.1
        grey = np.full(3, np.rint(orange @ [0.299, 0.587, 0.114]))
        assert share_of(picture, grey) > 0.05

    def test_bears_more_labels_than_colours_and_constant_sources(self, segmentation: np.ndarray,
                                                                 tmp_path: Path) -> None:
        segmentation[4, 4, 4:14] = np.arange(1, 11)[:10]
        picture = panel(tmp_path / "case.png", segmentation, sources=np.zeros((2, *segmentation.shape), np.float32))
        assert np.isfinite(picture).all()

    def test_closes_its_figure_and_leaves_no_temporary_file(self, segmentation: np.ndarray, tmp_path: Path) -> None:
        before = plt.get_fignums()
        panel(tmp_path / "case.png", segmentation)
        assert plt.get_fignums() == before
        assert [path.name for path in tmp_path.iterdir()] == ["case.png"]


class TestLegend:
    #: Change of red, green and blue with each modality; the strongest is of .8.
    CHANGES = np.array([[0.8, 0.2, 0.0], [0.0, 0.2, 0.4]])

    def test_colours_are_a_grey_voxel_in_which_one_modality_is_raised(self) -> None:
        """The strongest change becomes white in its channel; all are of one scale, so that a weak modality has a pale bar."""
        raised = 1 - LEGEND_GREY
        np.testing.assert_allclose(legend_colours(self.CHANGES), LEGEND_GREY + raised * np.array(
            [[1, 0.25, 0], [0, 0.25, 0.5]]))

    def test_colours_of_modalities_that_change_nothing_are_grey(self) -> None:
        np.testing.assert_allclose(legend_colours(np.zeros((2, 3))), LEGEND_GREY)

    def test_is_a_bar_of_colour_under_each_source_alone(self, segmentation: np.ndarray, tmp_path: Path) -> None:
        black = np.zeros((2, *segmentation.shape), np.float32)
        picture = panel(tmp_path / "with.png", segmentation, sources=black, legend=self.CHANGES)
        for hue in legend_colours(self.CHANGES):
            rows, columns = np.nonzero(np.abs(picture - 255 * hue).max(axis=2) <= 2)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) > 0.95 * height * width  # a rectangle
            assert height / width == pytest.approx(BAR * 20 / 16, rel=0.25)
        first, second = (np.nonzero(np.abs(picture - 255 * hue).max(axis=2) <= 2)[1] for hue in legend_colours(self.CHANGES))
        assert first.max() < second.min()
        without = panel(tmp_path / "without.png", segmentation, sources=black)
        for hue in legend_colours(self.CHANGES):
            assert share_of(without, 255 * hue) == 0


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


def test_squares_take_turns() -> None:
    """Of a ramp from left to right and one from right to left."""
    ramp = np.tile(np.arange(64.0), (64, 1))[None]
    board = checkerboard(ramp, ramp[..., ::-1], (1, 1, 1))
    middles = board[SQUARE // 2::SQUARE, SQUARE // 2::SQUARE].astype(float)
    rows, columns = np.indices(middles.shape)
    of_reference = (rows + columns) % 2 == 0
    there = (columns + 0.5) / SQUARES
    np.testing.assert_allclose(middles, 255 * np.where(of_reference, there, 1 - there), atol=6)


def test_is_the_image_itself_of_two_that_are_the_same() -> None:
    image = np.random.default_rng(0).random((1, 64, 64))
    np.testing.assert_array_equal(checkerboard(image, 7 * image + 3, (1, 1, 1)), checkerboard(image, image, (1, 1, 1)))


def test_shows_three_planes_of_a_volume_in_their_proportions() -> None:
    """10 slices of 4 mm, 40 x 20 voxels of 1 mm."""
    board = checkerboard(*np.random.default_rng(0).random((2, 10, 40, 20)), (4, 1, 1))
    widths = EDGE // 2, EDGE // 2, EDGE
    assert board.shape == (EDGE, sum(widths) + 2 * GAP)


def test_shows_the_head_above_the_foot() -> None:
    volume = np.broadcast_to(np.arange(16.0)[:, None, None], (16, 16, 16))
    board = checkerboard(volume, volume, (1, 1, 1))
    coronal = board[:, EDGE + GAP:2 * EDGE + GAP]
    assert coronal[:EDGE // 4].mean() > 200 > 60 > coronal[-EDGE // 4:].mean()


def test_writes_a_picture(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((1, 24, 24))
    write_checkerboard(tmp_path / "a.png", image, image[:, ::-1], (1, 1, 1))
    np.testing.assert_array_equal(np.asarray(Picture.open(tmp_path / "a.png")), checkerboard(image, image[:, ::-1], (1, 1, 1)))
