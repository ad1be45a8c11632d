"""Folders of fused images: values, trivial rows, volumes, colour, and everything that must not be averaged silently."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.datasets.grey_images import UNIT_RANGE, GreyRange
from fuse4seg.datasets.sources import find_sources
from fuse4seg.errors import UnpairedCasesError, UnsuitableImageError
from fuse4seg.evaluation.fusion_folders import evaluate_fusion
from fuse4seg.evaluation.fusion_metrics import METRICS, Conventions, fusion_metrics
from fuse4seg.evaluation.visibility import visibility
from fuse4seg.inference.fuse_folder import by_rule, fuse_folder


def save(path: Path, levels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Picture.fromarray(levels.astype(np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path: Path, sources: list[np.ndarray], fused: np.ndarray) -> tuple[list[Path], Path]:
    """Folders CT and MRI with cases a and b, and one of fused images."""
    for case, shift in (("a", 0), ("b", 5)):
        for name, image in zip(("CT", "MRI", "fused"), (*sources, fused), strict=True):
            save(tmp_path / name / f"{case}.png", np.roll(image, shift, axis=0))
    return [tmp_path / "CT", tmp_path / "MRI"], tmp_path / "fused"


def test_gives_the_metrics_of_every_image_and_their_mean(folders: tuple[list[Path], Path]) -> None:
    evaluation = evaluate_fusion(*folders)
    for case in "ab":
        read = [np.asarray(Picture.open(folder / f"{case}.png")) for folder in (*folders[0], folders[1])]
        assert evaluation.cases[case]["fused"] == fusion_metrics(read[2], read[:2])
    for metric in METRICS:
        assert evaluation.mean()[metric] == pytest.approx(np.mean([case["fused"][metric] for case in evaluation.cases.values()]))
    assert not evaluation.faults


def test_trivial_rows_stand_beside(folders: tuple[list[Path], Path]) -> None:
    evaluation = evaluate_fusion(*folders)
    assert evaluation.rows == ("fused", "copy of CT", "copy of MRI", "average", "maximum")
    first, second = (np.asarray(Picture.open(folder / "a.png")).astype(float) for folder in folders[0])
    rows = {"copy of CT": first, "average": (first + second) / 2, "maximum": np.maximum(first, second)}
    for row, image in rows.items():
        assert evaluation.cases["a"][row] == pytest.approx(fusion_metrics(image, [first, second]), nan_ok=True)


def test_conventions_are_followed_and_stated(folders: tuple[list[Path], Path]) -> None:
    conventions = Conventions(normalise=True, mi_unit="bits")
    evaluation = evaluate_fusion(*folders, conventions=conventions)
    plain, natural = evaluation.to_plain(), evaluate_fusion(*folders)
    assert plain["conventions"]["normalise"] is True
    assert plain["conventions"]["mi_unit"] == "bits"
    assert evaluation.mean("average")["MI"] != natural.mean("average")["MI"]


def test_several_processes_give_the_same(folders: tuple[list[Path], Path]) -> None:
    # A copy's SCD is NaN, which equals nothing.
    assert json.dumps(evaluate_fusion(*folders, processes=2).to_plain()) == json.dumps(evaluate_fusion(*folders).to_plain())


def test_writes_json_without_nan_and_a_csv_with_every_row(folders: tuple[list[Path], Path], tmp_path: Path) -> None:
    evaluation = evaluate_fusion(*folders)
    evaluation.write(tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert tuple(written["mean"]) == METRICS
    assert written["trivial"]["copy of CT"]["SCD"] is None
    assert written["cases"]["a"]["fused"]["VIF"] == evaluation.cases["a"]["fused"]["VIF"]
    rows = list(csv.DictReader((tmp_path / "result.csv").open()))
    assert len(rows) == 3 * 5
    mean = next(row for row in rows if row["case"] == "mean" and row["row"] == "fused")
    assert float(mean["Qabf"]) == evaluation.mean()["Qabf"]


def test_table_ends_with_the_mean_and_the_trivial_rows(folders: tuple[list[Path], Path]) -> None:
    lines = evaluate_fusion(*folders).format().splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["a", "b", "mean", "copy of CT", "copy of MRI", "average", "maximum"]


def test_slices_of_a_volume_in_which_no_source_varies_do_not_count(tmp_path: Path, sources: list[np.ndarray],
                                                                   fused: np.ndarray) -> None:
    for name, image in zip(("CT", "MRI", "fused"), (*sources, fused), strict=True):
        volume = np.stack([np.zeros_like(image), image, np.zeros_like(image)]).astype(np.uint8)
        (tmp_path / name).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(tmp_path / name / "a.nii.gz"))
    evaluation = evaluate_fusion([tmp_path / "CT", tmp_path / "MRI"], tmp_path / "fused")
    slices = [image.astype(np.uint8) for image in (fused, *sources)]
    assert evaluation.cases["a"]["fused"] == pytest.approx(fusion_metrics(slices[0], slices[1:]))


def in_colour(folder: Path) -> dict[str, np.ndarray]:
    """Make every picture of a folder reddish; returns the colours by case."""
    colours = {}
    for path in folder.glob("*.png"):
        grey = Picture.open(path)
        reddish = Picture.merge("RGB", [grey, grey.point(lambda level: level // 3), grey.point(lambda level: level // 9)])
        reddish.save(path)
        colours[path.stem] = np.asarray(reddish)
    return colours


def test_of_colour_the_luma_is_scored(folders: tuple[list[Path], Path]) -> None:
    """That of the image itself, whatever lies in its sub-folder ``grey``."""
    (folders[1] / "grey").mkdir()
    for path in folders[1].glob("*.png"):
        Picture.new("L", (72, 64), 7).save(folders[1] / "grey" / path.name)
    for case, colours in in_colour(folders[1]).items():
        luma = np.asarray(Picture.fromarray(colours).convert("L"))
        read = [np.asarray(Picture.open(folder / f"{case}.png")) for folder in folders[0]]
        assert evaluate_fusion(*folders).cases[case]["fused"] == fusion_metrics(luma, read)


class TestMixedKinds:
    def test_of_grey_and_colour_are_refused(self, folders: tuple[list[Path], Path]) -> None:
        """Two methods made them, and one mean would stand for both."""
        whole = (folders[1] / "b.png").read_bytes()
        in_colour(folders[1])
        (folders[1] / "b.png").write_bytes(whole)
        with pytest.raises(UnsuitableImageError, match=rf"{folders[1] / 'b.png'} is grey, but a\.png is in colour\. Give"):
            evaluate_fusion(*folders)

    def test_of_sources_are_taken(self, folders: tuple[list[Path], Path]) -> None:
        in_colour(folders[0][1])
        evaluation = evaluate_fusion(*folders)
        assert not evaluation.faults
        assert list(evaluation.cases) == ["a", "b"]


class TestVisibility:
    @pytest.fixture
    def labels(self, folders: tuple[list[Path], Path]) -> Path:
        """Two classes that touch, of which the fused images show one."""
        for case, shift in (("a", 0), ("b", 5)):
            drawn = np.zeros((64, 72), np.uint8)
            drawn[20:40, 20:40], drawn[20:40, 40:60] = 1, 3
            save(folders[1].parent / "labels" / f"{case}.png", np.roll(drawn, shift, axis=0))
        return folders[1].parent / "labels"

    @pytest.mark.parametrize("colour", [False, True])
    def test_is_that_of_every_row_and_of_all_sources_together(self, folders: tuple[list[Path], Path], labels: Path,
                                                              colour: bool) -> None:
        if colour:
            in_colour(folders[1])
        evaluation = evaluate_fusion(*folders, labels=labels)
        assert evaluation.boundaries == ["surrounding|1", "surrounding|3", "1|3"]
        for case in "ab":
            first, second = (np.asarray(Picture.open(folder / f"{case}.png")).astype(float)[None, None] for folder in folders[0])
            fused = np.asarray(Picture.open(folders[1] / f"{case}.png")).astype(float)
            fused = np.moveaxis(fused, -1, 0)[:, None] if colour else fused[None, None]
            truth = np.asarray(Picture.open(labels / f"{case}.png"))[None]
            rows = {"fused": fused, "copy of CT": first, "copy of MRI": second, "average": (first + second) / 2,
                    "maximum": np.maximum(first, second), "all sources together": np.concatenate([first, second])}
            assert evaluation.visible[case].keys() == rows.keys()
            for row, image in rows.items():
                inside = ((first > 0) | (second > 0))[0]
                assert evaluation.visible[case][row] == visibility(image, truth, inside, classes={"1": 1, "3": 3})

    def test_is_meant_over_the_cases_that_have_a_boundary(self, folders: tuple[list[Path], Path], labels: Path) -> None:
        drawn = np.asarray(Picture.open(labels / "b.png")).copy()
        drawn[drawn == 3] = 0
        save(labels / "b.png", drawn)
        evaluation = evaluate_fusion(*folders, labels=labels)
        found, both = evaluation.mean_visibility(), [case["fused"] for case in evaluation.visible.values()]
        assert found["1|3"] == both[0]["1|3"]
        assert found["surrounding|1"] == pytest.approx(np.mean([case["surrounding|1"] for case in both]))
        boundaries = [value for name, value in found.items() if name != "visibility"]
        assert found["visibility"] == pytest.approx(np.mean(boundaries))

    def test_stands_in_a_table_of_its_own_and_in_the_file(self, folders: tuple[list[Path], Path], labels: Path,
                                                          tmp_path: Path) -> None:
        evaluation = evaluate_fusion(*folders, labels=labels)
        metrics, table = evaluation.format().split("\n\n")
        assert metrics == evaluate_fusion(*folders).format()
        header, _, *lines = table.splitlines()
        assert header.split() == ["row", "visibility", "surrounding|1", "surrounding|3", "1|3"]
        assert [line.split("  ")[0] for line in lines] == [*evaluation.rows, "all sources together"]
        evaluation.write(tmp_path / "result.json")
        written = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)["visibility"]
        assert written["mean"]["fused"] == evaluation.mean_visibility()
        assert written["mean"]["all sources together"] == evaluation.mean_visibility("all sources together")
        assert written["cases"] == evaluation.visible

    def test_is_no_part_of_a_result_without_labels(self, folders: tuple[list[Path], Path]) -> None:
        evaluation = evaluate_fusion(*folders)
        assert not evaluation.visible
        assert "visibility" not in evaluation.to_plain()

    def test_wants_labels_of_every_case(self, folders: tuple[list[Path], Path], labels: Path) -> None:
        (labels / "b.png").unlink()
        with pytest.raises(UnpairedCasesError, match="lacks 1 image"):
            evaluate_fusion(*folders, labels=labels)

    @pytest.mark.parametrize(("fault", "said"), [("elsewhere", "has shape .* Give labels on the grid of the sources"),
                                                 ("colour", "is in colour, and label values are wanted")])
    def test_leaves_a_case_out_whose_labels_cannot_be_used(self, folders: tuple[list[Path], Path], labels: Path, fault: str,
                                                           said: str) -> None:
        if fault == "elsewhere":
            save(labels / "b.png", np.ones((64, 71)))
        else:
            kept = (labels / "a.png").read_bytes()
            in_colour(labels)
            (labels / "a.png").write_bytes(kept)
        evaluation = evaluate_fusion(*folders, labels=labels)
        assert list(evaluation.cases) == list(evaluation.visible) == ["a"]
        assert len(evaluation.faults) == 1
        assert re.match(f"{labels / 'b.png'} {said}", evaluation.faults[0])


@pytest.mark.parametrize("folder", ["CT", "fused"])
def test_unpaired_images_are_refused(folders: tuple[list[Path], Path], tmp_path: Path, folder: str) -> None:
    (tmp_path / folder / "b.png").rename(tmp_path / folder / "c.png")
    with pytest.raises(UnpairedCasesError, match="lacks 1 image"):
        evaluate_fusion(*folders)


@pytest.mark.parametrize("fault", ["resized", "damaged", "deep", "small"])
def test_a_faulty_case_is_left_out_and_named(folders: tuple[list[Path], Path], fault: str) -> None:
    expected, path = evaluate_fusion(*folders).cases["a"]["fused"], folders[1] / "b.png"
    if fault == "resized":
        save(path, np.zeros((65, 72)))
    elif fault == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    elif fault == "deep":
        Picture.fromarray(np.zeros((64, 72), np.uint16)).save(path)
    else:
        for folder in (*folders[0], folders[1]):
            save(folder / "b.png", np.random.default_rng(0).integers(0, 255, (30, 30)))
    evaluation = evaluate_fusion(*folders)
    assert list(evaluation.cases) == ["a"]
    assert evaluation.mean() == expected
    assert len(evaluation.faults) == 1
    assert str(path) in evaluation.faults[0]
    assert evaluation.to_plain()["faults"] == list(evaluation.faults)


@pytest.mark.parametrize("processes", [1, 2])
def test_any_error_of_a_case_is_its_fault(folders: tuple[list[Path], Path], processes: int) -> None:
    Picture.new("L", (9, 9)).save(folders[1] / "b.png")
    a, b = evaluate_fusion(*folders, conventions=None, processes=processes).faults
    assert a.startswith("case a: it cannot be used (AttributeError: ")
    assert "b.png has shape" in b


@pytest.mark.parametrize(("axes", "codes"), [(1e-3, (1, 0)), (math.tan(math.radians(15)), (1, 0)),
                                             (math.tan(math.radians(15)), (1, 1))])
@pytest.mark.parametrize("rule", ["max", "colour"])
def test_rounded_and_tilted_series_score_as_straight_ones(tmp_path: Path, sources: list[np.ndarray], rule: str, axes: float,
                                                          codes: tuple[int, int]) -> None:
    """Which ITK refuses, where the sform alone says it."""
    scores = []
    for shear in (0, axes):
        folder = tmp_path / str(shear)
        affine = np.diag([1.0, 1, 3, 1])
        affine[1, 2] = 3 * shear
        for name, levels in zip(("CT", "MRI", "labels"), (*sources, sources[0] > 99), strict=True):
            (folder / name).mkdir(parents=True)
            image = nibabel.Nifti1Image(np.stack([levels.T] * 2, axis=-1).astype(np.uint8), affine)
            image.set_sform(affine, codes[0])
            image.set_qform(affine, codes[1])
            nibabel.save(image, folder / name / "a.nii.gz")
        read = [folder / "CT", folder / "MRI"]
        assert fuse_folder(find_sources(read), folder / "out", by_rule(rule), method={}) == []
        np.testing.assert_allclose(nibabel.load(folder / "out" / "a.nii.gz").get_sform(), affine, atol=1e-6)
        evaluation = evaluate_fusion(read, folder / "out", labels=folder / "labels")
        assert evaluation.faults == ()
        scores.append((evaluation.mean(), evaluation.mean_visibility()))
    assert scores[0] == scores[1]


def test_an_image_whose_source_changed_since_is_stale(folders: tuple[list[Path], Path], tmp_path: Path) -> None:
    fuse_folder(find_sources(folders[0]), tmp_path / "out", by_rule("max"), method={"rule": "max"})
    assert not evaluate_fusion(folders[0], tmp_path / "out").faults
    save(folders[0][1] / "b.png", np.full((64, 72), 9))
    evaluation = evaluate_fusion(folders[0], tmp_path / "out")
    assert "is stale" in evaluation.faults[0]
    assert list(evaluation.cases) == ["a"]


def test_the_maximum_scores_as_the_trivial_row_of_that_name(folders: tuple[list[Path], Path], tmp_path: Path) -> None:
    fuse_folder(find_sources(folders[0]), tmp_path / "out", by_rule("max"), method={"rule": "max"})
    evaluation = evaluate_fusion(folders[0], tmp_path / "out")
    assert evaluation.mean() == evaluation.mean("maximum")
    assert math.isnan(evaluation.mean("copy of CT")["SCD"])
    assert evaluation.left_out("copy of CT")["SCD"] == 2


class TestRanges:
    @pytest.fixture
    def raw(self, tmp_path: Path, sources: list[np.ndarray], fused: np.ndarray) -> tuple[list[Path], Path]:
        """Volumes of a slice: sources of 0 to 1800 and 0 to 900, and their fused image of 0 to 1."""
        for name, image, scale in zip(("T1", "T2", "fused"), (*sources, fused), (1800, 900, 1), strict=True):
            (tmp_path / name).mkdir()
            sitk.WriteImage(sitk.GetImageFromArray((image[None] / 255 * scale).astype(np.float32)),
                            str(tmp_path / name / "a.nii.gz"))
        return [tmp_path / "T1", tmp_path / "T2"], tmp_path / "fused"

    def test_of_each_folder_give_what_8_bits_give(self, raw: tuple[list[Path], Path], sources: list[np.ndarray],
                                                  fused: np.ndarray) -> None:
        ranges = [GreyRange(0, 1800), GreyRange(0, 900)]
        for given in (ranges, [*ranges, UNIT_RANGE]):
            found = evaluate_fusion(*raw, levels=given)
            assert found.cases["a"]["fused"] == pytest.approx(fusion_metrics(fused, sources), rel=1e-3)
            assert found.to_plain()["conventions"]["range"]["fused"] == {"low": 0.0, "high": 1.0, "clips": False}

    def test_one_for_all_sources_is_not_that_of_images_of_0_to_1(self, raw: tuple[list[Path], Path], fused: np.ndarray,
                                                                 sources: list[np.ndarray]) -> None:
        found = evaluate_fusion(*raw, levels=[GreyRange(0, 1800)])
        assert found.mean()["EN"] == pytest.approx(fusion_metrics(fused, sources)["EN"], rel=1e-3)

    def test_are_measured_where_none_is_given(self, raw: tuple[list[Path], Path]) -> None:
        found = evaluate_fusion(*raw, levels=None)
        assert not found.faults
        assert found.levels[0].high == pytest.approx(2 * found.levels[1].high, rel=0.1)

    def test_that_an_image_hardly_uses_are_named(self, raw: tuple[list[Path], Path], caplog: pytest.LogCaptureFixture) -> None:
        evaluate_fusion(*raw, levels=GreyRange(0, 1800))
        assert f"{raw[1]}: 1 image(s) use less than a tenth" in caplog.text
