"""Phantom: seeded MRI heads with a tumour of three classes, none of the four modalities telling all three.

What each modality shows, by design (healthy means grey matter, white matter, ventricles and sulci):

========  ================================  ==============================================
modality  stands out                        hidden
========  ================================  ==============================================
T1        nothing                           core as ventricle, rim as grey matter, oedema
T1ce      enhancing rim                     core as ventricle, oedema
T2        nothing                           one class from another, all nearly as fluid
FLAIR     the tumour as a whole             one class from another
========  ================================  ==============================================

On T1 and T1ce the oedema has no intensity of its own: the tissue below shows unchanged. No modality alone tells all
three classes from each other and from healthy tissue; T1ce and FLAIR together do. FLAIR has no dark core, because a
network would take the shell around it for the rim.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation

from fuse4seg.errors import AmbiguousDatasetError, DatasetExistsError, OptionError, UnwritableFolderError
from fuse4seg.files import make_writable_folder, write_json
from fuse4seg.progress import progress

logger = logging.getLogger(__name__)

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
REFERENCE = "T1ce"
LABELS = {"background": 0, "necrotic_core": 1, "oedema": 2, "enhancing_tumour": 3}
SHAPE = (64, 80, 72)
SMALLEST_AXIS = 32

OUTSIDE, FLUID, GREY, WHITE, CORE, OEDEMA, RIM = range(7)
# Mean intensity of each tissue; None shows the healthy tissue below.
CONTRASTS: dict[str, dict[int, float | None]] = {
    "T1": {FLUID: 0.30, GREY: 0.55, WHITE: 0.75, CORE: 0.30, OEDEMA: None, RIM: 0.55},
    "T1ce": {FLUID: 0.30, GREY: 0.52, WHITE: 0.66, CORE: 0.30, OEDEMA: None, RIM: 1.00},
    "T2": {FLUID: 0.95, GREY: 0.60, WHITE: 0.48, CORE: 0.90, OEDEMA: 0.90, RIM: 0.90},
    "FLAIR": {FLUID: 0.20, GREY: 0.58, WHITE: 0.50, CORE: 0.92, OEDEMA: 0.92, RIM: 0.92},
}
PARTIAL_VOLUME = 0.5
FAINTEST = 1e-3


@dataclass(frozen=True)
class Phantom:
    """A head.

    Attributes:
        images: Intensities, shape (4, Z, Y, X) in the order of MODALITIES, float32. Positive in the brain, exactly 0
            outside; every modality has its own scale, as in MRI.
        label: Classes as in LABELS, shape (Z, Y, X), uint8, on the grid of REFERENCE.
        spacing: Millimetres between voxels along (Z, Y, X).
    """

    images: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]


def make_phantom(seed: int, *, shape: tuple[int, int, int] = SHAPE,
                 spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), noise: float = 0.03, bias: float = 0.1,
                 misalignment: float = 0.0) -> Phantom:
    """One head, the same bit for bit for the same arguments.

    Args:
        seed: Decides anatomy, tumour, intensity scales, bias and noise.
        shape: Voxels along (Z, Y, X): from foot to head, from front to back, from right to left; each at least 32.
        spacing: Millimetres between voxels. It is only carried along: the anatomy fills the grid.
        noise: Standard deviation of the noise in both parts of the complex MRI signal; the brightest tissue is 1.
        bias: Standard deviation of the logarithm of the smooth bias field that each image is multiplied by.
        misalignment: Every modality but REFERENCE is shifted by up to this many voxels along, and turned by up to this
            many degrees about, each axis.

    Raises:
        OptionError: A shape too small for a head, or a negative amount.
    """
    _require_valid(shape, noise=noise, bias=bias, misalignment=misalignment)
    anatomy_seed, *modality_seeds = np.random.SeedSequence(seed).spawn(1 + len(MODALITIES))
    healthy, tissue = _draw_anatomy(np.random.default_rng(anatomy_seed), shape)
    images = [_acquire(np.random.default_rng(modality_seed), modality, healthy=healthy, tissue=tissue, noise=noise,
                       bias=bias, misalignment=0.0 if modality == REFERENCE else misalignment)
              for modality, modality_seed in zip(MODALITIES, modality_seeds, strict=True)]
    label = np.zeros(shape, np.uint8)
    for value, drawn in enumerate((CORE, OEDEMA, RIM), start=1):
        label[tissue == drawn] = value
    return Phantom(np.stack(images), label, spacing)


def write_phantom_dataset(raw_root: Path, *, dataset_id: int = 999, name: str = "Phantom", training_cases: int = 12,
                          test_cases: int = 4, seed: int = 0, modalities: Sequence[str] = MODALITIES,
                          shape: tuple[int, int, int] = SHAPE, misalignment: float = 0.0,
                          overwrite: bool = False) -> Path:
    """Write phantoms as a raw dataset in nnU-Net's layout, the test cases with labels, too; whole or not at all.

    Args:
        raw_root: The folder nnUNet_raw; made if it does not exist.
        dataset_id: 1 to 999.
        name: The dataset is called Dataset<id>_<name>.
        training_cases: At least 1.
        test_cases: 0 or more.
        seed: Decides all cases. The first cases do not depend on how many follow.
        modalities: Channels of the dataset, in order, out of MODALITIES.
        shape: As in :func:`make_phantom`.
        misalignment: As in :func:`make_phantom`.
        overwrite: Replace a dataset of the same id and name.

    Returns:
        The dataset's folder.

    Raises:
        DatasetExistsError: The folder exists and ``overwrite`` is false.
        AmbiguousDatasetError: The id is taken by another name.
        OptionError: A number, name or modality that cannot be.
        UnwritableFolderError: The folder cannot be written to.
    """
    _require_name(dataset_id, name)
    _require_content(training_cases, test_cases, modalities=modalities)
    folder = raw_root / f"Dataset{dataset_id:03d}_{name}"
    _require_free(folder, overwrite=overwrite)
    groups = ["Tr"] * training_cases + ["Ts"] * test_cases
    seeds = np.random.SeedSequence(seed).generate_state(len(groups)).tolist()
    with _folder_written_whole(folder) as partial:
        for number, case_seed in enumerate(progress(seeds, "making phantoms", unit="case")):
            phantom = make_phantom(case_seed, shape=shape, misalignment=misalignment)
            _write_case(partial, f"{name.lower()}_{number:03d}", group=groups[number], phantom=phantom,
                        modalities=modalities, seed=case_seed)
        write_json(_describe(modalities, training_cases), partial / "dataset.json")
    return folder


def _require_valid(shape: Sequence[int], **amounts: float) -> None:
    if len(shape) != 3 or min(shape) < SMALLEST_AXIS:
        raise OptionError("shape", f"{tuple(shape)} holds no head. Give three axes of {SMALLEST_AXIS} voxels or more.")
    for name, amount in amounts.items():
        if amount < 0:
            raise OptionError(name, f"{amount} is negative. Give 0 or more.")


def _draw_anatomy(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Tissue of the healthy head, and of the same head with its tumour."""
    healthy = _draw_brain(rng, shape)
    return healthy, _grow_tumour(rng, healthy)


