"""The fingerprint: nnU-Net's values, windows that fit the preprocessed data, and clear words about bad cases."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization

from fuse4seg.datasets import alignment
from fuse4seg.datasets.alignment import planned_information
from fuse4seg.datasets.phantom import write_phantom_dataset
from fuse4seg.errors import (
    FaultyDatasetError,
    FaultyImageError,
    FingerprintNotFoundError,
    MissingModalityError,
    NoForegroundError,
    WorkerDiedError,
)
from fuse4seg.evaluation.volumes import VOLUMES
from fuse4seg.planning import fingerprint as module
from fuse4seg.planning.fingerprint import (
    CaseSummary,
    Fuse4SegFingerprintExtractor,
    build_fingerprint,
    extract_fingerprint,
    read_fingerprint,
    summarise_case,
)
from fuse4seg.planning.foreground import Draws, draw_foreground, foreground_statistics
from fuse4seg.planning.options import PlanOptions
from fuse4seg.planning.planner import plan_experiment
from fuse4seg.planning.windows import intensity_windows

DATASET = "Dataset991_Small"
STATISTICS = "foreground_intensity_properties_per_channel"
WINDOWS = "intensity_windows_per_channel"


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's 10^8 draws take seconds, however small the dataset."""
    monkeypatch.setattr(module, "draw_foreground", lambda images, segmentation, *, draws:
                        draw_foreground(images, segmentation, draws=min(draws, 100_000)))


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    sitk.WriteImage(sitk.GetImageFromArray(change(voxels)), str(path))


