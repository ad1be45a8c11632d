"""Rigid registration of two images of one body by mutual information, on small copies of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

#: Of the joint histogram, along each intensity.
BINS = 32
#: Axes that are shorter, in voxels of the small copies, say nothing of a shift along them or a turn that leaves them.
SHORTEST_AXIS = 8
#: Of the tissue's intensities: what lies beyond is clipped, as a vessel would leave a histogram few bins for the rest.
CLIPPED = (1.0, 99.0)
#: Kept around what is not 0, in voxels.
MARGIN = 4
SEED = 1


@dataclass(frozen=True)
class Detail:
    """How closely to look.

    Attributes:
        voxels: That the small copies have, about.
        samples: Points at which intensities are compared.
        levels: Factors by which the copies are made smaller still, one after the other.
    """

    voxels: int
    samples: int
    levels: tuple[int, ...]


#: To tell whether images are aligned, and to align them.
QUICK, CLOSE = Detail(100_000, 5_000, (2, 1)), Detail(200_000, 20_000, (4, 2, 1))


@dataclass(frozen=True)
class Rigid:
    """Where a moving image lies.

    Attributes:
        transform: From points of the reference image to those of the moving one.
        shift: Millimetres along the reference's axes x, y, z by which the middle of its body lies elsewhere in the moving image.
        turn: Degrees about that middle.
        off: By how many of the reference's voxels the body lies elsewhere, the root mean square over its points.
        information: Mutual information in nats as given, and at this place.
    """

    transform: sitk.Transform
    shift: tuple[float, float, float]
    turn: float
    off: float
    information: tuple[float, float]


def small_copy(image: sitk.Image, detail: Detail) -> sitk.Image:
    """A grey image, cropped to what is not 0, in fewer and larger voxels, clipped to the intensities of its tissue.

    Args:
        image: Scalar, of two or three axes.
        detail: How many voxels.

    Returns:
        Float32, its voxels where the image's are. An image of one slice loses that axis.
    """
    if image.GetDimension() == 3 and image.GetSize()[2] == 1:
        image = _slice(image)
    image = _cropped(sitk.Cast(image, sitk.sitkFloat32))
    small = sitk.BinShrink(image, _factors(image, detail.voxels))
    levels = sitk.GetArrayViewFromImage(small)
    tissue = levels[levels != 0]
    low, high = map(float, np.percentile(tissue, CLIPPED)) if tissue.size else (0.0, 0.0)
    return sitk.Clamp(small, lowerBound=min(low, 0.0), upperBound=max(high, 0.0))


def register(reference: sitk.Image, moving: sitk.Image, *, detail: Detail = QUICK,
             starts: Sequence[sitk.Transform] | None = None, voxel: Sequence[float] | None = None) -> Rigid | None:
    """Find the rigid movement at which two small copies tell most of each other.

    A regular step gradient descent on Mattes' mutual information, the same bit for bit for the same images.

    Args:
        reference: From :func:`small_copy`.
        moving: From :func:`small_copy`, of as many axes.
        detail: How closely to look.
        starts: Movements to start from, of which the best end counts; None for the place as given.
        voxel: Millimetres along x, y, z of the voxels that ``off`` is counted in; None for those of ``reference``.

    Returns:
        None where nothing can be told, as of an empty image or of two that do not overlap.

    Source: Mattes et al., PET-CT image registration in the chest using free-form deformations, 2003; as in SimpleITK.

    Example:
        >>> import numpy as np, SimpleITK as sitk
        >>> z, y, x = np.indices((40, 40, 40)) - 20
        >>> body = np.exp(-((x / 9) ** 2 + (y / 12) ** 2 + (z / 10) ** 2) ** 2).astype(np.float32)
        >>> moved = np.roll(body, 2, axis=2)
        >>> found = register(*(small_copy(sitk.GetImageFromArray(image), QUICK) for image in (body, moved)))
        >>> [abs(round(step)) for step in found.shift]
        [2, 0, 0]
    """
    middle = _middle(reference)
    as_given = _rigid(reference, middle)
    try:
        given = _information(reference, moving, as_given, detail)
        found = [_optimised(reference, moving, start, detail) for start in starts or [as_given]]
        informed = [(_information(reference, moving, transform, detail), transform) for transform in found]
    # ITK raises it of constant images, and where too few points of one lie within the other.
    except RuntimeError:
        return None
    best, transform = max(informed, key=lambda pair: pair[0])
    if not math.isfinite(given) or not math.isfinite(best):
        return None
    if best <= given:
        best, transform = given, as_given
    return Rigid(transform, *_movement(reference, transform, middle, voxel or reference.GetSpacing()), (given, best))


def moved(image: sitk.Image, reference: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """An image, grey or in colour, on the grid of another, as a movement puts it there.

    Linear, so that intensities stay within those that were there and 0 outside a brain stays 0; whole numbers are rounded.

    Args:
        image: Of any type of voxels, which it keeps.
        reference: Says the grid.
        transform: From points of ``reference`` to those of ``image``.

    Returns:
        The image; its least intensity where there was none, black in colour.
    """
    kind, depth = sitk.GetArrayViewFromImage(image).dtype, image.GetNumberOfComponentsPerPixel()
    least = float(sitk.GetArrayViewFromImage(image).min()) if depth == 1 else 0.0
    wide = sitk.Cast(image, sitk.sitkVectorFloat64 if depth > 1 else sitk.sitkFloat64)
    levels = sitk.GetArrayFromImage(sitk.Resample(wide, reference, transform, sitk.sitkLinear, least))
    placed = sitk.GetImageFromArray((levels if kind.kind == "f" else np.rint(levels)).astype(kind), isVector=depth > 1)
    placed.CopyInformation(reference)
    return placed


def starts_for(reference: sitk.Image, moving: sitk.Image) -> list[sitk.Transform]:
    """The place as given, and middle upon middle: two starts for images that may lie far off."""
    as_given = _rigid(reference, _middle(reference))
    centred = _rigid(reference, _middle(reference))
    centred.SetTranslation([there - here for here, there in zip(_middle(reference), _middle(moving), strict=True)])
    return [as_given, centred]


def _slice(image: sitk.Image) -> sitk.Image:
    """The one slice of a volume, as a picture with the spacing of its rows and columns, and no place in space but that."""
    flat = sitk.GetImageFromArray(sitk.GetArrayViewFromImage(image)[0])
    flat.SetSpacing(image.GetSpacing()[:2])
    return flat


def _cropped(image: sitk.Image) -> sitk.Image:
    filled = sitk.GetArrayViewFromImage(image) != 0
    # Rows and columns of what all slices hold together.
    flat = filled.any(axis=0) if filled.ndim == 3 else filled
    profiles = [flat.any(axis=0), flat.any(axis=1), *([filled.any(axis=(1, 2))] if filled.ndim == 3 else [])]
    if not flat.any():
        return image
    ends = [np.flatnonzero(profile)[[0, -1]].tolist() for profile in profiles]
    return image[tuple(slice(max(0, first - MARGIN), last + 1 + MARGIN) for first, last in ends)]


def _factors(image: sitk.Image, voxels: int) -> list[int]:
    """Voxels along each axis that become one, until about ``voxels`` are left: near to cubes, but no axis too short to tell."""
    spacing, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    factors = np.ones(len(size), int)
    while np.prod(size / factors) > voxels:
        can = np.flatnonzero(size / (factors + 1) >= 2 * SHORTEST_AXIS)
        if not can.size:
            break
        factors[min(can, key=lambda axis: (spacing[axis] * factors[axis], -size[axis]))] += 1
    return factors.tolist()


def _rigid(image: sitk.Image, middle: Sequence[float]) -> sitk.Euler2DTransform | sitk.Euler3DTransform:
    transform = sitk.Euler2DTransform() if image.GetDimension() == 2 else sitk.Euler3DTransform()
    transform.SetCenter(middle)
    return transform


def _middle(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(extent - 1) / 2 for extent in image.GetSize()])


def _method(reference: sitk.Image, detail: Detail) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    # Sums of several threads depend on which ends first.
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    # Regular points, each jittered: between voxels, so that no place is favoured for needing no interpolation.
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, detail.samples / reference.GetNumberOfPixels()), SEED)
    # They take no axis of fewer than four voxels.
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _information(reference: sitk.Image, moving: sitk.Image, transform: sitk.Transform, detail: Detail) -> float:
    method = _method(reference, detail)
    method.SetInitialTransform(transform)
    return -method.MetricEvaluate(reference, moving)


def _optimised(reference: sitk.Image, moving: sitk.Image, start: sitk.Transform, detail: Detail) -> sitk.Transform:
    method, step = _method(reference, detail), max(reference.GetSpacing())
    # Steps that halve at each turn of the gradient end before a turn of the body is found.
    method.SetOptimizerAsRegularStepGradientDescent(learningRate=step, minStep=0.02 * step, numberOfIterations=100,
                                                    relaxationFactor=0.8, gradientMagnitudeTolerance=1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetOptimizerWeights(_free_parameters(reference))
    method.SetShrinkFactorsPerLevel(detail.levels)
    method.SetSmoothingSigmasPerLevel([factor / 2 if factor > 1 else 0.0 for factor in detail.levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(reference, moving).GetBackTransform()


def _free_parameters(image: sitk.Image) -> list[float]:
    """1 for each parameter of the movement that the image can tell, turns before shifts; 0 for what short axes hide."""
    long = [float(extent >= SHORTEST_AXIS) for extent in image.GetSize()]
    if len(long) == 2:
        return [min(long), *long]
    return [min(long[1], long[2]), min(long[0], long[2]), min(long[0], long[1]), *long]


def _movement(reference: sitk.Image, transform: sitk.Transform, middle: Sequence[float],
              voxel: Sequence[float]) -> tuple[tuple[float, float, float], float, float]:
    """Shift, turn and off of :class:`Rigid`."""
    axes = len(middle)
    direction = np.reshape(reference.GetDirection(), (axes, axes))
    body = np.argwhere(sitk.GetArrayViewFromImage(reference) != 0)[:, ::-1]
    points = np.vstack([middle, reference.GetOrigin() + (body * reference.GetSpacing()) @ direction.T])
    rotation = np.reshape(transform.GetMatrix(), (axes, axes))
    along = ((points - middle) @ (rotation - np.eye(axes)).T + transform.GetTranslation()) @ direction
    cosine = rotation[0, 0] if axes == 2 else (np.trace(rotation) - 1) / 2
    shift = np.zeros(3)
    shift[:axes] = along[0]
    off = float(np.sqrt(((along[1:] / np.asarray(voxel)[:axes]) ** 2).sum(axis=1).mean()))
    return tuple(shift.tolist()), math.degrees(math.acos(np.clip(cosine, -1, 1))), off
