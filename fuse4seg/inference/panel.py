"""Pictures of a case: sources, fused image, attention and segmentation side by side; and two sources on one checkerboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image as Picture
from scipy.ndimage import zoom
from torch import Tensor

from fuse4seg.colour import grey_levels
from fuse4seg.files import written_whole
from fuse4seg.inference.model import Model
from fuse4seg.inference.sliding_window import fuse_whole_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: One colour per label, in order; readable for colour-blind people (Okabe and Ito, 2008).
LABEL_COLOURS = ("#D55E00", "#56B4E9", "#F0E442", "#009E73", "#CC79A7", "#E69F00", "#0072B2")
#: More tiles than these go into two rows.
WIDEST_ROW = 5
#: How far each modality is raised for the legend, as a part of its intensity window.
RAISED = 0.1
#: Of the legend: the grey that a modality is raised from, and the height of its bar as a part of the picture's.
LEGEND_GREY, BAR = 0.35, 0.06
#: Pixels of an inch.
DPI = 100
#: Squares along the longest edge of a plane, and pixels along it.
SQUARES, EDGE = 8, 320
#: Between planes, in pixels.
GAP = 8


class Tile(NamedTuple):
    """One picture of a panel.

    Attributes:
        title: Above it.
        image: In [0, 1], shape (Y, X), or (Y, X, 3) in colour.
        heat: Laid over it, shape (Y, X).
        labels: Laid over it, shape (Y, X).
        hue: Colour of the bar under it, shape (3,).
    """

    title: str
    image: np.ndarray
    heat: np.ndarray | None = None
    labels: np.ndarray | None = None
    hue: np.ndarray | None = None


def telling_slice(segmentation: np.ndarray) -> int:
    """Index along Z of the slice with most foreground; the middle one if there is none.

    Args:
        segmentation: Shape (Z, Y, X).
    """
    foreground = (segmentation > 0).sum(axis=(1, 2))
    return int(foreground.argmax()) if foreground.any() else len(segmentation) // 2


def write_panel(path: Path, **shown: Any) -> None:
    """Write what :func:`draw_panel` draws as a PNG to ``path``."""
    from matplotlib import pyplot as plt  # takes its time to be imported

    figure = draw_panel(**shown)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
    plt.close(figure)


def panel_as_array(**shown: Any) -> np.ndarray:
    """What :func:`draw_panel` draws, uint8 of shape (Y, X, 3)."""
    from matplotlib import pyplot as plt

    figure = draw_panel(**shown)
    figure.set_dpi(DPI)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return picture


def draw_panel(*, sources: np.ndarray, names: Sequence[str], fused: np.ndarray, segmentation: np.ndarray | None,
               legend: np.ndarray | None = None, attention: Mapping[int, np.ndarray] | None = None, asking: str = "",
               reference: np.ndarray | None = None) -> Figure:
    """Draw the slice with most foreground, or the brightest one where nothing is segmented; the caller closes the figure.

    Args:
        sources: Shape (N, Z, Y, X), any intensities; each is stretched between its 1st and 99.5th percentile.
        names: Of the N modalities.
        fused: In 0..255, shape (C, Z, Y, X).
        segmentation: Predicted labels, shape (Z, Y, X), or None.
        legend: Change of the image's channels over that of each modality, shape (N, 3), a bar of colour under each; or None.
        attention: Relative attention to some of the sources, by their indices, each of shape (Z, Y, X); None to show none.
        asking: Name of what looked at them.
        reference: True labels, shown beside them, or None.
    """
    labels = segmentation if reference is None else reference
    index = int(fused.sum(axis=(0, 2, 3)).argmax()) if labels is None else telling_slice(labels)
    shown = np.moveaxis(fused[:, index], 0, -1) / 255
    shown = shown if shown.shape[-1] > 1 else shown[..., 0]
    # What a segmentation lies over must not have colours of its own.
    beneath = grey_levels(fused[:, index]) / 255
    hues = [None] * len(names) if legend is None else legend_colours(legend)
    tiles = [Tile(name, stretched(source)[index], hue=hue) for name, source, hue in zip(names, sources, hues, strict=True)]
    tiles.append(Tile("fused", shown))
    tiles += [Tile(f"{asking} looks at {names[source]}", stretched(sources[source])[index], heat=heat[index])
              for source, heat in (attention or {}).items()]
    results = {"segmentation": segmentation, "reference": reference}
    tiles += [Tile(title, beneath, labels=found[index]) for title, found in results.items() if found is not None]
    return _draw(tiles)


def measure_legend(model: Model, channels: Tensor, *, present: Sequence[bool] | None = None) -> np.ndarray:
    """What each modality colours: fuse a case again with each modality raised a little everywhere inside.

    Args:
        model: Loaded; its first set of weights is measured.
        channels: Preprocessed, shape (C, Z, Y, X).
        present: Which modalities the case has; None for all.

    Returns:
        Mean change of each channel of the image over the change of each modality, shape (N, C); 0 of absent modalities.
    """
    network = next(model.with_each_weights())

    def fused(of: Tensor) -> Tensor:
        return fuse_whole_image(network, of, patch_size=model.patch_size, device=model.device, present=present).fused

    before = fused(channels)
    inside = (before > 0).any(dim=0)
    steps = RAISED * (network.window.high - network.window.low).cpu()
    changes = torch.zeros(network.modalities, model.colours)
    for modality in range(network.modalities):
        if present is None or present[modality]:
            raised = channels.clone()
            raised[modality][inside] += steps[modality]
            changes[modality] = (fused(raised) - before)[:, inside].mean(dim=1) / RAISED
    return changes.numpy()


def legend_colours(legend: np.ndarray) -> np.ndarray:
    """Colours (N, 3) in [0, 1] of a grey voxel in which one modality is raised, all by the same amount."""
    return np.clip(LEGEND_GREY + (1 - LEGEND_GREY) * legend / max(float(np.abs(legend).max()), 1e-6), 0, 1)


def stretched(source: np.ndarray) -> np.ndarray:
    """An image of any intensities in [0, 1], black and white at percentiles 1 and 99.5 of all but its background."""
    inside = source[source != source.flat[0]] if np.ptp(source) else source
    low, high = np.percentile(inside, (1, 99.5))
    return np.clip((source - low) / max(high - low, 1e-6), 0, 1)


def _draw(tiles: Sequence[Tile]) -> Figure:
    from matplotlib import pyplot as plt

    rows = 1 if len(tiles) <= WIDEST_ROW else 2
    columns = -(-len(tiles) // rows)
    height, width = tiles[0].image.shape[:2]
    figure, axes = plt.subplots(rows, columns, squeeze=False, constrained_layout=True, facecolor="black",
                                figsize=(2.2 * columns, rows * (2.2 * height / width + 0.3)))
    for axis in axes.flat:
        axis.axis("off")
    for axis, tile in zip(axes.flat, tiles, strict=False):
        axis.imshow(tile.image, cmap="gray", vmin=0, vmax=1)
        if tile.heat is not None:
            axis.imshow(tile.heat, cmap="inferno", alpha=0.5)
        if tile.labels is not None:
            axis.imshow(coloured(tile.labels))
        if tile.hue is not None:
            axis.add_patch(plt.Rectangle((0, 0), 1, BAR, transform=axis.transAxes, color=tuple(tile.hue)))
        axis.set_title(tile.title, color="white", fontsize=9)
    return figure


def coloured(labels: np.ndarray) -> np.ndarray:
    """RGBA of a label slice (Y, X); background is clear."""
    from matplotlib.colors import to_rgba

    picture = np.zeros((*labels.shape, 4))
    for value in np.unique(labels[labels > 0]):
        picture[labels == value] = to_rgba(LABEL_COLOURS[(int(value) - 1) % len(LABEL_COLOURS)], alpha=0.6)
    return picture


def checkerboard(reference: np.ndarray, moving: np.ndarray, spacing: Sequence[float], *, squares: int = SQUARES) -> np.ndarray:
    """Squares of two images in turns, in the three planes through the middle of the reference image's body.

    Args:
        reference: Any intensities, shape (Z, Y, X); the first square of each plane, at the top left, is its.
        moving: Shape (Z, Y, X).
        spacing: Millimetres along Z, Y, X, to show planes in their proportions.
        squares: Along the longest edge of a plane.

    Returns:
        Levels in 0..255, uint8, the planes across Z, Y and X side by side, heads up, where Z goes from foot to head; the only
        slice of an image that has one.

    Example:
        >>> checkerboard(np.eye(40)[None], np.eye(40)[None], (1, 1, 1)).shape
        (320, 320)
    """
    images = [stretched(image) for image in (reference, moving)]
    filled = np.argwhere(images[0] > images[0].min())
    middle = (filled.min(axis=0) + filled.max(axis=0)) // 2 if len(filled) else np.array(reference.shape) // 2
    planes = []
    for axis in range(1 if len(reference) == 1 else 3):
        pair = [np.take(image, middle[axis], axis=axis) for image in images]
        pair = [plane if axis == 0 else plane[::-1] for plane in pair]
        planes.append(_in_turns(*(_enlarged(plane, np.delete(np.asarray(spacing, float), axis)) for plane in pair), squares))
    height = max(len(plane) for plane in planes)
    framed = [np.pad(plane, ((0, height - len(plane)), (0, GAP if number + 1 < len(planes) else 0)))
              for number, plane in enumerate(planes)]
    return np.rint(255 * np.concatenate(framed, axis=1)).astype(np.uint8)


def write_checkerboard(path: Path, reference: np.ndarray, moving: np.ndarray, spacing: Sequence[float]) -> None:
    """Write :func:`checkerboard` as a PNG.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    with written_whole(path) as temporary:
        Picture.fromarray(checkerboard(reference, moving, spacing)).save(temporary)


def _enlarged(plane: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """A plane whose longest edge has EDGE pixels, in its proportions."""
    extent = plane.shape * spacing
    pixels = np.maximum(1, np.rint(EDGE * extent / extent.max()))
    return np.clip(zoom(plane, pixels / plane.shape, order=1, grid_mode=True, mode="nearest"), 0, 1)


def _in_turns(one: np.ndarray, other: np.ndarray, squares: int) -> np.ndarray:
    rows, columns = (np.arange(extent) * squares // EDGE for extent in one.shape)
    return np.where((rows[:, None] + columns) % 2 == 0, one, other)