class TestExtractFingerprint:
    def test_gives_the_values_of_nnunet(self, roots: Path, make_raw: Callable[..., Path]) -> None:
        make_raw(("T1", "CT"), cases=3, empty_border=1)
        stock, ours = DatasetFingerprintExtractor(DATASET, 1), Fuse4SegFingerprintExtractor(DATASET, 1)
        stock.num_foreground_voxels_for_intensitystats = ours.num_foreground_voxels_for_intensitystats = 1e5
        path = roots / "nnUNet_preprocessed" / DATASET / "dataset_fingerprint.json"

        stock.run(overwrite_existing=True)
        expected = json.loads(path.read_text())
        ours.run(overwrite_existing=True)
        found = json.loads(path.read_text())

        assert set(found) == {*expected, WINDOWS, VOLUMES}
        for channel, properties in expected.pop(STATISTICS).items():
            assert found[STATISTICS][channel] == pytest.approx(properties, rel=1e-6)
        assert {key: found[key] for key in expected} == expected

    def test_measures_each_channel_on_the_cases_that_have_it(self, make_raw: Callable[..., Path]) -> None:
        """The same as of as many complete cases, of which the others are left out of the channel's statistics."""
        folder = make_raw(("T1", "CT"), cases=4, empty_border=1)
        schemes = module.normalisation_schemes(json.loads((folder / "dataset.json").read_text()))
        complete = Fuse4SegFingerprintExtractor(DATASET, 1)._summarise_cases(schemes)
        for case, channel in ((1, 0), (2, 1), (3, 1)):
            (folder / "imagesTr" / f"case{case}_000{channel}.nii.gz").unlink()
        found = extract_fingerprint(991, processes=1, allow_missing=True)
        use_mask = found["median_relative_size_after_cropping"] < 3 / 4
        for channel, cases in enumerate(([0, 2, 3], [0, 1])):
            having = [complete[case] for case in cases]
            statistics = foreground_statistics([case.foreground[channel] for case in having])
            assert found[STATISTICS][str(channel)] == statistics
            window = intensity_windows([[case.tissue[channel]] for case in having], schemes=[schemes[channel]],
                                       use_mask=[use_mask and channel == 0], statistics=[statistics])
            assert found[WINDOWS][str(channel)] == window["0"]
        assert found["cases_with_channel"] == [3, 2]
        assert found["shapes_after_crop"] == [case.shape for case in complete]

    def test_says_how_many_cases_have_each_channel(self, make_raw: Callable[..., Path],
                                                   caplog: pytest.LogCaptureFixture) -> None:
        folder = make_raw(cases=3)
        with caplog.at_level("INFO"):
            assert "cases_with_channel" not in extract_fingerprint(991, processes=1)
            assert "T1 in" not in caplog.text
            (folder / "imagesTr" / "case1_0000.nii.gz").unlink()
            # The one that is there does not fit any more.
            assert extract_fingerprint(991, processes=1, allow_missing=True, overwrite=False)["cases_with_channel"] == [2, 3]
        assert "T1 in 2 of 3 cases, FLAIR in 3 of 3 cases" in caplog.text

    def test_refuses_a_channel_of_which_nothing_is_foreground(self, make_raw: Callable[..., Path]) -> None:
        folder = make_raw(cases=2)
        (folder / "imagesTr" / "case1_0001.nii.gz").unlink()
        rewrite(folder / "labelsTr" / "case0.nii.gz", np.zeros_like)
        with pytest.raises(NoForegroundError, match="holds a foreground voxel in the cases that have channel 1. Give"):
            extract_fingerprint(991, processes=1, allow_missing=True)

    def test_holds_the_volumes_of_labels(self, make_raw: Callable[..., Path]) -> None:
        folder = make_raw(cases=3)
        rewrite(folder / "labelsTr" / "case1.nii.gz", np.zeros_like)
        label = sitk.ReadImage(str(folder / "labelsTr" / "case0.nii.gz"))
        volume = sitk.GetArrayFromImage(label).sum() * np.prod(label.GetSpacing()) / 1000
        assert extract_fingerprint(991, processes=1)[VOLUMES] == {"tumour": pytest.approx([volume, 0, volume])}
        shutil.rmtree(folder / "labelsTr")
        assert extract_fingerprint(991, processes=1)[VOLUMES] == {}

    def test_holds_no_volumes_where_voxels_are_ignored(self, make_raw: Callable[..., Path]) -> None:
        folder = make_raw()
        description = json.loads((folder / "dataset.json").read_text())
        description["labels"]["ignore"] = len(description["labels"])
        (folder / "dataset.json").write_text(json.dumps(description))
        assert extract_fingerprint(991, processes=1)[VOLUMES] == {}

    def test_runs_from_nnunets_api(self, make_raw: Callable[..., Path]) -> None:
        make_raw()

        assert WINDOWS in extract_fingerprint_dataset(991, Fuse4SegFingerprintExtractor, 1)

    def test_takes_all_tissue_for_foreground_where_there_are_no_labels(self, make_raw: Callable[..., Path]) -> None:
        """Against numpy, on voxels that are all tissue but for a border."""
        folder = make_raw(cases=1, empty_border=2)
        labelled = extract_fingerprint(991, processes=1)
        shutil.rmtree(folder / "labelsTr")

        found = extract_fingerprint(991, processes=1, overwrite=False)

        for channel in range(2):
            voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "imagesTr" / f"case0_{channel:04d}.nii.gz")))
            tissue, statistics = voxels[2:-2, 2:-2, 2:-2].astype(float), found[STATISTICS][str(channel)]
            assert statistics["mean"] == pytest.approx(tissue.mean(), rel=0.01)
            assert statistics["std"] == pytest.approx(tissue.std(), rel=0.02)
            assert (statistics["min"], statistics["max"]) == pytest.approx((tissue.min(), tissue.max()), rel=1e-6)
        assert found[WINDOWS] == labelled[WINDOWS]
        assert found["shapes_after_crop"] == labelled["shapes_after_crop"]

    def test_is_not_kept_once_there_are_labels(self, make_raw: Callable[..., Path]) -> None:
        folder = make_raw()
        (folder / "labelsTr").rename(folder / "later")
        unlabelled = extract_fingerprint(991, processes=1)
        assert extract_fingerprint(991, processes=1, overwrite=False) == unlabelled
        (folder / "later").rename(folder / "labelsTr")
        assert extract_fingerprint(991, processes=1, overwrite=False)[STATISTICS] != unlabelled[STATISTICS]

    def test_gives_what_it_wrote(self, roots: Path, make_raw: Callable[..., Path]) -> None:
        make_raw()

        fingerprint = extract_fingerprint(991, processes=1)

        assert fingerprint == read_fingerprint(roots / "nnUNet_preprocessed" / DATASET / "dataset_fingerprint.json")

    def test_is_the_same_from_several_processes(self, make_raw: Callable[..., Path]) -> None:
        make_raw(cases=3)
        schemes = [ZScoreNormalization] * 2
        summarise = partial(summarise_case, reader=SimpleITKIO, schemes=schemes, classes={"tumour": 1}, draws=100,
                            limit=100)
        cases = Fuse4SegFingerprintExtractor(DATASET, 1).dataset

        one, two = (build_fingerprint(module._summarise_all(summarise, cases, processes=processes), dataset=DATASET,
                                      schemes=schemes) for processes in (1, 2))

        assert one == two

    def test_examines_the_dataset_first(self, roots: Path, make_raw: Callable[..., Path]) -> None:
        image = make_raw() / "imagesTr" / "case0_0001.nii.gz"
        rewrite(image, np.ones_like)

        with pytest.raises(FaultyDatasetError, match="case0"):
            extract_fingerprint(991, processes=1)
        assert not list((roots / "nnUNet_preprocessed" / DATASET).iterdir())

    def test_names_a_case_with_nan_even_unexamined(self, make_raw: Callable[..., Path],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
        make_raw()
        # SimpleITK reads NaN in NIfTI files as 0, but not in other formats.
        read = SimpleITKIO.read_images
        monkeypatch.setattr(SimpleITKIO, "read_images", lambda self, files: (read(self, files)[0] * np.nan, {}))

        with pytest.raises(FaultyImageError, match="case0.*NaN"):
            extract_fingerprint(991, processes=1, check=False)

    def test_names_a_case_whose_label_does_not_fit(self, make_raw: Callable[..., Path]) -> None:
        rewrite(make_raw() / "labelsTr" / "case1.nii.gz", lambda voxels: voxels[:-1])

        with pytest.raises(FaultyImageError, match="case1"):
            extract_fingerprint(991, processes=1, check=False)

    def test_names_a_missing_file_even_unexamined(self, make_raw: Callable[..., Path]) -> None:
        (make_raw() / "imagesTr" / "case1_0001.nii.gz").unlink()

        with pytest.raises(MissingModalityError, match="case1"):
            extract_fingerprint(991, processes=1, check=False)

    def test_refuses_a_dataset_without_foreground(self, make_raw: Callable[..., Path]) -> None:
        for label in (make_raw() / "labelsTr").iterdir():
            rewrite(label, np.zeros_like)

        with pytest.raises(NoForegroundError, match=DATASET):
            extract_fingerprint(991, processes=1)

    @pytest.mark.parametrize("processes", [1, 2])
    def test_any_error_of_a_case_names_it(self, processes: int) -> None:
        with pytest.raises(FaultyImageError, match=r"case second: it cannot be used \(ZeroDivisionError: "):
            module._summarise_all(partial(divmod, 1), {"first": 1, "second": 0}, processes=processes)

    def test_says_so_when_a_process_dies(self) -> None:
        with pytest.raises(WorkerDiedError, match="fingerprint"):
            module._summarise_all(os._exit, {"first": 1, "second": 1}, processes=2)


class TestKeptFingerprint:
    @pytest.fixture
    def path(self, roots: Path, make_raw: Callable[..., Path]) -> Path:
        make_raw()
        extract_fingerprint(991, processes=1)
        return roots / "nnUNet_preprocessed" / DATASET / "dataset_fingerprint.json"

    def change(self, path: Path, **entries: Any) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    def test_is_used_again(self, path: Path) -> None:
        self.change(path, mark=1)

        assert extract_fingerprint(991, processes=1, overwrite=False)["mark"] == 1

    def test_is_replaced_on_request(self, path: Path) -> None:
        self.change(path, mark=1)

        assert "mark" not in extract_fingerprint(991, processes=1, overwrite=True)

    @pytest.mark.parametrize("entries", [{"spacings": [[1.0, 1.0, 1.0]]}, {WINDOWS: {"0": {"low": 0.0, "high": 1.0}}}])
    def test_is_replaced_when_it_is_of_other_cases_or_channels(self, path: Path, entries: dict[str, Any]) -> None:
        self.change(path, mark=1, **entries)

        assert "mark" not in extract_fingerprint(991, processes=1, overwrite=False)

    def test_is_replaced_when_it_has_no_windows(self, path: Path) -> None:
        path.write_text(json.dumps({"spacings": []}))

        assert WINDOWS in extract_fingerprint(991, processes=1, overwrite=False)


class TestReadFingerprint:
    @pytest.mark.parametrize(("content", "problem"), [
        (None, "is missing"), ("{", "cannot be read"), ("{}", "windows"), ("7", "windows"),
        ('{"intensity_windows_per_channel": {"0": {"low": 0}}, "spacings": [[1, 1]], "shapes_after_crop": []}',
         "no usable intensity_windows_per_channel, spacings, shapes_after_crop, foreground_intensity_properties_per_channel")])
    def test_says_what_is_wrong(self, tmp_path: Path, content: str | None, problem: str) -> None:
        path = tmp_path / "dataset_fingerprint.json"
        if content is not None:
            path.write_text(content)

        with pytest.raises(FingerprintNotFoundError, match=problem):
            read_fingerprint(path)


class TestWindowsOfTheFingerprint:
    def test_fit_the_preprocessed_data(self, planned_phantom: Path) -> None:
        folder = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"
        windows = read_fingerprint(folder / "dataset_fingerprint.json")[WINDOWS]
        labels = sorted((folder / "nnUNetPlans_3d_fullres").glob("*_seg.b2nd"))
        cases = [(blosc2.open(str(path).replace("_seg", ""))[:], blosc2.open(str(path))[:]) for path in labels]

        assert len(cases) == 5
        for channel, window in windows.items():
            tissue = np.concatenate([image[int(channel)][label[0] >= 0] for image, label in cases])
            assert np.percentile(tissue, (0.5, 99.9)) == pytest.approx(list(window.values()), abs=1e-4)

    @pytest.mark.parametrize("relative_size", [0.74, 0.75])
    def test_follow_nnunets_decision_on_the_mask(self, make_fingerprinted: Callable[..., Path],
                                                 relative_size: float) -> None:
        make_fingerprinted((20, 20, 20), channels=("T1",), relative_size=relative_size)
        _, (decision,) = ExperimentPlanner(DATASET).determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        tissue = {masked: np.full(9, 2.0 if masked else 1.0, np.float32) for masked in (False, True)}
        case = CaseSummary([2, 2, 2], [1.0, 1.0, 1.0], relative_size,
                           [Draws(np.ones(1, np.float32), np.ones(1, np.int64))], [tissue], {})

        fingerprint = build_fingerprint([case], dataset=DATASET, schemes=[ZScoreNormalization])

        assert fingerprint[WINDOWS]["0"]["low"] == (2.0 if decision else 1.0)


class TestAlignment:
    """On phantoms, as small images of noise tell nothing of each other."""

    @pytest.fixture
    def dataset(self, roots: Path) -> Path:
        """Four cases, of which the third has its FLAIR four voxels off T1ce, the reference."""
        folder = write_phantom_dataset(roots / "nnUNet_raw", dataset_id=991, name="Small", training_cases=4, test_cases=0,
                                       modalities=("FLAIR", "T1ce"), shape=(32, 44, 40))
        description = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**description, "reference_modality": "T1ce"}))
        path = folder / "imagesTr" / "small_002_0000.nii.gz"
        image = sitk.ReadImage(str(path))
        moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(image), 4, axis=2))
        moved.CopyInformation(image)
        sitk.WriteImage(moved, str(path))
        return folder

    def test_names_a_case_whose_modalities_lie_apart(self, dataset: Path, roots: Path, caplog: pytest.LogCaptureFixture,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(alignment, "FEWEST_CASES", 4)
        with caplog.at_level("WARNING"):
            found = extract_fingerprint(991, processes=1)
        warnings = [record.message for record in caplog.records]
        assert len(warnings) == 2
        assert warnings[0].startswith("small_002: FLAIR fits T1ce better")
        assert warnings[1].startswith("1 of 4 cases may be misaligned")
        told = json.loads((roots / "nnUNet_preprocessed" / DATASET / "alignment.json").read_text())
        assert told["reference"] == "T1ce"
        cases = told["cases"]
        assert {name: case["FLAIR"]["suspect"] for name, case in cases.items()} == {f"small_00{number}": number == 2
                                                                                    for number in range(4)}
        np.testing.assert_allclose(cases["small_002"]["FLAIR"]["shift"], (4, 0, 0), atol=0.6)
        given = [case["FLAIR"]["information"][0] for case in cases.values()]
        assert found["information_on_reference"]["FLAIR"]["median"] == pytest.approx(np.median(given), abs=1e-4)

    def test_examines_some_of_many(self, dataset: Path, roots: Path, caplog: pytest.LogCaptureFixture,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MOST_EXAMINED", 2)
        with caplog.at_level("INFO"):
            extract_fingerprint(991, processes=1)
        told = json.loads((roots / "nnUNet_preprocessed" / DATASET / "alignment.json").read_text())
        assert list(told["cases"]) == ["small_000", "small_002"]
        assert "alignment was examined in 2 of 4 cases; f4s_register examines all" in caplog.text

    def test_plans_hold_what_prediction_compares_with(self, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(alignment, "FEWEST_CASES", 4)
        found = extract_fingerprint(991, processes=1)
        plans = plan_experiment(991, PlanOptions(gpu_memory_target=0.1))
        assert planned_information(plans) == found["information_on_reference"]
