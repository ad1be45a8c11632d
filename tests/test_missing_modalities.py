"""Training cases that lack modalities, from the raw files to a prediction: presence goes with the case, all the way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from fuse4seg.checkpoint import load_checkpoint
from fuse4seg.cli import plan_and_preprocess, plan_experiment, predict, preprocess, report, train
from fuse4seg.datasets.dataset_json import declare_missing
from fuse4seg.datasets.phantom import write_phantom_dataset
from fuse4seg.files import write_json
from fuse4seg.inference.predict_case import predict_case
from fuse4seg.planning import fingerprint
from fuse4seg.planning.foreground import draw_foreground
from fuse4seg.training.data import SeededBatches

DATASET, MODEL = "Dataset993_Phantom", "Fuse4SegTrainer__Fuse4SegPlans__2d"
SMALL = ["-gpu_memory_target", "0.1", "-overwrite_plans_name", "Fuse4SegPlans", "-c", "2d", "-np", "1", "--set",
         "leader.cross_attention=true", "follower.features=8", "patches.largest_batch=4", "pretraining.epochs=1",
         "training.epochs=1", "training.iterations=2"]
#: Trained on, and validated; the other one, phantom_002, has both modalities.
WITHOUT_FLAIR, WITHOUT_REFERENCE = "phantom_000", "phantom_001"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a raw dataset, in which two of three cases lack one of two modalities."""
    root = tmp_path_factory.mktemp("incomplete")
    folder = write_phantom_dataset(root / "nnUNet_raw", dataset_id=993, training_cases=3, test_cases=0, seed=1,
                                   shape=(32, 36, 34), modalities=("T1ce", "FLAIR"))
    (folder / "imagesTr" / f"{WITHOUT_FLAIR}_0001.nii.gz").unlink()
    (folder / "imagesTr" / f"{WITHOUT_REFERENCE}_0000.nii.gz").unlink()
    return root


@pytest.fixture(scope="module")
def trained(raw: Path) -> SimpleNamespace:
    """The same root with a model, and what was heard of it: batches of every stream, and presence of validated cases."""
    heard = SimpleNamespace(root=raw, batches=[], validated=[])

    def drawn(batches: SeededBatches, index: int) -> dict:
        batch = original(batches, index)
        heard.batches.append((batches.stream, batch))
        return batch

    def predicted(*arguments: object, **options: object) -> object:
        heard.validated.append(options["present"])
        return predict_case(*arguments, **options)

    original = SeededBatches.__getitem__
    few = mock.patch.object(fingerprint, "draw_foreground", lambda images, segmentation, *, draws:
                            draw_foreground(images, segmentation, draws=min(draws, 1000)))
    in_process = mock.patch("fuse4seg.training.data.workers_of", return_value=0)
    with (few, in_process, mock.patch.object(SeededBatches, "__getitem__", drawn), mock.patch.dict(os.environ),
          mock.patch("fuse4seg.inference.validate_fold.predict_case", predicted)):
        assert plan_and_preprocess.main(["-d", "993", "--root", str(raw), "--allow_missing", *SMALL]) == 0
        write_json([{"train": [WITHOUT_FLAIR, "phantom_002"], "val": [WITHOUT_REFERENCE]}],
                   raw / "nnUNet_preprocessed" / DATASET / "splits_final.json")
        assert train.main(["993", "2d", "0", "-device", "cpu", "--root", str(raw)]) == 0
    heard.preprocessed = raw / "nnUNet_preprocessed" / DATASET
    heard.fold = raw / "nnUNet_results" / DATASET / MODEL / "fold_0"
    return heard


