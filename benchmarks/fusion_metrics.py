"""The eight fusion metrics of one 256 x 256 pair, over sewar's VIF, scikit-learn's MI, scikit-image's SSIM and plain numpy."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
from sewar.full_ref import vifp
from skimage.metrics import structural_similarity
from sklearn.metrics import mutual_info_score
from timing import add_timing_flags, compare, measure, save, show

from fuse4seg.evaluation.fusion_metrics import METRICS, fusion_metrics

SIZE = 256


def example(seed: int) -> np.ndarray:
    """Smooth structures and noise, uint8."""
    random = np.random.default_rng(seed)
    image = gaussian_filter(random.random((SIZE, SIZE)), 3) + 0.02 * random.random((SIZE, SIZE))
    return (255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)


def of_others(fused: np.ndarray, sources: Sequence[np.ndarray]) -> dict[str, float]:
    """The same metrics by other people's code, and by numpy as one would write it down."""
    image, (first, second) = fused.astype(float), (source.astype(float) for source in sources)
    shares = np.histogram(fused, bins=256, range=(0, 256))[0] / fused.size
    differences = [np.mean(np.diff(image, axis=axis)**2) for axis in (0, 1)]

    def correlation(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])

    return {"EN": float(-sum(share * math.log2(share) for share in shares if share)), "SD": float(image.std()),
            "SF": math.sqrt(sum(differences)),
            "MI": sum(mutual_info_score(source.ravel(), fused.ravel()) for source in sources),
            "SCD": correlation(first, image - second) + correlation(second, image - first),
            "VIF": sum(float(vifp(source, image)) for source in (first, second)),
            "Qabf": qabf(image, first, second),
            "SSIM": sum(structural_similarity(source, image, data_range=255, gaussian_weights=True, sigma=1.5,
                                              use_sample_covariance=False) for source in (first, second))}


def qabf(fused: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Qabf in plain numpy, from the formula."""
    found, kept, whole = edges(fused), 0.0, 0.0
    for source in (first, second):
        strength, angle = edges(source)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(strength > found[0], found[0] / strength, strength / found[0])
        relative[~np.isfinite(relative)] = 1.0
        aligned = 1 - np.abs(angle - found[1]) / (np.pi / 2)
        quality = 0.9994 / (1 + np.exp(-15 * (relative - 0.5))) * 0.9879 / (1 + np.exp(-22 * (aligned - 0.8)))
        kept, whole = kept + (quality * strength).sum(), whole + strength.sum()
    return float(kept / whole)


def edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength and angle of Sobel's edges, 0 around the image."""
    around = np.pad(image, 1)
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    across, down = np.zeros_like(image), np.zeros_like(image)
    for row in range(3):
        for column in range(3):
            part = around[row:row + image.shape[0], column:column + image.shape[1]]
            across += kernel[row, column] * part
            down += kernel.T[row, column] * part
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.hypot(across, down), np.where(across == 0, np.pi / 2, np.arctan(down / across))


def main() -> None:
    """Compare values, then times."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_timing_flags(parser, rounds=20)
    options = parser.parse_args()
    sources = [example(0), example(1)]
    fused = np.maximum(*sources)
    ours, others = fusion_metrics(fused, sources), of_others(fused, sources)
    values = [{"metric": name, "ours": ours[name], "others": others[name], "difference": abs(ours[name] - others[name])}
              for name in METRICS]
    show(values)
    times = compare(measure({"ours": lambda: fusion_metrics(fused, sources), "others": lambda: of_others(fused, sources)},
                            rounds=options.rounds), peer="ours")
    show(times)
    save({"values": values, "times": times}, options.output)


if __name__ == "__main__":
    main()
