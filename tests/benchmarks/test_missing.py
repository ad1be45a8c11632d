"""Prediction with a modality missing, by our model and by stock nnU-Net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from fuse4seg.comparison.trainings import place_of
from fuse4seg.datasets.dataset_json import channel_names, read_dataset_json
from fuse4seg.files import read_json
from fuse4seg.inference.model import load_model


@pytest.fixture(scope="module")
def benchmark(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("missing")


@pytest.fixture(scope="module")
def ours(benchmark: ModuleType, trained_phantom: Path, trained_model: Path) -> SimpleNamespace:
    cases = parts_of(benchmark)
    trial = SimpleNamespace(fold_folder=trained_model / "fold_0", row=SimpleNamespace(name="fuse4seg"))
    model = load_model(trained_model, folds=[0], device=torch.device("cpu"))
    source = trained_phantom / "nnUNet_preprocessed" / model.description.plans.dataset_name
    return cases.Ours(trial, model, cases._preprocessed(source, model.description))


def parts_of(benchmark: ModuleType) -> ModuleType:
    """What the benchmark takes its parts from."""
    import validation_cases

    assert benchmark.Ours is validation_cases.Ours
    return validation_cases


class OtherContent:
    """A dataset whose channel of this index holds other content."""

    def __init__(self, dataset: object, channel: int) -> None:
        self.dataset, self.channel = dataset, channel

    def load_case(self, case: str) -> tuple:
        data, *others = self.dataset.load_case(case)
        changed = np.array(data[:])
        changed[self.channel] = np.random.default_rng(0).normal(size=changed[self.channel].shape)
        return changed, *others


def validated(ours: SimpleNamespace) -> list[Path]:
    return sorted((ours.trial.fold_folder / "validation").glob("*.nii.gz"))


def test_every_modality_but_one_is_there(benchmark: ModuleType) -> None:
    assert benchmark.present(benchmark.COMPLETE, ["T1", "T2"]) == (True, True)
    assert benchmark.present(benchmark.without("T1"), ["T1", "T2"]) == (False, True)


def test_ours_is_as_validated_where_nothing_is_missing(benchmark: ModuleType, ours: SimpleNamespace) -> None:
    segment = benchmark._told(ours)
    for path in validated(ours):
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        np.testing.assert_array_equal(segment(path.name.removesuffix(".nii.gz"), benchmark.COMPLETE), expected)


def test_ours_reads_nothing_of_what_is_missing(benchmark: ModuleType, ours: SimpleNamespace) -> None:
    name = channel_names(ours.description.dataset_json)[1]
    case = validated(ours)[0].name.removesuffix(".nii.gz")
    other = replace(ours, dataset=OtherContent(ours.dataset, 1))
    condition = benchmark.without(name)
    np.testing.assert_array_equal(benchmark._told(ours)(case, condition), benchmark._told(other)(case, condition))


def test_stock_nnunet_is_given_zeros(benchmark: ModuleType, ours: SimpleNamespace) -> None:
    name = channel_names(ours.description.dataset_json)[1]
    case = validated(ours)[0].name.removesuffix(".nii.gz")
    with mock.patch.object(benchmark, "stock_labels") as labels:
        segment = benchmark._given_zeros(SimpleNamespace(dataset=ours.dataset, description=ours.description))
        for condition in (benchmark.COMPLETE, benchmark.without(name)):
            segment(case, condition)
    whole, lacking = (call.args[1] for call in labels.call_args_list)
    np.testing.assert_array_equal(whole, ours.dataset.load_case(case)[0][:])
    assert not lacking[1].any()
    np.testing.assert_array_equal(np.delete(lacking, 1, axis=0), np.delete(whole, 1, axis=0))


def test_costs_are_told_beside_the_whole(benchmark: ModuleType) -> None:
    rows = {"stacked": {"complete": [0.8, 0.6], "no T1": [0.5, 0.5]}}
    assert benchmark.losses(rows, unchanged="complete").splitlines()[-1] == "| stacked | 0.700 | -0.200 |"


def test_an_untrained_row_is_named_before_anything_is_segmented(benchmark: ModuleType, trained_phantom: Path, trained_model: Path,
                                                                tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "missing.json"
    assert benchmark.main(["--root", str(trained_phantom), str(tmp_path / "comparison"), trained_model.parent.name, "2d",
                           "--rows", "stacked", "-o", str(output)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: --rows: stacked, fold 0, seed 0: not trained in {tmp_path / 'comparison'}. Train it with f4s_compare -o.")
    assert not output.exists()


def test_the_command_measures_a_comparison_s_training(benchmark: ModuleType, trained_phantom: Path, trained_model: Path,
                                                      tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing missing, the mean Dice is that of the training's own validation."""
    dataset, output = trained_model.parent.name, tmp_path / "missing.json"
    place = place_of(tmp_path / "comparison", "fuse4seg", 0, 0)
    place.mkdir(parents=True)
    (place / dataset).symlink_to(trained_model.parent, target_is_directory=True)
    assert benchmark.main(["--root", str(trained_phantom), str(tmp_path / "comparison"), dataset, "2d", "--rows", "fuse4seg",
                           "-o", str(output)]) == 0
    dice = read_json(output, FileNotFoundError)["rows"]["fuse4seg"]
    cases = read_json(trained_model / "fold_0" / "validation" / "summary.json", FileNotFoundError)["metric_per_case"]
    expected = [np.nanmean([scores["Dice"] for scores in case["metrics"].values()]) for case in cases]
    np.testing.assert_allclose(sorted(dice["complete"]), sorted(expected))
    names = channel_names(read_dataset_json(trained_model))
    assert list(dice) == ["complete", *map(benchmark.without, names)]
    assert capsys.readouterr().out.startswith(f"| row | complete | {benchmark.without(names[0])} |")
