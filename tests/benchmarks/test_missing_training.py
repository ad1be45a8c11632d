"""The three datasets of the benchmark of training on cases that lack modalities, and what its figures say."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from fuse4seg.datasets.presence import presence_of
from fuse4seg.errors import OptionError
from fuse4seg.files import write_json

DATASET, DATA = "Dataset990_Phantom", "nnUNetPlans_2d"
SPLITS = [{"train": ["phantom_000", "phantom_001", "phantom_002"], "val": ["phantom_003", "phantom_004"]}]


@pytest.fixture(scope="module")
def benchmark(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("missing_training")


class TestDrawRemoved:
    @given(cases=st.integers(1, 12), channels=st.integers(1, 5), share=st.floats(0, 1), seed=st.integers(0, 99))
    def test_takes_the_share_and_leaves_every_case_a_file(self, benchmark: ModuleType, cases: int, channels: int, share: float,
                                                          seed: int) -> None:
        wanted = round(share * cases * channels)
        if wanted > cases * (channels - 1):
            with pytest.raises(OptionError, match="more than can be removed"):
                benchmark.draw_removed([str(case) for case in range(cases)], channels, share=share, seed=seed)
            return
        removed = benchmark.draw_removed([str(case) for case in range(cases)], channels, share=share, seed=seed)
        assert sum(map(len, removed.values())) == wanted
        assert all(0 < len(set(lost)) == len(lost) < channels for lost in removed.values())
        assert all(0 <= channel < channels for lost in removed.values() for channel in lost)

    def test_is_told_by_the_seed_alone(self, benchmark: ModuleType) -> None:
        one, same, other = (benchmark.draw_removed(cases, 4, share=1 / 3, seed=seed)
                            for cases, seed in (("abcdef", 0), ("fedcba", 0), ("abcdef", 1)))
        assert one == same != other


@pytest.fixture(scope="module")
def made(benchmark: ModuleType, planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The datasets of fold 0, in which the trainings find two of three training cases without some file."""
    root, work = tmp_path_factory.mktemp("measured"), tmp_path_factory.mktemp("work")
    source = root / "nnUNet_preprocessed" / DATASET
    shutil.copytree(planned_phantom / "nnUNet_preprocessed" / DATASET, source)
    write_json(SPLITS, source / "splits_final.json")
    removed = {"phantom_000": [0, 2], "phantom_002": [3], "phantom_003": [1]}
    options = SimpleNamespace(share=0.2, seed=0, plans="Fuse4SegPlans", configuration="2d", np=1)
    with (mock.patch.dict(os.environ, nnUNet_preprocessed=str(source.parent)),
          mock.patch.object(benchmark, "draw_removed", return_value=removed)):
        prepared = benchmark._prepare(options, DATASET, source, work)
        again = benchmark._prepare(options, DATASET, source, work)
    assert prepared == again == (removed, DATA, SPLITS)
    for training in benchmark.TRAININGS:
        benchmark.link_fold(work / training / DATASET, source=source, incomplete=work / "preprocessed" / DATASET, splits=SPLITS,
                            plans="Fuse4SegPlans", identifier=DATA, fold=0, removed=removed, training=training)
    return SimpleNamespace(work=work, source=source, removed=removed)


