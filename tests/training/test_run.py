"""Setting a training up: all of it is checked before anything is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.model_selection import KFold

from fuse4seg.errors import (
    ConfigurationNotFoundError,
    DatasetJsonError,
    FoldError,
    ForeignPlansError,
    NotPreprocessedError,
    OptionError,
    PlansNotFoundError,
    RecipeError,
    UnwritableFolderError,
)
from fuse4seg.model_errors import CheckpointError, CheckpointNotFoundError, TrainingExistsError
from fuse4seg.paths import TRAINER_FOLDER
from fuse4seg.training.run import Training, make_trainer, train

FOLD_0 = Training("990", "2d", 0, device="cpu")
DATASET = "Dataset990_Phantom"
MODEL = Path(DATASET, "Fuse4SegTrainer__Fuse4SegPlans__2d")


@pytest.fixture
def preprocessed(own_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own copy of the preprocessed dataset's folder, without splits."""
    folder = tmp_path / "nnUNet_preprocessed" / DATASET
    shutil.copytree(Path(os.environ["nnUNet_preprocessed"]) / DATASET, folder)
    (folder / "splits_final.json").unlink()
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    return folder


@pytest.fixture
def trained(own_results: Path, trained_model: Path) -> Path:
    """This test's own copy of the trained fold."""
    shutil.copytree(trained_model, own_results / MODEL)
    return own_results / MODEL / "fold_0"


