"""A whole comparison by its command: stock nnU-Net, a fixed fusion and ours trained, scored, reported, and taken up again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from fuse4seg.cli.compare import main
from fuse4seg.comparison.prepared_data import as_grey, standardised, windows_of
from fuse4seg.comparison.scores import with_margin
from fuse4seg.evaluation.fusion_metrics import METRICS, fusion_metrics
from fuse4seg.evaluation.visibility import visibility

DATASET = "Dataset990_Phantom"
HARDLY = ["--devices", "cpu"]
ROWS = ["--rows", "stacked", "max", "colour", "fuse4seg"]


def run(root: Path, output: Path, *words: str) -> int:
    return main(["990", "2d", "--root", str(root), "-o", str(output), *HARDLY, *words])


@pytest.fixture(scope="module")
def compared(planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished comparison."""
    output = tmp_path_factory.mktemp("compared") / "comparison"
    assert run(planned_phantom, output, *ROWS) == 0
    return output


@pytest.fixture
def result(compared: Path) -> dict[str, Any]:
    return json.loads((compared / "comparison.json").read_text())


@pytest.mark.slow
class TestCompare:
    def test_scores_every_row_on_the_same_cases(self, result: dict[str, Any]) -> None:
        assert [found["name"] for found in result["results"]] == ["stacked", "max", "colour", "fuse4seg"]
        cases = [sorted(found["segmentation"]["cases"]) for found in result["results"]]
        assert all(found == cases[0] for found in cases)
        assert len(cases[0]) == 1

    def test_scores_the_largest_components_beside(self, result: dict[str, Any]) -> None:
        assert all(found["largest_component"]["largest_component"] for found in result["results"])
        assert not any(found["segmentation"]["largest_component"] for found in result["results"])

    def test_gives_all_rows_the_same_segmentation_network(self, compared: Path, result: dict[str, Any]) -> None:
        """They differ in the first convolution's channels (3 x 3 x 8 each), and ours has the fusion network beside."""
        stacked, fixed, colour, ours = (found["parameters"] for found in result["results"])
        assert stacked - fixed == 3 * 3 * 3 * 8
        assert stacked - colour == 3 * 3 * 8
        assert ours > colour
        for name in ("stacked", "max", "colour"):
            log, = (compared / "trainings" / name).rglob("training_log.json")
            assert len(json.loads(log.read_text())["mean_fg_dice"]) == 2

    def test_scores_fused_images_as_the_metrics_do(self, planned_phantom: Path, result: dict[str, Any]) -> None:
        """Of the voxelwise maximum, computed here, on the slices that hold foreground."""
        _, fixed, _, ours = result["results"]
        (case, found), = fixed["fusion"]["cases"].items()
        source = planned_phantom / "nnUNet_preprocessed" / DATASET
        plans = json.loads((source / "Fuse4SegPlans.json").read_text())
        data, labels, _, _ = nnUNetDatasetBlosc2(str(source / "nnUNetPlans_2d")).load_case(case)
        held = (labels[0] > 0).any(axis=(1, 2))
        sources = with_margin(as_grey(data[:], windows_of(plans, "2d"))[:, held])
        expected = fusion_metrics(sources.max(axis=0), list(sources))
        assert {name: found[name] for name in METRICS} == pytest.approx(expected)
        assert result["trivial"][0]["maximum"]["cases"][case] == pytest.approx(found)
        assert found.keys() | {"visibility"} <= ours["fusion"]["mean"].keys()
        assert np.mean([found[f"SSIM to {name}"] for name in ("T1", "T1ce", "T2", "FLAIR")]) == pytest.approx(found["SSIM"] / 2)

    def test_scores_what_validation_exported(self, compared: Path, planned_phantom: Path, result: dict[str, Any]) -> None:
        """In colour, of ours; its visibility is not above that of all sources together, but by what a sample can make of it."""
        *_, ours = result["results"]
        (case,) = ours["fusion"]["cases"]
        folder = next((compared / "trainings" / "fuse4seg").rglob("validation/fused"))
        source = planned_phantom / "nnUNet_preprocessed" / DATASET
        dataset_json, plans = (json.loads((source / name).read_text()) for name in ("dataset.json", "Fuse4SegPlans.json"))
        data, labels, _, properties = nnUNetDatasetBlosc2(str(source / "nnUNetPlans_2d")).load_case(case)
        sources, truth = as_grey(data[:], windows_of(plans, "2d")), labels[0]
        image = np.moveaxis(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz"))), -1, 0)
        image = image[(slice(None), *(slice(*ends) for ends in properties["bbox_used_for_cropping"]))]
        classes = {name: value for name, value in dataset_json["labels"].items() if value}
        for boundary, value in visibility(image, truth, sources.any(axis=0), classes=classes).items():
            assert ours["fusion"]["cases"][case][f"visibility {boundary}"] == pytest.approx(value, abs=1e-6)
        together = result["trivial"][0]["all_sources"]["mean"]["visibility"]
        assert 0.5 <= ours["fusion"]["mean"]["visibility"] <= together + 0.01

    def test_trains_and_scores_nothing_twice(self, planned_phantom: Path, compared: Path, result: dict[str, Any]) -> None:
        before = {path: path.stat().st_mtime_ns for path in compared.rglob("*") if path.is_file()}
        assert run(planned_phantom, compared, *ROWS) == 0
        changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
        assert changed <= {"comparison.json", "conditions.json", "report.md", "report.html", "case.png"}
        assert json.loads((compared / "comparison.json").read_text())["results"] == result["results"]

    def test_lets_stock_nnunet_read_the_image_that_a_row_exported(self, planned_phantom: Path, compared: Path,
                                                                  tmp_path: Path) -> None:
        copy = shutil.copytree(compared, tmp_path / "copy", symlinks=True)
        checkpoint, = (copy / "trainings" / "fuse4seg").rglob("checkpoint_final.pth")
        before = checkpoint.stat().st_mtime_ns
        assert run(planned_phantom, copy, "--rows", "fuse4seg_image") == 0
        assert checkpoint.stat().st_mtime_ns == before
        results = {found["name"]: found for found in json.loads((copy / "comparison.json").read_text())["results"]}
        ours, read = results["fuse4seg"], results["fuse4seg_image"]
        assert read["fusion"] == ours["fusion"]
        (case,) = read["segmentation"]["cases"]
        data, labels, _, properties = nnUNetDatasetBlosc2(
            str(copy / "data" / "fuse4seg_image_fold0_seed0" / DATASET / "nnUNetPlans_2d")).load_case(case)
        exported = next((copy / "trainings" / "fuse4seg").rglob(f"validation/fused/{case}.nii.gz"))
        image = np.moveaxis(sitk.GetArrayFromImage(sitk.ReadImage(str(exported))), -1, 0).astype(np.float32)
        image = image[(slice(None), *(slice(*ends) for ends in properties["bbox_used_for_cropping"]))]
        masked = json.loads((copy / "data" / "fuse4seg_image_fold0_seed0" / DATASET / "Fuse4SegPlans.json").read_text())
        inside = labels[:] >= 0 if masked["configurations"]["2d"]["use_mask_for_norm"][0] else None
        np.testing.assert_allclose(data[:], standardised(image, inside), atol=0.02)

    def test_keeps_what_earlier_calls_left(self, planned_phantom: Path, compared: Path, result: dict[str, Any]) -> None:
        assert run(planned_phantom, compared, "--rows", "max") == 0
        now = json.loads((compared / "comparison.json").read_text())
        assert now["results"] == result["results"]
        assert [call["command"] for call in now["calls"][:len(result["calls"])]] == [call["command"] for call in result["calls"]]

    def test_forgets_trainings_that_were_deleted(self, planned_phantom: Path, compared: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(compared, tmp_path / "copy", symlinks=True)
        shutil.rmtree(copy / "trainings" / "max")
        assert run(planned_phantom, copy, "--rows", "stacked") == 0
        names = [found["name"] for found in json.loads((copy / "comparison.json").read_text())["results"]]
        assert names == ["stacked", "colour", "fuse4seg"]

    def test_refuses_another_row_of_the_same_name(self, planned_phantom: Path, compared: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
        assert run(planned_phantom, compared, "--rows", "--variant", "max=bilevel.fusion_weight=1") == 1
        assert "another row named max" in capsys.readouterr().err

    @pytest.mark.parametrize("content", ["[]", '{"results": []}', "{"])
    def test_names_a_damaged_result(self, planned_phantom: Path, compared: Path, tmp_path: Path, content: str,
                                    capsys: pytest.CaptureFixture[str]) -> None:
        copy = shutil.copytree(compared, tmp_path / "copy", symlinks=True)
        (copy / "comparison.json").write_text(content)
        assert run(planned_phantom, copy, *ROWS) == 1
        said = capsys.readouterr().err.strip()
        assert "comparison.json" in said
        assert len(said.splitlines()) == 1

    def test_refuses_other_conditions_in_the_same_folder(self, planned_phantom: Path, compared: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
        assert run(planned_phantom, compared, *ROWS, "--minutes", "3") == 1
        assert "holds a comparison with budget" in capsys.readouterr().err

    def test_writes_a_page_with_its_command(self, compared: Path) -> None:
        page = (compared / "report.md").read_text()
        assert "| fuse4seg | 1 |" in page
        assert "## Fused images" in page
        assert "| all_sources |" in page
        assert "(case.png)" in page
        shown = (compared / "report.html").read_text()
        assert "Which segments best?" in shown
        assert "What does a readable image cost?" in shown
        assert "data:image/png;base64," in shown
        assert (compared / "case.png").is_file()

    def test_names_what_failed_and_does_the_rest(self, planned_phantom: Path, compared: Path, result: dict[str, Any],
                                                 capsys: pytest.CaptureFixture[str]) -> None:
        assert run(planned_phantom, compared, *ROWS, "--variant", "bad=losses.edges=1e38 bilevel.fusion_weight=1e38") == 1
        said = capsys.readouterr().err
        assert "bad, fold 0, seed 0: error: the loss became NaN or infinite" in said
        assert "Traceback" not in said
        assert len(json.loads((compared / "comparison.json").read_text())["results"]) == len(result["results"])

    def test_spends_minutes_where_it_is_told_to(self, planned_phantom: Path, tmp_path: Path) -> None:
        assert main(["990", "2d", "--root", str(planned_phantom), "-o", str(tmp_path), "--minutes", "0.05",
                     "--devices", "cpu", "--rows", "max"]) == 0
        result = json.loads((tmp_path / "comparison.json").read_text())
        seconds = json.loads((tmp_path / "pace" / "max" / "fold0_seed0" / "pace.json").read_text())["seconds_per_iteration"]
        assert result["budget"] == {"epochs": 2, "iterations": None, "minutes": 0.05, "pretrain_epochs": 2}
        assert result["results"][0]["iterations"] == int(3 / (2 * seconds))


class TestMistakes:
    @pytest.mark.parametrize(("words", "said"), [
        (["--rows", "median"], "--rows: unknown row median"),
        (["--images", "film"], "--images: 'film' is not NAME=VALUE"),
        (["--variant", "a=losses.edges=1", "--variant", "a=losses.edges=2"], "--variant: a is there twice"),
        (["--variant", "a=losses.edges=-1"], "--set: losses.edges: must be at least 0"),
        (["-p", "NoPlans"], "NoPlans"),
        (["--minutes", "0"], "--minutes: must be above 0, got 0"),
        (["--devices", "cuda:0"], "-device cuda is not available")])
    def test_are_told_in_one_line_before_anything_is_written(self, planned_phantom: Path, tmp_path: Path, words: list[str],
                                                             said: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(planned_phantom, tmp_path / "out", *words) == 1
        error = capsys.readouterr().err.strip()
        assert said in error
        assert len(error.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_of_a_follower_for_slices_in_3d_before_any_leader_is_trained(self, planned_phantom: Path, tmp_path: Path,
                                                                         capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["990", "3d_fullres", "--root", str(planned_phantom), "-o", str(tmp_path / "out"), "--devices", "cpu",
                     "--rows", "didfuse", "emcad"]) == 1
        assert capsys.readouterr().err == ("error: emcad: follower.network: emcad takes images of 2 axes, and 3d_fullres has 3. "
                                           "Leave the row out, or compare 2d.\n")
        assert not (tmp_path / "out").exists()

    def test_of_a_configuration_that_is_not_planned(self, planned_phantom: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["990", "4d", "--root", str(planned_phantom), "-o", str(tmp_path / "out")]) == 1
        assert "has no configuration 4d" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