class TestDatasets:
    def test_have_what_was_not_removed_and_whole_validation_cases(self, made: SimpleNamespace) -> None:
        lacking = {"phantom_000": (False, True, False, True), "phantom_002": (True, True, True, False)}
        for training, expected in (("complete", {}), ("missing", lacking), ("dropping", {})):
            dataset = nnUNetDatasetBlosc2(str(made.work / training / DATASET / DATA))
            for case in dataset.identifiers:
                channels, *_, properties = dataset.load_case(case)
                assert presence_of(properties, 4) == expected.get(case, (True,) * 4)
                assert tuple(bool(channel.any()) for channel in channels[:]) == presence_of(properties, 4)

    def test_train_on_all_cases_or_on_those_that_lost_nothing(self, made: SimpleNamespace) -> None:
        for training, cases in (("complete", SPLITS[0]["train"]), ("missing", SPLITS[0]["train"]), ("dropping", ["phantom_001"])):
            folder = made.work / training / DATASET
            assert json.loads((folder / "splits_final.json").read_text()) == [{"train": cases, "val": SPLITS[0]["val"]}]
            assert {path.name.removesuffix(".pkl") for path in (folder / DATA).glob("*.pkl")} == {*cases, *SPLITS[0]["val"]}
            described = json.loads((folder / "dataset.json").read_text())
            assert described.get("missing_modalities", False) is (training == "missing")
            assert (folder / "Fuse4SegPlans.json").read_bytes() == (made.source / "Fuse4SegPlans.json").read_bytes()

    def test_are_not_mixed_with_those_of_another_share(self, benchmark: ModuleType, made: SimpleNamespace) -> None:
        options = SimpleNamespace(share=0.4, seed=0, plans="Fuse4SegPlans", configuration="2d", np=1)
        with pytest.raises(OptionError, match="was made of other files, by another share or seed"):
            benchmark._prepare(options, DATASET, made.source, made.work)

    def test_are_refused_where_nothing_is_left_to_train_on(self, benchmark: ModuleType, made: SimpleNamespace,
                                                           tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="every training case of fold 0 lost a file"):
            benchmark.link_fold(tmp_path / "none", source=made.source, incomplete=made.source, plans="Fuse4SegPlans",
                                identifier=DATA, fold=0, splits=SPLITS, removed=dict.fromkeys(SPLITS[0]["train"], [0]),
                                training="dropping")


def test_figures_compare_case_by_case(benchmark: ModuleType) -> None:
    dice = {"complete": {"a": 0.9, "b": 0.8, "c": 0.7}, "missing": {"a": 0.8, "b": 0.8, "c": 0.6},
            "dropping": {"a": 0.5, "b": 0.75}}
    found = benchmark.figures(dice)
    assert found["cases"] == 2
    assert {name: one["dice"] for name, one in found["mean"].items()} == pytest.approx(
        {"complete": 0.85, "missing": 0.8, "dropping": 0.625})
    assert found["paired"]["missing less complete"]["difference"] == pytest.approx(-0.05)
    assert found["paired"]["missing less dropping"]["difference"] == pytest.approx(0.175)
    assert found["paired"]["missing less dropping"]["interval"] == pytest.approx((0.05, 0.3))
    assert "missing less dropping" not in benchmark.figures({"complete": dice["complete"], "missing": dice["missing"]})["paired"]


class TestWithoutRemoved:
    @pytest.fixture
    def score(self, benchmark: ModuleType, planned_phantom: Path, trained_model: Path) -> Callable[[dict], dict[str, float]]:
        source = planned_phantom / "nnUNet_preprocessed" / DATASET
        return lambda removed: benchmark.without_removed(trained_model / "fold_0", source, DATA, removed)

    def test_is_the_validation_itself_where_nothing_was_removed(self, benchmark: ModuleType, trained_model: Path,
                                                                score: Callable[[dict], dict[str, float]]) -> None:
        assert (validated := benchmark.validated(trained_model / "fold_0"))
        removed = {name.removesuffix(".nii.gz"): [] for name in validated}
        assert score(removed) == pytest.approx(validated, abs=1e-9)

    def test_tells_the_model_what_was_removed_of_validation_cases(self, benchmark: ModuleType, trained_model: Path,
                                                                  score: Callable[[dict], dict[str, float]]) -> None:
        validation = [name.removesuffix(".nii.gz") for name in benchmark.validated(trained_model / "fold_0")]
        training = next(case for case in map("phantom_{:03d}".format, range(5)) if case not in validation)
        import validation_cases

        with mock.patch.object(validation_cases, "segment_present", wraps=validation_cases.segment_present) as segment:
            assert list(score({training: [0], validation[0]: [1, 3]})) == [f"{validation[0]}.nii.gz"]
        assert [call.args[2:] for call in segment.call_args_list] == [(validation[0], [True, False, True, False])]