class TestRefusedTrainings:
    """Each leaves the results folder as it was."""

    @pytest.fixture(autouse=True)
    def nothing_is_written(self, own_results: Path) -> object:
        yield
        assert not own_results.exists()

    def test_without_plans(self) -> None:
        with pytest.raises(PlansNotFoundError, match="Mine.json is missing.*other plans, to be named with -p: Fuse4SegPlans"):
            make_trainer(Training("990", "2d", 0, plans="Mine", device="cpu"))

    def test_without_any_plans(self, preprocessed: Path) -> None:
        (preprocessed / "Fuse4SegPlans.json").unlink()
        with pytest.raises(PlansNotFoundError, match="Fuse4SegPlans.json is missing.*f4s_plan_and_preprocess"):
            make_trainer(FOLD_0)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"plans_name": '])
    def test_with_plans_that_are_none(self, preprocessed: Path, content: str) -> None:
        (preprocessed / "Fuse4SegPlans.json").write_text(content)
        with pytest.raises(PlansNotFoundError, match="Fuse4SegPlans.json"):
            make_trainer(FOLD_0)

    def test_with_plans_of_another_network(self, preprocessed: Path) -> None:
        plans = json.loads((preprocessed / "Fuse4SegPlans.json").read_text())
        plans["configurations"]["2d"]["architecture"]["network_class_name"] = "torch.nn.Identity"
        (preprocessed / "Fuse4SegPlans.json").write_text(json.dumps(plans))
        with pytest.raises(ForeignPlansError, match="-p Fuse4SegPlans"):
            make_trainer(FOLD_0)

    @pytest.mark.parametrize(("argument", "value", "problem"), [("halftone", 0.1, "halftone"),
                                                                ("colours", 2, "1 or 3 channels, not 2")])
    def test_with_plans_whose_network_cannot_be_built(self, argument: str, value: float, problem: str,
                                                      preprocessed: Path) -> None:
        """As versions made them that had a halftone, or as none did."""
        plans = json.loads((preprocessed / "Fuse4SegPlans.json").read_text())
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["leader"]["arch_kwargs"][argument] = value
        (preprocessed / "Fuse4SegPlans.json").write_text(json.dumps(plans))
        with pytest.raises(PlansNotFoundError, match=f"Fuse4SegPlans.json describes no network.*{problem}.*Plan again"):
            make_trainer(FOLD_0)

    def test_of_an_unplanned_configuration(self) -> None:
        with pytest.raises(ConfigurationNotFoundError, match="Choose one of: 2d, 3d_fullres"):
            make_trainer(Training("990", "3d_lowres", 0, device="cpu"))

    def test_without_preprocessed_data(self, preprocessed: Path) -> None:
        data, = preprocessed.glob("*_2d")
        shutil.rmtree(data)
        with pytest.raises(NotPreprocessedError, match=f"{data}.*f4s_preprocess -c 2d"):
            make_trainer(FOLD_0)
        data.mkdir()
        with pytest.raises(NotPreprocessedError, match=str(data)):
            make_trainer(FOLD_0)

    def test_without_dataset_json(self, preprocessed: Path) -> None:
        (preprocessed / "dataset.json").unlink()
        with pytest.raises(DatasetJsonError, match=f"{preprocessed / 'dataset.json'}: is missing"):
            make_trainer(FOLD_0)

    def test_with_too_few_cases_for_five_folds(self, preprocessed: Path) -> None:
        data, = preprocessed.glob("*_2d")
        for path in data.glob("phantom_004*"):
            path.unlink()
        with pytest.raises(FoldError, match="4 training cases, too few for 5 folds.*fold all"):
            make_trainer(FOLD_0)

    @pytest.mark.parametrize(("change", "said"), [
        ("training.epochs=0", "training.epochs: must be at least 1"), ("pretraining.epochs=-1", "pretraining.epochs: must be at"),
        ("training.iterations=many", "training.iterations: 'many' is not a whole number"),
        ("bilevel.hypergradient=exact", "bilevel.hypergradient: there is no 'exact'. Choose from: gauss_newton, joint, none"),
        ("leader.colour=1", "leader.colour: there is no such entry"), ("leader.rate=0", "leader.rate: 0 leaves nothing to train"),
        ("leader.fused_image=grey", "leader.fused_image: is decided in planning. Plan anew: f4s_plan_experiment --set leader.f")])
    def test_with_changes_that_do_not_do(self, change: str, said: str) -> None:
        with pytest.raises(RecipeError, match=f"^--set: {said}"):
            make_trainer(replace(FOLD_0, changes=(change,)))

    def test_with_a_seed_out_of_range(self) -> None:
        with pytest.raises(OptionError, match="^--seed: must be at least 0"):
            make_trainer(FOLD_0, seed=-1)

    @pytest.mark.parametrize(("content", "said"), [(None, "hold no recipe"), ({"version": 0}, r"used \(version: is not this")])
    def test_with_plans_of_another_version(self, preprocessed: Path, content: object, said: str) -> None:
        plans = json.loads((preprocessed / "Fuse4SegPlans.json").read_text())
        plans["fuse4seg"] = {} if content is None else {"recipe": content}
        (preprocessed / "Fuse4SegPlans.json").write_text(json.dumps(plans))
        with pytest.raises(PlansNotFoundError, match=f"Fuse4SegPlans.json .*{said}.*Plan again"):
            make_trainer(FOLD_0)

    def test_of_a_recipe_that_segments_without_labels(self, preprocessed: Path) -> None:
        description = json.loads((preprocessed / "dataset.json").read_text())
        (preprocessed / "dataset.json").write_text(json.dumps({**description, "labels": {"background": 0}}))
        with pytest.raises(RecipeError, match="the dataset has no labels to segment. Plan it with --recipe fusion_alone"):
            make_trainer(FOLD_0).initialize()

    def test_by_an_unknown_trainer(self) -> None:
        with pytest.raises(OptionError, match="-tr: no trainer Nobody in nnUNet_extTrainer"):
            make_trainer(Training("990", "2d", 0, trainer="Nobody", device="cpu"))

    def test_by_a_trainer_of_another_kind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "trainers").mkdir()
        (tmp_path / "trainers" / "other.py").write_text("class OtherTrainer: ...")
        monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
        with pytest.raises(OptionError, match="-tr: OtherTrainer does not extend Fuse4SegTrainer"):
            make_trainer(Training("990", "2d", 0, trainer="OtherTrainer", device="cpu"))

    def test_that_would_validate_what_is_not_trained(self) -> None:
        with pytest.raises(CheckpointNotFoundError, match="Finish the training first"):
            train(FOLD_0, validate_only=True)

    def test_into_a_folder_that_cannot_be_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("nnUNet_results", str(tmp_path / "file" / "results"))
        with pytest.raises(UnwritableFolderError, match=str(tmp_path / "file")):
            make_trainer(FOLD_0)


class TestFold:
    def test_is_split_off_as_by_nnunet(self, preprocessed: Path) -> None:
        make_trainer(FOLD_0)
        ours = json.loads((preprocessed / "splits_final.json").read_text())
        cases = [f"phantom_{number:03d}" for number in range(5)]
        folds = [KFold(n_splits=5, shuffle=True, random_state=12345).split(cases)]
        assert ours == [{part: [cases[index] for index in indices] for part, indices in zip(("train", "val"), fold, strict=True)}
                        for fold in folds[0]]

    @pytest.mark.parametrize("content", ["", "[", "{}", "3", '[{"train": []}]', '["phantom_000"]'])
    def test_of_damaged_splits_is_refused(self, preprocessed: Path, content: str) -> None:
        (preprocessed / "splits_final.json").write_text(content)
        with pytest.raises(FoldError, match=f"^{preprocessed / 'splits_final.json'} .*Mend it, or remove it"):
            make_trainer(FOLD_0)

    def test_all_needs_no_five_cases(self, preprocessed: Path) -> None:
        data, = preprocessed.glob("*_2d")
        for path in data.glob("phantom_00[1-4]*"):
            path.unlink()
        trainer = make_trainer(Training("990", "2d", "all", device="cpu"))
        assert list(trainer.do_split()[0]) == ["phantom_000"]

    def test_of_the_users_own_splits_needs_no_five_cases(self, preprocessed: Path) -> None:
        data, = preprocessed.glob("*_2d")
        for path in data.glob("phantom_00[2-4]*"):
            path.unlink()
        splits = [{"train": ["phantom_000"], "val": ["phantom_001"]}]
        (preprocessed / "splits_final.json").write_text(json.dumps(splits))
        assert make_trainer(FOLD_0).do_split() == (["phantom_000"], ["phantom_001"])

    def test_warns_of_prepared_cases_that_are_in_no_fold(self, preprocessed: Path, caplog: pytest.LogCaptureFixture) -> None:
        splits = [{"train": ["phantom_000", "phantom_001"], "val": ["phantom_002", "phantom_003"]}]
        (preprocessed / "splits_final.json").write_text(json.dumps(splits))
        make_trainer(FOLD_0)
        assert "splits_final.json has phantom_004 in no fold" in caplog.text


