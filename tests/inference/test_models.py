"""Finding a trained model: alone it needs no flags, among several each is listed with the flags that choose it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.errors import AmbiguousModelError, DatasetNotFoundError, ModelNotFoundError, RootNotSetError
from fuse4seg.inference.models import find_model

FINAL = "checkpoint_final.pth"


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
