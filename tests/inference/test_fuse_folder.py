"""Fusing folders: rules and models, what is written, in which format and colour, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image as Picture

from fuse4seg.datasets.grey_images import GreyImage, read_grey_image
from fuse4seg.datasets.sources import find_sources
from fuse4seg.errors import OptionError
from fuse4seg.inference.fuse_folder import blended_chroma, by_model, by_rule, fuse_folder, write_beside
from fuse4seg.inference.fusion_rules import fuse_by_rule
from fuse4seg.inference.model import Model, load_model
from fuse4seg.inference.predict_folder import predict_folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """A grey and a colour folder of two cases."""
    random = np.random.default_rng(0)
    for name, shape in (("MRI", (20, 24)), ("PET", (20, 24, 3))):
        (tmp_path / name).mkdir()
        for case in "ab":
            Picture.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / name / f"{case}.png")
    return [tmp_path / "MRI", tmp_path / "PET"]


@pytest.fixture
def model(untrained_model: Path) -> Model:
    """The phantom's model, which learnt nothing."""
    return load_model(untrained_model, folds=(0,), device=torch.device("cpu"))


def test_a_rule_fuses_luma_and_gives_colour_back(folders: list[Path], tmp_path: Path) -> None:
    assert fuse_folder(find_sources(folders), tmp_path / "out", by_rule("max"), method={"rule": "max"}) == []
    luma = np.asarray(Picture.open(folders[1] / "a.png").convert("L"))
    expected = np.maximum(luma, np.asarray(Picture.open(folders[0] / "a.png")))
    np.testing.assert_array_equal(np.asarray(Picture.open(tmp_path / "out" / "grey" / "a.png")), expected)
    assert Picture.open(tmp_path / "out" / "a.png").mode == "RGB"
    assert json.loads((tmp_path / "out" / "fused.json").read_text())["method"] == {"rule": "max"}


def test_the_colour_rule_gives_pictures_in_colour_and_their_luma(folders: list[Path], tmp_path: Path) -> None:
    sources = find_sources(folders)
    assert fuse_folder(sources, tmp_path / "out", by_rule("colour"), method={"rule": "colour"}) == []
    read = [read_grey_image(folder / "b.png").levels for folder in folders]
    with Picture.open(tmp_path / "out" / "b.png") as written:
        assert written.mode == "RGB"
        np.testing.assert_array_equal(np.moveaxis(np.asarray(written), -1, 0), np.rint(fuse_by_rule(read, "colour")))
        luma = np.asarray(written) @ [0.299, 0.587, 0.114]
    assert np.abs(np.asarray(Picture.open(tmp_path / "out" / "grey" / "b.png")) - luma).max() <= 0.501