class TestFinishedTraining:
    def test_is_not_begun_again(self, trained: Path) -> None:
        with pytest.raises(TrainingExistsError, match=f"{trained} already holds a training.*--c.*--val"):
            make_trainer(FOLD_0)

    def test_of_another_fold_does_not_matter(self, trained: Path) -> None:
        assert make_trainer(Training("990", "2d", 1, device="cpu")).current_epoch == 0

    @pytest.mark.parametrize("how", ["resume", "validate_only"])
    def test_is_taken_up(self, trained: Path, how: str) -> None:
        trainer = make_trainer(FOLD_0, **{how: True})
        assert trainer.current_epoch == 2
        weights = torch.load(trained / "checkpoint_final.pth", weights_only=True)["network_weights"]
        assert all(torch.equal(value, weights[name]) for name, value in trainer.network.state_dict().items())

    def test_does_not_take_another_seed(self, trained: Path) -> None:
        with pytest.raises(OptionError, match="--seed: 5 differs from what .*checkpoint_final.pth was trained with"):
            make_trainer(FOLD_0, seed=5, resume=True)
        assert make_trainer(FOLD_0, seed=0, resume=True).seed == 0

    def test_is_not_gone_on_with_by_another_recipe(self, trained: Path) -> None:
        state = torch.load(trained / "checkpoint_final.pth", weights_only=True)
        state["recipe"]["losses"]["edges"] = 9.0
        torch.save(state, trained / "checkpoint_final.pth")
        with pytest.raises(CheckpointError, match="was trained with another losses.edges than the plans say. Plan under another"):
            make_trainer(FOLD_0, resume=True)

    def test_is_not_joined_by_a_fold_of_another_recipe(self, trained: Path) -> None:
        plans = trained.parent / "plans.json"
        other = json.loads(plans.read_text())
        other["fuse4seg"]["recipe"]["losses"]["edges"] = 9.0
        plans.write_text(json.dumps(other))
        with pytest.raises(OptionError, match="^-p: Fuse4SegPlans says another losses.edges than .*plans.json, which other"):
            make_trainer(Training("990", "2d", 1, device="cpu"))
        shutil.rmtree(trained)
        assert make_trainer(Training("990", "2d", 1, device="cpu")).current_epoch == 0

    def test_of_a_name_that_says_what_was_changed_names_the_flag(self, trained: Path) -> None:
        with pytest.raises(OptionError, match="^-tr: Fuse4SegTrainer-losses.edges=4 is a folder's name.*--set"):
            make_trainer(replace(FOLD_0, trainer="Fuse4SegTrainer-losses.edges=4"))

    def test_with_changes_is_another_training(self, trained: Path) -> None:
        trainer = make_trainer(replace(FOLD_0, changes=("losses.edges=4", "bilevel.viewing=blur,noise")))
        folder = "Fuse4SegTrainer-bilevel.viewing=blur+noise-losses.edges=4__Fuse4SegPlans__2d"
        assert Path(trainer.output_folder) == trained.parents[1] / folder / "fold_0"
        assert (trainer.recipe.losses.edges, trainer.recipe.bilevel.viewing) == (4, ("blur", "noise"))
        assert trainer.base_name == "Fuse4SegTrainer"

    def test_that_is_damaged_gives_way_to_the_best_checkpoint(self, trained: Path, caplog: pytest.LogCaptureFixture) -> None:
        final, best = trained / "checkpoint_final.pth", trained / "checkpoint_best.pth"
        epoch = torch.load(best, weights_only=True)["current_epoch"]
        final.write_bytes(final.read_bytes()[:-100])
        assert make_trainer(FOLD_0, resume=True).current_epoch == epoch
        assert f"{final}: damaged" in caplog.text
        assert f"Going on from {best} instead" in caplog.text

    def test_that_is_damaged_is_named_where_there_is_no_other(self, trained: Path) -> None:
        checkpoint = trained / "checkpoint_final.pth"
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=f"^{checkpoint}: damaged"):
            make_trainer(FOLD_0, validate_only=True)
        (trained / "checkpoint_best.pth").unlink()
        with pytest.raises(CheckpointError, match=f"^{checkpoint}: damaged"):
            make_trainer(FOLD_0, resume=True)

    def test_of_another_network_is_named(self, trained: Path) -> None:
        state = torch.load(trained / "checkpoint_final.pth", weights_only=True)
        state["network_weights"].popitem()
        torch.save(state, trained / "checkpoint_final.pth")
        with pytest.raises(CheckpointError, match="does not fit these plans"):
            make_trainer(FOLD_0, resume=True)

    def test_of_other_plans_is_refused_even_where_its_weights_would_fit(self, trained: Path) -> None:
        state = torch.load(trained / "checkpoint_final.pth", weights_only=True)
        planned = state["init_args"]["plans"]["configurations"]["2d"]["architecture"]["arch_kwargs"]
        planned["leader"]["arch_kwargs"]["reference"] = 1
        torch.save(state, trained / "checkpoint_final.pth")
        with pytest.raises(CheckpointError, match="does not fit these plans: architecture of 2d differs"):
            make_trainer(FOLD_0, resume=True)

    def test_of_stock_nnunet_is_no_checkpoint_of_ours(self, trained: Path) -> None:
        torch.save({"network_weights": {}, "current_epoch": 3}, trained / "checkpoint_final.pth")
        with pytest.raises(CheckpointError, match="is no checkpoint of Fuse4Seg"):
            make_trainer(FOLD_0, resume=True)

    def test_of_another_version_says_to_train_again(self, trained: Path) -> None:
        state = torch.load(trained / "checkpoint_final.pth", weights_only=True)
        state["recipe"]["bilevel"].pop("viewing")
        torch.save(state, trained / "checkpoint_final.pth")
        with pytest.raises(CheckpointError, match="is no checkpoint of Fuse4Seg, or one of another version. Train again."):
            make_trainer(FOLD_0, resume=True)


