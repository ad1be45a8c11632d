"""The checkerboard: squares in turns, planes in their proportions, and edges that break where images lie apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Picture

from fuse4seg.inference.checkerboard import EDGE, GAP, SQUARES, checkerboard, write_checkerboard

SQUARE = EDGE // SQUARES


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
