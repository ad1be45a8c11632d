"""Segmenting exported fused images: the labels that prediction gave, from nothing but what it exported, or one line why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from PIL import Image as Picture

from fuse4seg.cli.predict import main
from fuse4seg.errors import FaultyCasesError, OptionError
from fuse4seg.inference import segment_folder as module
from fuse4seg.inference.model import Model, load_model
from fuse4seg.inference.segment_folder import segment_folder

DATASET = "Dataset990_Phantom"
MakeUntrained = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def phantom(planned_phantom: Path) -> list[sitk.Image]:
    """The modalities of an unseen phantom."""
    folder = planned_phantom / "nnUNet_raw" / DATASET / "imagesTs"
    return [sitk.ReadImage(str(path)) for path in sorted(folder.iterdir())]


@pytest.fixture
def images(phantom: list[sitk.Image], tmp_path: Path) -> Path:
    """A case as the plans have it, and one of another spacing that lies obliquely."""
    (tmp_path / "images").mkdir()
    for number, image in enumerate(phantom):
        sitk.WriteImage(image, str(tmp_path / "images" / f"plain_{number:04d}.nii.gz"))
        oblique = sitk.Image(image)
        oblique.SetSpacing((1.3, 0.85, 1.7))
        oblique.SetOrigin((-31.5, 12, 7))
        oblique.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.1, -0.2, 0.3).GetMatrix())
        sitk.WriteImage(oblique, str(tmp_path / "images" / f"resampled_{number:04d}.nii.gz"))
    return tmp_path / "images"


def run(root: Path, images: Path, output: Path, *flags: str) -> int:
    return main(["-i", str(images), "-o", str(output), "--root", str(root), "-device", "cpu", "-npp", "0", "-nps", "0", *flags])


def voxels(path: Path) -> np.ndarray:
    return tifffile.imread(path) if path.suffix == ".tif" else sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def assert_same_labels(output: Path, again: Path, ending: str, *, cases: int) -> None:
    """Voxel for voxel, in the same place; and not all of one label, which anything would give."""
    files = sorted(output.glob(f"*{ending}"))
    assert [path.name for path in files] == [path.name for path in sorted(again.glob(f"*{ending}"))]
    assert len(files) == cases
    for path in files:
        assert len(np.unique(voxels(path))) > 1
        np.testing.assert_array_equal(voxels(again / path.name), voxels(path))
        if ending == ".nii.gz":
            found, wanted = (sitk.ReadImage(str(folder / path.name)) for folder in (again, output))
            for part in ("GetSpacing", "GetOrigin", "GetDirection"):
                assert getattr(found, part)() == pytest.approx(getattr(wanted, part)(), abs=1e-6)


class TestPredictFromFused:
    """f4s_predict, and f4s_predict --from_fused on a copy of its fused/ alone."""

    @pytest.mark.parametrize(("configuration", "colours", "folds", "flags"), [
        ("2d", 3, (0,), ()), ("2d", 1, (0, 1), ()), ("3d_fullres", 3, (0, 1), ("--disable_tta",)), ("3d_fullres", 1, (1,), ())])
    def test_gives_the_labels_of_the_prediction(self, make_untrained: MakeUntrained, images: Path, tmp_path: Path,
                                                configuration: str, colours: int, folds: tuple[int, ...],
                                                flags: tuple[str, ...]) -> None:
        """In 2D and in 3D, in colour and in grey, of one fold and of two, resampled and not."""
        root = make_untrained(configuration, colours=colours, folds=folds)
        assert run(root, images, tmp_path / "out", "--uncertainty", *flags) == 0
        shutil.copytree(tmp_path / "out" / "fused", tmp_path / "alone")
        shutil.rmtree(images)
        assert run(root, tmp_path / "alone", tmp_path / "again", "--from_fused", "--uncertainty", *flags) == 0
        assert_same_labels(tmp_path / "out", tmp_path / "again", ".nii.gz", cases=2)
        assert_same_labels(tmp_path / "out" / "uncertainty", tmp_path / "again" / "uncertainty", ".nii.gz", cases=2)
        assert {path.name for path in (tmp_path / "again").iterdir()} == {"plain.nii.gz", "resampled.nii.gz", "uncertainty",
                                                                         "dataset.json", "plans.json", "f4s_outputs.json"}

    @pytest.mark.parametrize("colours", [1, 3])
    def test_gives_the_labels_of_png(self, make_untrained: MakeUntrained, phantom: list[sitk.Image], tmp_path: Path,
                                     colours: int) -> None:
        root = make_untrained("2d", colours=colours, ending=".png", reader="NaturalImage2DIO")
        (tmp_path / "images").mkdir()
        for number, image in enumerate(phantom):
            levels = sitk.GetArrayFromImage(image)
            levels = np.rint(255 * levels / levels.max()).astype(np.uint8)
            for name, slice_number in (("a", 14), ("b", 18)):
                Picture.fromarray(levels[slice_number]).save(tmp_path / "images" / f"{name}_{number:04d}.png")
        assert run(root, tmp_path / "images", tmp_path / "out", "--uncertainty") == 0
        with Picture.open(tmp_path / "out" / "uncertainty" / "a.png") as picture:
            assert picture.mode == "L"
            assert picture.size == levels.shape[:0:-1]
        with Picture.open(tmp_path / "out" / "fused" / "a.png") as picture:
            assert picture.mode == {1: "L", 3: "RGB"}[colours]
        assert run(root, tmp_path / "out" / "fused", tmp_path / "again", "--from_fused") == 0
        assert_same_labels(tmp_path / "out", tmp_path / "again", ".png", cases=2)

    @pytest.mark.parametrize("colours", [1, 3])
    def test_gives_the_labels_of_tiff_with_its_spacing(self, make_untrained: MakeUntrained, phantom: list[sitk.Image],
                                                       tmp_path: Path, colours: int) -> None:
        root = make_untrained("3d_fullres", colours=colours, ending=".tif", reader="Tiff3DIO")
        (tmp_path / "images").mkdir()
        for number, image in enumerate(phantom):
            tifffile.imwrite(tmp_path / "images" / f"a_{number:04d}.tif", sitk.GetArrayFromImage(image))
        (tmp_path / "images" / "a.json").write_text('{"spacing": [1.7, 0.85, 1.3]}')
        assert run(root, tmp_path / "images", tmp_path / "out", "--disable_tta") == 0
        assert run(root, tmp_path / "out" / "fused", tmp_path / "again", "--from_fused", "--disable_tta") == 0
        assert_same_labels(tmp_path / "out", tmp_path / "again", ".tif", cases=1)
        assert (tmp_path / "again" / "a.json").read_text() == (tmp_path / "out" / "a.json").read_text()

    def test_gives_the_labels_of_cases_without_a_modality(self, make_untrained: MakeUntrained, images: Path,
                                                          tmp_path: Path) -> None:
        """What a case lacked, nobody needs to know any more."""
        (images / "plain_0002.nii.gz").unlink()
        root = make_untrained("2d")
        assert run(root, images, tmp_path / "out", "--allow_missing", "--disable_tta") == 0
        assert run(root, tmp_path / "out" / "fused", tmp_path / "again", "--from_fused", "--disable_tta") == 0
        assert_same_labels(tmp_path / "out", tmp_path / "again", ".nii.gz", cases=2)

    def test_gives_the_probabilities(self, make_untrained: MakeUntrained, images: Path, tmp_path: Path) -> None:
        flags, root = ("--disable_tta", "--save_probabilities", "npz", "nifti"), make_untrained("2d")
        assert run(root, images, tmp_path / "out", *flags) == 0
        assert run(root, tmp_path / "out" / "fused", tmp_path / "again", "--from_fused", *flags) == 0
        for name in ("plain", "resampled"):
            found, wanted = (np.load(tmp_path / folder / f"{name}.npz")["probabilities"] for folder in ("again", "out"))
            np.testing.assert_array_equal(found, wanted)
        names = sorted(path.name for path in (tmp_path / "out" / "probabilities").iterdir())
        assert names == sorted(path.name for path in (tmp_path / "again" / "probabilities").iterdir())
        assert len(names) == 2 * 4

    def test_follows_what_the_image_shows(self, make_untrained: MakeUntrained, images: Path, tmp_path: Path) -> None:
        """Else equal labels would prove nothing."""
        root, fused = make_untrained("2d"), tmp_path / "out" / "fused" / "plain.nii.gz"
        assert run(root, images, tmp_path / "out", "--disable_tta") == 0
        image = sitk.ReadImage(str(fused))
        levels = sitk.GetArrayFromImage(image)
        levels[15:17] = np.where(levels[15:17] > 0, 256 - levels[15:17].astype(int), 0)
        changed = sitk.GetImageFromArray(levels, isVector=True)
        changed.CopyInformation(image)
        (tmp_path / "changed").mkdir()
        sitk.WriteImage(changed, str(tmp_path / "changed" / "plain.nii.gz"))
        assert run(root, tmp_path / "changed", tmp_path / "again", "--from_fused", "--disable_tta") == 0
        found, wanted = (voxels(tmp_path / folder / "plain.nii.gz") for folder in ("again", "out"))
        differs = (found != wanted).any(axis=(1, 2))
        assert set(np.flatnonzero(differs)) == {15, 16}


@pytest.fixture(scope="module")
def fused(make_untrained: MakeUntrained, planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What f4s_predict exports of the phantom, by the channels of its image; leave it as it is."""
    images = planned_phantom / "nnUNet_raw" / DATASET / "imagesTs"
    found = {colours: tmp_path_factory.mktemp("predicted") / "out" for colours in (1, 3)}
    for colours, output in found.items():
        assert run(make_untrained("2d", colours=colours), images, output, "--disable_tta") == 0
    return {colours: output / "fused" for colours, output in found.items()}


