"""Data roots from the flag, F4S_ROOT or nnU-Net's variables, what nnU-Net reads, and datasets by id or name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fuse4seg.errors import AmbiguousDatasetError, DatasetNotFoundError, RootNotSetError
from fuse4seg.paths import (
    PREPROCESSED,
    RAW,
    RESULTS,
    TRAINER_FOLDER,
    data_root,
    dataset_name,
    prepare_environment,
    set_roots,
)

ROOTS = (RAW, PREPROCESSED, RESULTS)


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*ROOTS, "F4S_ROOT", "nnUNet_extTrainer", "nnUNet_n_proc_DA", "nnUNet_def_n_proc"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """Three roots, set, with dataset 5 raw, 501 preprocessed, and 7 twice."""
    for folder in ("nnUNet_raw/Dataset005_Heads", "nnUNet_preprocessed/Dataset501_BraTS", "nnUNet_raw/Dataset007_One",
                   "nnUNet_results/Dataset007_Other", "nnUNet_preprocessed/Dataset005_Heads"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "nnUNet_raw" / "Dataset009_File").touch()
    set_roots(tmp_path)
    return tmp_path


class TestSetRoots:
    def test_sets_all_three_below_one_folder(self, tmp_path: Path) -> None:
        set_roots(tmp_path)
        assert [os.environ[variable] for variable in ROOTS] == [str(tmp_path / variable) for variable in ROOTS]

    def test_takes_f4s_root_where_no_folder_is_given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("F4S_ROOT", str(tmp_path))
        set_roots()
        assert data_root(RESULTS) == tmp_path / "nnUNet_results"

    def test_prefers_the_folder_to_f4s_root_and_that_to_nnu_net_s_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(RAW, "/from/nnunet")
        monkeypatch.setenv("F4S_ROOT", "/from/variable")
        set_roots()
        assert data_root(RAW) == Path("/from/variable/nnUNet_raw")
        set_roots("/from/flag")
        assert data_root(RAW) == Path("/from/flag/nnUNet_raw")

    def test_leaves_nnu_net_s_variables_alone_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(RAW, "/from/nnunet")
        set_roots()
        assert data_root(RAW) == Path("/from/nnunet")
        assert PREPROCESSED not in os.environ

    def test_makes_a_relative_folder_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        set_roots("data")
        assert data_root(RAW) == tmp_path / "data" / "nnUNet_raw"


class TestPrepareEnvironment:
    def test_fits_process_counts_to_the_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for cores, (processes, workers) in {1: (1, 1), 2: (2, 1), 6: (6, 5), 64: (8, 12)}.items():
            monkeypatch.setattr("fuse4seg.paths.usable_cores", lambda cores=cores: cores)
            monkeypatch.delenv("nnUNet_def_n_proc", raising=False)
            monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
            prepare_environment()
            assert (os.environ["nnUNet_def_n_proc"], os.environ["nnUNet_n_proc_DA"]) == (str(processes), str(workers))

    def test_keeps_what_the_user_chose(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_def_n_proc", "3")
        monkeypatch.setenv("nnUNet_n_proc_DA", "7")
        prepare_environment()
        assert (os.environ["nnUNet_def_n_proc"], os.environ["nnUNet_n_proc_DA"]) == ("3", "7")

    @pytest.mark.parametrize(("trainings", "workers"), [(1, 12), (2, 7), (4, 3), (16, 1), (100, 1)])
    def test_shares_the_cores_among_processes_that_train_together(self, trainings: int, workers: int,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fuse4seg.paths.usable_cores", lambda: 16)
        prepare_environment(trainings=trainings)
        assert (os.environ["nnUNet_def_n_proc"], os.environ["nnUNet_n_proc_DA"]) == ("8", str(workers))

    @pytest.mark.parametrize(("chosen", "expected"), [(None, "passive"), ("active", "active")])
    def test_lets_waiting_threads_sleep_unless_the_user_chose(self, chosen: str | None, expected: str,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if chosen:
            monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
        prepare_environment()
        assert os.environ["OMP_WAIT_POLICY"] == expected

    def test_replaces_zero_workers_which_nnu_net_cannot_plan_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        prepare_environment()
        assert int(os.environ["nnUNet_n_proc_DA"]) >= 1

    def test_names_our_trainer_s_folder_once_and_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_extTrainer", "/my/trainers")
        prepare_environment()
        prepare_environment()
        assert os.environ["nnUNet_extTrainer"].split(os.pathsep) == [str(TRAINER_FOLDER), "/my/trainers"]
        assert [path.name for path in TRAINER_FOLDER.glob("*.py")] == ["fuse4seg_trainer.py"]


class TestDataRoot:
    @pytest.mark.parametrize("value", [None, ""])
    def test_that_is_not_set_says_how_to_set_it(self, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        if value is not None:
            monkeypatch.setenv(RESULTS, value)
        with pytest.raises(RootNotSetError, match="nnUNet_results is not set. Give --root DIR, or set F4S_ROOT"):
            data_root(RESULTS)


@pytest.mark.usefixtures("roots")
class TestDatasetName:
    @pytest.mark.parametrize(("dataset", "name"), [
        (5, "Dataset005_Heads"), ("5", "Dataset005_Heads"), ("005", "Dataset005_Heads"), ("501", "Dataset501_BraTS"),
        ("Dataset501_BraTS", "Dataset501_BraTS"), ("Dataset007_Other", "Dataset007_Other"),
    ])
    def test_is_found_by_id_or_name_in_any_root(self, dataset: str | int, name: str) -> None:
        assert dataset_name(dataset) == name

    def test_searches_the_roots_it_is_given(self) -> None:
        assert dataset_name(7, variables=(RAW,)) == "Dataset007_One"
        with pytest.raises(DatasetNotFoundError):
            dataset_name(501, variables=(RAW, RESULTS))

    @pytest.mark.parametrize("dataset", [50, "9", "BraTS", "Dataset501", "Dataset*", "Dataset50?_BraTS", "../nnUNet_raw", "",
                                         "Dataset005_Heads/..", "-5"])
    def test_that_is_not_there_is_named_with_the_places_searched(self, dataset: str | int, roots: Path) -> None:
        with pytest.raises(DatasetNotFoundError) as caught:
            dataset_name(dataset)
        assert str(caught.value).startswith(f"no dataset {dataset} in {roots / RAW}, ")

    @pytest.mark.parametrize("dataset", ["601", "Task601_X"])
    def test_of_the_decathlon_is_refused_with_the_command_that_converts_it(self, dataset: str, roots: Path) -> None:
        (roots / RAW / "Task601_X").mkdir()
        with pytest.raises(DatasetNotFoundError, match=rf"no dataset {dataset} in .*f4s_convert_dataset msd converts .*Task<id>"):
            dataset_name(dataset)

    def test_that_is_not_unique_is_refused_with_both_names(self) -> None:
        with pytest.raises(AmbiguousDatasetError, match="id 7 is not unique: Dataset007_One, Dataset007_Other"):
            dataset_name("7")

    def test_needs_a_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for variable in ROOTS:
            monkeypatch.delenv(variable)
        with pytest.raises(RootNotSetError, match=RAW):
            dataset_name(5)