def _draw_brain(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Folded cortex around white matter, deep grey matter, ventricles, and the fissure between the hemispheres."""
    scale = min(shape) / min(SHAPE)
    z, y, x = _coordinates(shape)
    axes = rng.uniform(0.88, 0.97, 3)
    radius = np.sqrt((z / axes[0]) ** 2 + (y / axes[1]) ** 2 + (x / axes[2]) ** 2)
    depth = (1 - radius - 0.02 * _smooth_field(rng, shape, 8 * scale)) * min(SHAPE) / 2
    sulci = np.abs(_smooth_field(rng, shape, 3 * scale))
    fissure = np.abs(x + 0.02 * _smooth_field(rng, shape, 10 * scale))
    above = z > -0.2
    cortex = (depth < 3) | ((sulci < 0.5) & (depth < 8)) | ((fissure < 0.1) & (depth < 11) & above)
    tissue = np.where(cortex, GREY, WHITE)
    tissue[_deep_grey(rng, z, y, x)] = GREY
    tissue[((sulci < 0.12) & (depth < 6)) | ((fissure < 0.03) & (depth < 10) & above)] = FLUID
    tissue[_ventricles(rng, z, y, x)] = FLUID
    tissue[depth < 0] = OUTSIDE
    return tissue.astype(np.uint8)


def _deep_grey(rng: np.random.Generator, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    side, back = rng.uniform(0.24, 0.3), rng.uniform(-0.05, 0.1)
    return ((np.abs(x) - side) / 0.13) ** 2 + ((y - back) / 0.28) ** 2 + ((z + 0.1) / 0.2) ** 2 < 1


def _ventricles(rng: np.random.Generator, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Two horns that bend outwards to the back, and the slit of the third ventricle."""
    width, length, height = rng.uniform(0.08, 0.13), rng.uniform(0.45, 0.58), rng.uniform(0.13, 0.2)
    bend = 0.1 + 0.28 * np.clip(y + 0.1, 0, None)
    horns = ((np.abs(x) - bend) / width) ** 2 + (y / length) ** 2 + ((z - 0.12 + 0.25 * y**2) / height) ** 2 < 1
    return horns | ((x / 0.03) ** 2 + (y / 0.2) ** 2 + ((z + 0.12) / 0.18) ** 2 < 1)


def _grow_tumour(rng: np.random.Generator, healthy: np.ndarray) -> np.ndarray:
    """The head with a core, a rim of uneven thickness, and oedema that reaches further to one side and spares fluid."""
    shape, scale = healthy.shape, min(healthy.shape) / min(SHAPE)
    centre = _tumour_centre(rng, healthy)
    solid = rng.uniform(10, 12.5) * scale
    distance = _uneven_distance(rng, shape, centre)
    thickness = scale * np.clip(3 + 1.1 * _smooth_field(rng, shape, 4 * scale), 1.5, 6)
    drift = rng.normal(size=3)
    drift *= rng.uniform(2, 4) * scale / np.linalg.norm(drift)
    swollen = _uneven_distance(rng, shape, centre + drift) < solid + rng.uniform(2.5, 4.5) * scale
    tissue = healthy.copy()
    tissue[swollen & ((healthy == GREY) | (healthy == WHITE))] = OEDEMA
    tissue[(distance < solid) & (healthy != OUTSIDE)] = RIM
    tissue[(distance < solid - thickness) & (healthy != OUTSIDE)] = CORE
    return tissue


def _tumour_centre(rng: np.random.Generator, healthy: np.ndarray) -> np.ndarray:
    """A place in the middle of a hemisphere, in voxels."""
    half = (np.array(healthy.shape) - 1) / 2
    side = rng.choice([-1, 1])
    return half * (1 + np.array([rng.uniform(-0.15, 0.35), rng.uniform(-0.4, 0.4), side * rng.uniform(0.32, 0.5)]))


def _uneven_distance(rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray) -> np.ndarray:
    """Distance to ``centre`` in voxels, stretched and roughened, so that its level sets are lumpy ellipsoids."""
    offsets = np.moveaxis(np.indices(shape, dtype=np.float32), 0, -1) - centre
    stretched = offsets @ Rotation.random(rng=rng).as_matrix() * rng.uniform(0.85, 1.2, 3)
    return np.linalg.norm(stretched, axis=-1) * (1 + 0.12 * _smooth_field(rng, shape, 4 * min(shape) / min(SHAPE)))


def _acquire(rng: np.random.Generator, modality: str, *, healthy: np.ndarray, tissue: np.ndarray, noise: float,
             bias: float, misalignment: float) -> np.ndarray:
    """Image of one modality: contrast, partial volume, bias, misalignment, noise of a magnitude image, and scale."""
    brain = healthy != OUTSIDE
    signal = gaussian_filter(_contrast(modality, healthy, tissue), PARTIAL_VOLUME)
    scale = rng.uniform(300, 1500)
    signal *= np.exp(bias * _smooth_field(rng, signal.shape, min(signal.shape) / 4))
    if misalignment:
        signal, brain = _move(rng, signal, brain, misalignment)
    parts = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(noise)
    magnitude = np.maximum(np.hypot(signal + parts[0], parts[1]), FAINTEST)
    return np.where(brain, scale * magnitude, 0).astype(np.float32)


def _contrast(modality: str, healthy: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    means = CONTRASTS[modality]
    table = np.array([0.0, *(means[kind] or 0.0 for kind in range(FLUID, RIM + 1))], np.float32)
    shown = np.where(np.isin(tissue, [kind for kind, mean in means.items() if mean is None]), healthy, tissue)
    return table[shown]


def _move(rng: np.random.Generator, signal: np.ndarray, brain: np.ndarray,
          misalignment: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn about the middle of the grid and shift; linear for the signal, nearest for the brain's outline."""
    shift, angles = rng.uniform(-misalignment, misalignment, (2, 3))
    matrix = Rotation.from_euler("zyx", angles, degrees=True).as_matrix()
    middle = (np.array(signal.shape) - 1) / 2
    offset = middle - matrix @ middle + shift
    return affine_transform(signal, matrix, offset, order=1), affine_transform(brain, matrix, offset, order=0)


def _coordinates(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Position along each axis, -1 at its first and 1 at its last voxel."""
    return np.meshgrid(*(np.linspace(-1, 1, length, dtype=np.float32) for length in shape), indexing="ij")


def _smooth_field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian random field with mean 0, standard deviation 1 and correlation over about ``sigma`` voxels."""
    field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=3)
    return (field - field.mean()) / field.std()


def _require_name(dataset_id: int, name: str) -> None:
    if not 1 <= dataset_id <= 999:
        raise OptionError("dataset_id", f"{dataset_id} is no dataset id. Give a number from 1 to 999.")
    if not name or not name.isalnum():
        raise OptionError("name", f"{name!r} is no dataset name. Use letters and digits.")


def _require_content(training_cases: int, test_cases: int, *, modalities: Sequence[str]) -> None:
    if training_cases < 1 or test_cases < 0:
        problem = f"{training_cases} training and {test_cases} test cases cannot be made. Give at least 1 and 0."
        raise OptionError("training_cases, test_cases", problem)
    if not modalities or len(set(modalities) & set(MODALITIES)) < len(modalities):
        problem = f"{', '.join(modalities) or 'none'} cannot be made. Choose, once each, from {', '.join(MODALITIES)}."
        raise OptionError("modalities", problem)


def _require_free(folder: Path, *, overwrite: bool) -> None:
    namesakes = [other.name for other in folder.parent.glob(f"{folder.name.split('_')[0]}_*") if other != folder]
    if namesakes:
        raise AmbiguousDatasetError(folder.name.split("_")[0].removeprefix("Dataset"), [folder.name, *namesakes])
    if folder.exists() and not overwrite:
        raise DatasetExistsError(folder)


@contextmanager
def _folder_written_whole(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder``; put it in its place when the block succeeds, delete it when it fails."""
    make_writable_folder(folder.parent)
    partial, replaced = (folder.with_name(f".{os.getpid()}.{state}.{folder.name}") for state in ("partial", "replaced"))
    try:
        partial.mkdir()
        yield partial
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    except OSError as error:
        raise UnwritableFolderError(folder.parent, error.strerror or str(error)) from error
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _write_case(folder: Path, case: str, *, group: str, phantom: Phantom, modalities: Sequence[str],
                seed: int) -> None:
    for kind in ("images", "labels"):
        (folder / f"{kind}{group}").mkdir(exist_ok=True)
    origin, direction = _draw_position(np.random.default_rng(seed))
    grids = {folder / f"images{group}" / f"{case}_{channel:04d}.nii.gz": phantom.images[MODALITIES.index(modality)]
             for channel, modality in enumerate(modalities)}
    grids[folder / f"labels{group}" / f"{case}.nii.gz"] = phantom.label
    for path, voxels in grids.items():
        image = SimpleITK.GetImageFromArray(voxels)
        image.SetSpacing(phantom.spacing[::-1])
        image.SetOrigin(origin)
        image.SetDirection(direction)
        try:
            SimpleITK.WriteImage(image, str(path), useCompression=True)
        except RuntimeError as error:
            raise UnwritableFolderError(path.parent, "the disk may be full") from error


def _draw_position(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Origin in millimetres and direction cosines of a head that lies somewhat tilted, x and y reversed."""
    tilt = Rotation.from_euler("xyz", rng.uniform(-12, 12, 3), degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0])
    return rng.uniform(-120, 120, 3).tolist(), tilt.ravel().tolist()


def _describe(modalities: Sequence[str], training_cases: int) -> dict[str, object]:
    return {"channel_names": {str(channel): modality for channel, modality in enumerate(modalities)}, "labels": LABELS,
            "numTraining": training_cases, "file_ending": ".nii.gz"}
