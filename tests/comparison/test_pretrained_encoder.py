"""Images fused elsewhere, read through the paper's pre-trained encoder: the row's data, plans and training, by its command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from fuse4seg.checkpoint import load_checkpoint
from fuse4seg.cli.compare import main
from fuse4seg.comparison.methods import recipe_of
from fuse4seg.comparison.prepared_data import prepare_row
from fuse4seg.comparison.rows import Row
from fuse4seg.errors import RecipeError
from fuse4seg.inference.model import load_model
from fuse4seg.inference.predict_case import segment_fused
from fuse4seg.recipes.reading import from_plain, read_recipe

DATASET, NAME = "Dataset990_Phantom", "Fuse4SegPlans"


@pytest.fixture(scope="module")
def folder(planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image per training case, of 8 bits: the second modality, stretched."""
    folder = tmp_path_factory.mktemp("elsewhere") / "FILM"
    folder.mkdir()
    for path in (planned_phantom / "nnUNet_raw" / DATASET / "imagesTr").glob("*_0001.nii.gz"):
        source = sitk.ReadImage(str(path))
        voxels = sitk.GetArrayFromImage(source)
        image = sitk.GetImageFromArray(np.rint(255 * (voxels - voxels.min()) / np.ptp(voxels)).astype(np.uint8))
        image.CopyInformation(source)
        sitk.WriteImage(image, str(folder / path.name.replace("_0001", "")))
    return folder


@pytest.fixture
def source(planned_phantom: Path) -> Path:
    return planned_phantom / "nnUNet_preprocessed" / DATASET


@pytest.fixture
def plans(source: Path) -> dict[str, Any]:
    return json.loads((source / f"{NAME}.json").read_text())


def row(folder: Path, *changes: str) -> Row:
    return Row("FILM_pretrained", ours=True, source=("folder", str(folder)), recipe="pretrained_encoder", changes=changes)


class TestData:
    @pytest.fixture
    def made(self, folder: Path, source: Path, plans: dict[str, Any], tmp_path: Path) -> Path:
        for one in (row(folder), Row("FILM", source=("folder", str(folder)))):
            prepare_row(one, source, tmp_path / one.name, plans=plans, configuration="2d")
        return tmp_path

    def test_are_those_that_nnunet_gets(self, made: Path) -> None:
        ours, stock = (nnUNetDatasetBlosc2(str(made / name / "nnUNetPlans_2d")) for name in ("FILM_pretrained", "FILM"))
        for case in stock.identifiers:
            np.testing.assert_array_equal(ours.load_case(case)[0][:], stock.load_case(case)[0][:])

    def test_have_plans_of_one_channel_in_its_own_window(self, made: Path, plans: dict[str, Any]) -> None:
        dataset = nnUNetDatasetBlosc2(str(made / "FILM_pretrained" / "nnUNetPlans_2d"))
        shown = np.concatenate([image[:][labels[:] >= 0] for image, labels, *_ in map(dataset.load_case, dataset.identifiers)])
        found = json.loads((made / "FILM_pretrained" / f"{NAME}.json").read_text())
        assert found["fuse4seg"]["channel_names"] == ["FILM_pretrained"]
        for name in ("2d", "3d_fullres"):
            plan, before = (one["configurations"][name] for one in (found, plans))
            network, known = (one["architecture"]["arch_kwargs"] for one in (plan, before))
            np.testing.assert_allclose(network["windows"], [np.percentile(shown, [0.5, 99.9])], rtol=1e-6)
            assert network["follower"] == known["follower"]
            assert network["leader"]["network_class_name"] == "fuse4seg.leaders.encoder.EncoderLeader"
            assert (plan["patch_size"], plan["batch_size"]) == (before["patch_size"], before["batch_size"])
            assert plan["normalization_schemes"] == before["normalization_schemes"][:1]

    def test_fit_plans_of_another_follower_and_another_reference(self, folder: Path, source: Path, plans: dict[str, Any],
                                                                 tmp_path: Path) -> None:
        """Which reads all images in the comparison; the reference modality is none of theirs."""
        plans["fuse4seg"]["recipe"]["follower"]["rate"] = 0.02
        for plan in plans["configurations"].values():
            if "architecture" in plan:
                plan["architecture"]["arch_kwargs"]["leader"]["arch_kwargs"]["reference"] = 3
        prepare_row(row(folder), source, tmp_path / "row", plans=plans, configuration="2d")
        found = json.loads((tmp_path / "row" / f"{NAME}.json").read_text())
        assert from_plain(found["fuse4seg"]["recipe"], source="plans").follower.rate == 0.02
        leader = found["configurations"]["2d"]["architecture"]["arch_kwargs"]["leader"]["arch_kwargs"]
        assert leader["reference"] == 0

    def test_recipe_is_its_own_but_for_what_all_rows_share(self, folder: Path, plans: dict[str, Any]) -> None:
        plans["fuse4seg"]["recipe"]["training"]["epochs"] = 70
        found, known, own = (recipe_of(row(folder), plans), from_plain(plans["fuse4seg"]["recipe"], source="plans"),
                             read_recipe("pretrained_encoder"))
        assert (found.leader, found.losses, found.bilevel) == (own.leader, own.losses, own.bilevel)
        assert (found.follower, found.patches, found.training) == (known.follower, known.patches, known.training)
        assert found.pretraining.epochs == 40  # 80 of 140

    def test_refuses_what_the_one_image_has_not(self, folder: Path, plans: dict[str, Any]) -> None:
        with pytest.raises(RecipeError, match="leader.reference: the dataset has no modality 'T1'"):
            recipe_of(row(folder, "leader.reference=T1"), plans)


