"""Validation cases of models and ensembles: all of them, once, or a line that says what lacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.ensembling.ensemble import average_probabilities

from fuse4seg.errors import FoldError, OptionError, UnreadableRecordError
from fuse4seg.model_errors import ModelNotFoundError
from fuse4seg.selection.validated import (
    ENSEMBLES,
    Candidate,
    chosen_models,
    describe,
    paired,
    require_probabilities,
    validated,
)

MakeValidated = Callable[..., Path]


def both(*, folds: tuple[int, ...] | None = None) -> list[Candidate]:
    return validated(chosen_models("990"), folds, ending=".nii.gz")


@pytest.fixture
def two(make_validated: MakeValidated) -> list[Path]:
    """Folders of 2d and 3d_fullres, the one with a slice, the other with a column wrong."""
    def slice_wrong(labels: np.ndarray, number: int) -> np.ndarray:
        labels[10 + number] = 1
        return labels

    def column_wrong(labels: np.ndarray, number: int) -> np.ndarray:
        labels[:, :, 20 + number] = 2
        return labels

    return [make_validated("2d", slice_wrong, sure=0.9), make_validated("3d_fullres", column_wrong, sure=0.6)]


class TestModels:
    def test_are_chosen_by_their_names(self, two: list[Path]) -> None:
        assert [model.folder for model in chosen_models("990")] == two
        assert [model.folder for model in chosen_models("Dataset990_Phantom", configurations=["3d_fullres"])] == two[1:]
        for flags, said in (({"configurations": ["2d", "3d_lowres"]}, "-c 3d_lowres"), ({"plans": ["None"]}, "-p None"),
                            ({"trainers": ["Mine"]}, "-tr Mine")):
            with pytest.raises(ModelNotFoundError, match=said):
                chosen_models("990", **flags)

    def test_cost_their_networks_and_parameters(self, two: list[Path]) -> None:
        weights = torch.load(two[0] / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
        parameters = sum({weight.data_ptr(): weight.numel() for weight in weights.values()}.values())
        flat, deep = both()
        assert flat.cost == (2, 2 * parameters)
        assert flat.cost < deep.cost
        pair = Candidate("both", (*flat.models, *deep.models), (0, 1), ())
        assert pair.cost == (4, flat.cost[1] + deep.cost[1])


class TestCases:
    def test_are_those_of_all_folds_or_the_wanted_ones(self, two: list[Path]) -> None:
        for candidate, model in zip(both(), two, strict=True):
            assert [(case.fold, case.case) for case in candidate.cases] == [
                (0, "phantom_000"), (0, "phantom_001"), (0, "phantom_002"), (1, "phantom_003"), (1, "phantom_004")]
            assert all(case.prediction.is_relative_to(model) and case.reference.is_file() for case in candidate.cases)
        assert [len(candidate.cases) for candidate in both(folds=(1,))] == [2, 2]

    def test_of_folds_that_lack_validation_are_asked_for_in_one_line(self, two: list[Path]) -> None:
        for model, fold in ((two[0], 1), (two[1], 0)):
            (model / f"fold_{fold}" / "validation" / "summary.json").unlink()
        (two[1] / "fold_1" / "checkpoint_final.pth").unlink()
        with pytest.raises(FoldError) as raised:
            both()
        assert str(raised.value) == (
            "Dataset990_Phantom 2d lacks the validation of fold 1 (f4s_train --val); 3d_fullres is not trained on fold 1; "
            "3d_fullres lacks the validation of fold 0 (f4s_train --val). Mend that, or choose folds with -f, models with -c, -p "
            "and -tr.")

    def test_of_a_damaged_summary_are_refused(self, two: list[Path]) -> None:
        for content in ("{", '{"metric_per_case": [3]}'):
            (two[0] / "fold_0" / "validation" / "summary.json").write_text(content)
            with pytest.raises(UnreadableRecordError, match="fold_0/validation/summary.json .*--val"):
                both()

    def test_whose_segmentation_is_gone_are_refused(self, two: list[Path]) -> None:
        (two[0] / "fold_1" / "validation" / "phantom_003.nii.gz").unlink()
        with pytest.raises(UnreadableRecordError, match="fold_1/validation/phantom_003.nii.gz is missing. .*--val"):
            both()

    def test_must_be_in_the_same_folds(self, two: list[Path]) -> None:
        path = two[0] / "fold_0" / "validation" / "summary.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({"metric_per_case": content["metric_per_case"][1:]}))
        assert [len(candidate.cases) for candidate in both()] == [4, 4]
        path.write_text(json.dumps({"metric_per_case": []}))
        with pytest.raises(FoldError, match="no case is in the same fold of 2d, 3d_fullres"):
            both(folds=(0,))


class TestEnsemble:
    def test_is_nnu_net_s_mean(self, two: list[Path]) -> None:
        flat, deep = both()
        pair, faults = paired(flat, deep, describe(flat.models[0]))
        assert faults == []
        assert pair.name == "2d + 3d_fullres"
        assert [(case.case, case.fold) for case in pair.cases] == [(case.case, case.fold) for case in flat.cases]
        for case in pair.cases:
            files = [str(model / f"fold_{case.fold}" / "validation" / f"{case.case}.npz") for model in two]
            found = sitk.GetArrayFromImage(sitk.ReadImage(str(case.prediction)))
            np.testing.assert_array_equal(found, average_probabilities(files).argmax(0))
            assert case.prediction.is_relative_to(two[0].parent / ENSEMBLES)

    def test_needs_probabilities(self, two: list[Path]) -> None:
        (two[1] / "fold_1" / "validation" / "phantom_004.npz").unlink()
        require_probabilities(both(folds=(0,)))
        (two[0] / "fold_0" / "validation" / "phantom_000.npz").unlink()
        with pytest.raises(OptionError, match="--disable_ensembling: .*: 2d of fold 0; 3d_fullres of fold 1. .*--val --npz"):
            require_probabilities(both())

    def test_leaves_a_damaged_case_out(self, two: list[Path]) -> None:
        (two[1] / "fold_1" / "validation" / "phantom_004.npz").write_bytes(b"")
        flat, deep = both()
        pair, faults = paired(flat, deep, describe(flat.models[0]))
        assert [case.case for case in pair.cases] == [f"phantom_00{number}" for number in range(4)]
        assert ["phantom_004.npz" in str(fault) for fault in faults] == [True]
