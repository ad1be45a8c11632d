"""Stock nnU-Net commands, in processes of their own, train our trainer and predict with our models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from fuse4seg.cli import export_model, install_model, predict, train
from fuse4seg.paths import TRAINER_FOLDER

pytestmark = pytest.mark.slow

DATASET = "Dataset990_Phantom"
HURRIED = """
import torch
from fuse4seg.recipes.reading import changed
from fuse4seg.training.trainer import Fuse4SegTrainer

class HurriedTrainer(Fuse4SegTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.recipe = changed(self.recipe, ["training.epochs=1", "pretraining.epochs=1"])
"""
#: nnU-Net's search for trainers imports all of its own, one of which imports torchvision through timm and uses nothing of
#: it here. A torchvision that does not fit torch cannot be imported; then this stands in for it.
TORCHVISION = """
import importlib.abc, importlib.machinery, sys, types
from unittest.mock import MagicMock

class Anything(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=name)

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Anything(spec.name)

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def root(trained_phantom: Path, tmp_path: Path) -> Path:
    """Roots of this test's own, with a model by f4s_train in them."""
    shutil.copytree(trained_phantom, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def images(root: Path) -> Path:
    """The unseen case, with a faint voxel in two corners, so that nnU-Net crops nothing and a slice is exactly a window."""
    folder = root / "nnUNet_raw" / DATASET / "imagesTs"
    for path in folder.iterdir():
        image = sitk.ReadImage(str(path))
        image[0, 0, 0] = image[tuple(extent - 1 for extent in image.GetSize())] = 1.0
        sitk.WriteImage(image, str(path))
    return folder


@pytest.fixture
def stock(root: Path, tmp_path: Path) -> Callable[..., None]:
    """Runs a console script of nnU-Net with nnUNet_extTrainer set as documented."""
    for folder in ("trainers", "path"):
        (tmp_path / folder).mkdir()
    (tmp_path / "trainers" / "hurried.py").write_text(HURRIED)
    environment = {**os.environ, **{name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
                   "nnUNet_extTrainer": os.pathsep.join([str(TRAINER_FOLDER), str(tmp_path / "trainers")]),
                   "nnUNet_compile": "f"}
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False).returncode:
        (tmp_path / "path" / "sitecustomize.py").write_text(TORCHVISION)
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "path"), *sys.path])

    def run(command: str, *words: object) -> None:
        script = Path(sysconfig.get_path("scripts")) / command
        done = subprocess.run([sys.executable, str(script), *map(str, words), "-device", "cpu"], env=environment,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    return run


@pytest.fixture
def all_processors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """nnU-Net takes all processors, and sums depend on how many there are."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    torch.set_num_threads(before)


def predict_with_stock(stock: Callable[..., None], images: Path, output: Path, *, fold: object, trainer: str) -> None:
    stock("nnUNetv2_predict", "-i", images, "-o", output, "-d", 990, "-c", "2d", "-f", fold, "-tr", trainer, "-p",
          "Fuse4SegPlans", "-npp", 1, "-nps", 1, "--disable_tta")


def agreement(first: Path, second: Path) -> float:
    """Part of the voxels with the same label."""
    one, two = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (first, second))
    return float((one == two).mean())


def assert_same_place(path: Path, original: Path) -> None:
    found, wanted = sitk.ReadImage(str(path)), sitk.ReadImage(str(original))
    assert found.GetSize() == wanted.GetSize()
    for part in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(found, part)() == pytest.approx(getattr(wanted, part)(), abs=1e-5)


class TestStockPrediction:
    def test_with_our_model_agrees_with_ours(self, stock: Callable[..., None], root: Path, images: Path,
                                             tmp_path: Path) -> None:
        """Fusing window by window, as stock nnU-Net does, and slice by slice are the same where a slice is a window."""
        predict_with_stock(stock, images, tmp_path / "stock", fold=0, trainer="Fuse4SegTrainer")
        assert predict.main(["-i", str(images), "-o", str(tmp_path / "ours"), "--root", str(root), "-device", "cpu",
                             "--disable_tta", "--precision", "float32"]) == 0
        segmentations = [tmp_path / by / "phantom_005.nii.gz" for by in ("stock", "ours")]
        assert_same_place(segmentations[0], images / "phantom_005_0000.nii.gz")
        assert agreement(*segmentations) >= 0.999


class TestSharedModel:
    def test_is_predicted_with_by_stock_nnunet_as_before(self, stock: Callable[..., None], root: Path, images: Path,
                                                         tmp_path: Path) -> None:
        """What f4s_install_model writes is what stock nnU-Net takes, and gives the same labels byte for byte."""
        predict_with_stock(stock, images, tmp_path / "before", fold=0, trainer="Fuse4SegTrainer")
        assert export_model.main(["-d", "990", "-o", str(tmp_path / "model.zip"), "--root", str(root)]) == 0
        shutil.rmtree(root / "nnUNet_results")
        assert install_model.main([str(tmp_path / "model.zip"), "--root", str(root)]) == 0
        predict_with_stock(stock, images, tmp_path / "after", fold=0, trainer="Fuse4SegTrainer")
        before, after = (tmp_path / when / "phantom_005.nii.gz" for when in ("before", "after"))
        assert after.read_bytes() == before.read_bytes()


class TestStockTraining:
    def test_of_our_trainer_makes_a_model_that_both_can_use(self, stock: Callable[..., None], root: Path, images: Path,
                                                            tmp_path: Path) -> None:
        stock("nnUNetv2_train", 990, "2d", "all", "-tr", "HurriedTrainer", "-p", "Fuse4SegPlans")
        model = root / "nnUNet_results" / DATASET / "HurriedTrainer__Fuse4SegPlans__2d"
        assert {path.name for path in (model / "fold_all").iterdir()} >= {"checkpoint_final.pth", "pretrained.pth",
                                                                         "progress.png", "validation"}
        assert len(list((model / "fold_all" / "validation").glob("*.nii.gz"))) == 5
        assert (model / "fold_all" / "validation" / "summary.json").is_file()
        assert torch.load(model / "fold_all" / "checkpoint_final.pth", weights_only=True)["trainer_name"] == "HurriedTrainer"

        predict_with_stock(stock, images, tmp_path / "stock", fold="all", trainer="HurriedTrainer")
        assert predict.main(["-i", str(images), "-o", str(tmp_path / "ours"), "--root", str(root), "-device", "cpu", "-tr",
                             "HurriedTrainer", "-f", "all", "--disable_tta", "--precision", "float32"]) == 0
        assert agreement(*(tmp_path / by / "phantom_005.nii.gz" for by in ("stock", "ours"))) >= 0.999

    def test_goes_on_where_ours_stopped(self, stock: Callable[..., None], root: Path) -> None:
        """A finished training is only validated again by either."""
        model = root / "nnUNet_results" / DATASET / "Fuse4SegTrainer__Fuse4SegPlans__2d"
        summary = model / "fold_0" / "validation" / "summary.json"
        summary.unlink()
        stock("nnUNetv2_train", 990, "2d", 0, "-tr", "Fuse4SegTrainer", "-p", "Fuse4SegPlans", "--val")
        assert summary.is_file()

    @pytest.mark.usefixtures("all_processors")
    def test_makes_the_same_model_as_ours_bit_for_bit(self, stock: Callable[..., None], root: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
        stock("nnUNetv2_train", 990, "2d", 1, "-tr", "HurriedTrainer", "-p", "Fuse4SegPlans")
        fold = root / "nnUNet_results" / DATASET / "HurriedTrainer__Fuse4SegPlans__2d" / "fold_1"
        shutil.move(fold, tmp_path / "stock")
        monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
        assert train.main(["990", "2d", "1", "-tr", "HurriedTrainer", "-device", "cpu", "--root", str(root)]) == 0
        stocks, ours = (torch.load(folder / "checkpoint_final.pth", weights_only=True)["network_weights"]
                        for folder in (tmp_path / "stock", fold))
        assert [name for name, value in ours.items() if not torch.equal(stocks[name], value)] == []