@pytest.fixture(scope="module")
def compared(planned_phantom: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished comparison."""
    output = tmp_path_factory.mktemp("pretrained") / "comparison"
    assert main(["990", "2d", "--root", str(planned_phantom), "-o", str(output), "--devices", "cpu",
                 "--rows", "FILM_pretrained", "--images", f"FILM={folder}"]) == 0
    return output


@pytest.mark.slow
class TestByTheCommand:
    @pytest.fixture
    def fold(self, compared: Path) -> Path:
        return compared.joinpath("trainings", "FILM_pretrained", "fold0_seed0", DATASET, f"Fuse4SegTrainer__{NAME}__2d", "fold_0")

    def test_gives_both_rows_the_same_budget_and_stage_1_besides(self, compared: Path) -> None:
        behind, film = json.loads((compared / "comparison.json").read_text())["results"]
        assert [(found["name"], found["pretrain_epochs"], found["iterations"], len(found["pseudo_dice"]))
                for found in (behind, film)] == [("FILM_pretrained", 1, 2, 2), ("FILM", 0, 2, 2)]

    def test_scores_the_images_that_were_given(self, compared: Path) -> None:
        behind, film = json.loads((compared / "comparison.json").read_text())["results"]
        assert behind["fusion"] == film["fusion"]

    def test_keeps_the_encoder_as_stage_1_left_it(self, fold: Path) -> None:
        pretrained = load_checkpoint(fold / "pretrained.pth")["fusion"]
        final = load_checkpoint(fold / "checkpoint_final.pth")["network_weights"]
        assert any(name.startswith("encoder.") for name in pretrained)
        for name, weight in pretrained.items():
            assert torch.equal(final[f"fusion.{name}"], weight), name

    def test_segments_from_the_encoder_s_features_of_the_exported_image(self, fold: Path) -> None:
        """What was validated follows from the exported image alone; what the follower is given, from that and the encoder."""
        (exported,) = (fold / "validation" / "fused").glob("*.nii.gz")
        image, segmentation = (sitk.ReadImage(str(path)) for path in (exported, fold / "validation" / exported.name))
        voxels = sitk.GetArrayFromImage(image)
        model = load_model(fold.parent, folds=[0], device=torch.device("cpu"))
        head = tuple(slice(where.min(), where.max() + 1) for where in voxels.nonzero())
        made = segment_fused(model, [voxels[None]], image.GetSpacing()[::-1])
        np.testing.assert_array_equal(made.logits.argmax(axis=0), sitk.GetArrayFromImage(segmentation)[head])
        entered: list[torch.Tensor] = []
        model.network.segmentation.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        segment_fused(replace(model, mirror_axes=()), [voxels[None]], image.GetSpacing()[::-1])
        missing = [size - extent for size, extent in zip(model.patch_size, voxels[head].shape[1:], strict=True)]
        padded = np.pad(voxels[head] / np.float32(255), [(0, 0), *((lack // 2, lack - lack // 2) for lack in missing)])
        expected = model.network.fusion.read(torch.from_numpy(padded[:, None]))
        assert expected.shape[1] == 128
        torch.testing.assert_close(torch.cat(entered), expected)


@pytest.mark.parametrize(("words", "said"), [
    (["--rows", "FILM_pretrained"], "--rows: unknown row FILM_pretrained"),
    (["--rows", "FILM_pretrained", "--images", "FILM=nowhere"], "nowhere"),
    (["--rows", "table3", "--images", "paper=nowhere"], "--rows: paper is there twice")])
def test_mistakes_are_told_in_one_line(planned_phantom: Path, tmp_path: Path, words: list[str], said: str,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["990", "2d", "--root", str(planned_phantom), "-o", str(tmp_path / "out"), *words]) == 1
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
