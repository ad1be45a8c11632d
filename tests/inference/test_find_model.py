"""Finding a trained model: alone it needs no flags, among several each is listed with its flags; and its previous stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fuse4seg.errors import DatasetNotFoundError, FolderNotFoundError, OptionError, RootNotSetError
from fuse4seg.inference.find_model import TrainedModel, find_model, find_previous_stage
from fuse4seg.inference.model import load_model
from fuse4seg.model_errors import AmbiguousModelError, ModelNotFoundError, PreviousStageNotFoundError
from fuse4seg.paths import FINAL


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return tmp_path


def add_model(results: Path, *, dataset: str = "Dataset501_Heads", trainer: str = "Fuse4SegTrainer",
              plans: str = "Fuse4SegPlans", configuration: str = "2d", folds: tuple[object, ...] = (0,),
              network: str = "fuse4seg.networks.fuse_then_segment.FuseThenSegment", checkpoint: str = FINAL) -> Path:
    folder = results / dataset / f"{trainer}__{plans}__{configuration}"
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
        (folder / f"fold_{fold}" / checkpoint).touch()
    (folder / "plans.json").write_text(f'{{"network_class_name": "{network}"}}')
    (folder / "dataset.json").write_text('{"labels": {}}')
    return folder


class TestOneModel:
    def test_is_found_without_flags(self, results: Path) -> None:
        folder = add_model(results, folds=(0, 3))
        model = find_model()
        assert (model.folder, model.folds) == (folder, (0, 3))

    def test_is_found_beside_stock_nnunet_models(self, results: Path) -> None:
        add_model(results, trainer="nnUNetTrainer", plans="nnUNetPlans",
                  network="dynamic_network_architectures.architectures.unet.PlainConvUNet")
        folder = add_model(results, configuration="3d_fullres")
        assert find_model().folder == folder

    def test_is_found_beside_unfinished_and_damaged_ones(self, results: Path) -> None:
        folder = add_model(results)
        add_model(results, configuration="3d_fullres", checkpoint="checkpoint_latest.pth")
        (add_model(results, configuration="3d_lowres") / "dataset.json").unlink()
        (add_model(results, trainer="Other") / "plans.json").write_bytes(b"\xff\xfe FuseThenSegment")
        assert find_model().folder == folder

    @pytest.mark.parametrize("dataset", ["501", "Dataset501_Heads"])
    def test_is_found_by_id_and_by_name(self, results: Path, dataset: str) -> None:
        folder = add_model(results)
        add_model(results, dataset="Dataset502_Heads")
        assert find_model(dataset=dataset).folder == folder

    def test_prefers_numbered_folds_to_fold_all(self, results: Path) -> None:
        add_model(results, folds=("all", 10, 2))
        assert find_model().folds == (2, 10)
        assert find_model(folds=("all",)).folds == ("all",)
        assert find_model(folds=(10,)).folds == (10,)

    def test_of_fold_all_alone_needs_no_fold(self, results: Path) -> None:
        add_model(results, folds=("all",))
        assert find_model().folds == ("all",)

    def test_counts_as_trained_by_the_wanted_checkpoint(self, results: Path) -> None:
        add_model(results, folds=(0, 1))
        folder = add_model(results, folds=(1,), checkpoint="checkpoint_best.pth")
        model = find_model(checkpoint="checkpoint_best.pth")
        assert (model.folder, model.folds) == (folder, (1,))


class TestNoModel:
    def test_is_an_error_that_names_the_results_folder(self, results: Path) -> None:
        with pytest.raises(ModelNotFoundError, match=f"{results}.*f4s_train"):
            find_model()

    def test_is_an_error_where_the_results_folder_does_not_exist(self, results: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_results", str(results / "nowhere"))
        with pytest.raises(ModelNotFoundError, match="nowhere"):
            find_model()

    @pytest.mark.parametrize(("wanted", "said"), [({"configuration": "3d_fullres"}, "-c 3d_fullres"),
                                                  ({"plans": "Mine"}, "-p Mine"), ({"trainer": "Mine"}, "-tr Mine"),
                                                  ({"folds": (0, 4)}, "-f 0 4"), ({"folds": ("all",)}, "-f all"),
                                                  ({"dataset": "501", "folds": (4,)}, "-d 501 -f 4")])
    def test_is_an_error_that_repeats_the_flags(self, results: Path, wanted: dict[str, object], said: str) -> None:
        add_model(results)
        with pytest.raises(ModelNotFoundError, match=f"for {said} in"):
            find_model(**wanted)

    def test_of_a_dataset_without_results_names_the_dataset(self) -> None:
        with pytest.raises(DatasetNotFoundError, match="777"):
            find_model(dataset="777")

    def test_can_be_found_without_a_results_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("nnUNet_results")
        with pytest.raises(RootNotSetError, match="nnUNet_results"):
            find_model()


class TestSeveralModels:
    def test_are_listed_with_the_flags_that_choose_each(self, results: Path) -> None:
        add_model(results)
        add_model(results, dataset="Dataset502_Heads", configuration="3d_fullres", trainer="MyTrainer", plans="MyPlans")
        with pytest.raises(AmbiguousModelError) as raised:
            find_model()
        message = str(raised.value)
        assert "-d Dataset501_Heads -c 2d -p Fuse4SegPlans -tr Fuse4SegTrainer" in message
        assert "-d Dataset502_Heads -c 3d_fullres -p MyPlans -tr MyTrainer" in message
        assert "\n" not in message

    @pytest.mark.parametrize("chosen", [{"dataset": "502"}, {"configuration": "3d_fullres"}, {"plans": "MyPlans"},
                                        {"trainer": "MyTrainer"}, {"folds": (7,)}])
    def test_are_told_apart_by_any_flag_in_which_they_differ(self, results: Path, chosen: dict[str, object]) -> None:
        add_model(results)
        wanted = add_model(results, dataset="Dataset502_Heads", configuration="3d_fullres", trainer="MyTrainer",
                           plans="MyPlans", folds=(0, 7))
        assert find_model(**chosen).folder == wanted


FIRST, SECOND = "Fuse4SegTrainer__Fuse4SegPlans__3d_lowres", "Fuse4SegTrainer__Fuse4SegPlans__3d_cascade_fullres"
Find = Callable[..., "TrainedModel | Path | None"]


@pytest.fixture
def models(untrained_cascade: Path, tmp_path: Path) -> Path:
    """Both stages, folds 0 and 1, for this test to change."""
    return Path(shutil.copytree(untrained_cascade / "nnUNet_results" / "Dataset990_Phantom", tmp_path / "models"))


@pytest.fixture
def find(models: Path) -> Find:
    def run(*folds: int | str, name: str = SECOND, checkpoint: str = FINAL, given: Path | None = None) -> object:
        loaded = load_model(models / name, folds=folds, checkpoint=checkpoint, device=torch.device("cpu"))
        return find_previous_stage(TrainedModel(models / name, folds, checkpoint), loaded.description, given=given,
                                   output=models / "out")

    return run


class TestFindPreviousStage:
    def test_takes_the_same_folds(self, find: Find, models: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert find(1) == TrainedModel(models / FIRST, (1,))
        assert find(0, 1) == TrainedModel(models / FIRST, (0, 1))
        assert "not trained on the same folds" not in caplog.text

    def test_takes_those_of_the_same_folds_that_are_trained(self, find: Find, models: Path,
                                                            caplog: pytest.LogCaptureFixture) -> None:
        shutil.rmtree(models / FIRST / "fold_0")
        assert find(0, 1) == TrainedModel(models / FIRST, (1,))
        assert "3d_lowres is not trained on the same folds as the stage after it (0, 1)" in caplog.text

    def test_takes_all_of_its_folds_where_none_is_the_same(self, find: Find, models: Path) -> None:
        (models / SECOND / "fold_1").rename(models / SECOND / "fold_all")
        assert find("all") == TrainedModel(models / FIRST, (0, 1))

    def test_takes_the_same_checkpoint_or_the_final_one(self, find: Find, models: Path) -> None:
        shutil.copy(models / SECOND / "fold_0" / FINAL, models / SECOND / "fold_0" / "checkpoint_best.pth")
        assert find(0, checkpoint="checkpoint_best.pth") == TrainedModel(models / FIRST, (0,), FINAL)
        shutil.copy(models / FIRST / "fold_0" / FINAL, models / FIRST / "fold_0" / "checkpoint_best.pth")
        assert find(0, checkpoint="checkpoint_best.pth") == TrainedModel(models / FIRST, (0,), "checkpoint_best.pth")

    def test_takes_the_folder_that_is_given(self, find: Find, models: Path, tmp_path: Path) -> None:
        shutil.rmtree(models / FIRST)
        assert find(0, given=tmp_path) == tmp_path

    def test_refuses_a_folder_that_is_none(self, find: Find, tmp_path: Path) -> None:
        with pytest.raises(FolderNotFoundError, match="nowhere is not a folder"):
            find(0, given=tmp_path / "nowhere")

    def test_refuses_the_folder_that_is_predicted_into(self, find: Find, models: Path) -> None:
        (models / "out").mkdir()
        with pytest.raises(OptionError, match=r"out is the output folder, where they would be replaced\. Give another"):
            find(0, given=models / "." / "out" / ".." / "out")

    def test_refuses_one_that_is_not_trained(self, find: Find, models: Path) -> None:
        for path in (models / FIRST).glob(f"fold_*/{FINAL}"):
            path.unlink()
        with pytest.raises(PreviousStageNotFoundError, match=f"{models / SECOND} is a later stage of a cascade, and the stage "
                                                             f"before it is not trained: expected {models / FIRST}. Train it"):
            find(0)

    def test_refuses_a_stage_that_is_a_later_one_itself(self, find: Find, models: Path) -> None:
        for folder in (models / SECOND, models / SECOND / "fold_0"):
            self.chain(folder)
        with pytest.raises(OptionError, match="3d_lowres, the stage before, is itself a later stage"):
            find(0)

    @staticmethod
    def chain(folder: Path) -> None:
        """Make the first stage, in the plans and in the checkpoint's copy of them, have a previous one."""
        if (folder / FINAL).is_file():
            state = torch.load(folder / FINAL, weights_only=True)
            state["init_args"]["plans"]["configurations"]["3d_lowres"]["previous_stage"] = "3d_fullres"
            torch.save(state, folder / FINAL)
            return
        plans = json.loads((folder / "plans.json").read_text())
        plans["configurations"]["3d_lowres"]["previous_stage"] = "3d_fullres"
        (folder / "plans.json").write_text(json.dumps(plans))

    def test_finds_none_where_there_is_none(self, find: Find) -> None:
        assert find(0, name=FIRST) is None

    def test_refuses_segmentations_for_a_model_that_takes_none(self, find: Find, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=f"-prev_stage_predictions: .*{FIRST} is no later stage of a cascade"):
            find(0, name=FIRST, given=tmp_path)