class TestIncompleteDataset:
    def test_is_preprocessed_with_the_presence_of_each_case(self, trained: SimpleNamespace) -> None:
        dataset = nnUNetDatasetBlosc2(str(trained.preprocessed / "nnUNetPlans_2d"))
        for case, present in ((WITHOUT_FLAIR, [True, False]), (WITHOUT_REFERENCE, [False, True]), ("phantom_002", None)):
            channels, _, _, properties = dataset.load_case(case)
            assert properties.get("present") == present
            assert [bool(channel.any()) for channel in channels[:]] == (present or [True, True])

    def test_says_so_in_what_training_reads(self, trained: SimpleNamespace) -> None:
        for folder in (trained.preprocessed, trained.fold.parent):
            assert json.loads((folder / "dataset.json").read_text())["missing_modalities"] is True
        assert "missing_modalities" not in json.loads((trained.root / "nnUNet_raw" / DATASET / "dataset.json").read_text())

    def test_gives_every_batch_the_presence_of_its_samples(self, trained: SimpleNamespace) -> None:
        has = {WITHOUT_FLAIR: [True, False], WITHOUT_REFERENCE: [False, True], "phantom_002": [True, True]}
        assert {stream for stream, _ in trained.batches} == {0, 1, 2}
        for _, batch in trained.batches:
            assert batch["present"].tolist() == [has[case] for case in batch["keys"]]
            assert not batch["data"][~batch["present"]].any()
        assert any(not batch["present"].all() for stream, batch in trained.batches if stream == 0)

    def test_is_validated_with_the_presence_of_its_cases(self, trained: SimpleNamespace) -> None:
        assert trained.validated == [[False, True]]
        told = json.loads((trained.fold / "validation" / "run.json").read_text())["cases"][WITHOUT_REFERENCE]
        assert told["absent"] == ["T1ce"]
        assert json.loads((trained.fold / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"] >= 0

    def test_gives_a_model_that_predicts_such_cases_as_it_validated_them(
            self, trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "in").mkdir()
        name = f"{WITHOUT_REFERENCE}_0001.nii.gz"
        shutil.copy(trained.root / "nnUNet_raw" / DATASET / "imagesTr" / name, tmp_path / "in")
        flags = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--root", str(trained.root), "-device", "cpu"]
        assert predict.main(flags) == 1
        assert "or predict with --allow_missing." in capsys.readouterr().err
        assert predict.main([*flags, "--allow_missing"]) == 0
        heard = capsys.readouterr().err
        assert f"{WITHOUT_REFERENCE} lacks T1ce and is predicted from FLAIR" in heard
        assert "never saw a case without a modality" not in heard
        for place in ("fused/", ""):
            predicted, validated = ((folder / f"{place}{WITHOUT_REFERENCE}.nii.gz").read_bytes()
                                    for folder in (tmp_path / "out", trained.fold / "validation"))
            assert predicted == validated

    def test_is_reported_without_what_is_not_there(self, trained: SimpleNamespace) -> None:
        assert report.main([str(trained.fold / "validation"), "--root", str(trained.root), "--no_viewer"]) == 0
        pages = (trained.fold / "validation" / "report").rglob("*.html")
        assert "predicted without T1ce" in "".join(page.read_text() for page in pages)


def test_complete_cases_train_bit_for_bit_as_where_none_may_lack_anything(
        planned_phantom: Path, trained_phantom: Path, training_flags: list[str], tmp_path: Path,
        differences: Callable[[Any, Any], list[str]]) -> None:
    shutil.copytree(planned_phantom, tmp_path / "roots")
    declare_missing(tmp_path / "roots" / "nnUNet_preprocessed" / "Dataset990_Phantom")
    assert train.main([*training_flags, "--root", str(tmp_path / "roots")]) == 0
    found, wanted = (load_checkpoint(root / "nnUNet_results" / "Dataset990_Phantom" / MODEL / "fold_0" / "checkpoint_final.pth")
                     for root in (tmp_path / "roots", trained_phantom))
    assert differences(found, wanted) == []


class TestWithoutTheFlag:
    def test_it_is_refused_in_a_line_that_names_the_way_out(self, raw: Path, capsys: pytest.CaptureFixture[str],
                                                            tmp_path: Path) -> None:
        shutil.copytree(raw / "nnUNet_raw", tmp_path / "nnUNet_raw")
        assert plan_and_preprocess.main(["-d", "993", "--root", str(tmp_path), *SMALL]) == 1
        said = capsys.readouterr().err
        assert f"case {WITHOUT_FLAIR} has no FLAIR image: expected " in said
        assert '"missing_modalities": true in dataset.json, or --allow_missing.' in said
        assert not list((tmp_path / "nnUNet_preprocessed" / DATASET).iterdir())

    def test_dataset_json_says_it_for_all_steps(self, trained: SimpleNamespace, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
        """Planning by the fingerprint that is there; preprocessing alone needs no flag once planning had it."""
        for place in ("nnUNet_raw", "nnUNet_preprocessed"):
            shutil.copytree(trained.root / place, tmp_path / place)
        root, small = ["-d", "993", "--root", str(tmp_path)], [flag for flag in SMALL if flag not in ("-c", "2d", "-np", "1")]
        assert plan_experiment.main([*root, *small]) == 1
        assert "--allow_missing" in capsys.readouterr().err
        path = tmp_path / "nnUNet_raw" / DATASET / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "missing_modalities": True}))
        assert plan_experiment.main([*root, *small]) == 0
        shutil.rmtree(tmp_path / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_2d")
        assert preprocess.main([*root, "-c", "2d", "-np", "1"]) == 0
        folders = [str(place / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_2d") for place in (tmp_path, trained.root)]
        for case in (WITHOUT_FLAIR, "phantom_002"):
            one, two = (nnUNetDatasetBlosc2(folder).load_case(case) for folder in folders)
            np.testing.assert_array_equal(one[0][:], two[0][:])
            assert one[3].get("present") == two[3].get("present")
