"""Alignment of channels: what is moved is suspect, what is not is not, and odd cases stand out from their dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fuse4seg.datasets.alignment import (
    Alignment,
    alignments,
    case_alignment,
    compared,
    judged,
    planned_information,
    reference_channel,
    suspicion,
    usual_information,
)
from fuse4seg.datasets.phantom import MODALITIES, REFERENCE, Phantom, make_phantom
from fuse4seg.datasets.raw import Case

SHAPE = (40, 52, 48)
DATASET = {"channel_names": {str(number): name for number, name in enumerate(MODALITIES)}, "reference_modality": REFERENCE}


def others(phantom: Phantom) -> list[np.ndarray]:
    return [phantom.images[number] for number, name in enumerate(MODALITIES) if name != REFERENCE]


def aligned(information: float, *, suspect: bool = False) -> Alignment:
    return Alignment((0.0, 0.0, 0.0), 0.0, (information, information), suspect)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Files of a case, which need only be there."""
    paths = tuple(tmp_path / f"case_{number:04d}.nii.gz" for number in range(len(MODALITIES)))
    for path in paths:
        path.touch()
    return Case("case", paths)


class TestAlignments:
    def test_finds_what_a_phantom_misaligned_and_suspects_nothing_else(self) -> None:
        """Of 18 images that lie up to 6 voxels and degrees off along each axis at least 95 %, of 18 that do not none."""
        moved, still = [], []
        for seed in range(6):
            for misalignment, found in ((6.0, moved), (0.0, still)):
                phantom = make_phantom(seed, shape=SHAPE, misalignment=misalignment)
                found += alignments(phantom.images[MODALITIES.index(REFERENCE)], others(phantom), phantom.spacing)
        assert np.mean([judged(rigid).suspect for rigid in moved]) >= 0.95
        assert not any(judged(rigid).suspect for rigid in still)

    def test_counts_in_millimetres_and_in_voxels(self) -> None:
        phantom = make_phantom(0, shape=SHAPE)
        found, = alignments(phantom.images[1], [np.roll(phantom.images[3], 3, axis=1)], (2.0, 0.5, 1.0))
        np.testing.assert_allclose(found.shift, (0, 1.5, 0), atol=0.4)
        assert 3 - 0.5 < found.off < 3 + 1.5


class TestCaseAlignment:
    def test_names_all_modalities_but_the_reference(self, case: Case) -> None:
        phantom = make_phantom(0, shape=SHAPE)
        images = phantom.images.copy()
        images[3] = np.roll(images[3], 4, axis=0)
        found = case_alignment(images, phantom.spacing, case, dataset_json=DATASET)
        assert {name: one.suspect for name, one in found.items()} == {"T1": False, "T2": False, "FLAIR": True}

    def test_leaves_out_what_is_absent(self, case: Case) -> None:
        phantom = make_phantom(0, shape=SHAPE)
        case.images[0].unlink()
        images = phantom.images[1:].copy()
        images[2] = np.roll(images[2], 4, axis=0)
        found = case_alignment(images, phantom.spacing, case, dataset_json=DATASET)
        assert {name: one.suspect for name, one in found.items()} == {"T2": False, "FLAIR": True}

    def test_is_empty_without_the_reference(self, case: Case) -> None:
        case.images[1].unlink()
        assert case_alignment(np.zeros((3, 4, 4, 4)), (1, 1, 1), case, dataset_json=DATASET) == {}

    def test_leaves_out_colours_of_one_picture(self, case: Case) -> None:
        one = Case("case", (case.images[0],) * 3)
        dataset = {"channel_names": {"0": "R", "1": "G", "2": "B"}}
        assert case_alignment(np.zeros((3, 1, 40, 40)), (1, 1, 1), one, dataset_json=dataset) == {}

    def test_leaves_out_what_tells_nothing(self, case: Case) -> None:
        images = make_phantom(0, shape=SHAPE).images.copy()
        images[2] = 0
        assert case_alignment(images, (1, 1, 1), case, dataset_json=DATASET).keys() == {"T1", "FLAIR"}

    def test_compares_with_the_dataset(self, case: Case) -> None:
        phantom = make_phantom(0, shape=SHAPE)
        usual = {"T1": {"median": 99.0, "deviation": 1.0}}
        found = case_alignment(phantom.images, phantom.spacing, case, dataset_json=DATASET, usual=usual)
        assert {name: one.suspect for name, one in found.items()} == {"T1": True, "T2": False, "FLAIR": False}


def test_reference_is_what_dataset_json_names_else_the_first() -> None:
    assert reference_channel(DATASET) == 1
    assert reference_channel({"channel_names": {"0": "CT", "1": "PET"}}) == 0


class TestUsualInformation:
    def test_is_median_and_median_absolute_deviation(self) -> None:
        """As a standard deviation: times 1.4826, of which the quartiles of a normal distribution lie one apart."""
        values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 1000.0]
        usual = usual_information([{"T2": aligned(value)} for value in values])
        assert usual == {"T2": {"median": 6.0, "deviation": pytest.approx(3 * 1.4826, rel=1e-4)}}

    def test_is_not_made_of_a_few_cases(self) -> None:
        assert usual_information([{"T2": aligned(1.0)}] * 9) == {}

    def test_what_is_five_deviations_below_is_suspect(self) -> None:
        usual = {"T2": {"median": 1.0, "deviation": 0.1}}
        assert compared({"T2": aligned(0.49)}, usual)["T2"].suspect
        assert not compared({"T2": aligned(0.51)}, usual)["T2"].suspect
        assert compared({"T2": aligned(0.51, suspect=True)}, usual)["T2"].suspect
        assert not compared({"T1": aligned(0.01)}, usual)["T1"].suspect


class TestPlannedInformation:
    def test_is_what_plans_hold(self) -> None:
        usual = {"T2": {"median": 1.0, "deviation": 0.1}}
        assert planned_information({"fuse4seg": {"information_on_reference": usual}}) == usual

    @pytest.mark.parametrize("ours", [{}, {"information_on_reference": [1]}, {"information_on_reference": {"T2": 1}},
                                      {"information_on_reference": {"T2": {"median": "1", "deviation": 1}}}])
    def test_is_nothing_where_plans_say_something_else(self, ours: dict[str, object]) -> None:
        assert planned_information({"fuse4seg": ours}) == {}


class TestSuspicion:
    def test_names_what_is_suspect_and_nothing_else(self) -> None:
        found = {"T1": aligned(1.0), "T2": aligned(0.5, suspect=True)}
        assert suspicion(found, "T1ce") == ("T2 fits T1ce better 0.0 mm and 0.0 degrees off where it lies (information 0.50, "
                                            "there 0.50)")

    def test_is_none_where_nothing_is(self) -> None:
        assert suspicion({"T1": aligned(1.0)}, "T1ce") is None