@pytest.fixture
def refused(make_untrained: MakeUntrained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command, which must fail with one line, which is returned, and write nothing."""

    def refuse(images: Path, *flags: str, root: Path | None = None, output: Path = tmp_path / "out") -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert run(root or make_untrained("2d"), images, output, "--from_fused", *flags) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert len(captured.err.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before
        return captured.err

    return refuse


class TestRefused:
    def test_colour_where_the_model_reads_grey(self, refused: Refused, make_untrained: MakeUntrained,
                                               fused: dict[int, Path]) -> None:
        line = refused(fused[3], root=make_untrained("2d", colours=1))
        assert f"{fused[3] / 'phantom_005.nii.gz'} is in colour, but the model reads fused images in grey" in line

    @pytest.mark.parametrize("folder", [".", "grey"])
    def test_grey_where_the_model_reads_colour(self, refused: Refused, fused: dict[int, Path], folder: str) -> None:
        """Also the luma of its own images."""
        images = fused[1] if folder == "." else fused[3] / "grey"
        assert f"{images / 'phantom_005.nii.gz'} is in grey, but the model reads fused images in colour" in refused(images)

    def test_a_source_in_place_of_a_fused_image(self, refused: Refused, make_untrained: MakeUntrained,
                                                phantom: list[sitk.Image], tmp_path: Path) -> None:
        (tmp_path / "fused").mkdir()
        sitk.WriteImage(sitk.Cast(phantom[0], sitk.sitkFloat32), str(tmp_path / "fused" / "a.nii.gz"))
        line = refused(tmp_path / "fused", root=make_untrained("2d", colours=1))
        assert f"{tmp_path / 'fused' / 'a.nii.gz'} holds 32-bit float, not 8 bits as fused images do" in line

    def test_images_that_are_cut_off(self, refused: Refused, fused: dict[int, Path], tmp_path: Path) -> None:
        (tmp_path / "fused").mkdir()
        whole = (fused[3] / "phantom_005.nii.gz").read_bytes()
        (tmp_path / "fused" / "a.nii.gz").write_bytes(whole[:-300])
        assert f"{tmp_path / 'fused' / 'a.nii.gz'} cannot be read as an image" in refused(tmp_path / "fused")

    def test_folders_that_are_none_or_empty(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / ".a.nii.gz").touch()
        assert f"{tmp_path / 'nowhere'} is not a folder" in refused(tmp_path / "nowhere")
        line = refused(tmp_path / "empty")
        assert f"{tmp_path / 'empty'} holds no file *.nii.gz. Give a folder fused/ that f4s_predict wrote." in line

    def test_images_of_one_fold_where_the_model_has_two(self, refused: Refused, make_untrained: MakeUntrained,
                                                        fused: dict[int, Path]) -> None:
        line = refused(fused[3], root=make_untrained("2d", folds=(0, 1)))
        assert f"{fused[3] / 'fold_0'} is not a folder" in line

    def test_folds_of_other_cases_or_places(self, refused: Refused, make_untrained: MakeUntrained, fused: dict[int, Path],
                                            tmp_path: Path) -> None:
        root, place = make_untrained("2d", folds=(0, 1)), tmp_path / "fused"
        for fold in ("fold_0", "fold_1"):
            shutil.copytree(fused[3], place / fold, ignore=shutil.ignore_patterns("grey"))
        path = (place / "fold_1" / "phantom_005.nii.gz").rename(place / "fold_1" / "other.nii.gz")
        assert f"{place / 'fold_1'} and {place / 'fold_0'} hold images of other cases" in refused(place, root=root)
        path = path.rename(place / "fold_1" / "phantom_005.nii.gz")
        image = sitk.ReadImage(str(path))
        image.SetOrigin((5, 5, 5))
        sitk.WriteImage(image, str(path))
        assert f"{path} has origin" in refused(place, root=root)
        sitk.WriteImage(image[:-1], str(path))
        assert f"{path} has shape" in refused(place, root=root)

    @pytest.mark.parametrize("flags", [["--save_panels"], ["--save_attention"], ["--allow_missing"], ["--continue_prediction"],
                                       ["-prev_stage_predictions", "x"], ["-num_parts", "2"]])
    def test_flags_that_want_more_than_fused_images(self, refused: Refused, fused: dict[int, Path], flags: list[str]) -> None:
        assert refused(fused[3], *flags).startswith(f"error: {flags[0]}: cannot be had with --from_fused")

    def test_more_than_one_folder(self, refused: Refused, fused: dict[int, Path]) -> None:
        assert "error: -i: with --from_fused takes one folder" in refused(fused[3], "-i", str(fused[3]), str(fused[3]))

    def test_the_folder_of_the_images_for_the_output(self, refused: Refused, fused: dict[int, Path], tmp_path: Path) -> None:
        shutil.copytree(fused[3], tmp_path / "fused")
        line = refused(tmp_path / "fused", output=tmp_path / "fused" / ".." / "fused")
        assert "error: -o: " in line
        assert "would be replaced" in line

    def test_a_second_stage_of_a_cascade(self, refused: Refused, fused: dict[int, Path], untrained_cascade: Path) -> None:
        line = refused(fused[3], "-c", "3d_cascade_fullres", "-f", "0", root=untrained_cascade)
        assert "error: --from_fused: this model also needs what 3d_lowres segmented" in line


class TestSegmentFolder:
    @pytest.fixture
    def model(self, make_untrained: MakeUntrained) -> Model:
        folder = make_untrained("2d") / "nnUNet_results" / DATASET / "Fuse4SegTrainer__Fuse4SegPlans__2d"
        return load_model(folder, folds=(0,), device=torch.device("cpu"), mirroring=False)

    @pytest.fixture
    def two(self, fused: dict[int, Path], tmp_path: Path) -> Path:
        """A sound image and one that is none."""
        (tmp_path / "two").mkdir()
        shutil.copy(fused[3] / "phantom_005.nii.gz", tmp_path / "two" / "sound.nii.gz")
        (tmp_path / "two" / "broken.nii.gz").write_bytes(b"no image")
        return tmp_path / "two"

    def test_leaves_a_faulty_image_out_and_says_so(self, model: Model, two: Path, tmp_path: Path) -> None:
        with pytest.raises(FaultyCasesError, match="broken.nii.gz cannot be read.*\n1 faulty case"):
            segment_folder(model, two, tmp_path / "out", folds=(0,))
        assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["sound.nii.gz"]

    def test_writes_nothing_where_no_image_is_sound(self, model: Model, two: Path, tmp_path: Path) -> None:
        (two / "sound.nii.gz").write_bytes(b"no image")
        with pytest.raises(FaultyCasesError, match="2 faulty case"):
            segment_folder(model, two, tmp_path / "out", folds=(0,))
        assert not (tmp_path / "out").exists()

    def test_says_with_what_it_segmented_and_how_much_of_each_label(self, model: Model, fused: dict[int, Path], tmp_path: Path,
                                                                    caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            (path,) = segment_folder(model, fused[3], tmp_path / "out", folds=(0,))
        assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == model.description.dataset_json
        assert json.loads((tmp_path / "out" / "plans.json").read_text()) == model.description.plans.plans
        counts = ", ".join(f"{name} {int((voxels(path) == value).sum())} voxels"
                           for name, value in model.description.dataset_json["labels"].items() if name != "background")
        assert f"phantom_005: {counts}" in caplog.text

    def test_names_a_case_that_memory_does_not_hold(self, model: Model, fused: dict[int, Path], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
        def too_much(*_: object) -> None:
            raise torch.OutOfMemoryError

        monkeypatch.setattr(module, "segment_fused", too_much)
        with pytest.raises(FaultyCasesError, match="case phantom_005: there was not enough memory"):
            segment_folder(model, fused[3], tmp_path / "out", folds=(0,))

    def test_needs_a_model_that_was_trained_with_labels(self, model: Model, fused: dict[int, Path], tmp_path: Path) -> None:
        model.description.dataset_json["labels"] = {"background": 0}
        with pytest.raises(OptionError, match="--from_fused: this model was trained without labels"):
            segment_folder(model, fused[3], tmp_path / "out", folds=(0,))