def test_a_second_run_changes_no_byte_and_leaves_no_grey_copy_of_what_is_grey_now(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    fuse_folder(find_sources(folders), out, by_rule("laplacian"), method={})
    first = {path: path.read_bytes() for path in out.rglob("*.png")}
    fuse_folder(find_sources(folders), out, by_rule("laplacian"), method={})
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == first
    for path in folders[1].iterdir():
        Picture.open(path).convert("L").save(path)
    fuse_folder(find_sources(folders), out, by_rule("laplacian"), method={})
    assert not list((out / "grey").iterdir())


def test_a_faulty_case_is_named_and_the_others_are_fused(folders: list[Path], tmp_path: Path) -> None:
    Picture.new("L", (9, 9)).save(folders[0] / "a.png")
    faults = fuse_folder(find_sources(folders), tmp_path / "out", by_rule("mean"), method={})
    assert len(faults) == 1
    assert "shape (20, 24) instead of (9, 9)" in faults[0]
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["b.png"]


def test_any_error_of_a_case_is_its_fault(folders: list[Path], tmp_path: Path) -> None:
    def fuse(name: str, images: list[GreyImage]) -> np.ndarray:
        if name == "a":
            raise IndexError("list index out of range")
        return images[0].levels[None].astype(float)

    faults = fuse_folder(find_sources(folders), tmp_path / "out", fuse, method={})
    assert len(faults) == 1
    assert faults[0].startswith("case a: it cannot be used (IndexError: list index out of range)")
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["b.png"]


def test_nothing_is_left_where_nothing_could_be_fused(folders: list[Path], tmp_path: Path) -> None:
    for path in folders[0].iterdir():
        path.write_bytes(b"no image")
    assert len(fuse_folder(find_sources(folders), tmp_path / "out", by_rule("max"), method={})) == 2
    assert not (tmp_path / "out").exists()


def test_sources_are_never_overwritten(folders: list[Path]) -> None:
    with pytest.raises(OptionError, match="holds sources"):
        fuse_folder(find_sources(folders), folders[0], by_rule("mean"), method={})


def test_a_model_fuses_as_prediction_does(model: Model, untrained_phantom: Path, tmp_path: Path) -> None:
    images = untrained_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    sources = find_sources([images])
    assert fuse_folder(sources, tmp_path / "out", by_model(model, sources.names), method={}, levels=None) == []
    predict_folder(model, images, tmp_path / "predicted", folds=(0,))
    (case,) = sources.images
    for file in (f"{case}.nii.gz", f"grey/{case}.nii.gz"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "predicted" / "fused" / file).read_bytes()


def test_a_model_wants_its_number_of_modalities(model: Model) -> None:
    with pytest.raises(OptionError, match="-i: the model fuses .*, but there are 5 modalities"):
        by_model(model, "abcde")


def test_a_model_names_the_endings_it_reads(model: Model, untrained_phantom: Path, tmp_path: Path) -> None:
    for number in range(4):
        Picture.new("L", (48, 48)).save(tmp_path / f"a_{number:04d}.png")
    sources = find_sources([tmp_path])
    fuse = by_model(model, sources.names)
    (fault,) = fuse_folder(sources, tmp_path / "out", fuse, method={}, levels=None)
    assert "cannot read files *.png. The model reads .nii.gz" in fault


LEVELS = np.linspace(0, 255, 24).reshape(1, 4, 6)
COLOURS = np.random.default_rng(0).integers(0, 256, (3, 4, 6), dtype=np.uint8)


def saved(picture: np.ndarray, path: Path) -> GreyImage:
    Picture.fromarray(picture).save(path)
    return read_grey_image(path)


def test_pictures_without_colour_are_8_bit_grey(tmp_path: Path) -> None:
    source = saved(LEVELS[0].astype(np.uint8), tmp_path / "source.bmp")
    assert write_beside(LEVELS, [source, source], tmp_path, "a") == [tmp_path / "a.png"]
    with Picture.open(tmp_path / "a.png") as written:
        assert written.mode == "L"
        np.testing.assert_array_equal(np.asarray(written), np.rint(LEVELS[0]))
    assert not (tmp_path / "grey").exists()


def test_colour_is_given_back_and_a_grey_copy_kept(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(60, 200, (4, 6, 3), dtype=np.uint8)
    source = saved(colours, tmp_path / "pet.png")
    written = write_beside(source.levels[None].astype(float), [source, source], tmp_path, "a")
    assert written == [tmp_path / "a.png", tmp_path / "grey" / "a.png"]
    with Picture.open(written[0]) as picture:
        # Its own luma and chroma give the image back, but for rounding.
        np.testing.assert_allclose(np.asarray(picture).astype(int), colours, atol=4)
    np.testing.assert_array_equal(np.asarray(Picture.open(written[1])), source.levels)


def test_a_fused_picture_in_colour_keeps_its_own(tmp_path: Path) -> None:
    """Whatever colours a source has."""
    pet = saved(np.full((4, 6, 3), (200, 20, 90), np.uint8), tmp_path / "pet.png")
    assert pet.colour is not None
    written = write_beside(COLOURS.astype(float), [pet, pet], tmp_path, "a")
    assert written == [tmp_path / "a.png", tmp_path / "grey" / "a.png"]
    np.testing.assert_array_equal(np.asarray(Picture.open(written[0])), COLOURS.transpose(1, 2, 0))
    luma = np.tensordot([0.299, 0.587, 0.114], COLOURS, axes=1)
    assert np.abs(np.asarray(Picture.open(written[1])) - luma).max() <= 0.501


def test_volumes_are_8_bit_nifti_in_place_in_grey_and_in_colour(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((2, 4, 6), np.uint8))
    image.SetSpacing((0.5, 1, 3))
    image.SetOrigin((-7, 2, 9))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "source.nii"))
    source, grey = read_grey_image(tmp_path / "source.nii"), np.concatenate([LEVELS, LEVELS / 2])
    in_colour = np.stack([COLOURS, COLOURS[::-1]], axis=1)
    assert write_beside(grey[None], [source, source], tmp_path, "g") == [tmp_path / "g.nii.gz"]
    assert write_beside(in_colour, [source, source], tmp_path, "c") == [tmp_path / "c.nii.gz", tmp_path / "grey" / "c.nii.gz"]
    for name, expected in (("g", np.rint(grey)), ("c", np.moveaxis(in_colour, 0, -1))):
        written = sitk.ReadImage(str(tmp_path / f"{name}.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), expected)
        assert written.GetSpacing() == (0.5, 1, 3)
        np.testing.assert_allclose(written.GetOrigin(), image.GetOrigin())
        np.testing.assert_allclose(written.GetDirection(), image.GetDirection())


def test_chroma_is_blended_by_distance_from_grey() -> None:
    grey, blue, red = (np.full((2, 2, 2), value, np.uint8) for value in ((128, 128), (228, 108), (118, 188)))
    np.testing.assert_array_equal(blended_chroma([blue]), blue)
    np.testing.assert_array_equal(blended_chroma([grey, red]), red)
    # Cb: (100 * 100 - 10 * 10) / 110, Cr: (60 * 60 - 20 * 20) / 80.
    np.testing.assert_array_equal(blended_chroma([blue, red])[0, 0], [128 + 90, 128 + 40])


@pytest.mark.parametrize("name", ["a.png", "b.nii.gz", "grey/a.png", "fused.json"])
def test_replaces_no_file_of_other_people(folders: list[Path], tmp_path: Path, name: str) -> None:
    place = tmp_path / "out" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"theirs")
    with pytest.raises(OptionError, match=f"{name} would be replaced"):
        fuse_folder(find_sources(folders), tmp_path / "out", by_rule("max"), method={})
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [place]
    assert fuse_folder(find_sources(folders), tmp_path / "out", by_rule("max"), method={}, overwrite=True) == []


def test_does_not_write_into_a_raw_dataset(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "Dataset001_A" / "imagesTr").mkdir(parents=True)
    with pytest.raises(OptionError, match="belongs to the raw dataset Dataset001_A"):
        fuse_folder(find_sources(folders), tmp_path / "Dataset001_A" / "labelsTr", by_rule("max"), method={})
    assert not (tmp_path / "Dataset001_A" / "labelsTr").exists()
