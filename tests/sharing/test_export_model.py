"""Archives hold what prediction needs and nothing else, the same bytes each time; what could not be used is not exported."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import load

from fuse4seg.cli.export_model import main
from fuse4seg.inference.find_model import model_in
from fuse4seg.sharing.export_model import export_models

FOLDER = "Dataset990_Phantom/Fuse4SegTrainer__Fuse4SegPlans__2d"


@pytest.fixture
def model(untrained_model: Path, tmp_path: Path) -> Path:
    """A copy of the trained model, for this test to change."""
    return Path(shutil.copytree(untrained_model, tmp_path / "moved" / FOLDER))


class TestArchive:
    def test_holds_weights_descriptions_and_checksums_alone(self, exported_model: Path, untrained_model: Path) -> None:
        with ZipFile(exported_model) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        described = ("plans.json", "dataset.json", "dataset_fingerprint.json")
        weights = [f"{FOLDER}/fold_0/checkpoint_final{ending}" for ending in (".safetensors", ".json")]
        assert sorted(content) == sorted([*(f"{FOLDER}/{name}" for name in described), *weights, "manifest.json"])
        manifest = json.loads(content.pop("manifest.json"))
        assert manifest["checksums"] == {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
        assert set(manifest["versions"]) == {"fuse4seg", "nnunetv2", "torch"}
        for name in described:
            assert content[f"{FOLDER}/{name}"] == (untrained_model / name).read_bytes()

    def test_holds_every_weight_once(self, exported_model: Path, untrained_model: Path) -> None:
        trained = torch.load(untrained_model / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
        with ZipFile(exported_model) as archive:
            tensors = load(archive.read(f"{FOLDER}/fold_0/checkpoint_final.safetensors"))
            rest = json.loads(archive.read(f"{FOLDER}/fold_0/checkpoint_final.json"))
        assert len({weight.data_ptr() for weight in trained.values()}) == len(tensors)
        for name, weight in trained.items():
            assert torch.equal(tensors[rest["shared"].get(name, name)], weight)

    def test_is_the_same_bytes_each_time(self, exported_model: Path, untrained_phantom: Path, tmp_path: Path) -> None:
        flags = ["-d", "990", "-c", "2d", "-f", "0", "-p", "Fuse4SegPlans", "-tr", "Fuse4SegTrainer"]
        assert main([*flags, "-o", str(tmp_path / "again.zip"), "--root", str(untrained_phantom)]) == 0
        assert (tmp_path / "again.zip").read_bytes() == exported_model.read_bytes()

    def test_of_a_folder_elsewhere_is_the_same(self, exported_model: Path, model: Path, tmp_path: Path) -> None:
        (tmp_path / "again.zip").write_text("an older one")
        assert main(["-m", str(model), "-o", str(tmp_path / "again.zip")]) == 0
        assert (tmp_path / "again.zip").read_bytes() == exported_model.read_bytes()
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    def test_holds_several_checkpoints_and_folds(self, model: Path, tmp_path: Path) -> None:
        shutil.copytree(model / "fold_0", model / "fold_all")
        for fold in ("fold_0", "fold_all"):
            shutil.copy(model / fold / "checkpoint_final.pth", model / fold / "checkpoint_best.pth")
        (model / "dataset_fingerprint.json").unlink()
        export_models([model_in(model, folds=(0, "all"))], tmp_path / "two.zip",
                      checkpoints=["checkpoint_final.pth", "checkpoint_best.pth"])
        with ZipFile(tmp_path / "two.zip") as archive:
            weights = [name.removeprefix(f"{FOLDER}/") for name in archive.namelist() if name.endswith(".safetensors")]
        assert weights == [f"fold_{fold}/checkpoint_{kind}.safetensors" for fold in (0, "all") for kind in ("final", "best")]


class TestRefusals:
    def refused(self, *flags: object, capsys: pytest.CaptureFixture[str], output: Path) -> str:
        assert main([*map(str, flags), "-o", str(output)]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        assert not output.exists()
        return lines[-1]

    def test_of_a_damaged_checkpoint(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = model / "fold_0" / "checkpoint_final.pth"
        file.write_bytes(file.read_bytes()[:-100])
        assert str(file) in self.refused("-m", model, capsys=capsys, output=tmp_path / "x.zip")
        assert {path.name for path in tmp_path.iterdir()} == {"moved"}

    def test_of_plans_that_could_not_be_installed(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        plans = model / "plans.json"
        plans.write_text(plans.read_text().replace("torch.nn.LeakyReLU", "mine.LeakyReLU"))
        assert "mine.LeakyReLU" in self.refused("-m", model, capsys=capsys, output=tmp_path / "x.zip")

    def test_of_names_that_not_every_system_takes(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        renamed = model.parent.rename(model.parent.with_name("Dataset990_Phan:tom")) / model.name
        assert "Phan:tom" in self.refused("-m", renamed, capsys=capsys, output=tmp_path / "x.zip")

    @pytest.mark.parametrize("output", ["x.tar", "missing/x.zip"])
    def test_of_outputs_that_are_none(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
        self.refused("-m", model, capsys=capsys, output=tmp_path / output)

    def test_of_a_model_named_twice(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "-m" in self.refused("-m", model, "-c", "2d", capsys=capsys, output=tmp_path / "x.zip")
