"""One picture per case: sources, fused image, attention and segmentation, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgba

from fuse4seg.files import written_whole

#: One colour per label, in order; readable for colour-blind people (Okabe and Ito, 2008).
LABEL_COLOURS = ("#D55E00", "#56B4E9", "#F0E442", "#009E73", "#CC79A7", "#E69F00", "#0072B2")
#: More tiles than these go into two rows.
WIDEST_ROW = 5


def telling_slice(segmentation: np.ndarray) -> int:
    """Index along Z of the slice with most foreground; the middle one if there is none.

    Args:
        segmentation: Shape (Z, Y, X).
    """
    foreground = (segmentation > 0).sum(axis=(1, 2))
    return int(foreground.argmax()) if foreground.any() else len(segmentation) // 2


def write_panel(path: Path, *, sources: np.ndarray, names: Sequence[str], fused: np.ndarray, segmentation: np.ndarray | None,
                attention: Mapping[int, np.ndarray] | None = None, asking: str = "",
                reference: np.ndarray | None = None) -> None:
    """Write a PNG of the slice with most foreground, or of the brightest one where nothing is segmented.

    Args:
        path: Target.
        sources: Shape (N, Z, Y, X), any intensities; each is stretched between its 1st and 99.5th percentile.
        names: Of the N modalities.
        fused: In [0, 1], shape (Z, Y, X).
        segmentation: Predicted labels, shape (Z, Y, X), or None.
        attention: Relative attention to some of the sources, by their indices, each of shape (Z, Y, X); None to show none.
        asking: Name of what looked at them.
        reference: True labels, shown beside them, or None.
    """
    labels = segmentation if reference is None else reference
    index = int(fused.sum(axis=(1, 2)).argmax()) if labels is None else telling_slice(labels)
    tiles = [(name, _stretched(source)[index], None, None) for name, source in zip(names, sources, strict=True)]
    tiles.append(("fused", np.clip(fused[index], 0, 1), None, None))
    tiles += [(f"{asking} looks at {names[source]}", _stretched(sources[source])[index], heat[index], None)
              for source, heat in (attention or {}).items()]
    if segmentation is not None:
        tiles.append(("segmentation", np.clip(fused[index], 0, 1), None, segmentation[index]))
    if reference is not None:
        tiles.append(("reference", np.clip(fused[index], 0, 1), None, reference[index]))
    figure = _draw(tiles)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=100, facecolor="black")
    plt.close(figure)


def _stretched(source: np.ndarray) -> np.ndarray:
    inside = source[source != source.flat[0]] if np.ptp(source) else source
    low, high = np.percentile(inside, (1, 99.5))
    return np.clip((source - low) / max(high - low, 1e-6), 0, 1)


def _draw(tiles: Sequence[tuple[str, np.ndarray, np.ndarray | None, np.ndarray | None]]) -> plt.Figure:
    rows = 1 if len(tiles) <= WIDEST_ROW else 2
    columns = -(-len(tiles) // rows)
    height, width = tiles[0][1].shape
    figure, axes = plt.subplots(rows, columns, squeeze=False, constrained_layout=True,
                                figsize=(2.2 * columns, rows * (2.2 * height / width + 0.3)))
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, grey, heat, labels) in zip(axes.flat, tiles, strict=False):
        axis.imshow(grey, cmap="gray", vmin=0, vmax=1)
        if heat is not None:
            axis.imshow(heat, cmap="inferno", alpha=0.5)
        if labels is not None:
            axis.imshow(_coloured(labels))
        axis.set_title(title, color="white", fontsize=9)
    return figure


def _coloured(labels: np.ndarray) -> np.ndarray:
    """RGBA of a label slice (Y, X); background is clear."""
    picture = np.zeros((*labels.shape, 4))
    for value in np.unique(labels[labels > 0]):
        picture[labels == value] = to_rgba(LABEL_COLOURS[(int(value) - 1) % len(LABEL_COLOURS)], alpha=0.6)
    return picture
