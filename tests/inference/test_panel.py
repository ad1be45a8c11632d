"""Panels: one picture per case, of the slice with most foreground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy.ndimage import label

from fuse4seg.inference.panel import LABEL_COLOURS, telling_slice, write_panel


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
    fused = np.full(labels.shape, 0.5, np.float32)
    write_panel(path, **{"sources": sources, "names": ["T1", "FLAIR"], "fused": fused, "attention": None,
                         "segmentation": labels, **parts})
    return np.rint(plt.imread(path)[..., :3] * 255)


def count_tiles(picture: np.ndarray) -> int:
    """Islands in the black picture that are larger than letters."""
    islands, _ = label(picture.max(axis=2) > 0)
    return int((np.bincount(islands.flat)[1:] > 2000).sum())


class TestTellingSlice:
    def test_has_most_foreground(self, segmentation: np.ndarray) -> None:
        assert telling_slice(segmentation) == 4

    def test_is_the_middle_one_without_foreground(self) -> None:
        assert telling_slice(np.zeros((7, 3, 3))) == 3


class TestPanel:
    def test_shows_sources_fused_image_and_segmentation(self, segmentation: np.ndarray, tmp_path: Path) -> None:
        assert count_tiles(panel(tmp_path / "case.png", segmentation)) == 4

    def test_shows_the_brightest_slice_where_nothing_is_segmented(self, segmentation: np.ndarray, tmp_path: Path) -> None:
        fused = np.full(segmentation.shape, 0.1, np.float32)
        fused[3] = 0.7
        picture = panel(tmp_path / "case.png", segmentation, segmentation=None, fused=fused)
        assert count_tiles(picture) == 3
        assert (np.abs(picture - 255 * 0.7).max(axis=2) <= 2).sum() > 2000

    def test_shows_attention_and_reference_where_there_are_any(self, segmentation: np.ndarray, tmp_path: Path) -> None:
        attention = {1: np.random.default_rng(1).random(segmentation.shape) + 0.5}
        assert count_tiles(panel(tmp_path / "case.png", segmentation, attention=attention, asking="T1",
                                 reference=segmentation)) == 6

    def test_colours_the_labels_of_that_slice_over_the_fused_image(self, segmentation: np.ndarray,
                                                                   tmp_path: Path) -> None:
        picture = panel(tmp_path / "case.png", segmentation).reshape(-1, 3)
        second = np.array([int(LABEL_COLOURS[1][start:start + 2], 16) for start in (1, 3, 5)])
        expected = 0.6 * second + 0.4 * 127.5
        assert (np.abs(picture - expected).max(axis=1) <= 2).sum() > 100
        first = np.array([int(LABEL_COLOURS[0][start:start + 2], 16) for start in (1, 3, 5)])
        assert not (np.abs(picture - (0.6 * first + 0.4 * 127.5)).max(axis=1) <= 2).any()

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