class TestUsersTrainer:
    @pytest.fixture
    def training(self, own_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
        (tmp_path / "trainers").mkdir()
        (tmp_path / "trainers" / "hurried.py").write_text("""
import torch
from fuse4seg.recipes.reading import changed
from fuse4seg.training.trainer import Fuse4SegTrainer

class HurriedTrainer(Fuse4SegTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.recipe = changed(self.recipe, ["training.epochs=3", "training.iterations=7"])
""")
        folders = [str(TRAINER_FOLDER), str(tmp_path / "nowhere"), str(tmp_path / "trainers")]
        monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(folders))
        return Training("990", "2d", 0, trainer="HurriedTrainer", device="cpu")

    def test_is_found_in_nnunets_folders(self, training: Training, own_results: Path) -> None:
        trainer = make_trainer(training)
        assert type(trainer).__name__ == "HurriedTrainer"
        folder = own_results / DATASET / "HurriedTrainer__Fuse4SegPlans__2d" / "fold_0"
        assert Path(trainer.output_folder) == folder
        assert folder.is_dir()

    def test_keeps_its_own_recipe_but_for_what_was_chosen(self, training: Training) -> None:
        chosen = make_trainer(replace(training, changes=("training.iterations=2",))).recipe
        assert (chosen.training.epochs, chosen.training.iterations, chosen.pretraining.epochs) == (3, 2, 2)


class TestMemoryWarning:
    @pytest.fixture
    def warnings_of(self, preprocessed: Path, caplog: pytest.LogCaptureFixture) -> Callable[[str, str], str]:
        """Function that makes a trainer with an estimator, under plans for another, and gives what was logged."""

        def make(planned: str, wanted: str) -> str:
            path = preprocessed / "Fuse4SegPlans.json"
            plans = json.loads(path.read_text())
            plans["fuse4seg"]["recipe"]["bilevel"]["hypergradient"] = planned
            path.write_text(json.dumps(plans))
            make_trainer(replace(FOLD_0, changes=(f"bilevel.hypergradient={wanted}",)))
            return caplog.text

        return make

    def test_names_the_estimator_that_was_not_planned_for(self, warnings_of: Callable[[str, str], str]) -> None:
        assert "joint takes more memory than gauss_newton" in warnings_of("gauss_newton", "joint")

    @pytest.mark.parametrize("wanted", ["joint", "gauss_newton", "none"])
    def test_is_silent_where_the_plans_suffice(self, wanted: str, warnings_of: Callable[[str, str], str]) -> None:
        assert "memory" not in warnings_of("joint", wanted)
