"""Data of a comparison's rows: the same cases and labels, other channels, and plans that fit them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from fuse4seg.comparison.prepared_data import as_grey, environment_of, prepare_row, recipe_of, standardised, windows_of
from fuse4seg.comparison.rows import Row
from fuse4seg.datasets.dataset_json import declare_missing
from fuse4seg.errors import FaultyImageError, Fuse4SegError, OptionError, RecipeError, UnpairedCasesError
from fuse4seg.inference.fusion_rules import fuse_by_rule

DATASET = "Dataset990_Phantom"
IDENTIFIER = "nnUNetPlans_2d"


@pytest.fixture
def source(planned_phantom: Path) -> Path:
    return planned_phantom / "nnUNet_preprocessed" / DATASET


@pytest.fixture
def plans(source: Path) -> dict[str, Any]:
    return json.loads((source / "Fuse4SegPlans.json").read_text())


def case_of(folder: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any], str]:
    dataset = nnUNetDatasetBlosc2(str(folder / IDENTIFIER))
    case = sorted(dataset.identifiers)[0]
    data, labels, _, properties = dataset.load_case(case)
    return data[:], labels[:], properties, case


class TestPrepareRow:
    def test_of_a_modality_keeps_it_and_the_labels(self, source: Path, plans: dict[str, Any], tmp_path: Path) -> None:
        prepare_row(Row("T2", source=("modality", 2)), source, tmp_path / "T2", plans=plans, configuration="2d")
        channels, labels, properties, case = case_of(source)
        found, found_labels, found_properties, _ = case_of(tmp_path / "T2")
        np.testing.assert_array_equal(found, channels[2:3])
        np.testing.assert_array_equal(found_labels, labels)
        assert found_properties["class_locations"].keys() == properties["class_locations"].keys()
        assert (tmp_path / "T2" / "gt_segmentations" / f"{case}.nii.gz").is_file()

    def test_of_a_rule_fuses_what_the_network_would_see(self, source: Path, plans: dict[str, Any], tmp_path: Path) -> None:
        prepare_row(Row("max", source=("rule", "max")), source, tmp_path / "max", plans=plans, configuration="2d")
        channels = case_of(source)[0]
        low, high = windows_of(plans, "2d").T.reshape(2, -1, 1, 1, 1)
        brightest = np.clip((channels - low) / (high - low), 0, 1).max(axis=0)
        found = case_of(tmp_path / "max")[0][0]
        np.testing.assert_allclose(found, (brightest - brightest.mean()) / brightest.std(), atol=1e-4)

    def test_of_the_colour_rule_has_three_channels_each_standardised(self, source: Path, plans: dict[str, Any],
                                                                     tmp_path: Path) -> None:
        prepare_row(Row("colour", source=("rule", "colour")), source, tmp_path / "colour", plans=plans, configuration="2d")
        fused = fuse_by_rule(list(as_grey(case_of(source)[0], windows_of(plans, "2d"))), "colour")
        found = case_of(tmp_path / "colour")[0]
        assert found.shape == fused.shape
        for channel, colour in zip(found, fused, strict=True):
            np.testing.assert_allclose(channel, (colour - colour.mean()) / colour.std(), atol=1e-3)
        changed = json.loads((tmp_path / "colour" / "Fuse4SegPlans.json").read_text())["configurations"]["2d"]
        assert changed["normalization_schemes"] == plans["configurations"]["2d"]["normalization_schemes"][:1] * 3
        assert len(changed["use_mask_for_norm"]) == 3
        names = json.loads((tmp_path / "colour" / "dataset.json").read_text())["channel_names"]
        assert names == {"0": "colour", "1": "colour", "2": "colour"}

    def test_of_cases_that_lack_modalities_has_all_of_its_own(self, source: Path, plans: dict[str, Any], tmp_path: Path) -> None:
        """A rule fuses what is there; the modality that is absent is 0."""
        lacking = tmp_path / "lacking"
        shutil.copytree(source, lacking)
        channels, labels, properties, case = case_of(lacking)
        channels[1] = 0
        data = lacking / IDENTIFIER
        for part in ("", "_seg"):
            (data / f"{case}{part}.b2nd").unlink()
        nnUNetDatasetBlosc2.save_case(channels, labels, {**properties, "present": [True, False, True, True]}, str(data / case),
                                      chunks=channels.shape, blocks=channels.shape)
        declare_missing(lacking)
        for row in (Row("mean", source=("rule", "mean")), Row("T1ce", source=("modality", 1))):
            prepare_row(row, lacking, tmp_path / row.name, plans=plans, configuration="2d")
            assert "missing_modalities" not in json.loads((tmp_path / row.name / "dataset.json").read_text())
        mean = as_grey(channels, windows_of(plans, "2d"))[[0, 2, 3]].mean(axis=0)
        found, _, told, _ = case_of(tmp_path / "mean")
        np.testing.assert_allclose(found[0], (mean - mean.mean()) / mean.std(), atol=1e-4)
        assert "present" not in told
        assert not case_of(tmp_path / "T1ce")[0].any()
        prepare_row(Row("stacked"), lacking, tmp_path / "stacked", plans=plans, configuration="2d")
        assert case_of(tmp_path / "stacked")[2]["present"] == [True, False, True, True]

    def test_trims_what_the_plans_say_per_channel(self, source: Path, plans: dict[str, Any], tmp_path: Path) -> None:
        prepare_row(Row("max", source=("rule", "max")), source, tmp_path / "max", plans=plans, configuration="2d")
        found = json.loads((tmp_path / "max" / "Fuse4SegPlans.json").read_text())["configurations"]["2d"]
        assert found["normalization_schemes"] == plans["configurations"]["2d"]["normalization_schemes"][:1]
        assert len(found["use_mask_for_norm"]) == 1
        assert found["patch_size"] == plans["configurations"]["2d"]["patch_size"]
        assert json.loads((tmp_path / "max" / "dataset.json").read_text())["channel_names"] == {"0": "max"}

    def test_of_another_network_links_the_data_and_changes_the_plans(self, source: Path, plans: dict[str, Any],
                                                                     tmp_path: Path) -> None:
        row = Row("still", ours=True, changes=("leader.cross_attention=false", "losses.edges=4"))
        prepare_row(row, source, tmp_path / "row", plans=plans, configuration="2d")
        assert (tmp_path / "row" / IDENTIFIER).resolve() == (source / IDENTIFIER).resolve()
        found = json.loads((tmp_path / "row" / "Fuse4SegPlans.json").read_text())
        arguments = found["configurations"]["2d"]["architecture"]["arch_kwargs"]
        before = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
        leader = before["leader"]
        assert leader["arch_kwargs"]["cross_attention"]
        assert arguments == {**before, "leader": {**leader, "arch_kwargs": {**leader["arch_kwargs"], "cross_attention": False}}}
        assert found["fuse4seg"]["recipe"]["losses"]["edges"] == 4

    def test_keeps_what_is_whole_and_makes_anew_what_is_not(self, source: Path, plans: dict[str, Any], tmp_path: Path) -> None:
        row, target = Row("T1", source=("modality", 0)), tmp_path / "T1"
        prepare_row(row, source, target, plans=plans, configuration="2d")
        (target / "dataset.json").unlink()
        prepare_row(row, source, target, plans=plans, configuration="2d")
        assert not (target / "dataset.json").exists()
        (target / "complete.json").unlink()
        prepare_row(row, source, target, plans=plans, configuration="2d")
        assert (target / "dataset.json").is_file()

    def test_refuses_what_was_made_for_another_row_of_its_name(self, source: Path, plans: dict[str, Any], tmp_path: Path) -> None:
        one, other = (Row("mine", ours=True, changes=(f"losses.edges={weight}",)) for weight in (3, 4))
        prepare_row(one, source, tmp_path / "mine", plans=plans, configuration="2d")
        prepare_row(one, source, tmp_path / "mine", plans=plans, configuration="2d")
        with pytest.raises(OptionError, match="^--rows: .*mine was made for another row named mine"):
            prepare_row(other, source, tmp_path / "mine", plans=plans, configuration="2d")

    @pytest.mark.parametrize("change", ["patches.batch=4", "follower.features=8", "follower.network=resenc_m"])
    def test_refuses_what_all_rows_have_alike(self, change: str, plans: dict[str, Any]) -> None:
        with pytest.raises(RecipeError, match=f"^mine: {change.partition('=')[0]}: is the same for all rows"):
            recipe_of(Row("mine", ours=True, changes=(change,)), plans)

    def test_refuses_a_reference_that_the_dataset_lacks(self, plans: dict[str, Any]) -> None:
        with pytest.raises(RecipeError, match="leader.reference: the dataset has no modality 'PET'. Name one of: "):
            recipe_of(Row("mine", ours=True, changes=("leader.reference=PET",)), plans)

    def test_of_another_reference_shows_it(self, source: Path, plans: dict[str, Any], tmp_path: Path) -> None:
        reference = plans["fuse4seg"]["channel_names"][-1]
        row = Row("mine", ours=True, changes=(f"leader.reference={reference}",))
        prepare_row(row, source, tmp_path / "mine", plans=plans, configuration="2d")
        found = json.loads((tmp_path / "mine" / "Fuse4SegPlans.json").read_text())["configurations"]["2d"]
        leader = found["architecture"]["arch_kwargs"]["leader"]["arch_kwargs"]
        assert leader["reference"] == len(plans["fuse4seg"]["channel_names"]) - 1

    def test_of_a_folder_crops_and_resamples_as_the_cases_were(self, planned_phantom: Path, source: Path,
                                                               plans: dict[str, Any], tmp_path: Path) -> None:
        """The raw images of one channel, given as if they were fused, come out as that channel."""
        raw = planned_phantom / "nnUNet_raw" / DATASET / "imagesTr"
        (tmp_path / "fused").mkdir()
        for path in raw.glob("*_0001.nii.gz"):
            (tmp_path / "fused" / path.name.replace("_0001", "")).symlink_to(path)
        row = Row("FILM", source=("folder", str(tmp_path / "fused")))
        prepare_row(row, source, tmp_path / "FILM", plans=plans, configuration="2d")
        found, expected = case_of(tmp_path / "FILM")[0][0], case_of(source)[0][1]
        assert found.shape == expected.shape
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999

    def test_of_a_folder_that_lacks_a_case_is_refused(self, source: Path, plans: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "fused").mkdir()
        with pytest.raises(UnpairedCasesError, match="Fuse every training case"):
            prepare_row(Row("FILM", source=("folder", str(tmp_path / "fused"))), source, tmp_path / "FILM", plans=plans,
                        configuration="2d")

    def test_of_a_folder_on_another_grid_is_refused(self, source: Path, plans: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "fused").mkdir()
        for case in nnUNetDatasetBlosc2(str(source / IDENTIFIER)).identifiers:
            sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.float32)), tmp_path / "fused" / f"{case}.nii.gz")
        with pytest.raises(FaultyImageError, match="on the grid of its sources"):
            prepare_row(Row("FILM", source=("folder", str(tmp_path / "fused"))), source, tmp_path / "FILM", plans=plans,
                        configuration="2d")

    def test_of_a_folder_with_nan_is_refused(self, planned_phantom: Path, source: Path, plans: dict[str, Any],
                                             tmp_path: Path) -> None:
        (tmp_path / "fused").mkdir()
        for path in (planned_phantom / "nnUNet_raw" / DATASET / "imagesTr").glob("*_0001.nii.gz"):
            voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
            voxels[1, 2, 3] = np.nan
            sitk.WriteImage(sitk.GetImageFromArray(voxels), tmp_path / "fused" / path.name.replace("_0001", ""))
        with pytest.raises(Fuse4SegError, match="holds NaN or infinite intensities"):
            prepare_row(Row("FILM", source=("folder", str(tmp_path / "fused"))), source, tmp_path / "FILM", plans=plans,
                        configuration="2d")


class TestGrey:
    def test_cuts_to_the_windows(self) -> None:
        channels = np.array([-3.0, -1, 0, 1, 5]).reshape(1, 5)
        np.testing.assert_allclose(as_grey(channels, np.array([[-1.0, 1.0]])), [[0, 0, 127.5, 255, 255]])


class TestStandardised:
    def test_has_zero_mean_and_unit_variance_inside_and_zeros_outside(self) -> None:
        random = np.random.default_rng(0)
        channels, inside = random.random((3, 4, 8, 8)) * [[[[1]]], [[[50]]], [[[9]]]], random.random((1, 4, 8, 8)) > 0.5
        for channel in standardised(channels, inside):
            assert channel[inside[0]].mean() == pytest.approx(0, abs=1e-6)
            assert channel[inside[0]].std() == pytest.approx(1, abs=1e-6)
            assert not channel[~inside[0]].any()

    def test_without_a_mask_has_so_everywhere(self) -> None:
        channels = np.random.default_rng(0).random((2, 4, 8, 8)) * [[[[1]]], [[[50]]]]
        for channel in standardised(channels, None):
            assert (channel.mean(), channel.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


class TestEnvironment:
    def test_points_at_the_row_alone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("F4S_ROOT", "elsewhere")
        found = environment_of(tmp_path / "row" / DATASET, tmp_path / "results")
        assert "F4S_ROOT" not in found
        assert (found["nnUNet_preprocessed"], found["nnUNet_results"]) == (str(tmp_path / "row"), str(tmp_path / "results"))
