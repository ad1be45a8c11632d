"""A file of each format goes in and comes out: values, type and place, over dimensions, codes and orientations."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from fuse4seg.datasets.images import read_image
from fuse4seg.datasets.sources import find_sources
from fuse4seg.inference.fuse_folder import by_rule, fuse_folder
from fuse4seg.inference.image_files import image_written_whole, read_fused, write_fused, write_image

SHAPE = (4, 5, 6)
RNG = np.random.default_rng(0)
LABELS, SHARES = RNG.integers(0, 3, SHAPE).astype(np.uint8), RNG.random(SHAPE, dtype=np.float32)
LEVELS = RNG.integers(0, 256, (3, *SHAPE), dtype=np.uint8)
#: Axes of the file in the patient: as nibabel names them.
ORIENTATIONS = ("RAS", "LPS", "PSR", "AIL")
TILT = np.array([[1, 0, 0], [0, 1, np.tan(np.radians(15))], [0, 0, 1]])
ROUNDED = np.array([[1, 0, 0], [0, 1, 1e-3], [0, 0, 1]])
OBLIQUE = np.array(sitk.Euler3DTransform((0, 0, 0), 0.1, -0.2, 0.3).GetMatrix()).reshape(3, 3)


def affine_of(orientation: str, axes: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    turned = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(orientation), SHAPE[::-1])[:3, :3]
    affine[:3, :3] = axes @ turned @ np.diag([0.9, 1.1, 2.5])
    affine[:3, 3] = (-31, 12.5, 7)
    return affine


def place_of(path: Path) -> list[np.ndarray]:
    """All that says where an image lies, to be equal to the last digit."""
    if path.name.lower().endswith((".nii", ".nii.gz")):
        header = nibabel.load(path).header
        return [np.asarray(header[entry], dtype=np.float32) for entry in (
            "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
            "qoffset_y", "qoffset_z", "xyzt_units")] + [np.asarray(header["pixdim"][:4], dtype=np.float32)]
    image = sitk.ReadImage(str(path))
    return [np.asarray(image.GetSpacing()), np.asarray(image.GetOrigin()), np.asarray(image.GetDirection())]


def require_outputs(source: Path, reader: type[BaseReaderWriter], folder: Path) -> None:
    """Segmentation, probabilities or attention, fused image and luma lie where the source lies, with their values and types."""
    ending = source.name.removeprefix("a_0000")
    image = read_image(source, reader)
    properties, size = image.properties, image.voxels[0].shape
    labels, shares, levels = LABELS[:size[0]], SHARES[:size[0]], LEVELS[:, :size[0]]
    with image_written_whole(folder / f"labels{ending}", properties) as temporary:
        reader().write_seg(labels, str(temporary), properties)
    write_image(shares, folder / f"share_0000{ending}", properties)
    colour, *_ = write_fused(levels, folder, "colour", ending, properties)
    grey, *_ = write_fused(levels[:1], folder, "grey_one", ending, properties)
    for path in (folder / f"labels{ending}", folder / f"share_0000{ending}", colour, grey, folder / f"grey/colour{ending}"):
        # TIFF has no place in space, and ITK takes nnU-Net's of four slices for a picture of four channels.
        for found, wanted in zip(place_of(path), place_of(source), strict=True) if ending != ".tif" else ():
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6, err_msg=path.name)
    if reader is not Tiff3DIO:  # which wants a file of spacings beside each
        np.testing.assert_array_equal(read_image(folder / f"labels{ending}", reader).voxels[0], labels)
    eight_bits = not properties.keys() & {"sitk_stuff", "nibabel_stuff"}
    found = read_image(folder / f"share_0000{ending}", reader).voxels[0]
    np.testing.assert_array_equal(found, np.rint(shares * 255) if eight_bits else shares)
    for path, wanted in ((colour, levels), (grey, levels[:1])):
        found, again = read_fused(path, reader, colours=len(wanted))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(again["spacing"], properties["spacing"], rtol=1e-6)


READERS = ((".nii.gz", SimpleITKIO), (".nii.gz", NibabelIO), (".nii", NibabelIO), (".nii.gz", SimpleITKIOWithReorient),
           (".nii.gz", NibabelIOWithReorient))
CODES = ((1, 0), (0, 1), (2, 4), (1, 1))


@pytest.mark.parametrize(("ending", "reader", "codes", "orientation", "axes"), [
    # Every two of reader, codes, orientation and axes meet.
    *((*READERS[row], CODES[column], ORIENTATIONS[(row + column) % 4], (np.eye(3), OBLIQUE)[(row + column // 2) % 2])
      for row in range(5) for column in range(4)),
    # A rounded or tilted sform, alone, and beside a qform, which cannot say either.
    *((".nii.gz", reader, ((1, 0), (1, 1))[(row + column) % 2], orientation, (np.eye(3), OBLIQUE)[column // 2] @ ROUNDED)
      for row, reader in enumerate((SimpleITKIO, NibabelIO)) for column, orientation in enumerate(ORIENTATIONS)),
    *((".nii.gz", NibabelIO, ((1, 0), (2, 1))[column % 2], orientation, OBLIQUE @ TILT)
      for column, orientation in enumerate(ORIENTATIONS)),
])
def test_nifti(tmp_path: Path, ending: str, reader: type[BaseReaderWriter], codes: tuple[int, int], orientation: str,
               axes: np.ndarray) -> None:
    source, affine = tmp_path / f"a_0000{ending}", affine_of(orientation, axes)
    image = nibabel.Nifti1Image(RNG.random(SHAPE[::-1], dtype=np.float32), affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1], strip_shears=True)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, source)
    require_outputs(source, reader, tmp_path)


@pytest.mark.parametrize(("ending", "reader", "axes"), [
    (ending, (SimpleITKIO, SimpleITKIOWithReorient)[(row + column) % 2], axes) for row, ending in enumerate((".nrrd", ".mha"))
    for column, axes in enumerate((np.eye(3), OBLIQUE, np.diag([-1.0, -1, 1]), OBLIQUE @ ROUNDED, OBLIQUE @ TILT))])
def test_nrrd_and_mha(tmp_path: Path, ending: str, reader: type[BaseReaderWriter], axes: np.ndarray) -> None:
    image = sitk.GetImageFromArray(SHARES)
    image.SetSpacing((0.9, 1.1, 2.5))
    image.SetOrigin((-31, 12.5, 7))
    axes = axes / np.linalg.norm(axes, axis=0)
    image.SetDirection(axes.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / f"a_0000{ending}"))
    require_outputs(tmp_path / f"a_0000{ending}", reader, tmp_path)
    # What is NIfTI of any dataset is as sheared as the input.
    read = read_image(tmp_path / f"a_0000{ending}", reader)
    write_image(read.voxels[0], tmp_path / "share.nii.gz", read.properties)
    made = nibabel.load(tmp_path / "share.nii.gz")
    np.testing.assert_allclose(made.affine[:3], np.diag([-1, -1, 1]) @ np.c_[axes @ np.diag([0.9, 1.1, 2.5]), (-31, 12.5, 7)],
                               atol=1e-6)
    np.testing.assert_array_equal(np.asanyarray(made.dataobj), SHARES.T)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_flat_images_with_a_place(tmp_path: Path, ending: str) -> None:
    image = sitk.GetImageFromArray(SHARES[0])
    image.SetSpacing((0.9, 1.1))
    image.SetOrigin((-31, 12.5))
    sitk.WriteImage(image, str(tmp_path / f"a_0000{ending}"))
    require_outputs(tmp_path / f"a_0000{ending}", SimpleITKIO, tmp_path)


@pytest.mark.parametrize(("ending", "reader", "slices"), [(".png", NaturalImage2DIO, 1), (".bmp", NaturalImage2DIO, 1),
                                                          (".tif", Tiff3DIO, 4)])
def test_pictures(tmp_path: Path, ending: str, reader: type[BaseReaderWriter], slices: int) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(LEVELS[0] if slices > 1 else LEVELS[0, 0]), str(tmp_path / f"a_0000{ending}"))
    if ending == ".tif":
        for beside in ("a.json", "share.json"):
            (tmp_path / beside).write_text('{"spacing": [2.5, 1.1, 0.9]}')
    require_outputs(tmp_path / f"a_0000{ending}", reader, tmp_path)


@pytest.mark.parametrize(("ending", "colours", "axes"), [
    (".nii", 1, TILT), (".nii", 3, ROUNDED), (".nii.gz", 1, ROUNDED), (".nii.gz", 3, TILT), (".NII.GZ", 1, TILT),
    *((ending, colours, None) for ending in (".png", ".bmp") for colours in (1, 3))])
def test_fusing_by_a_rule(tmp_path: Path, ending: str, colours: int, axes: np.ndarray | None) -> None:
    """Of two equal sources, their maximum is the source, where it lies."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / f"a{ending}"
        if ending in (".png", ".bmp"):
            write_fused(LEVELS[:colours, :1], tmp_path / name, "a", ending, {})
            continue
        voxels = LEVELS[:colours].T.copy()
        stored = voxels[..., 0] if colours == 1 else voxels.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
        affine = affine_of("PSR", OBLIQUE @ axes)
        image = nibabel.Nifti1Image(stored, affine)
        image.set_sform(affine, 4)
        nibabel.save(image, tmp_path / f"a{ending.lower()}")
        (tmp_path / f"a{ending.lower()}").rename(path)
    assert fuse_folder(find_sources([tmp_path / "one", tmp_path / "other"]), tmp_path / "out", by_rule("max"), method={}) == []
    if axes is not None:
        for found, wanted in zip(place_of(tmp_path / "out/a.nii.gz"), place_of(tmp_path / f"one/a{ending}"), strict=True):
            np.testing.assert_array_equal(found, wanted)
    if colours == 1:
        made = tmp_path / "out" / ("a.png" if ending in (".png", ".bmp") else "a.nii.gz")
        found, _ = read_fused(made, NaturalImage2DIO if made.suffix == ".png" else NibabelIO)
        found = found[0]
        np.testing.assert_array_equal(found, LEVELS[0, :len(found)])
