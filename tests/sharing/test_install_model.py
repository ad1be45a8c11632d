"""An installed model predicts what the exported one did, to the bit; nothing else is touched, and nothing is left half done."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

from fuse4seg.cli import predict
from fuse4seg.cli.install_model import main
from fuse4seg.errors import UnwritableFolderError
from fuse4seg.evaluation.postprocessing import Rule, read_rules, write_rules
from fuse4seg.inference.find_model import model_in
from fuse4seg.inference.model_calibration import model_calibration, write_doubts
from fuse4seg.model_errors import ModelArchiveError, ModelExistsError
from fuse4seg.sharing import install_model
from fuse4seg.sharing.export_model import export_models
from fuse4seg.sharing.install_model import install_models

MODEL = Path("Dataset990_Phantom", "Fuse4SegTrainer__Fuse4SegPlans__2d")


def listing(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def predicted(root: Path, images: Path, output: Path) -> dict[str, bytes]:
    """Every file but the record, which holds times and the checksum of the checkpoint."""
    assert predict.main(["-i", str(images), "-o", str(output), "--root", str(root), "-device", "cpu", "--save_attention",
                         "--save_probabilities"]) == 0
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*")
            if path.is_file() and path.name != "run.json"}


class TestInstalledModel:
    def test_predicts_bit_for_bit_as_the_exported_one(self, exported_model: Path, results: Path, untrained_phantom: Path,
                                                      tmp_path: Path) -> None:
        images = untrained_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
        assert main([str(exported_model), "--root", str(results.parent)]) == 0
        assert predicted(results.parent, images, tmp_path / "ours") == predicted(untrained_phantom, images, tmp_path / "theirs")

    def test_has_the_exported_one_s_post_processing(self, untrained_model: Path, results: Path, tmp_path: Path) -> None:
        model = shutil.copytree(untrained_model, tmp_path / MODEL)
        rule = Rule("foreground", (1, 2, 3), "largest_component")
        written = write_rules({"rules": [rule.to_plain()]}, [model])
        export_models([model_in(model)], tmp_path / "model.zip")
        install_models(tmp_path / "model.zip")
        assert (results / MODEL / written.name).read_bytes() == written.read_bytes()
        assert read_rules([results / MODEL], known=range(4)) == (rule,)

    def test_has_no_rules_that_cannot_be_applied(self, untrained_model: Path, results: Path, tmp_path: Path) -> None:
        model = shutil.copytree(untrained_model, tmp_path / MODEL)
        (model / "postprocessing.json").write_text("{}")
        export_models([model_in(model)], tmp_path / "model.zip")
        content = b'{"alone": {"rules": [7]}}'
        with ZipFile(tmp_path / "model.zip") as archive, ZipFile(tmp_path / "hostile.zip", "w") as hostile:
            members = {name: archive.read(name) for name in archive.namelist()}
            members[f"{MODEL}/postprocessing.json"] = content
            manifest = json.loads(members["manifest.json"])
            manifest["checksums"][f"{MODEL}/postprocessing.json"] = hashlib.sha256(content).hexdigest()
            for name, data in {**members, "manifest.json": json.dumps(manifest).encode()}.items():
                hostile.writestr(name, data)
        with pytest.raises(ModelArchiveError, match="postprocessing.json holds no rules .*Nothing was installed"):
            install_models(tmp_path / "hostile.zip")
        assert not (results / MODEL).exists()

    def test_is_plain_data_of_the_exported_size(self, exported_model: Path, results: Path, untrained_model: Path) -> None:
        assert install_models(exported_model) == [results / MODEL]
        assert listing(results / MODEL) == [Path("dataset.json"), Path("dataset_fingerprint.json"), Path("fold_0"),
                                            Path("fold_0/checkpoint_final.pth"), Path("plans.json")]
        found, wanted = (torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
                         for folder in (results / MODEL, untrained_model))
        assert list(found["network_weights"]) == list(wanted["network_weights"])
        for name, weight in wanted["network_weights"].items():
            assert torch.equal(found["network_weights"][name], weight)
            assert found["network_weights"][name].dtype == weight.dtype
        assert found["inference_allowed_mirroring_axes"] == wanted["inference_allowed_mirroring_axes"]
        assert found["init_args"]["plans"]["configurations"] == wanted["init_args"]["plans"]["configurations"]
        # The encoder is there twice, and stored once.
        stored = (results / MODEL / "fold_0" / "checkpoint_final.pth").stat().st_size
        assert stored < 1.5 * exported_model.stat().st_size

    def test_knows_what_its_doubt_is_worth(self, untrained_model: Path, results: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(untrained_model, tmp_path / MODEL))
        (folder / "fold_0" / "validation").mkdir()
        (folder / "fold_0" / "validation" / "summary.json").write_text("of named cases")
        write_doubts([{"dice": number / 10, "doubt": 1 - number / 10, "volume": 1.0} for number in range(6)], folder / "fold_0")
        export_models([model_in(folder)], tmp_path / "model.zip")
        install_models(tmp_path / "model.zip")
        assert model_calibration(results / MODEL)["rank_correlation"] == -1
        assert model_calibration(results / MODEL) == model_calibration(folder)
        assert [path.name for path in (results / MODEL / "fold_0" / "validation").iterdir()] == ["doubt.json"]

    def test_is_refused_with_doubts_that_are_none(self, untrained_model: Path, results: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(untrained_model, tmp_path / MODEL))
        (folder / "fold_0" / "validation").mkdir()
        (folder / "fold_0" / "validation" / "doubt.json").write_text('[{"dice": NaN, "doubt": 1, "volume": 1}]')
        export_models([model_in(folder)], tmp_path / "model.zip")
        with pytest.raises(ModelArchiveError, match=r"doubt\.json is no record of a validation's doubts.*Nothing was installed"):
            install_models(tmp_path / "model.zip")
        assert list(results.iterdir()) == []

    def test_may_say_in_its_name_what_was_changed(self, untrained_model: Path, results: Path, tmp_path: Path) -> None:
        name = "Fuse4SegTrainer-losses.edges=4__Fuse4SegPlans-grey-bilevel.viewing=__2d"
        folder = shutil.copytree(untrained_model, tmp_path / MODEL.parent / name)
        export_models([model_in(folder)], tmp_path / "model.zip")
        assert install_models(tmp_path / "model.zip") == [results / MODEL.parent / name]

    def test_comes_out_of_a_compressed_archive_as_well(self, exported_model: Path, results: Path, tmp_path: Path) -> None:
        with ZipFile(exported_model) as archive, ZipFile(tmp_path / "packed.zip", "w", ZIP_DEFLATED) as packed:
            for name in archive.namelist():
                packed.writestr(name, archive.read(name))
        assert install_models(tmp_path / "packed.zip") == [results / MODEL]

    def test_comes_out_of_an_archive_that_macos_added_to(self, exported_model: Path, results: Path, tmp_path: Path) -> None:
        archive = Path(shutil.copy(exported_model, tmp_path / "mac.zip"))
        with ZipFile(archive, "a") as added:
            for name in (".DS_Store", "Dataset990_Phantom/.DS_Store", "__MACOSX/._a", "Dataset990_Phantom/._a"):
                added.writestr(name, b"whatever it is")
        assert install_models(archive) == [results / MODEL]
        assert not [path for path in results.rglob("*") if path.name.startswith((".DS", "._", "__MAC"))]

    def test_of_an_id_that_is_taken_is_told(self, exported_model: Path, results: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
        (results / "Dataset990_Other").mkdir()
        assert main([str(exported_model), "--root", str(results.parent)]) == 0
        assert "Dataset990_Other" in capsys.readouterr().err


class TestModelThatIsThere:
    @pytest.fixture
    def mine(self, results: Path) -> Path:
        (results / MODEL / "fold_1").mkdir(parents=True)
        (results / MODEL / "fold_1" / "checkpoint_final.pth").write_text("days of work")
        return results / MODEL

    def test_is_kept(self, exported_model: Path, results: Path, mine: Path) -> None:
        before = listing(results)
        with pytest.raises(ModelExistsError, match=r"--overwrite"):
            install_models(exported_model)
        assert listing(results) == before

    def test_is_replaced_on_demand(self, exported_model: Path, mine: Path) -> None:
        install_models(exported_model, overwrite=True)
        assert listing(mine)[2:4] == [Path("fold_0"), Path("fold_0/checkpoint_final.pth")]
        assert not (mine / "fold_1").exists()

    def test_outlives_a_damaged_archive_and_a_failed_move(self, exported_model: Path, results: Path, mine: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
        before = listing(results)
        damaged = bytearray(exported_model.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (tmp_path / "damaged.zip").write_bytes(damaged)
        with pytest.raises(ModelArchiveError, match=r"safetensors is damaged"):
            install_models(tmp_path / "damaged.zip", overwrite=True)
        assert listing(results) == before
        moves = iter([Path.rename])

        def rename_once(path: Path, target: Path) -> Path:
            if path.parent.parent.name == "new" and next(moves, None):
                raise OSError("the disk went away")
            return rename(path, target)

        rename = Path.rename
        monkeypatch.setattr(Path, "rename", rename_once)
        with pytest.raises(UnwritableFolderError, match="the disk went away"):
            install_models(exported_model, overwrite=True)
        assert next(moves, None) is None
        assert listing(results) == before
        assert (mine / "fold_1" / "checkpoint_final.pth").read_text() == "days of work"


class TestRoom:
    def test_is_asked_for_first(self, exported_model: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 999, 1))
        with pytest.raises(UnwritableFolderError, match="are free"):
            install_models(exported_model)
        assert listing(results) == []
        assert install_model.shutil is shutil
