"""The checkerboard: squares in turns, planes in their proportions, and edges that break where images lie apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Picture

from fuse4seg.inference.checkerboard import EDGE, GAP, SQUARES, checkerboard, write_checkerboard

SQUARE = EDGE // SQUARES


def halves(shape: tuple[int, ...], *, bright: slice) -> np.ndarray:
    image = np.zeros(shape)
    image[..., bright] = 1
    return image


def test_squares_take_turns() -> None:
    """Of two pictures that are bright in opposite halves: white and black change at every border but the middle one."""
    left, right = halves((1, 32, 32), bright=slice(0, 16)), halves((1, 32, 32), bright=slice(16, 32))
    board = checkerboard(left, right, (1, 1, 1))
    middles = board[SQUARE // 2::SQUARE, SQUARE // 2::SQUARE]
    rows, columns = np.indices(middles.shape)
    np.testing.assert_array_equal(middles, np.where(((rows + columns) % 2 == 0) == (columns < SQUARES // 2), 255, 0))


def test_is_the_image_itself_of_two_that_are_the_same() -> None:
    image = np.random.default_rng(0).random((1, 64, 64))
    np.testing.assert_array_equal(checkerboard(image, 7 * image + 3, (1, 1, 1)), checkerboard(image, image, (1, 1, 1)))


def test_shows_three_planes_of_a_volume_in_their_proportions() -> None:
    """10 slices of 4 mm, 40 x 20 voxels of 1 mm."""
    board = checkerboard(np.ones((10, 40, 20)), np.ones((10, 40, 20)), (4, 1, 1))
    widths = EDGE // 2, EDGE // 2, EDGE
    assert board.shape == (EDGE, sum(widths) + 2 * GAP)


def test_shows_the_head_above_the_foot() -> None:
    volume = halves((16, 16, 16), bright=slice(None)) * np.where(np.arange(16) < 8, 0.01, 1)[:, None, None]
    board = checkerboard(volume, volume, (1, 1, 1))
    coronal = board[:, EDGE + GAP:2 * EDGE + GAP]
    assert coronal[:EDGE // 4].mean() > 200 > 60 > coronal[-EDGE // 4:].mean()


def test_writes_a_picture(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((1, 24, 24))
    write_checkerboard(tmp_path / "a.png", image, image[:, ::-1], (1, 1, 1))
    np.testing.assert_array_equal(np.asarray(Picture.open(tmp_path / "a.png")), checkerboard(image, image[:, ::-1], (1, 1, 1)))
