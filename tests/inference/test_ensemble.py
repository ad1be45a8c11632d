"""Ensembles of folders of probabilities: nnU-Net's, label by label; what does not fit together is told in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from fuse4seg.errors import (
    DatasetJsonError,
    EmptyFolderError,
    FaultyCasesError,
    FaultyImageError,
    FolderNotFoundError,
    OptionError,
    UnpairedCasesError,
)
from fuse4seg.evaluation.postprocessing import Rule, apply_rules
from fuse4seg.inference.ensemble import ensemble_folders, to_segmentation
from fuse4seg.inference.export_case import NPZ, Wanted
from fuse4seg.inference.model import ModelDescription

LABELS = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(planned_phantom: Path, tmp_path: Path) -> MakeFolder:
    """Function that writes seeded probabilities of cases as a prediction leaves them."""
    plans = json.loads((planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom" / "Fuse4SegPlans.json").read_text())

    def make(name: str, seed: int, *, labels: dict[str, Any] = LABELS, cases: tuple[str, ...] = ("x", "y"),
             shape: tuple[int, int, int] = (3, 6, 5), origin: float = 4.0) -> Path:
        folder, random = tmp_path / name, np.random.default_rng(seed)
        folder.mkdir()
        dataset_json = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
        if "whole" in labels:
            dataset_json["regions_class_order"] = [1, 2]
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        for case in cases:
            shares = random.random((2 if "whole" in labels else 3, *shape)).astype(np.float32)
            image = sitk.GetImageFromArray(np.zeros(shape, np.uint8))
            image.SetSpacing((1.0, 2.0, 3.0))
            image.SetOrigin((origin, 5, 6))
            sitk.WriteImage(image, str(folder / f"{case}.nii.gz"))
            np.savez_compressed(folder / f"{case}.npz", probabilities=shares)
            save_pickle(SimpleITKIO().read_seg(str(folder / f"{case}.nii.gz"))[1], str(folder / f"{case}.pkl"))
        return folder

    return make


class TestEnsemble:
    @pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
    @pytest.mark.parametrize("shape", [(3, 6, 5), (1, 6, 5)])
    def test_is_nnu_net_s(self, make_folder: MakeFolder, tmp_path: Path, labels: dict[str, Any],
                          shape: tuple[int, int, int]) -> None:
        folders = [make_folder(str(seed), seed, labels=labels, shape=shape) for seed in range(3)]
        written = ensemble_folders(folders, tmp_path / "out", wanted=Wanted(probabilities=(NPZ,)))
        assert written == [tmp_path / "out" / f"{case}.nii.gz" for case in "xy"]
        manager = LabelManager(labels, [1, 2] if labels is REGIONS else None)
        for path in written:
            case = path.name.removesuffix(".nii.gz")
            merge_files([str(folder / f"{case}.npz") for folder in folders], str(tmp_path / case), ".nii.gz", SimpleITKIO(),
                        manager, save_probabilities=True)
            found, wanted = (sitk.ReadImage(str(folder / path.name)) for folder in (tmp_path / "out", tmp_path))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(wanted))
            assert (found.GetOrigin(), found.GetSpacing()) == (wanted.GetOrigin(), wanted.GetSpacing())
            ours, theirs = (np.load(folder / f"{case}.npz")["probabilities"] for folder in (tmp_path / "out", tmp_path))
            np.testing.assert_array_equal(ours, theirs)
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            *(f"{case}{ending}" for case in "xy" for ending in (".nii.gz", ".npz", ".pkl")), "dataset.json", "plans.json",
            "f4s_outputs.json"}

    def test_post_processing_comes_after_the_mean(self, make_description: Callable[..., ModelDescription]) -> None:
        description = make_description("2d")
        shares = np.random.default_rng(0).random((4, 3, 8, 8))
        rules = (Rule("foreground", (1, 2, 3), "largest_component"), Rule("one", (1,), "smallest_volume", 9.0))
        expected = apply_rules(shares.argmax(0), rules, spacing=(1, 1, 1))
        found = to_segmentation(shares, description, rules=rules, spacing=(1, 1, 1))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


class TestWhatDoesNotFit:
    def refused(self, kind: type[Exception], said: str, folders: list[Path], output: Path) -> None:
        with pytest.raises(kind, match=said):
            ensemble_folders(folders, output)
        assert not output.exists()

    def test_folders(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        one, other, out = make_folder("one", 1), make_folder("other", 2, cases=("x",)), tmp_path / "out"
        self.refused(OptionError, "two folders or more", [one], out)
        self.refused(OptionError, "each once", [one, one / ".." / "one"], out)
        self.refused(FolderNotFoundError, "nowhere", [one, tmp_path / "nowhere"], out)
        self.refused(UnpairedCasesError, "lacks 1 image.*y.npz", [one, other], out)
        (tmp_path / "empty").mkdir()
        self.refused(EmptyFolderError, "empty .*--save_probabilities", [one, tmp_path / "empty"], out)
        with pytest.raises(OptionError, match="holds the input"):
            ensemble_folders([one, make_folder("third", 3)], one)

    def test_models_of_other_classes(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        one = make_folder("one", 1)
        other = make_folder("other", 2, labels={"background": 0, "b": 1, "a": 2})
        self.refused(OptionError, "other has the labels .*Ensemble models of the same classes", [one, other], tmp_path / "out")
        (other / "dataset.json").unlink()
        self.refused(DatasetJsonError, "other/dataset.json", [one, other], tmp_path / "out")

    def test_cases_on_other_grids_or_damaged_are_left_out(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        folders = [make_folder("one", 1, cases=("x", "y", "z", "w")), make_folder("other", 2, cases=("x", "y", "z", "w"))]
        moved = make_folder("moved", 3, origin=9.0)
        shutil.copy(moved / "y.nii.gz", folders[1])
        (folders[1] / "x.npz").write_bytes((folders[1] / "x.npz").read_bytes()[:40])
        np.savez(folders[0] / "z.npz", probabilities=np.zeros((2, 3, 6, 5), np.float32))
        with pytest.raises(FaultyCasesError) as raised:
            ensemble_folders(folders, tmp_path / "out")
        lines = str(raised.value).splitlines()
        assert len(lines) == 4
        assert f"{folders[1] / 'x.npz'} cannot be read as probabilities" in "".join(lines)
        assert "origin" in "".join(lines)
        assert "shape (2, 3, 6, 5)" in "".join(lines)
        assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["w.nii.gz"]

    def test_the_only_case(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        folders = [make_folder("one", 1, cases=("x",)), make_folder("other", 2, cases=("x",))]
        np.savez(folders[0] / "x.npz", probabilities=np.full((3, 3, 6, 5), np.nan, np.float32))
        self.refused(FaultyImageError, "case x: .*not finite", folders, tmp_path / "out")

    def test_nothing_pickled_is_read(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        folders = [make_folder("one", 1, cases=("x",)), make_folder("other", 2, cases=("x",))]
        for folder in folders:
            (folder / "x.pkl").write_bytes(b"no pickle")
        ensemble_folders(folders, tmp_path / "sound")
        np.savez(folders[0] / "x.npz", probabilities=np.array([{"a": 1}], dtype=object))
        self.refused(FaultyImageError, "cannot be read as probabilities", folders, tmp_path / "out")
